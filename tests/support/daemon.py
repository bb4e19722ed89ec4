"""The real daemon as a process: tests start, ask, order and stop it as systemd and an operator do."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from proxy.admin.http.connection import Deadlines
from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint
from tests.support.files import whole_lines
from tests.support.kubemux import PROGRAM, Forked
from tests.support.ports import free_port

READY_SECONDS = 60.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.05
ROOT = Path(__file__).parents[2]
Sections = Mapping[str, object]
"""A part of the configuration file: JSON values."""


class Daemon:
    """`kubemux run` on a configuration of `gateways` and `clusters` (and other top-level `sections`), written
    to `folder`.

    As a context manager it starts the daemon, and waits for READY=1. At the end it stops the daemon, and
    checks for exit code 0, no traceback, and no error in the log except events in `expected_errors`. Clusters
    come up after READY=1 (`wait_up`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        gateways: Sections,
        clusters: Sections,
        sections: Sections | None = None,
        expected_errors: Collection[str] = (),
        environment: dict[str, str] | None = None,
        log: Path | None = None,
        wrapper: Collection[str] = (),
        executes: bool = False,
    ) -> None:
        """`log` gets the daemon's standard error, in place of a file in `folder`. The test need not be able
        to read it.

        `wrapper` is a command that executes the words after it. With `executes` a new interpreter runs, as
        for a user. Otherwise the daemon is forked (`tests.support.kubemux`).
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config.yaml"
        self.admin = Endpoint("127.0.0.1", free_port())
        self.socket = folder / "admin.sock"
        self._defaults: dict[str, object] = {
            "version": 1,
            "admin": {"listen": str(self.admin), "socket": str(self.socket)},
        }
        self.configure(gateways=gateways, clusters=clusters, sections=sections)
        self._expected_errors = expected_errors
        self._environment = environment or {}
        self._wrapper = wrapper
        self._popen = subprocess.Popen if executes else Forked
        self._log = log or folder / "daemon.log"
        self._notify = folder / "notify.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.notified: list[str] = []
        """The assignments that came over $NOTIFY_SOCKET, oldest first."""
        self._socket: socket.socket | None = None
        self._said: SimpleQueue[list[str]] = SimpleQueue()
        """The datagrams that were not asked for yet. A thread reads them: the socket has room for ten."""
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The running daemon's process id."""
        assert self._process, "the daemon does not run"
        return self._process.pid

    def configure(self, *, gateways: Sections, clusters: Sections, sections: Sections | None = None) -> None:
        """Write the configuration file. A running daemon reads it after `signal(SIGHUP)`."""
        content = {**self._defaults, **(sections or {}), "gateways": gateways, "clusters": clusters}
        self.config.write_text(json.dumps(content, indent=2))  # JSON is YAML

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure:  # report the test's own failure; the daemon's log may explain it
            self.kill()
            sys.stderr.write(f"--- the daemon's log\n{self.log()}\n")
        elif self._process:
            self.stop()

    def start(self) -> None:
        """Start it and wait for READY=1."""
        self.spawn()
        self.wait_notified("READY=1", seconds=READY_SECONDS)

    def spawn(self) -> None:
        """Start it without waiting."""
        self._notify.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._notify))
        self._said = SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(self._socket, self._said), name="service manager")
        self._reader.start()
        with self._log.open("ab") as log:
            self._process = self._popen(
                [*self._wrapper, *PROGRAM, "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"NOTIFY_SOCKET": str(self._notify)} | self._environment,
            )

    def stop(self) -> None:
        """Stop it with SIGTERM. Check that the exit code is 0, and the log has no unexpected error."""
        assert self._process, "the daemon does not run"
        self._process.terminate()
        code = self.wait_ended()
        assert code == 0, f"the daemon's exit code is {code}:\n{self.log()}"
        self.assert_log_clean()

    def wait_ended(self, *, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end of a daemon that is stopping or was killed. Returns the exit code.

        Raises AssertionError if it does not end.
        """
        assert self._process, "the daemon does not run"
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the daemon did not stop within {seconds} s:\n{self.log()}") from None
        self.kill()
        return code

    def set_log_aside(self) -> str:
        """Return the log so far, and remove it, so that later checks do not see it."""
        text = self.log()
        self._log.unlink()
        return text

    def kill(self) -> None:
        """Kill it. Idempotent."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._socket:
            self._socket.shutdown(socket.SHUT_RD)  # wakes the reader
            if self._reader:
                self._reader.join()
            self._socket.close()
            self._socket = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGHUP reloads, SIGSTOP freezes."""
        os.kill(self.pid, number)

    def next_notified(self, *, seconds: float) -> list[str]:
        """The assignments of its next datagram to the service manager; empty if none arrives in time."""
        assert self._socket, "the daemon does not run"
        try:
            said = self._said.get(timeout=seconds)
        except Empty:
            return []
        self.notified += said
        return said

    def wait_notified(self, assignment: str, *, seconds: float = 60.0) -> None:
        """Wait until the daemon sends `assignment` to its service manager.

        Raises AssertionError.
        """
        assert self._process, "the daemon does not run"
        assert self._socket, "the daemon does not run"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (
                f"the daemon ended with exit code {self._process.poll()}:\n{self.log()}"
            )
            if assignment in self.next_notified(seconds=0.2):
                return
        raise AssertionError(
            f"the daemon did not say {assignment} within {seconds} s, but {self.notified}:\n{self.log()}"
        )

    # ---------------------------------------------------------------------------------------------- state

    def get(self, path: str) -> tuple[int, str]:
        """GET from the admin address: (status code, body)."""
        while True:
            began = time.monotonic()
            try:
                return self._ask(path)
            except (http.client.HTTPException, ConnectionError):
                # The daemon cuts an answer that it cannot complete in time, for example without any CPU.
                if time.monotonic() - began < Deadlines().answer:
                    raise

    def _ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.admin, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` (with `kubemux_` and `_total`) that carry these labels; 0 if
        there is none.
        """
        code, text = self.get("/metrics")
        assert code == 200, text
        # To parse everything takes 8 ms. Tests call this again and again, and the daemon needs the CPU.
        lines = "\n".join(line for line in text.splitlines() if line.startswith(name))
        samples = (sample for family in text_string_to_metric_families(lines) for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def wait_for(self, what: str, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Call `condition` again and again until it is true.

        Raises AssertionError with `what` if it does not become true.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process, "the daemon does not run"
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=POLL_SECONDS)
                raise AssertionError(f"the daemon ended with exit code {code}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not within {seconds} s: {what}\n{self.get('/status')[1]}\n{self.log()}"
                )

    def wait_up(self, *clusters: str, up: bool = True, seconds: float = 60.0) -> None:
        """Wait until probes say that these clusters are up (or down).

        `kubemux_cluster_up` is 0 also before the first probe has ended, so this asks for the state.
        """
        state = "up" if up else "down"

        def settled() -> bool:
            told = json.loads(self.get("/status")[1])["clusters"]
            states = {cluster["name"]: cluster["state"] for cluster in told}
            return all(states.get(cluster) == state for cluster in clusters)

        self.wait_for(f"{', '.join(clusters)} {state}", settled, seconds=seconds)

    def log(self) -> str:
        """The log so far."""
        return self._log.read_text() if self._log.is_file() else ""

    def events(self, event: str | None = None) -> list[dict[str, object]]:
        """The log's JSON lines, all or those of one event."""
        entries = [json.loads(line) for line in whole_lines(self._log) if line.startswith("{")]
        return [entry for entry in entries if event in (None, entry["event"])]

    def assert_log_clean(self) -> None:
        """Check the log: no traceback, only lines of JSON, only known reasons, no unexpected error."""
        text = self.log()
        assert "Traceback" not in text, text
        assert all(line.startswith("{") for line in text.splitlines()), text
        words = {str(entry[key]) for entry in self.events() for key in ("reason", "result") if key in entry}
        assert words <= set(map(str, Reason)), words
        bad = [entry for entry in self.events() if entry["level"] in ("error", "critical")]
        assert all(entry["event"] in self._expected_errors for entry in bad), bad


def _read(notify: socket.socket, said: SimpleQueue[list[str]]) -> None:
    """Read what the daemon tells its service manager, until the socket is shut down."""
    while data := notify.recv(4096):
        said.put(data.decode().splitlines())
