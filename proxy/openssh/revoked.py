"""RevokedHostKeys of ssh_config(5): a file with one public key on each line, or a key revocation list
(ssh-keygen(1), KEY REVOCATION LISTS).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.runtime.program import run
from proxy.runtime.text import printable

_MAGIC: Final = b"SSHKRL\n\0"
_REVOKED: Final = 1
"""The exit code of ssh-keygen -Q for a revoked key. 0 means not revoked, 255 a failure."""


class Unanswered(Exception):
    """ssh-keygen could not read a revocation list. `str()` says why."""


def is_krl(data: bytes) -> bool:
    """Whether `data` is a key revocation list. If not, it has one key on each line."""
    return data.startswith(_MAGIC)


def listed(data: bytes) -> Iterator[tuple[int, str]]:
    """The numbers and texts of the lines with a key."""
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


async def is_in_krl(krl: Path, line: bytes, *, seconds: float) -> bool:
    """Whether the key revocation list `krl` revokes the key or certificate in `line` (`TYPE BASE64`).

    ssh-keygen(1) answers that. Raises Unanswered.
    """
    key = os.memfd_create("host key")  # not standard input: uvloop makes it a socket, which has no path
    try:
        os.write(key, line + b"\n")
        async with asyncio.timeout(seconds):
            ran = await run(["ssh-keygen", "-Q", "-f", str(krl), f"/proc/self/fd/{key}"], inherits=(key,))
    except TimeoutError as exc:
        raise Unanswered(f"ssh-keygen -Q gave no answer within {seconds:g} s") from exc
    except (OSError, ValueError) as exc:
        raise Unanswered(f"ssh-keygen -Q cannot be run: {exc}") from exc
    finally:
        os.close(key)
    if ran.code not in {0, _REVOKED}:
        raise Unanswered(
            printable(ran.errors.decode("utf-8", "replace"))[:200] or f"ssh-keygen -Q ended with {ran.code}"
        )
    return ran.code == _REVOKED
