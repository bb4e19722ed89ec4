"""Runs the recipes of docs/entries.md word for word; only the entry's port differs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxy.runtime.endpoint import Endpoint

PAGE: Final = "docs/entries.md"
_ENTRY: Final = Endpoint("127.0.0.1", 3128)
"""The entry's address on the page."""


class Desk:
    """A home folder and a shell. `programs` says which command runs instead of an installed program."""

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
        """The text with this entry's address in place of that on the page."""
        there = text.replace(str(_ENTRY), str(self.entry))
        return re.sub(rf"\b{_ENTRY.port}\b", str(self.entry.port), there)  # a free port may be 31285

    def typed(
        self, script: str, *, stdin: bytes = b"", seconds: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the script in a shell. Returns its exit code and output."""
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
        """Run the script. Returns its output. Raises AssertionError if it fails."""
        done = self.typed(script)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def words(self, program: str, *arguments: str) -> list[str]:
        """The command of a program, to start it without a shell."""
        return [str(self._programs / program), *arguments]

    @contextmanager
    def started(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the program with its output in a pipe; it is killed when the block ends."""
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
