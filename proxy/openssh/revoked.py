"""RevokedHostKeys of ssh_config(5): public keys, one a line, or a key revocation list (ssh-keygen(1), KEY REVOCATION LISTS)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_MAGIC: Final = b"SSHKRL\n\0"
_REVOKED: Final = 1
"""The exit code of ssh-keygen -Q: 0 is for keys that are not, 255 for what went wrong."""


class Unanswered(Exception):
    """A revocation list could not be asked. `str()` says why."""


def is_krl(data: bytes) -> bool:
    """Whether `data` is a revocation list; if not, it is a list of keys."""
    return data.startswith(_MAGIC)


def listed(data: bytes) -> Iterator[tuple[int, str]]:
    """The lines that are about a key, with their numbers."""
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


async def is_in_krl(krl: Path, line: bytes, *, seconds: float) -> bool:
    """Whether `krl` revokes the key, or certificate, of `line` (`TYPE BASE64`): ssh-keygen(1) reads it. Raises Unanswered."""
    try:
        process = await asyncio.create_subprocess_exec(
            *("ssh-keygen", "-Q", "-f", str(krl), "/dev/stdin"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
    except OSError as exc:
        raise Unanswered(f"ssh-keygen cannot be run: {exc.strerror}") from exc
    try:
        async with asyncio.timeout(seconds):
            _, said = await process.communicate(line + b"\n")
    except TimeoutError as exc:
        raise Unanswered(f"ssh-keygen -Q gave no answer within {seconds:g} s") from exc
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode not in {0, _REVOKED}:
        raise Unanswered(said.decode("utf-8", "replace").strip()[:200] or f"ssh-keygen -Q ended with {process.returncode}")
    return process.returncode == _REVOKED
