"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

DEFAULT_CONFIG: Final = Path("/etc/kubemux/config.yaml")

config_option = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, readable=False),
    envvar="KUBEMUX_CONFIG",
    default=DEFAULT_CONFIG,
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
"""`--config FILE`, `config: pathlib.Path` in the command. Whether it can be read is for the loader to say (exit code 78)."""
