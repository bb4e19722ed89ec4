"""Runs a real Prometheus."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.parts import find
from tests.support.ports import free_port


class Prometheus:
    """A running Prometheus; `query` is its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expression: str) -> dict[str, float]:
        """The values of an expression, by the label `cluster` (empty if there is none)."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            results = json.load(answer)["data"]["result"]
        return {one["metric"].get("cluster", ""): float(one["value"][1]) for one in results}

    def wait_for(
        self, expression: str, holds: Callable[[dict[str, float]], bool], seconds: float = 60
    ) -> dict[str, float]:
        """Query again and again until `holds`. Raises AssertionError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds(seen := self.query(expression)):
                    return seen
            except OSError:
                seen = {}
            assert time.monotonic() < deadline, f"{expression} is {seen}"
            time.sleep(0.1)


@contextmanager
def prometheus(folder: Path, config: Mapping[str, object]) -> Iterator[Prometheus]:
    """Run Prometheus with a configuration until the block ends."""
    folder.mkdir()
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                find("prometheus") or "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Prometheus(port)
        finally:
            process.terminate()
            process.wait(60)
