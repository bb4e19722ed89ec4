"""`kubemux site add` and `show`: sites, whose SSH clients dial in."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from proxy.admin import client
from proxy.admin.finding import find
from proxy.cli import EX_FAILED, EX_USAGE, Group, note, say
from proxy.cli.options import File, config_option, files
from proxy.cli.sites import adding, state
from proxy.cli.sites.far_side import IMAGE, FarSide
from proxy.cli.status import ask
from proxy.config.files import Unusable, read_bytes
from proxy.config.loader import load
from proxy.config.matches import Match
from proxy.config.model import Config, SshServerConfig
from proxy.config.scrutiny import Scrutiny
from proxy.config.ssh_rules import site_name
from proxy.errors import ConfigError, Problem, UnknownName
from proxy.kubeconfig.file import WriteFailed
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import escaped, shown, suggest

_MOST_BYTES: Final = 64 << 10
_EVERYWHERE: Final = {"0.0.0.0", "::"}  # noqa: S104 - nothing is bound
_FORMS: Final = ("command", "unit", "deployment")
_TITLES: Final = {
    "command": "At the site, by hand:",
    "unit": "Or as a systemd service:",
    "deployment": "Or in a Kubernetes cluster:",
}


@click.group(cls=Group)
def site() -> None:
    """Add a site, or show the state of one."""


class _Server(click.ParamType[Endpoint]):
    """The address at which a site dials this machine."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        if isinstance(value, Endpoint):
            return value
        try:
            return Endpoint.parse(str(value))
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


class _Permit(click.ParamType[str]):
    """A pattern of targets that clients may ask a site for."""

    name = "pattern"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            Match.parse(str(value))
        except ValueError as exc:
            more = "; give each pattern its own --permit" if "," in str(value) else ""
            self.fail(f"{exc}{more}.", param, ctx)
        return str(value)


@site.command(short_help="Add a site, and print what its machine needs.")
@click.argument("name")
@click.argument("public_key", metavar="[PUBLIC_KEY]", required=False)
@click.option(
    "--key", "key_file", type=File(allow_dash=True), help="The file with the public key; - is standard input."
)
@click.option(
    "--permit",
    type=_Permit(),
    multiple=True,
    help="What may be asked of the site, as in `match` of a route: 127.0.0.1:6443, 10.1.0.0/16:22, *:22 "
    "(repeatable). Default: nothing.",
)
@click.option(
    "--server",
    type=_Server(),
    help="Where the site finds this machine's SSH server. Default: ssh_server.listen.",
)
@click.option(
    "--listen",
    "port",
    type=click.IntRange(1, 65535),
    default=1080,
    show_default=True,
    help="The port in the name of the site's forward. No machine listens on it.",
)
@click.option("--image", default=IMAGE, show_default=True, help="The image of the Deployment.")
@click.option(
    "--print",
    "forms",
    type=click.Choice(_FORMS),
    multiple=True,
    help="Print only this for the site (repeatable). Default: all three.",
)
@config_option
def add(
    name: str,
    public_key: str | None,
    key_file: Path | None,
    permit: tuple[str, ...],
    server: Endpoint | None,
    port: int,
    image: str,
    forms: tuple[str, ...],
    config: Path,
) -> None:
    """Add the site NAME to the configuration, and print what its own machine needs.

    PUBLIC_KEY is the line of the site's .pub file; --key takes it from a file. Without either, the output for
    an existing site is printed again. For a new one nothing is written, and the exit code is 2. The private
    key is made at the site, and stays there.
    """
    if public_key is not None and key_file is not None:
        raise click.UsageError("which key? Give PUBLIC_KEY or --key, not both.")
    loaded = load(config, Scrutiny.NONE)
    if public_key is None and key_file is None and name not in loaded.sites:
        if problems := [
            Problem(0, f"sites.{name}", one.message, one.hint) for one in site_name(loaded, name)
        ]:
            raise ConfigError(str(config), problems)
        _explain_key(name, server or _server(loaded, config).listen, permit)
        click.get_current_context().exit(EX_USAGE)
    there, host_keys = server or _own_address(loaded, config), _host_keys(loaded, config)
    line = _line(public_key, key_file)
    if line is not None:
        try:
            done = adding.add(config, name, line, permit)
        except ValueError as exc:
            raise click.UsageError(f"the key of {shown(name)}: {exc}.") from exc
        for said in done:
            note(said)
        loaded = load(config, Scrutiny.NONE)
    else:
        for said in adding.differing(loaded, name, permit):
            note(said)
    allowed = loaded.sites[name].permit
    if not allowed:
        note(f"nothing may be asked of {name} yet: add permit: [HOST:PORT, ...] to sites.{name}")
    far_side = FarSide(name, there, host_keys, allowed, port)
    printed: Mapping[str, Callable[[], str]] = {
        "command": lambda: far_side.command(f"~/.ssh/{name}"),
        "unit": far_side.unit,
        "deployment": lambda: far_side.deployment(image),
    }
    for form in forms or _FORMS:
        if len(forms) != 1:
            note(_TITLES[form])
        say(printed[form]() if len(forms) != 1 else printed[form]().rstrip("\n"))


@site.command(short_help="Show the state of a site.")
@click.argument("name")
@config_option
def show(name: str, config: Path) -> None:
    """Show the site NAME as the running daemon sees it: since when it is connected and from where, its links
    and forwards, what it serves, and what it was refused last.

    Exit codes: 0 it is connected, 1 it is away, or the daemon does not answer, 2 there is no such site.
    """
    with client.explaining_unknown_names(config, [name], "sites"):
        admin, config = find(files(config))
        daemon = asyncio.run(ask(admin, config))
        found = next((one for one in daemon.sites if one.name == name), None)
        if found is None:
            names = [one.name for one in daemon.sites]
            hint = f"{suggest(name, names)}; kubemux site add {shlex.quote(escaped(name))} adds it"
            raise UnknownName(f"no site is called {shown(name)}", hint=hint)
    for line in state.lines(found, daemon):
        say(line)
    if found.connected is None:
        click.get_current_context().exit(EX_FAILED)


def _explain_key(name: str, server: Endpoint, permit: Sequence[str]) -> None:
    note(f"there is no site {name} yet. Its key is made at the site, and stays there:")
    note(f"  ssh-keygen -t ed25519 -N '' -C {name} -f ~/.ssh/{name}; cat ~/.ssh/{name}.pub")
    note("Then add it here, with the line that this prints:")
    there = Endpoint("bastion.example.com", server.port) if server.host in _EVERYWHERE else server
    words = [
        "--server",
        str(there),
        *(word for one in permit or ["127.0.0.1:6443"] for word in ("--permit", one)),
    ]
    note(f"  kubemux site add {name} 'ssh-ed25519 AAAA... {name}' {shlex.join(words)}")


def _server(config: Config, path: Path) -> SshServerConfig:
    if config.ssh_server is None:
        hint = (
            'add ssh_server: {listen: "0.0.0.0:2222", allow_remote: true, '
            "host_keys: [/etc/kubemux/ssh_host_ed25519_key]}, and run kubemux ssh-server keygen"
        )
        raise ConfigError(
            str(path), [Problem(0, "ssh_server", "there is none, and a site needs one to log in", hint)]
        )
    return config.ssh_server


def _own_address(config: Config, path: Path) -> Endpoint:
    listen = _server(config, path).listen
    if listen.host in _EVERYWHERE:
        message = (
            f"ssh_server.listen is {listen}, every address of this machine: which one does the site dial?"
        )
        raise click.UsageError(f"{message} Say --server bastion.example.com:{listen.port}.")
    return listen


def _host_keys(config: Config, path: Path) -> list[str]:
    """The host keys of the server, as `ssh-ed25519 BASE64`."""
    # Imported here, because asyncssh takes 200 ms, and `site show` does not need it.
    from proxy.ssh.server import keygen

    paths = _server(config, path).host_keys
    try:
        return [keygen.public(one) for one in paths]
    except Unusable as exc:
        raise WriteFailed(f"the host key for the site: {exc}", hint=exc.hint) from exc


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # it is too long for a path, or has a NUL
        return False


def _line(public_key: str | None, key_file: Path | None) -> bytes | None:
    if public_key is not None:
        if _is_file(public_key):
            raise click.UsageError(
                f"{public_key} is a file, and PUBLIC_KEY is the line in it: write --key {public_key}"
            )
        return public_key.encode()
    if key_file is None:
        return None
    if key_file == Path("-"):
        return sys.stdin.buffer.read(_MOST_BYTES)
    try:
        return read_bytes(key_file, limit=_MOST_BYTES)[0]
    except Unusable as exc:
        raise click.BadParameter(f"{key_file} {exc}: {exc.hint}", param_hint="--key") from exc
