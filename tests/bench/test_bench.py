"""The bench works from end to end, parses its tools' reports correctly, and never makes a figure of failed
requests or lost bytes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import charts, entries, machine, servers, sites
from bench import targets as goals
from bench.columns import Gateway, Ports, Route, distinct_ports, verify
from bench.distance import echo_ms
from bench.haproxy import haproxy
from bench.load import check_curl, connect, keep_alive, read_ab, read_wrk, through_proxy
from bench.result import (
    ASYNCSSH,
    BY_GATEWAY,
    COLUMNS,
    DIRECT,
    DYNAMIC,
    DYNAMIC_NODELAY,
    HAPROXY,
    KUBEMUX,
    NODELAY,
    REMOTE,
    SOCKS_SITE,
    SSH,
    Answer,
    Row,
    Target,
    show,
)
from bench.waiting import cpu_seconds, ended, listening, wait_listening
from tests.support.daemon import ROOT
from tests.support.drawn import fills, outside, texts
from tests.support.parts import need

WRK = """Running 1s test @ http://127.0.0.1:1/
  Latency Distribution
     50%   64.00us
     99%    1.25ms
  40000 requests in 1.00s, 2.00MB read
Requests/sec:  39800.50
"""
AB = "Complete requests:      500\nFailed requests:        0\nRequests per second:    576.10 [#/sec] (mean)\n"
PERCENTILES = "Percentage served,Time in ms\n0,0.1\n50,44.125\n99,48.5\n"
positive = st.floats(min_value=1e-6, max_value=1e9)


@pytest.fixture
def loads() -> None:
    need("sshd")
    if reason := machine.missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


# ------------------------------------------------------------------------------------------ the whole


@pytest.mark.usefixtures("loads")
def test_a_quick_run_answers_the_questions_asked(tmp_path: Path) -> None:
    """Two questions of ten, to save time: one about a single cluster, and one that needs the long line."""
    asked = {"connects", "distance"}
    command = [sys.executable, "-m", "bench", *asked, "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    answers = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert answers.keys() == asked
    for name, answer in answers.items():
        assert answer["machine"]["kubemux"]
        assert answer["title"] in done.stdout
        assert answer["title"] in texts(tmp_path / f"{name}.svg")
        for row in answer["rows"]:
            left_out = (
                {HAPROXY, DYNAMIC, DYNAMIC_NODELAY, REMOTE, BY_GATEWAY, SOCKS_SITE}
                | ({DIRECT} if "CPU" in row["unit"] else set())
                | ({NODELAY} if name == "distance" else set())
            )
            assert row["columns"].keys() == set(COLUMNS) - left_out
            assert all(len(column["samples"]) == 1 for column in row["columns"].values())
    targets = [target for answer in answers.values() for row in answer["rows"] for target in row["targets"]]
    assert targets
    # In their row, and in the last table.
    assert done.stdout.count("met") + done.stdout.count("missed") >= 2 * len(targets)
    assert all(answer["machine"]["pace"].startswith("one core seals ") for answer in answers.values())
    assert not (tmp_path / "targets.json").exists()  # two questions are not a complete run

    pings = answers["distance"]["rows"][0]["columns"]
    # Not more exactly: a busy machine adds seconds. Another unit would make it 20,000 or 0.02.
    assert all(20 <= column["median"] < 20_000 for column in pings.values()), pings


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find", lambda program: None if program in ("wrk", "ab") else program)
    assert machine.missing() == "missing: wrk, ab (Debian: sudo apt install wrk apache2-utils)"


def test_the_result_describes_the_machine() -> None:
    assert machine.pace() > 0
    assert machine.describe_paces([16.74, 13.42, 15.0]) == "one core seals 13.4 to 16.7 GB/s (AES-128-GCM)"
    busy = machine.describe_paces([16.74, 10.3])
    assert (
        busy
        == "one core seals 10.3 to 16.7 GB/s (AES-128-GCM); others use this machine: repeat the run when "
        "they do not"
    )


# ------------------------------------------------------------------------------------------ honest figures


@pytest.mark.usefixtures("loads")
def test_loads_refuse_answers_that_are_not_200(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_NGINX", servers._NGINX.replace("return 200", "return 503"))
    with servers.nginx(tmp_path / "nginx") as port:
        broken = Route(DIRECT, Ports(0, port, 0), None)
        with pytest.raises(RuntimeError, match="Non-2xx"):
            keep_alive(broken, connections=1, seconds=1)
        with pytest.raises(RuntimeError, match="Non-2xx"):
            connect(broken, count=20, seconds=1)


@pytest.mark.usefixtures("loads")
def test_curl_opens_a_connection_for_each_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load says so. Here, too, an answer other than 200 makes no figure."""
    with (
        servers.ssh_server(tmp_path / "sshd") as sshd,
        entries.dynamic(DYNAMIC, Gateway.of(sshd)) as proxy,
        servers.nginx(tmp_path / "nginx") as http,
    ):
        url = f"socks5h://127.0.0.1:{proxy.port}"
        assert through_proxy(url, proxy.pid, f"127.0.0.1:{http}", count=20).rate > 0
        monkeypatch.setattr(servers, "_NGINX", servers._NGINX.replace("return 200", "return 503"))
        with (
            servers.nginx(tmp_path / "broken") as broken,
            pytest.raises(RuntimeError, match=r"20 of 20 answers.*503 1"),
        ):
            through_proxy(url, proxy.pid, f"127.0.0.1:{broken}", count=20)


@pytest.mark.parametrize("said", ["200 1\n", "200 1\n200 0\n", "200 1\n502 1\n", ""])
def test_a_failed_request_or_a_connection_used_twice_fails_curl(said: str) -> None:
    check_curl("200 1\n200 1\n", 2)
    with pytest.raises(RuntimeError, match="of 2 answers"):
        check_curl(said, 2)


def flip_the_last_byte(echo: servers._Echo) -> None:
    data = bytearray(echo.request.makefile("rb").read())
    data[-1] ^= 1
    echo.request.sendall(data)


@pytest.mark.usefixtures("loads")
def test_a_changed_byte_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.nginx(tmp_path / "nginx") as http, servers.echo() as echo:
        right = Route(DIRECT, Ports(0, http, echo), None)
        verify(right)
        monkeypatch.setattr(servers._Echo, "handle", flip_the_last_byte)
        with pytest.raises(RuntimeError, match="direct: what came back is not what was sent"):
            verify(right)


@pytest.mark.usefixtures("loads")
def test_a_site_carries_every_byte(tmp_path: Path) -> None:
    with servers.nginx(tmp_path / "nginx") as http, servers.echo() as echo:
        targets = Ports(distinct_ports(1)[0], http, echo)
        with sites.site(tmp_path / "site", SOCKS_SITE, targets, "-R", f"{sites.NAME}:1080") as route:
            verify(route)


@pytest.mark.usefixtures("loads")
def test_haproxy_carries_every_byte(tmp_path: Path) -> None:
    with (
        servers.nginx(tmp_path / "nginx") as http,
        servers.echo() as echo,
        haproxy(tmp_path / "h", Ports(1, http, echo)) as route,
    ):
        assert route.column == HAPROXY
        # A busy machine may leave it less than a tick of its CPU clock, 10 ms, in a second.
        assert any(keep_alive(route, connections=1, seconds=1).cpu for _ in range(30))


@pytest.mark.usefixtures("loads")
def test_the_relay_delays_every_byte_and_changes_none(tmp_path: Path) -> None:
    with servers.nginx(tmp_path / "nginx") as http, servers.echo() as echo:
        ports = distinct_ports(2)
        command = [sys.executable, "-m", "bench.delay", "0.06", f"{ports[0]}:{http}", f"{ports[1]}:{echo}"]
        with ended(subprocess.Popen(command, cwd=ROOT)) as line:
            wait_listening(ports, [line])
            far = Route(DIRECT, Ports(0, *ports), None)
            verify(far)
            assert 60 <= echo_ms(far) < 60_000  # in ms, and not in us: a busy machine adds seconds


def test_the_report_of_wrk_is_parsed() -> None:
    requests = read_wrk(WRK, 2.0)
    assert requests == pytest.approx((39800.5, 0.064, 1.25, 50.0))


@pytest.mark.parametrize(
    "failure", ["Non-2xx or 3xx responses: 3", "Socket errors: connect 0, read 1, write 0, timeout 0"]
)
def test_a_failed_request_fails_wrk(failure: str) -> None:
    with pytest.raises(RuntimeError, match=failure.partition(" ")[0]):
        read_wrk(f"{WRK}  {failure}\n", None)


def test_no_request_fails_wrk() -> None:
    with pytest.raises(RuntimeError, match="no requests"):
        read_wrk(WRK.replace("40000", "0"), None)


def test_the_report_of_ab_is_parsed() -> None:
    assert read_ab(AB, PERCENTILES, 0.05) == pytest.approx((576.1, 44.125, 48.5, 100.0))


@pytest.mark.parametrize(
    "said", [AB.replace("requests:        0", "requests:        7"), AB + "Non-2xx responses:      2\n", ""]
)
def test_a_failed_request_fails_ab(said: str) -> None:
    with pytest.raises(RuntimeError, match="requests failed"):
        read_ab(said, PERCENTILES, None)


def test_cpu_time_is_the_process_own() -> None:
    work = (
        "import time, signal\nwhile time.process_time() < 0.2: pass\nprint('done', "
        "flush=True)\nsignal.pause()"
    )
    with ended(subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE)) as busy:
        assert busy.stdout
        busy.stdout.readline()
        assert 0.2 - 0.01 <= cpu_seconds(busy.pid) < 0.4


def test_waiting_for_a_port_names_the_process_that_ended(tmp_path: Path) -> None:
    (port,) = distinct_ports(1)
    assert port not in listening()
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with ended(subprocess.Popen(command)) as process, pytest.raises(RuntimeError, match="exit code 3"):
        wait_listening([port], [process])


# ----------------------------------------------------------------------------------------- targets and charts


@given(ours=positive, theirs=positive, ratio=st.floats(min_value=0.01, max_value=100))
def test_a_target_is_met_in_its_direction(ours: float, theirs: float, ratio: float) -> None:
    more = Row("r", "1/s", targets=(Target(SSH, ratio),), samples={SSH: [theirs], KUBEMUX: [ours]})
    (verdict,) = more.verdicts()
    assert verdict.met == (ours / theirs >= ratio)
    (less,) = replace(more, more_is_better=False).verdicts()
    assert less.met == (ours / theirs <= ratio)


def test_a_target_compares_medians_and_shows_the_repetitions() -> None:
    row = Row("r", "1/s", targets=(Target(SSH, 1.5),), samples={SSH: [1, 10, 900], KUBEMUX: [2, 20, 90]})
    (verdict,) = row.verdicts()
    assert (verdict.ratio, verdict.least, verdict.most) == pytest.approx((2, 0.1, 2))


@pytest.mark.usefixtures("fonts")
def test_the_last_table_and_its_files_have_every_target(tmp_path: Path) -> None:
    fast = Row(
        "fast",
        "1/s",
        targets=(Target(SSH, 1.5), Target(HAPROXY, 3)),
        samples={c: [2] for c in (SSH, HAPROXY)},
    )
    slow = Row(
        "slow", "ms", more_is_better=False, targets=(Target(SSH, 0.5),), samples={SSH: [4], KUBEMUX: [1]}
    )
    fast.add(KUBEMUX, 4)
    answers = [Answer("a", "One", "", (fast,)), Answer("b", "Two", "", (Row("r", "u"), slow))]
    said = io.StringIO()
    goals.print_targets(answers, Console(file=said, width=200))
    assert [
        word in said.getvalue() for word in ("One: fast, 1/s", "Two: slow, ms", ">= 1.5 x ssh -L", "missed")
    ] == [True] * 4

    goals.write_targets(answers, tmp_path, machine={"processor": "<x>", "date": "now"})
    found = json.loads((tmp_path / "targets.json").read_text())["targets"]
    assert [(target["wanted"], target["ratio"], target["held"]) for target in found] == [
        (">= 1.5", 2, True),
        (">= 3", 2, False),
        ("<= 0.5", 0.25, True),
    ]
    charts.draw_folder(tmp_path)
    colours = [colour for colour in fills(tmp_path / "targets.svg") if colour in (charts.MET, charts.MISSED)]
    assert colours == [charts.MET, charts.MISSED, charts.MET]
    assert "2, missed: wanted >= 3 x haproxy, plain TCP" in texts(tmp_path / "targets.svg")


def test_a_column_without_the_measure_stays_empty() -> None:
    row = Row("CPU", "s")
    row.add(DIRECT, None)
    row.add(SSH, 1.0)
    assert Answer("n", "t", "", (row,)).columns == [SSH]


@pytest.mark.usefixtures("fonts")
def test_a_chart_has_a_bar_for_each_column_and_shows_any_text(tmp_path: Path) -> None:
    samples = {SSH: [0.0, 0.0], ASYNCSSH: [1.0, 9e8], KUBEMUX: [7.0]}
    answer = Answer(
        "n", "$t_1$ <&> \\", "", (Row("r", "<&>", samples=samples), Row("z", "u", samples={SSH: [0]}))
    )
    charts.draw_answer(answer, {"processor": "<x>", "date": "now"}, tmp_path / "n.svg")
    assert {"$t_1$ <&> \\", "<x>, now", SSH, ASYNCSSH, KUBEMUX, "0", "7"} <= set(texts(tmp_path / "n.svg"))
    assert not outside(tmp_path / "n.svg")
    colours = fills(tmp_path / "n.svg")
    assert (colours.count(charts.OTHERS), colours.count(charts.OURS)) == (3, 1)


@pytest.mark.usefixtures("fonts")
@pytest.mark.parametrize("kept", sorted(charts.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_kept_charts_show_the_kept_figures(kept: Path, tmp_path: Path) -> None:
    shutil.copy(kept, tmp_path)
    charts.draw_folder(tmp_path)
    drawn = tmp_path / kept.with_suffix(".svg").name
    assert texts(drawn) == texts(kept.with_suffix(".svg"))
    assert not outside(drawn)


def test_matplotlib_is_imported_only_to_draw() -> None:
    script = "import sys, bench.__main__, tests.faults.test_soak; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=True)


@pytest.mark.parametrize(
    ("value", "text"), [(0.2844, "0.284"), (38.61, "38.6"), (99.96, "100"), (1240.4, "1,240"), (0, "0")]
)
def test_figures_are_shown_with_three_significant_digits(value: float, text: str) -> None:
    assert show(value) == text
