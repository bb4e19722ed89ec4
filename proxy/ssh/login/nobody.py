"""A uid without a name and a home, as in containers: asyncssh asks for both (`getpass.getuser`, `~/.ssh`),
whatever it is told.

It uses neither with what kubemux tells it, so answers that lead nowhere are enough. They are given by the
environment, which is where asyncssh and the programs that we start look first.
"""

from __future__ import annotations

import getpass
import os
from typing import Final

from proxy.config.values import NO_HOME, has_home

NO_NAME: Final = "-"
"""It cannot be a user's name (passwd(5), adduser(8))."""


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
