"""The recipes of docs/entries.md, typed word for word: at a desk where the entry has another port."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxy.runtime.endpoint import Endpoint

PAGE: Final = "docs/entries.md"
_ENTRY: Final = Endpoint("127.0.0.1", 3128)
"""Where the page has it."""


class Desk:
    """A home folder and a shell. `programs` are what a command's name runs, in place of what is installed."""

    def __init__(
        self, folder: Path, entry: Endpoint, *, programs: Mapping[str, str], **environment: str
    ) -> None:
        self.home = folder / "home"
        self.entry = entry
        self._programs = folder / "programs"
        path = f"{self._programs}:{os.environ['PATH']}"
        self.environment = os.environ | environment | {"HOME": str(self.home), "PATH": path}
        for made in (self.home, self._programs):
            made.mkdir(parents=True)
        for name, command in programs.items():
            program = self._programs / name
            program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            program.chmod(0o755)

    def here(self, text: str) -> str:
        """The same with the entry's address as it is here."""
        return text.replace(str(_ENTRY), str(self.entry)).replace(str(_ENTRY.port), str(self.entry.port))

    def typed(
        self, script: str, *, stdin: bytes = b"", seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """What a shell makes of it."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(script)],
            input=stdin,
            capture_output=True,
            timeout=seconds,
            check=False,
            cwd=self.home,
            env=self.environment,
        )

    def said(self, script: str) -> str:
        """Its output. Raises AssertionError if it fails."""
        done = self.typed(script)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def words(self, program: str, *arguments: str) -> list[str]:
        """The command, for who starts it without a shell."""
        return [str(self._programs / program), *arguments]

    @contextmanager
    def started(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The program at work, with its output in a pipe; it is killed with the block."""
        with subprocess.Popen(
            self.words(program, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.environment,
        ) as process:
            try:
                yield process
            finally:
                process.kill()
