"""Runs kubectl: until it ends, at a terminal, or in the background. Lists the upgrades of its streams."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from tests.support.at_terminal import AtTerminal
from tests.support.nodes import NODE

SECONDS: Final = 60.0


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line of a `started` kubectl. If kubectl has ended, raises AssertionError with its errors."""
    assert process.stdout
    assert process.stderr
    line = process.stdout.readline()
    assert line, f"kubectl has ended: {process.stderr.read()}"
    return line


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The program with its options, such as `--kubeconfig`."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]

    def by_websocket(self, wanted: bool) -> Self:
        """kubectl that uses WebSocket if `wanted`, and SPDY otherwise. kubectl of 2020 has only SPDY."""
        value = str(wanted).lower()
        chosen = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": value, "KUBECTL_PORT_FORWARD_WEBSOCKETS": value}
        return replace(self, environment={**self.environment, **chosen})

    def ran(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.command, *arguments],
            input=stdin,
            capture_output=True,
            timeout=SECONDS,
            env=self.environment,
            check=False,
        )

    def said(self, *arguments: str, stdin: object = None) -> str:
        """Run kubectl with `stdin` as JSON. Returns its output. Raises AssertionError with its errors."""
        done = self.ran(*arguments, stdin=b"" if stdin is None else json.dumps(stdin).encode())
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def attempt(self, *arguments: str) -> str:
        """Run kubectl. Returns its output, or its errors if it fails."""
        try:
            return self.said(*arguments)
        except AssertionError as exc:
            return str(exc)

    def at_terminal(self, *arguments: str) -> AtTerminal:
        return AtTerminal([*self.command, *arguments], self.environment)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run kubectl in the background, with pipes. It is killed when the block ends."""
        with subprocess.Popen(
            [*self.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def upgrades(self) -> list[str]:
        """The upgrades that clients of the stand-in kubelet have used since the last call: `exec by SPDY`."""
        asked: list[str] = json.loads(self.said("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/upgrades"))
        return asked
