"""Lets kubemux run under a uid without a name and a home, as in containers.

asyncssh always looks up both (`getpass.getuser`, `~/.ssh`), but with the settings of kubemux it uses neither.
So it gets a name and a home that do not exist, through the environment: asyncssh and the programs that we
start look there first.
"""

from __future__ import annotations

import getpass
import os
from typing import Final

from proxy.config.file_paths import NO_HOME, has_home

NO_NAME: Final = "-"
"""No user can have this name (passwd(5), adduser(8))."""


def answer() -> None:
    """Call it before other threads start: they may read the environment."""
    if not has_home():
        os.environ["HOME"] = NO_HOME
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = NO_NAME


def own_name() -> str | None:
    """The name of the user that runs kubemux, if there is one."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return None
    return None if name == NO_NAME else name
