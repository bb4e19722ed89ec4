"""Paths in the configuration: `${CREDENTIALS_DIRECTORY}/key`, `~/.ssh/id_ed25519`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from proxy.runtime.text import shown

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

SERVICE_CREDENTIALS = Path("/run/credentials/kubemux.service")
"""`/run/credentials/UNITNAME` of systemd.exec(5), CREDENTIALS. It exists while the service runs, for the
service and for root.
"""

NO_HOME = "/nonexistent"
"""What Debian's passwd has as the home directory of a user without one."""


class UnsetVariable(ValueError):
    """A value names an environment variable that is not set."""


def credentials_directory() -> Path:
    """The value of `${CREDENTIALS_DIRECTORY}`.

    systemd sets the variable only for the service. In an operator's shell it is unset: there, the service's
    folder counts.
    """
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or SERVICE_CREDENTIALS)


def is_for_system_service() -> bool:
    """Whether a hint should be about the system service: this process is it, or the user is root."""
    return os.geteuid() == 0 or ("INVOCATION_ID" in os.environ and "XDG_RUNTIME_DIR" not in os.environ)


def has_home() -> bool:
    """Whether this user has a home directory, so that `~` can be expanded."""
    try:
        home = Path("~").expanduser()
    except RuntimeError:  # neither HOME nor an entry in passwd
        return False
    return home.is_absolute() and home != Path(NO_HOME)


def expand_path(value: object) -> Path:
    """A path with `${VARIABLE}` and a leading `~` expanded.

    Raises ValueError if a variable is unset or the path is relative. The messages do not show the value: a
    user may have put the secret itself where its file is expected.
    """
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("expected a path")

    def lookup(match: re.Match[str]) -> str:
        if match[1] == "CREDENTIALS_DIRECTORY":
            return str(credentials_directory())
        found = os.environ.get(match[1])
        if found is None:
            raise UnsetVariable(f"environment variable {match[1]} is not set")
        return found

    path = Path(_VARIABLE.sub(lookup, value))
    if path.parts[:1] == ("~",) and not has_home():
        raise ValueError(f"~ stands for a home directory, and uid {os.geteuid()} has none")
    try:
        path = path.expanduser()
    except RuntimeError as exc:
        raise ValueError(
            f"there is no user {shown(path.parts[0][1:])}, whose home directory this would be"
        ) from exc
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path
