"""Lets a test break the resolver, the wall clock, the event loop and the disk of a running daemon, by shim.c,
a preloaded library, and measures the turns of its event loop.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from pathlib import Path
from typing import Final

from tests.support.parts import find

NAME: Final = "gateway.test"
"""The host name whose address `resolve` sets; RFC 6761 reserves its domain for tests."""

SILENCE: Final = "?"

_AHEAD, _BLOCK, _TURN, _ADDRESS, _HUNG, _SIZE = 0, 8, 16, 24, 88, 344  # struct page in shim.c


class Shim:
    """Changes the surroundings of a process that was started with `environment`."""

    def __init__(self, folder: Path) -> None:
        library, page = folder / "shim.so", folder / "shim.page"
        source = Path(__file__).with_suffix(".c")
        compiler = find("gcc") or "gcc"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-nostdlib", "-O1", "-fno-builtin", "-o", library, source],
            check=True,
        )
        page.write_bytes(bytes(_SIZE))
        self.environment = {"LD_PRELOAD": str(library), "SHIM_PAGE": str(page), "SHIM_NAME": NAME}
        fd = os.open(page, os.O_RDWR)
        self._page = mmap.mmap(fd, _SIZE)
        os.close(fd)

    def close(self) -> None:
        """Close our end. The daemon keeps its own mapping."""
        self._page.close()

    def resolve(self, address: str) -> None:
        """Let `NAME` resolve to `address`. Empty: the name does not exist. SILENCE: the resolver never
        answers.
        """
        self._page[_ADDRESS:_HUNG] = address.encode().ljust(_HUNG - _ADDRESS, b"\0")

    def hang(self, folder: Path | None) -> None:
        """Let every open(2) and stat(2) below `folder` hang, as on a file system whose server is gone.

        None ends that.
        """
        self._page[_HUNG:_SIZE] = (
            f"{folder}/".encode().ljust(_SIZE - _HUNG, b"\0") if folder else bytes(_SIZE - _HUNG)
        )

    def turn_clock(self, seconds: int) -> None:
        """Set the wall clock ahead by `seconds`; monotonic clocks do not change."""
        self._page[_AHEAD:_BLOCK] = struct.pack("l", seconds)

    @property
    def has_blocked(self) -> bool:
        """Whether the last `block` has begun."""
        return not any(self._page[_BLOCK:_TURN])

    def block(self, seconds: float) -> None:
        """Block the main thread in a C call for that long, from the next time it reads a clock, which an
        event loop does at each turn.
        """
        self._page[_BLOCK:_TURN] = struct.pack("l", int(seconds * 1e9))

    @property
    def longest_turn(self) -> float:
        """Seconds of CPU that the longest turn of the event loop has used since `forget_turns`; 0 if there
        was none.

        It is no time on the clock: then a pause of the machine would look like a long turn. So it counts no
        calls that sleep, as those of `block` do.
        """
        nanoseconds: int = struct.unpack("l", self._page[_TURN:_ADDRESS])[0]
        return nanoseconds / 1e9

    def forget_turns(self) -> None:
        """Measure from now on."""
        self._page[_TURN:_ADDRESS] = bytes(_ADDRESS - _TURN)
