"""status, reload, reconnect and drain against a real admin server."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from proxy.admin.orders import ReloadResult
from proxy.admin.server import AdminServer
from proxy.admin.status import to_document
from proxy.cli import main
from proxy.errors import ConfigError, LinkDown, Problem, UnknownName
from proxy.snapshots import ClusterState
from tests.admin.scripted import DAEMON, PROD_EU, Daemon, serving
from tests.support.deadlines import Deadline

SECONDS = 30.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"version: 1\nadmin: {{listen: '127.0.0.1:1', socket: {tmp_path}/s}}\n")
    return path


@pytest.fixture
async def daemon(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    monkeypatch.setattr("proxy.admin.client.ASK_TIMEOUT", SECONDS)
    daemon = Daemon(replace(DAEMON, config_path=str(config)))
    async with serving(daemon, tmp_path / "s"):
        yield daemon


async def kubemux(*args: str | Path) -> Result:
    """Run a command in a thread, because it has its own event loop."""
    return await asyncio.to_thread(CliRunner().invoke, main, list(map(str, args)))


async def test_status_shows_tables_without_colours_or_cuts_in_a_pipe(daemon: Daemon, config: Path) -> None:
    shown = await kubemux("status", "--config", config)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    assert all(cluster.name in shown.stdout for cluster in daemon.shown.clusters)


async def test_status_as_json_is_the_document(daemon: Daemon, config: Path) -> None:
    shown = await kubemux("status", "--json", "--config", config)
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, to_document(daemon.shown))


@pytest.mark.parametrize(
    "args",
    [["status"], ["status", "--json"], ["reload"], ["reconnect", "eu-edge"], ["drain", "prod-eu"]],
    ids=" ".join,
)
async def test_no_daemon_exits_1_and_says_how_to_find_out(config: Path, args: list[str]) -> None:
    shown = await kubemux(*args, "--config", config)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"kubemux: {config.parent}/s: No such file or directory")
    assert "hint: is it running" in shown.stderr


@pytest.mark.parametrize(
    "args",
    [["status"], ["status", "--json"], ["reload"], ["reconnect", "eu-edge"], ["drain", "prod-eu"]],
    ids=" ".join,
)
async def test_another_daemon_gets_no_order(daemon: Daemon, config: Path, args: list[str]) -> None:
    """The other daemon has the same admin address."""
    theirs = f"{config.parent}/the other.yaml"
    daemon.shown = replace(daemon.shown, config_path=theirs)
    shown = await kubemux(*args, "--config", config)
    assert (shown.exit_code, shown.stdout, daemon.orders) == (1, "", [])
    assert (
        f"kubemux: {config.parent}/s: the kubemux there runs with {theirs}, not with {config}" in shown.stderr
    )
    assert f"hint: --config '{theirs}' asks that one; " in shown.stderr


async def test_a_symlink_or_relative_path_to_the_daemons_file_is_accepted(
    daemon: Daemon, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = config.parent / "link.yaml"
    link.symlink_to(config)
    monkeypatch.chdir(config.parent)
    for name in (link, Path("config.yaml")):
        assert (await kubemux("reload", "--config", name)).exit_code == 0
    # Of an older daemon, with an unknown path.
    daemon.shown = replace(daemon.shown, config_path="config.yaml")
    assert (await kubemux("status", "--config", config)).exit_code == 0


@pytest.mark.parametrize("args", [["--watch", "--json"], ["--watch"]], ids=" ".join)
async def test_watch_without_a_terminal_is_a_usage_error(config: Path, args: list[str]) -> None:
    shown = await kubemux("status", *args, "--config", config)
    assert shown.exit_code == 2
    assert "--json" in shown.stderr


async def test_reload_prints_what_it_did(daemon: Daemon, config: Path) -> None:
    assert (await kubemux("reload", "--config", config)).stdout == "reloaded: nothing changed\n"
    daemon.result = ReloadResult(
        added=("cluster a", "gateway g"), removed=("cluster b",), warnings=("port 1 is busy",)
    )
    shown = await kubemux("reload", "--config", config)
    assert (shown.exit_code, shown.stdout) == (0, "added cluster a\nadded gateway g\nremoved cluster b\n")
    assert shown.stderr == "warning: port 1 is busy\n"
    daemon.result = ReloadResult(added=("cluster \x1b[2J\u202ex",), warnings=("\x9b2J\x85",))
    shown = await kubemux("reload", "--config", config)
    assert (shown.stdout, shown.stderr) == ("added cluster \ufffd[2J\ufffdx\n", "warning: \ufffd2J\ufffd\n")


async def test_a_refused_configuration_is_reported_and_exits_78(daemon: Daemon, config: Path) -> None:
    daemon.failure = ConfigError("/etc/k.yaml", [Problem(3, "clusters.x", "bad port", "use 1-65535")])
    shown = await kubemux("reload", "--config", config)
    assert shown.exit_code == 78
    assert (
        shown.stderr
        == f"{daemon.failure.render()}\n/etc/k.yaml: refused as a whole: the daemon keeps its configuration; "
        "it reads changed key files all the same\n"
    )


async def test_reconnect_and_drain_send_their_order_and_print_the_result(
    daemon: Daemon, config: Path
) -> None:
    assert (await kubemux("reconnect", "eu-edge", "--config", config)).stdout.startswith(
        "gateway eu-edge: dialling again"
    )
    assert (await kubemux("drain", "a b&c", "--config", config)).stdout == "a b&c: drained\n"
    assert daemon.orders == ["reconnect eu-edge", "drain a b&c"]


@pytest.mark.parametrize(
    ("drained", "cut", "said"),
    [
        (("route eu",), 0, "drained"),
        (("cluster prod", "route nodes"), 1, "drained (cluster prod, route nodes), 1 connection cut"),
        (("site eu",), 0, "drained (site eu)"),
        ((), 0, "nothing leads through it"),
    ],
)
async def test_drain_of_a_gateway_prints_what_leads_through_it(
    daemon: Daemon, config: Path, drained: tuple[str, ...], cut: int, said: str
) -> None:
    daemon.drained, daemon.cut = drained, cut
    assert (await kubemux("drain", "eu", "--config", config)).stdout == f"eu: {said}\n"


@pytest.mark.parametrize(
    ("cut", "said"), [(0, "drained"), (1, "drained, 1 connection cut"), (2, "drained, 2 connections cut")]
)
async def test_drain_prints_how_many_connections_it_cut(
    daemon: Daemon, config: Path, cut: int, said: str
) -> None:
    daemon.cut = cut
    assert (await kubemux("drain", "a", "--config", config)).stdout == f"a: {said}\n"


@pytest.mark.parametrize("patience", ["30s", "5m", "1h30m", "500ms", "7", "0.5"])
async def test_drain_accepts_durations_and_seconds(daemon: Daemon, config: Path, patience: str) -> None:
    assert (await kubemux("drain", "a", "--timeout", patience, "--config", config)).exit_code == 0


@pytest.mark.parametrize("patience", ["0", "-1", "soon", "30 s", ""])
async def test_drain_rejects_malformed_timeouts(config: Path, patience: str) -> None:
    shown = await kubemux("drain", "a", "--timeout", patience, "--config", config)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Invalid value for '--timeout'" in shown.stderr


async def test_the_message_says_that_an_order_that_takes_longer_goes_on(
    daemon: Daemon, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message does not say that the daemon hangs, because the daemon has the order."""
    monkeypatch.setattr("proxy.cli.orders.ORDER_BUDGET", 0.5)
    deadline = Deadline(monkeypatch, 0.5)

    async def given_up(order: str, *args: str) -> Result:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(kubemux(*args, "--config", config))
            async with asyncio.timeout(SECONDS):
                while order not in daemon.orders:
                    await asyncio.sleep(0.001)
            deadline.passes()
        return running.result()

    daemon.held = asyncio.Event()
    try:
        drained = await given_up("drain prod-eu", "drain", "prod-eu", "--timeout", "0.5")
        gone = await given_up("drain gone", "drain", "gone", "--timeout", "0.5")
        through = await given_up("drain eu-edge", "drain", "eu-edge", "--timeout", "0.5")
        reloaded = await given_up("reload", "reload")
    finally:
        daemon.held.set()
    assert (drained.exit_code, gone.exit_code, reloaded.exit_code) == (1, 1, 1)
    assert drained.stderr.splitlines() == [
        "kubemux: prod-eu: still draining after 500ms, 12 connections left; it goes on, for "
        "limits.drain_timeout at most",
        "  hint: kubemux status shows how many connections it still has",
    ]
    assert "still draining after 500ms; it goes on" in gone.stderr
    assert "eu-edge: still draining after 500ms, 12 connections left; it goes on" in through.stderr
    assert reloaded.stderr.splitlines() == [
        "kubemux: reload: not done after 0.5 s; the daemon has the order and goes on",
        "  hint: its log says how it ends: journalctl -u kubemux",
    ]
    assert daemon.orders == ["drain prod-eu", "drain gone", "drain eu-edge", "reload"]


async def test_orders_that_fail_exit_1_and_2_if_the_name_is_wrong(daemon: Daemon, config: Path) -> None:
    shown = await kubemux("reconnect", "nope", "--config", config)
    assert (shown.exit_code, shown.stderr) == (
        2,
        "kubemux: no gateway is called 'nope'\n  hint: there are: 'eu-edge', 'us-west'\n",
    )
    daemon.failure = LinkDown("eu-edge is down")
    shown = await kubemux("drain", "x", "--config", config)
    assert (shown.exit_code, shown.stderr.splitlines()[0]) == (1, "kubemux: eu-edge is down")


@pytest.mark.parametrize(
    "args", [["status"], ["status", "eu-edge"], ["status", "--json"], ["reconnect"], ["drain"]], ids=" ".join
)
async def test_a_name_that_only_the_file_has_gets_the_hint_to_reload(
    daemon: Daemon, config: Path, args: list[str]
) -> None:
    with config.open("a") as file:
        file.write("gateways: {eu-edge: {}, new-edge: {}}\nclusters: {prod-eu: {}, prod-new: {}}\n")
        file.write("entries: {proxy: {}}\nroutes: [{name: nodes}]\nusers: {ops: {}}\n")
    mine, *others = ("new-edge", "prod-new") if args == ["reconnect"] else ("prod-new", "new-edge")
    also = {
        "status": ["new-edge", "proxy", "nodes", "ops", "ssh-user:ops"],
        "drain": ["new-edge", "nodes"],
    }.get(args[0], [])
    known = {mine, *also}
    for name in {*known, "nope", *(others if args[0] != "status" else [])}:
        daemon.failure = UnknownName.among("cluster", name, ["prod-eu"]) if args == ["drain"] else None
        shown = await kubemux(*args, name, "--config", config)
        assert (shown.exit_code, shown.stdout) == (2, "")
        assert shown.stderr.splitlines()[0].endswith(f" is called '{name}'")
        hint = (
            f"  hint: {config} has it, and has changed since the daemon read it: kubemux reload takes it up"
        )
        assert (hint in shown.stderr) is (name in known)


async def test_a_configuration_that_cannot_be_read_exits_78(tmp_path: Path) -> None:
    shown = await kubemux("status", "--config", tmp_path / "missing.yaml")
    assert shown.exit_code == 78
    assert str(tmp_path / "missing.yaml") in shown.stderr


@pytest.mark.parametrize("args", [["reload"], ["reconnect", "eu-edge"], ["drain", "prod-eu"]], ids=" ".join)
@pytest.mark.parametrize("text", ["admin: [", "hello world\n", "", "admin: 7\n", None])
async def test_an_order_that_cannot_be_given_says_that_the_daemon_was_not_asked(
    tmp_path: Path, text: str | None, args: list[str]
) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    shown = await kubemux(*args, "--config", path)
    assert (shown.exit_code, shown.stdout) == (78, "")
    assert shown.stderr.splitlines()[-2:] == [
        f"{path}: the daemon was not asked, and goes on as before if it runs",
        "  hint: mend the file, or name the one that the daemon was started with: --config FILE",
    ]


@pytest.mark.parametrize("order", [["reload"], ["drain", "prod"]])
async def test_an_order_through_a_file_without_a_socket_says_where_else_to_look(
    tmp_path: Path, order: list[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\n")
    shown = await kubemux(*order, "--config", path)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.startswith(
        f"kubemux: {path} has no admin.socket; the running daemon may have one\n  hint: its log says"
    )
    assert ("kill -HUP PID" in shown.stderr) == (order == ["reload"])  # this order does nothing else


async def test_a_daemon_of_another_version_is_recognised(
    daemon: Daemon, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.admin.status.SCHEMA_VERSION", 2)
    shown = await kubemux("status", "--config", config)
    assert shown.exit_code == 1
    assert "restart it" in shown.stderr
    assert daemon.orders == []


class Terminal:
    """A command on a pseudo terminal of 100 columns and 40 lines."""

    def __init__(self) -> None:
        self._ours, self._its = pty.openpty()
        self._seen = b""
        self._news = asyncio.Event()
        self.resize(100, 40)

    async def __aenter__(self) -> Terminal:
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._its)

    def _read(self) -> None:
        with suppress(OSError):
            self._seen += os.read(self._ours, 65536)
        self._news.set()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def start(self, *args: str | Path) -> asyncio.subprocess.Process:
        env = {
            **os.environ,
            "COLUMNS": "77",
            "LINES": "7",
            "TERM": "xterm",
        }  # as in a shell that exports them; they do not follow a resize
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", *args, stdin=self._its, stdout=self._its, stderr=self._its, env=env
        )

    async def shows(self, text: str) -> None:
        """Wait for `text`, and drop the output up to its end."""
        async with asyncio.timeout(SECONDS):
            while text.encode() not in self._seen:
                self._news.clear()
                await self._news.wait()
        self._seen = self._seen.partition(text.encode())[2]

    async def screen(self) -> list[str]:
        """The next whole screen, line by line, without colours."""
        await self.shows(HOME)
        async with asyncio.timeout(SECONDS):
            while HOME.encode() not in self._seen:
                self._news.clear()
                await self._news.wait()
        drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._seen.partition(HOME.encode())[0].decode())
        return [line.rstrip() for line in drawn.splitlines()]


HOME = "\x1b[H"
"""The escape sequence at the begin of each screen."""


@asynccontextmanager
async def watching(
    config: Path, terminal: Terminal, *names: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await terminal.start("status", "--watch", "--config", config, *names)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_watch_still_shows_broken_clusters_after_a_resize(daemon: Daemon, config: Path) -> None:
    clusters = [
        replace(PROD_EU, name=f"c{number:03}", listen=f"127.0.0.1:{20000 + number}") for number in range(200)
    ]
    clusters[150] = replace(
        clusters[150], state=ClusterState.DOWN, reason="timeout", message="no answer within 5s"
    )
    daemon.shown = replace(daemon.shown, clusters=tuple(clusters))
    async with Terminal() as terminal, watching(config, terminal) as process:
        await terminal.shows("\x1b[?1049h")
        for columns, lines in ((100, 40), (84, 20), (140, 60)):
            terminal.resize(columns, lines)
            process.send_signal(signal.SIGWINCH)
            async with asyncio.timeout(SECONDS):
                while len(screen := await terminal.screen()) != lines:
                    pass  # a screen from before
            assert max(map(cell_len, screen)) <= columns
            assert re.match(r"\d\d:\d\d:\d\d, \d\.\ds old", screen[0])
            assert [line.split()[:3] for line in screen if re.match(r"c\d", line)][:2] == [
                ["c150", "○", "down"],
                ["c000", "●", "up"],
            ]
            assert "cluster c150: timeout: no answer within 5s" in screen
            assert any(re.fullmatch(r"\d+ more clusters?, \d+ of them up", line) for line in screen)
        process.send_signal(signal.SIGTERM)
        await terminal.shows("\x1b[?1049l")  # the terminal shows its own screen again
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0


async def test_watch_shows_the_age_of_the_data_while_the_daemon_is_silent(config: Path) -> None:
    daemon = Daemon(replace(DAEMON, config_path=str(config)))
    server = daemon.server()
    async with Terminal() as terminal:
        try:
            await server.start_unix(config.parent / "s")
            async with watching(config, terminal, "prod-eu"):
                await terminal.shows("prod-eu")
                await server.close()
                await terminal.shows("waiting for the daemon: ")
                screen = await terminal.screen()
                while not re.match(
                    r"\d\d:\d\d:\d\d, ([4-9]\.\d|\d\d)s old; waiting for the daemon: ", screen[0]
                ):
                    screen = await terminal.screen()
                assert any(line.startswith("prod-eu") for line in screen), "the last data stays on the screen"
                assert not any(line.startswith(("stage-us", "us-west")) for line in screen)
        finally:
            await server.close()


async def test_watch_of_an_unknown_name_is_a_usage_error(daemon: Daemon, config: Path) -> None:
    async with Terminal() as terminal, watching(config, terminal, "prod-ue") as process:
        await terminal.shows("no gateway, cluster, entry, route, site or user is called 'prod-ue'")
        assert await asyncio.wait_for(process.wait(), SECONDS) == 2


async def test_names_choose_the_shown_items(daemon: Daemon, config: Path) -> None:
    shown = await kubemux("status", "stage-us", "--config", config)
    assert (shown.exit_code, "stage-us" in shown.stdout, "prod-eu" in shown.stdout) == (0, True, False)
    document = json.loads((await kubemux("status", "--json", "us-west", "--config", config)).stdout)
    whole = to_document(daemon.shown)
    assert document["daemon"] == whole["daemon"]
    assert [gateway["name"] for gateway in document["gateways"]] == ["us-west"]
    assert [cluster["name"] for cluster in document["clusters"]] == [
        cluster.name for cluster in daemon.shown.clusters[1:]
    ]
    for args in ([], ["--json"]):
        unknown = await kubemux("status", "stage", *args, "--config", config)
        assert (unknown.exit_code, unknown.stdout) == (2, "")
        assert "did you mean 'stage-us'?" in unknown.stderr


async def test_a_pipe_gets_each_line_whole(daemon: Daemon, config: Path) -> None:
    wordy = replace(daemon.shown.clusters[1], name="n" * 253, message="long " * 100, hint="longer " * 100)
    daemon.shown = replace(daemon.shown, clusters=(wordy,))
    lines = (await kubemux("status", "--config", config)).stdout.splitlines()
    assert any(line.startswith("n" * 253 + "  ") for line in lines)
    assert sum("long long" in line for line in lines) == 1
    assert max(map(len, lines)) < 1000


async def test_watch_follows_the_daemon_through_a_restart_until_interrupted(config: Path) -> None:
    daemon = Daemon(replace(DAEMON, config_path=str(config)))
    before: AdminServer = daemon.server()
    after: AdminServer = daemon.server()
    socket = config.parent / "s"
    async with Terminal() as terminal:
        try:
            await before.start_unix(socket)
            process = await terminal.start("status", "--watch", "--config", config)
            try:
                await terminal.shows("12 connections")
                daemon.shown = replace(daemon.shown, connections=13)
                await terminal.shows("13 connections")
                await before.close()
                await terminal.shows("waiting for the daemon")
                daemon.shown = replace(daemon.shown, connections=14)
                await after.start_unix(socket)
                await terminal.shows("14 connections")
                process.send_signal(signal.SIGINT)
                assert await asyncio.wait_for(process.wait(), SECONDS) == 0
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finally:
            await before.close()
            await after.close()
