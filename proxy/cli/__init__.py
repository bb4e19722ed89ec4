"""The command line, `kubemux COMMAND`, and the exit code and message of each failure.

Exit codes: 0 fine, 1 failed at run time, 2 usage (an unknown name, too), 78 bad configuration
(EX_CONFIG of sysexits.h), 130 interrupted. Each command is a module of this package that is imported only
when it runs: `kubemux status` imports no SSH library.

Commands write only by `say`, `note` and `complain`. These remove control characters, which text of a server,
a file or a socket may have.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import nullcontext
from importlib import import_module
from typing import Any, Final

import click

from proxy import __version__
from proxy.cli.imports import uncollected, without, without_compilers
from proxy.cli.options import add_places
from proxy.errors import ConfigError, ProxyError, UnknownName, UnknownNames
from proxy.runtime import journal
from proxy.runtime.blocking import leave
from proxy.runtime.text import for_terminal, suggest

EX_FAILED: Final = 1
EX_USAGE: Final = 2
EX_CONFIG: Final = 78
EX_INTERRUPTED: Final = 130

_COMMANDS: Final = {
    "run": ("run", "Run the daemon."),
    "check": ("check", "Check a configuration file and report every problem."),
    "schema": ("schema", "Print the JSON Schema of the configuration file."),
    "demo": ("demo", "Try it: two stand-in clusters behind an embedded SSH server."),
    "status": ("status", "Show what the running daemon serves, and what has a problem."),
    "probe": ("probe", "Probe one cluster, step by step, and explain where it stops."),
    "route": ("route", "Say where a name leads that a client asks for, and why."),
    "connect": ("connect", "Connect standard input and output to a name, for ssh."),
    "ssh-config": ("ssh_config", "Print ssh's Host blocks for routes and sites with SSH servers."),
    "ssh-server": ("ssh_server", "Make the host keys of the SSH server."),
    "site": ("site", "Add a site, whose SSH client dials in, or show one."),
    "kubeconfig": ("kubeconfig", "Export a kubeconfig, or import clusters from one."),
    "reload": ("orders", "Make the running daemon read its configuration again."),
    "reconnect": ("orders", "Dial the links of a gateway again."),
    "drain": ("orders", "Take no new connections for a cluster, and let open ones end."),
}
"""Command -> the module of this package that defines it under the same name (with `_` for `-`), and its line
in `kubemux --help`.
"""


def say(text: str) -> None:
    """Write to standard output."""
    click.echo(for_terminal(text))


def write_document(data: bytes) -> None:
    """Write a document to standard output: unchanged to a file or a pipe, to a terminal as `say` does."""
    click.echo(for_terminal(data.decode()) if sys.stdout.isatty() else data, nl=False)


def note(text: str) -> None:
    """Write a warning or other information to standard error."""
    click.echo(for_terminal(text), err=True)


def complain(text: str) -> None:
    """Write an error to standard error. If the journal reads that, it gets the priority of an error."""
    text = for_terminal(text)
    click.echo(journal.marked(text, "error") if journal.reads(sys.stderr) else text, err=True)


class Group(click.Group):
    """A group of commands; for an unknown one, the error suggests the closest name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (
            args[0] not in self.list_commands(ctx)
            and not args[0].startswith("-")
            and not ctx.resilient_parsing
        ):
            ctx.fail(f"No such command {args[0]!r}: {suggest(args[0], self.list_commands(ctx))}.")
        return super().resolve_command(ctx, args)


class _Commands(Group):
    """The commands of the table, each imported when it is used.

    Every failure ends in an exit code and a message, never in a traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        # structlog.dev imports rich if it is there: 4 MB of the daemon's memory for tables it never draws.
        with uncollected(), without_compilers(), without("rich") if cmd_name == "run" else nullcontext():
            command = getattr(
                import_module(f"proxy.cli.{_COMMANDS[cmd_name][0]}"), cmd_name.replace("-", "_")
            )
        if not isinstance(command, click.Command):
            raise TypeError(f"proxy.cli.{_COMMANDS[cmd_name][0]}.{cmd_name} is not a click command")
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError:
            raise
        except OSError as error:  # `--help` and `--version` are answered here
            _complain_of(error)
            raise click.exceptions.Exit(EX_FAILED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            said = error.format_message()
            if (clean := for_terminal(said)) == said:
                raise
            raise click.UsageError(clean, ctx=error.ctx) from None
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click handles these; BrokenPipeError: the reader of the output has ended
        except KeyboardInterrupt:
            ctx.exit(EX_INTERRUPTED)
        except ConfigError as error:
            add_places(ctx, error)
            complain(error.render())
            ctx.exit(EX_USAGE if isinstance(error, UnknownNames) else EX_CONFIG)
        except ProxyError as error:
            complain(f"kubemux: {error}")
            if error.hint:
                complain(f"  hint: {error.hint}")
            ctx.exit(EX_USAGE if isinstance(error, UnknownName) else EX_FAILED)
        except OSError as error:  # a full disk behind stdout, mostly
            _complain_of(error)
            ctx.exit(EX_FAILED)
        except Exception as error:  # noqa: BLE001 - an exception that nobody expected is reported as a bug
            if os.environ.get("KUBEMUX_DEBUG"):
                complain(traceback.format_exc())
            complain(f"kubemux: internal error: {type(error).__name__}: {error}; this is a bug")
            complain("  hint: KUBEMUX_DEBUG=1 shows the traceback; please report it")
            ctx.exit(EX_FAILED)


def _complain_of(error: OSError) -> None:
    where = f": {error.filename}" if error.filename else ""
    complain(f"kubemux: {error.strerror or error}{where}")


def _open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that were closed (`kubemux ... >&-`).

    Otherwise the first socket gets the number of such a stream, and libuv aborts the process when it closes
    it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - it stays open


def program() -> None:
    """Run `main`, and end the process even if a thread hangs."""
    _open_standard_streams()
    try:
        main(prog_name="kubemux")
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else 0)
        raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubemux")
def main() -> None:
    """Give every Kubernetes cluster behind SSH a stable address, https://127.0.0.1:PORT.

    Exit codes: 0 fine, 1 failed at run time, 2 usage, 78 bad configuration, 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Print a question mark for a character that the locale does not have; do not fail.
        sys.stdout.reconfigure(errors="replace")
