"""Options that several commands share, and the places where they look for the configuration file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from proxy.config.quantities import format_duration, parse_duration
from proxy.errors import ConfigError, Problem

DEFAULT_CONFIG: Final = Path("/etc/kubemux/config.yaml")
_FILE: Final = "kubemux.file"
_NOWHERE: Final = "kubemux.nowhere"


def user_config() -> Path | None:
    """The path of a user's own configuration file (XDG Base Directory Specification).

    None if the user has no home directory.
    """
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        base = base if base.is_absolute() else Path.home() / ".config"
    except RuntimeError:  # no $HOME and no passwd entry
        return None
    return base / "kubemux" / "config.yaml"


def _is_there(path: Path) -> bool:
    """Whether the file exists. If this user may not look, it counts as existing: the loader reports that."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    given: Path | None = ctx.meta.get(_FILE)
    if given is not None:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError("which file? Give FILE or --config, not both", ctx=ctx)
        return given
    if value is not None:
        return value
    own = user_config()
    if _is_there(DEFAULT_CONFIG) or own is None:
        return DEFAULT_CONFIG
    if _is_there(own):
        return own
    ctx.meta[_NOWHERE] = own
    return DEFAULT_CONFIG


class File(click.Path):
    """A path that is not empty: `pathlib` reads an empty path as the current folder."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(path_type=Path, readable=False, allow_dash=allow_dash)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if value == "":
            self.fail("the path is empty: name a file (was a variable in its place not set?).", param, ctx)
        return Path(super().convert(value, param, ctx))  # type: ignore[arg-type]  # click passes what it was given


def files(config: Path) -> list[Path]:
    """The files that may be meant: `config`, and the user's own if no file was named and neither exists."""
    own: Path | None = click.get_current_context().meta.get(_NOWHERE)
    return [config] if own is None else [config, own]


def add_places(ctx: click.Context, error: ConfigError) -> None:
    """If no file was named and the default one is missing, add the other places that were searched."""
    own: Path | None = ctx.meta.get(_NOWHERE)
    if own is not None and error.path == str(DEFAULT_CONFIG):
        remedy = "create one of them, or name yours: --config FILE, or KUBEMUX_CONFIG=FILE in the environment"
        variable = "empty" if "KUBEMUX_CONFIG" in os.environ else "not set"
        message = f"nor is there {own}, and KUBEMUX_CONFIG is {variable}"
        error.problems.insert(1, Problem(0, "", message, remedy))


config_option = click.option(
    "--config",
    "config",
    type=File(),
    envvar="KUBEMUX_CONFIG",
    callback=_config,
    metavar="FILE",
    show_envvar=True,
    help=f"The configuration file. Default: {DEFAULT_CONFIG}, else $XDG_CONFIG_HOME/kubemux/config.yaml "
    "(~/.config/…).",
)
"""`--config FILE`; the command gets it as `config: pathlib.Path`.

The loader reports a file that cannot be read (exit code 78).
"""


def _remember_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:  # noqa: ARG001 - click's signature
    if value is not None:
        ctx.meta[_FILE] = value


file_argument = click.argument(
    "file",
    type=File(),
    required=False,
    is_eager=True,
    expose_value=False,
    callback=_remember_file,
)
"""`FILE`, the same as `--config FILE`, for the commands that are about the file."""


class Duration(click.ParamType[float]):
    """A duration as in the configuration file (`30s`, `5m`), or a number of seconds, as for timeout(1)."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(f"{value}s" if str(value)[-1:].isdigit() else value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)
        if seconds <= 0:
            self.fail(f"expected more than 0s, got {format_duration(seconds)}.", param, ctx)
        return seconds
