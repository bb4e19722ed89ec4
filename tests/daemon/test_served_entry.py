"""An entry of a running daemon: its certificate, its users and its `allow`, and their changes."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import bcrypt
import pytest
from structlog.testing import capture_logs

from proxy.config.loader import load
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.daemon.reload import reload
from proxy.daemon.renewal import Renewal
from proxy.entries.users import Users
from proxy.runtime.tasks import Tasks
from tests.support.daemon import Daemon as Written
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.tls import Authority, Issued

HOST = "entry.example.com"


class Bed:
    """A daemon in this loop with one entry, and the files that the entry names."""

    def __init__(self, folder: Path, echo: Echo) -> None:
        folder.mkdir()
        self.authority = Authority(folder)
        self.cert, self.key, self.users = (folder / name for name in ("entry.crt", "entry.key", "users"))
        self.show(self.authority.issue("first", dns=(HOST,)))
        self.let_in(ci="secret")
        self.port = free_port()
        self.name = "remote"
        self.tls = {
            "cert_file": str(self.cert),
            "key_file": str(self.key),
            "client_ca_file": str(self.authority.ca.cert),
        }
        self.entry: dict[str, object] = {
            "listen": f"127.0.0.1:{self.port}",
            "tls": self.tls,
            "users_file": str(self.users),
        }
        self._clusters = {"prod": {"gateway": "direct", "api_servers": [str(echo.endpoint)]}}
        self._written = Written(folder / "daemon", gateways={}, clusters=self._clusters)
        self._client = self.authority.issue("client", dns=("ci.example.com",))
        self.configure()
        self.daemon = Daemon(load(self._written.config), config_path=self._written.config)
        self.renewal = Renewal(self.daemon, asyncio.Lock())

    def configure(self, **more: object) -> None:
        self.entry |= more
        entry = {key: value for key, value in self.entry.items() if value is not None}
        self._written.configure(
            gateways={}, clusters=self._clusters, sections={"entries": {self.name: entry}}
        )

    def show(self, issued: Issued) -> None:
        self.cert.write_bytes(issued.cert.read_bytes())
        self.key.touch(mode=0o600)
        self.key.write_bytes(issued.key.read_bytes())

    def let_in(self, **users: str) -> None:
        lines = [
            f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
            for user, password in users.items()
        ]
        self.users.touch(mode=0o600)
        self.users.write_text("".join(lines))

    async def ask(self, login: str = "ci:secret", *, tls: bool = True) -> tuple[str, int]:
        """Send a request. Returns the status, and the serial number of the entry's certificate."""
        context = ssl.create_default_context(cafile=self.authority.ca.cert)
        context.load_cert_chain(self._client.cert, self._client.key)
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context if tls else None, server_hostname=HOST if tls else None
            )
            basic = base64.b64encode(login.encode()).decode()
            request = f"CONNECT prod:443 HTTP/1.1\r\nProxy-Authorization: Basic {basic}\r\n\r\n"
            writer.write(request.encode())
            line = (await reader.readline()).decode()
            shown = writer.get_extra_info("peercert")
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        return line.removeprefix("HTTP/1.1 ").strip(), int(shown["serialNumber"], 16) if shown else 0

    async def renewed(self) -> bool:
        return any([await self.renewal.renew_changed() for _ in range(3)])

    async def until(self, status: str, login: str = "ci:secret") -> None:
        async with asyncio.timeout(60):
            while not (await self.ask(login))[0].startswith(status):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with Echo() as echo:
        one = Bed(tmp_path / "bed", echo)
        await one.daemon.start(Controller(one.daemon))
        try:
            await one.renewed()
            yield one
        finally:
            await one.daemon.stop(timeout=0)


async def test_a_new_certificate_is_shown_and_a_bad_one_is_not(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        status, first = await one.ask()
        assert status == "200 Connection established"
        one.show(one.authority.issue("second", dns=(HOST,)))
        assert await one.renewed()
        async with asyncio.timeout(60):
            while (await one.ask())[1] == first:
                await asyncio.sleep(0.01)
        _, second = await one.ask()
        one.cert.write_bytes(one.authority.issue("third", dns=(HOST,)).cert.read_bytes())
        with capture_logs() as logs:
            assert not await one.renewed()
        [told] = [entry for entry in logs if entry["event"] == "changed file cannot be used"]
        assert told["key"] == "entries.remote.tls.key_file"
        assert told["message"].endswith("is another certificate's key")
        assert await one.ask() == ("200 Connection established", second)


async def test_a_changed_users_file_takes_effect_and_a_bad_one_does_not(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        assert (await one.ask("argo:new"))[0].startswith("407 ")
        one.let_in(argo="new")
        assert await one.renewed()
        await one.until("200 ", "argo:new")
        assert (await one.ask())[0].startswith("407 ")
        one.users.write_text("argo:new\n")
        assert not await one.renewed()
        assert (await one.ask("argo:new"))[0].startswith("200 ")


@pytest.mark.parametrize(
    ("allow", "status"),
    [
        (["cert:ci.example.com"], "200 Connection established"),
        (["proxy-user:ci"], "200 Connection established"),
        (
            ["cert:another.example.com", "proxy-user:another"],
            "403 kubemux: denied (cert:ci.example.com proxy-user:ci is not in allow of entries.remote)",
        ),
    ],
)
async def test_a_reload_changes_allow(tmp_path: Path, allow: list[str], status: str) -> None:
    async with bed(tmp_path) as one:
        one.configure(allow=allow)
        await reload(one.daemon)
        assert (await one.ask())[0] == status


async def test_a_reload_takes_tls_away_and_brings_it_back(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        tls = one.entry["tls"]
        one.configure(tls=None)
        await reload(one.daemon)
        assert (await one.ask(tls=False))[0].startswith("200 ")
        one.configure(tls=tls, users_file=None)
        await reload(one.daemon)
        assert (await one.ask(tls=False))[0].startswith("400 ")
        assert (await one.ask("nobody:nothing"))[0].startswith("200 ")


async def test_with_missing_files_of_new_settings_no_client_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files disappear after the reload has checked them, or their disk hangs."""
    monkeypatch.setattr("proxy.daemon.served_entry.RETRY_S", 0.01)
    async with bed(tmp_path) as one:
        served = one.daemon.graph.entries["remote"]
        away = one.users.rename(tmp_path / "away")
        with capture_logs() as logs:
            await served.reconfigure(served.config)
            assert (await one.ask())[0].startswith("200 "), "the settings are the same"
            other = served.config.model_copy(update={"users_file": tmp_path / "missing"})
            await served.reconfigure(other)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await one.ask()
            shown = served.snapshot()
            assert (shown.listening, shown.reason) == (True, "credentials_unusable")
            assert shown.message == f"every client is refused: {other.users_file} does not exist"
            assert shown.hint
            away.rename(tmp_path / "missing")
            async with asyncio.timeout(60):
                while served.entry.closed_because:
                    await asyncio.sleep(0.01)
        assert (await one.ask())[0].startswith("200 ")
        assert served.snapshot().reason == ""
        said = [entry["message"] for entry in logs if entry["event"] == "file cannot be used"]
        assert said == [f"{one.users} does not exist", f"{tmp_path / 'missing'} does not exist"]


@contextmanager
def slow_users(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """A users_file whose reading takes long: two events, for the begin of reading and for its end."""
    begins, ends, load_users = asyncio.Event(), asyncio.Event(), Users.load

    async def load_slowly(self: Users) -> None:
        begins.set()
        await ends.wait()
        await load_users(self)

    with monkeypatch.context() as patch:
        patch.setattr(Users, "load", load_slowly)
        yield begins, ends


async def test_no_client_is_accepted_before_a_renamed_entry_has_read_its_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks("test")
    async with bed(tmp_path) as one:
        one.name = "renamed"
        one.configure(tls=None)
        with slow_users(monkeypatch) as (begins, ends):
            reloading = tasks.spawn(reload(one.daemon), name="reload")
            async with asyncio.timeout(60):
                await begins.wait()
            asking = tasks.spawn(one.ask("nobody:wrong", tls=False), name="ask")
            asyncio.get_running_loop().call_later(0.2, ends.set)  # by then the client would be answered
            assert (await asking)[0].startswith("407 ")
            await reloading
        assert (await one.ask(tls=False))[0] == "200 Connection established"


async def test_an_allow_holds_until_the_users_that_replace_it_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks("test")
    async with bed(tmp_path) as one:
        users = one.entry["users_file"]
        one.configure(tls=None, users_file=None, allow=["site:none"])
        await reload(one.daemon)
        waiting = await asyncio.open_connection("127.0.0.1", one.port)
        waiting[1].write(b"CONNECT prod:443 HTTP/1.1\r\n")
        one.configure(users_file=users, allow=None)
        with slow_users(monkeypatch) as (begins, ends):
            reloading = tasks.spawn(reload(one.daemon), name="reload")
            async with asyncio.timeout(60):
                await begins.wait()
                assert (await one.ask(tls=False))[0].startswith("403 ")
                ends.set()
                await reloading
                waiting[1].write(b"\r\n")
                assert (await waiting[0].readline()).startswith(b"HTTP/1.1 503 kubemux: shutdown (")
        waiting[1].close()
        with suppress(OSError):
            await waiting[1].wait_closed()
        assert (await one.ask("nobody:wrong", tls=False))[0].startswith("407 ")
        async with asyncio.timeout(60):  # the entry closes its side a moment after the client's
            while one.daemon.graph.entries["remote"].entry.record.active:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("which", ["cert", "ca"])
async def test_status_shows_expired_certificates(tmp_path: Path, which: str) -> None:
    async with bed(tmp_path) as one:
        served = one.daemon.graph.entries["remote"]
        assert served.snapshot().reason == ""
        old = one.authority.issue("old", dns=(HOST,), valid=(timedelta(days=-2), timedelta(days=-1)))
        changed = (
            {"client_ca_file": old.cert} if which == "ca" else {"cert_file": old.cert, "key_file": old.key}
        )
        one.configure(tls={**one.tls, **{key: str(path) for key, path in changed.items()}})
        await reload(one.daemon)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await one.ask()
        shown = served.snapshot()
        assert shown.reason == "credentials_unusable"
        what = f"{'every CA' if which == 'ca' else 'the certificate'} in {old.cert}"
        assert shown.message.startswith(f"clients come in no more: {what} has expired on ")
