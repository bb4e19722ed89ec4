"""The admin client with a daemon that answers, hangs or does not exist, and with another program."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.admin import asking, client
from proxy.admin.asking import MAX_ANSWER, NotKubemux, Where, ask
from proxy.admin.status import to_document
from proxy.config.model import AdminConfig
from proxy.errors import AdminError, ConfigError, Problem, UnknownName
from proxy.runtime.endpoint import Endpoint
from tests.admin.scripted import DAEMON, Daemon, serving
from tests.support.serving import Server

CONFIG = Path(DAEMON.config_path)
NOWHERE = Endpoint("127.0.0.1", 1)


class Foreign(Server):
    """Another program: it answers each connection with `answer` and closes it. Without an answer it closes
    only if `hangs_up`.
    """

    def __init__(self, answer: bytes, *, hangs_up: bool = False) -> None:
        super().__init__()
        self._answer = answer
        self._hangs_up = hangs_up

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answer)
        if not self._answer and not self._hangs_up:
            await reader.read()


async def test_status_comes_through_the_socket_or_else_over_tcp(tmp_path: Path) -> None:
    socket_path = tmp_path / "s"
    async with serving(Daemon(), socket_path) as endpoint:
        for admin in (
            AdminConfig(listen=NOWHERE, socket=socket_path),
            AdminConfig(listen=endpoint, socket=tmp_path / "missing"),
            AdminConfig(listen=endpoint),
        ):
            assert await client.fetch_status(admin, CONFIG) == to_document(DAEMON)


async def test_an_order_returns_the_daemons_result_or_raises_its_error(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path / "s") as endpoint:
        admin = AdminConfig(listen=endpoint, socket=tmp_path / "s")
        assert await client.command(admin, CONFIG, "drain", params={"cluster": "a b"}, budget=60) == {
            "cluster": "a b",
            "cut": 0,
            "drained": ["cluster a b"],
        }
        with pytest.raises(UnknownName, match="no gateway is called 'us-wets'") as unknown:
            await client.command(admin, CONFIG, "reconnect", params={"gateway": "us-wets"}, budget=60)
        assert unknown.value.hint == "did you mean 'us-west'? there are: 'eu-edge', 'us-west'"
        daemon.failure = ConfigError(
            "/k.yaml", [Problem(3, "clusters", "bad", "do good"), Problem(0, "", "worse")]
        )
        with pytest.raises(ConfigError) as refused:
            await client.command(admin, CONFIG, "reload", budget=60)
        assert refused.value.render() == daemon.failure.render()
        with pytest.raises(AdminError, match=r"no admin\.socket"):
            await client.command(AdminConfig(listen=endpoint), CONFIG, "reload", budget=60)


async def test_without_a_daemon_every_tried_address_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(AdminError) as caught:
        await client.fetch_status(AdminConfig(listen=NOWHERE, socket=tmp_path / "s"), CONFIG)
    assert str(caught.value) == f"{tmp_path}/s: Connection refused; http://127.0.0.1:1: Connection refused"
    assert "systemctl status kubemux" in caught.value.hint


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Become `nobody` for a while, because root may connect to every socket."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_a_user_who_may_not_use_the_socket_gets_the_status_over_tcp(tmp_path: Path) -> None:
    async with serving(Daemon(), tmp_path / "s") as endpoint:
        (tmp_path / "s").chmod(0)
        admin = AdminConfig(listen=endpoint, socket=tmp_path / "s")
        with as_somebody_else():
            assert await client.fetch_status(admin, CONFIG) == to_document(DAEMON)
            with pytest.raises(AdminError, match="Permission denied") as caught:
                await client.command(admin, CONFIG, "reload", budget=60)
    assert "sudo" in caught.value.hint


async def test_a_daemon_that_does_not_answer_is_an_error_in_time() -> None:
    async with Foreign(b"") as silent:
        with pytest.raises(AdminError, match=r"no answer within 0\.05 s"):
            await ask(silent.endpoint, "GET", "/", budget=0.05)


async def test_the_imports_of_the_command_are_not_in_the_daemons_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They take 0.1 s of CPU, and seconds from a slow disk."""
    steps: list[str] = []
    make, timeout = asking._client, asyncio.timeout

    def client_for(where: Where) -> object:
        steps.append("imports")
        return make(where)

    def time_for(seconds: float) -> asyncio.Timeout:
        steps.append("time")
        return timeout(seconds)

    monkeypatch.setattr(asking, "_client", client_for)
    monkeypatch.setattr(asyncio, "timeout", time_for)
    with pytest.raises(AdminError, match="Connection refused"):
        await ask(NOWHERE, "GET", "/", budget=60)
    assert steps[:2] == ["imports", "time"]


async def test_an_order_without_an_answer_is_an_error_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client cannot know whether the daemon got the order."""
    monkeypatch.setattr(client, "ASK_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(AdminError, match=r"no answer within 0\.05 s") as caught:
            await client.command(
                AdminConfig(listen=NOWHERE, socket=tmp_path / "s"), CONFIG, "drain", budget=0.05
            )
    assert "the daemon hangs" in caught.value.hint


OK = b"HTTP/1.1 200 OK\r\n"
GO_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
NODE_EXPORTER = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 19\r\n\r\n404 page not found\n"
)
FOREIGN = {
    "JSON": (
        OK + b'Content-Length: 13\r\n\r\n{"kind": "x"}',
        """HTTP 200 from a server without a name, which says '{"kind": "x"}'""",
    ),
    "empty JSON": (
        OK + b"Server: caddy\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP 200 from caddy, which says '{}'",
    ),
    "problems of its own": (
        OK + b'Content-Length: 35\r\n\r\n{"path": "/", "problems": [{"a": 1}]}'[:-2],
        "HTTP 200 from",
    ),
    "an error of its own": (
        OK + b'Content-Length: 26\r\n\r\n{"error": "a", "hint": "b"}'[:-1],
        "HTTP 200 from",
    ),
    "nginx": (
        b"HTTP/1.1 404 Not Found\r\nServer: nginx/1.22.1\r\n\r\n<html>\r\n",
        "HTTP 404 from nginx/1.22.1",
    ),
    "node_exporter": (
        NODE_EXPORTER,
        "HTTP 404 from a server without a name, which says '404 page not found'",
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204 from a server without a name"),
    "a TLS server in Go": (GO_TLS, "which says 'Client sent an HTTP request to an HTTPS server.'"),
    "a TLS server": (b"\x15\x03\x01\x00\x02\x02\x46", "a TLS server"),
    "sshd": (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH server, SSH-2.0-OpenSSH_9.2p1"),
    "sshd that was asked": (
        b"SSH-2.0-x\r\nInvalid SSH identification string.\r\n",
        "an SSH server, SSH-2.0-x",
    ),
    "garbage": (b"\x1b]0;owned\x07\xff\n", "it says '"),
    "a short answer": (OK + b"Content-Length: 99\r\n\r\n{", "HTTP 200 from a server without a name"),
    "an upgrade": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "it says 'HTTP/1.1 101",
    ),
    "endless fields": (OK + b"X: y\r\n" * 20_000, "it says 'HTTP/1.1 200 OK"),
    "a hostile name": (
        OK + b"Server: \x9b2J\xe2\x80\xae\r\nContent-Length: 0\r\n\r\n",
        "HTTP 200 from \\x9b2J",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_another_program_is_not_kubemux(name: str) -> None:
    answer, what = FOREIGN[name]
    async with Foreign(answer) as other:
        with pytest.raises(AdminError) as caught:
            await client.fetch_status(AdminConfig(listen=other.endpoint), CONFIG)
    assert str(caught.value).startswith(f"http://{other.endpoint}: that is not kubemux: ")
    assert what in str(caught.value)
    assert str(caught.value).isprintable()
    assert not str(caught.value).endswith("\\r")
    assert f"ss -ltnp 'sport = :{other.endpoint.port}'" in caught.value.hint


async def test_another_program_behind_the_socket_gets_no_order(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(OK + b"Content-Length: 2\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    asked: list[bytes] = []
    async with await asyncio.start_unix_server(answer, tmp_path / "s"):
        with pytest.raises(NotKubemux, match="that is not kubemux: HTTP 200") as caught:
            await client.command(
                AdminConfig(listen=NOWHERE, socket=tmp_path / "s"), CONFIG, "drain", budget=60
            )
    assert f"ss -xlp src {tmp_path}/s" in caught.value.hint
    assert asked == [b"GET /status HTTP/1.1\r\n"]


async def test_a_server_that_hangs_up_may_be_kubemux() -> None:
    """kubemux closes a new connection when it has as many busy ones as it may have."""
    async with Foreign(b"", hangs_up=True) as other:
        with pytest.raises(AdminError, match="it hung up without an answer") as caught:
            await client.fetch_status(AdminConfig(listen=other.endpoint), CONFIG)
    assert "is that kubemux?" in caught.value.hint


async def test_a_server_that_hangs_up_once_and_then_answers_as_kubemux_is_no_other_program(
    tmp_path: Path,
) -> None:
    """The client asks a second time, and the answer shows that it is kubemux: it was only busy before."""

    class Busy(Server):
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if self.accepted == 2:
                writer.write(b"HTTP/1.1 200 OK\r\nServer: kubemux\r\nContent-Length: 2\r\n\r\n{}")

    async with Busy() as busy:
        with pytest.raises(AdminError, match="it hung up without an answer"):
            await ask(busy.endpoint, "GET", "/status", budget=60)
        assert busy.accepted == 2


async def test_the_client_ignores_proxies_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{NOWHERE}")
    async with serving(Daemon(), tmp_path / "s") as endpoint:
        for admin in (AdminConfig(listen=endpoint), AdminConfig(listen=NOWHERE, socket=tmp_path / "s")):
            assert await client.fetch_status(admin, CONFIG) == to_document(DAEMON)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Endpoint("localhost", 1), "http://localhost:1: Connection refused"),
        (Endpoint("no-such-host.invalid", 1), "http://no-such-host.invalid:1: "),
        (Path("/nowhere/s"), "/nowhere/s: No such file or directory"),
        (Path("/" + "x" * 200), f"/{'x' * 200}: AF_UNIX path too long"),
    ],
)
async def test_without_a_listener_the_error_has_the_message_of_the_system(
    where: Endpoint | Path, said: str
) -> None:
    with pytest.raises(AdminError) as caught:
        await ask(where, "GET", "/status", budget=30)
    assert str(caught.value).startswith(said)
    assert isinstance(caught.value.__cause__, OSError)


async def test_an_answer_that_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ANSWER > 1 << 20
    monkeypatch.setattr("proxy.admin.asking.MAX_ANSWER", 1000)
    async with Foreign(OK + b"\r\n" + b"x" * 2000) as other:
        with pytest.raises(NotKubemux):
            await ask(other.endpoint, "GET", "/status", budget=60)
