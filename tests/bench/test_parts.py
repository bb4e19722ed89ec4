"""The benchmarks of the parts run, each round does what it should, and a slower part is reported."""

from __future__ import annotations

import io
import json
import re
import subprocess

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.parts import __main__ as parts


def test_every_part_runs() -> None:
    """Each part runs once, without a measurement: tests do not check figures."""
    command = [*parts.COMMAND, "-vv", "--benchmark-disable"]
    done = subprocess.run(command, cwd=parts.ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = set(re.findall(r"::test_(\S+) PASSED", done.stdout))
    kept = parts.Run(**json.loads(parts.BASELINE.read_text()))
    assert names == kept.parts.keys() == kept.yardsticks.keys(), "make bench-parts ARGS=--save"


def test_times_are_for_one_item() -> None:
    report = {
        "benchmarks": [
            {"name": "test_seal", "stats": {"min": 2e-6}, "extra_info": {"yardstick": 1e-5}},
            {"name": "test_accept", "stats": {"min": 2e-3}, "extra_info": {"yardstick": 2e-5, "items": 50}},
        ]
    }
    run = parts.read(report)
    assert run.parts == pytest.approx({"seal": 2, "accept": 40})
    assert run.yardsticks == pytest.approx({"seal": 10, "accept": 20})


def test_slow_parts_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = parts.Run(**json.loads(parts.BASELINE.read_text()))
    slow = fast._replace(parts={name: 2 * us for name, us in fast.parts.items()})
    for runs, exit_code in ([fast], 0), ([slow, fast], 0), ([slow, slow], 1):
        left = iter(runs)
        monkeypatch.setattr(parts, "measure", left.__next__)
        assert CliRunner().invoke(parts.main).exit_code == exit_code
        assert next(left, None) is None


def test_a_slower_part_is_a_regression_and_a_slower_machine_is_not() -> None:
    names = "same", "slower", "faster", "gone"
    before = parts.Run(dict.fromkeys(names, 1.0), dict.fromkeys(names, 10.0))
    now = {"same": 1.0, "slower": 2.6, "faster": 1.0, "new": 9.0}
    yardsticks = dict.fromkeys(now, 20.0) | {"same": 10.0}  # the machine is as fast as before by then
    changes = {change.name: change for change in parts.compare(before, parts.Run(now, yardsticks))}
    assert {name for name, change in changes.items() if change.is_regression} == {"slower"}
    assert changes["slower"].slower == pytest.approx(0.3)
    assert changes["faster"].slower == pytest.approx(-0.5)
    said = io.StringIO()
    Console(width=100, file=said).print(parts.show(list(changes.values())))
    assert "+30%" in said.getvalue()
