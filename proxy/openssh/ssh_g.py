"""Runs `ssh -G` twice: with the file, and without any file.

    ssh -G -N -F FILE [-l USER] [-p PORT] -- ALIAS

prints one `keyword value` on each line; some keywords appear on several lines. ssh prints its defaults, too:
an option was asked for if the two outputs differ in it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.errors import CredentialsUnusable
from proxy.runtime import program

_HASH: Final = ("-o", "ControlPath=%C")
"""The meaning of `%C` depends on ssh's version. ssh prints it in this option, which is not used otherwise."""

_MAX_SAID: Final = 300
NEEDS_SSH: Final = (
    "install it (apt install openssh-client), or say in the gateway what the file says, instead of ssh_config"
)
_REMEDIES: Final = {
    "No user exists": "give the user that runs kubemux an entry in /etc/passwd (systemd: User= with "
    "sysusers.d), or say host, "
    "port, user, identity_files and known_hosts in the gateway, instead of ssh_config",
    "jumphost loop": "say `ProxyJump none` in ssh_config for the host that needs no jump",
}
"""Words in an error of ssh, and the hint for that error."""


def is_ssh_here() -> bool:
    """Whether this machine has ssh(1), without which no ssh_config can be read."""
    return shutil.which("ssh") is not None


@dataclass(frozen=True, slots=True)
class Printed:
    """What `ssh -G` has printed for one alias."""

    path: Path
    alias: str
    asked: bytes
    """The output with the file."""
    default: bytes
    """The output without a file."""


async def print_options(
    path: Path, alias: str, *, user: str | None = None, port: int | None = None
) -> Printed:
    """What ssh prints for `ssh -G -F path [-l user] [-p port] alias`. Raises CredentialsUnusable."""
    given = [*(("-l", user) if user else ()), *(("-p", str(port)) if port else ())]
    return Printed(
        path, alias, await _ssh_g(path, alias, str(path), given), await _ssh_g(path, alias, "none", given)
    )


async def _ssh_g(path: Path, alias: str, file: str, given: list[str]) -> bytes:
    command = ["ssh", "-G", "-N", *_HASH, "-F", file, *given, "--", alias]
    try:
        ran = await program.run(command)
    except FileNotFoundError as exc:
        raise CredentialsUnusable(
            f"ssh_config {path} is read by ssh(1), and there is none on this machine", hint=NEEDS_SSH
        ) from exc
    except (OSError, ValueError) as exc:
        raise CredentialsUnusable(f"ssh_config {path} cannot be used: ssh -G: {exc}") from exc
    if ran.code:
        said = (
            _last_lines(ran.errors.decode(errors="replace"), path)
            or f"ssh -G ended with exit code {ran.code}"
        )
        usual = f"ssh says so, too: ssh -G -F {path} -- {shlex.quote(alias)}"
        hint = next((hint for words, hint in _REMEDIES.items() if words in said), usual)
        raise CredentialsUnusable(
            f"ssh_config {path} for {alias} cannot be used: {printable(said)}", hint=hint
        )
    return ran.output


def _last_lines(text: str, path: Path) -> str:
    """The last lines of ssh's errors, joined. What a `Match exec` has printed comes before them."""
    lines = [line.strip().removeprefix(str(path)).lstrip(": ") for line in text.splitlines()]
    return "; ".join([line for line in lines if line and not line.startswith("terminating")][-3:])


def options(output: bytes) -> dict[str, tuple[str, ...]]:
    """The values of each keyword in the output of `ssh -G`. Paths may be in any encoding."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in os.fsdecode(output).split("\n"):
        keyword, _, value = line.partition(" ")
        if keyword:
            found[keyword.lower()].append(value)
    return {keyword: tuple(values) for keyword, values in found.items()}


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_SAID])
