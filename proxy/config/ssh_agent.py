"""Whether an ssh-agent can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NO_AGENT: Final = (
    "start the daemon with SSH_AUTH_SOCK set to the socket of an ssh-agent that holds the "
    "key, or use identity_files"
)


def no_agent(path: str | None) -> str:
    """Why no ssh-agent can be used; empty if `path` is a socket."""
    if not path:
        return "SSH_AUTH_SOCK is not set"
    return "" if Path(path).is_socket() else f"there is no agent at {path}"
