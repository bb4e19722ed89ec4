"""Runs a program on a pseudo-terminal; the test types into it and reads its output."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

ROWS, COLUMNS = 33, 77
SECONDS: Final = 30.0


class AtTerminal:
    """The program, until the block ends. Its three standard files are a terminal of ROWS and COLUMNS."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self.shown = b""
        """The output that no `expect` has consumed yet."""

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        try:
            termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=self._environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._ours)
            raise
        finally:
            os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def expect(self, text: bytes) -> bytes:
        """Wait until the program prints `text`. Returns its output before that.

        Raises AssertionError if the program ends, or takes too long.
        """
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert self._read(deadline), f"{text!r} is not shown, but {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def end(self) -> int:
        """Wait until the program ends. Returns its exit code. `shown` is then the rest of its output."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        return self._process.wait(max(0.0, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Read output once. False at the end of the output or at the deadline."""
        if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        with suppress(OSError):  # Linux reports the end of a pseudo-terminal's output as EIO.
            data = os.read(self._ours, 4096)
            self.shown += data
            return bool(data)
        return False
