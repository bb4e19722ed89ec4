"""Channel requests of a client of our SSH server, valid and invalid ones. On both data planes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from asyncssh.packet import Boolean, SSHPacket, String, UInt32
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import LinkError, MemoryExhausted
from proxy.errors.reasons import Reason
from proxy.ssh.metered import MOST_QUEUED, SMALLEST_PACKET
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.open_requests import LONGEST_HOST, NOT_HERE, ONLY_FORWARDS
from tests.ssh.carried import SECONDS, until
from tests.ssh.conftest import ORIGIN, started
from tests.ssh.scripted_peer import Script, asyncssh_server
from tests.ssh.test_native_transfer import Collector
from tests.support.ssh_served import Served

GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
WINDOW = 1 << 20


def asking(
    kind: str = "direct-tcpip",
    *,
    number: int = 7,
    window: int = WINDOW,
    largest: int = 32768,
    host: bytes = b"node-a",
    port: int = 22,
) -> bytes:
    """The fields of an OPEN after the channel type."""
    target = String(host) + UInt32(port) + String("127.0.0.1") + UInt32(4711)
    return String(kind) + UInt32(number) + UInt32(window) + UInt32(largest) + target


class Client(Script):
    """A client that sends the test's messages."""

    def ask(self, **more: object) -> None:
        self.send(messages.OPEN, then=asking(**more))  # type: ignore[arg-type]  # as in `asking`

    async def refusal(self) -> tuple[int, int, str]:
        """The next OPEN_FAILURE: the client's number, the code, and the text."""
        packet = SSHPacket(await self.receive(messages.OPEN_FAILURE))
        packet.get_byte()
        number, code, text = packet.get_uint32(), packet.get_uint32(), packet.get_string().decode()
        packet.get_string()
        packet.check_end()
        return number, code, text

    async def confirmation(self) -> tuple[int, int, int]:
        """The next OPEN_CONFIRMATION: the client's number, ours, and our window."""
        message = await self.receive(messages.OPEN_CONFIRMATION)
        said = messages.parse_confirmation(memoryview(message))
        return int.from_bytes(message[1:5]), said.sender, said.window


@asynccontextmanager
async def log_in(served: Served) -> AsyncIterator[Client]:
    """A client that has logged in; its link is `served.links[-1]`."""
    conn = await served.client()
    client = Client()
    client.take_over(conn)  # a server's or a client's
    try:
        await served.link()
        yield client
    finally:
        conn.abort()
        await conn.wait_closed()


@pytest.fixture
async def served(tmp_path: Path, data_plane: str) -> AsyncIterator[Served]:
    async with Served(tmp_path, max_requests=3) as served:
        yield served
        assert {link.data_plane for link in served.links} == {data_plane}


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    async with log_in(served) as client:
        yield client


async def ended(served: Served) -> LinkError:
    async with asyncio.timeout(SECONDS):
        return await asyncio.shield(served.links[-1].closed)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("session", messages.PROHIBITED),
        ("x11", messages.PROHIBITED),
        ("auth-agent@openssh.com", messages.PROHIBITED),
        ("direct-streamlocal@openssh.com", messages.PROHIBITED),
        ("forwarded-tcpip", messages.PROHIBITED),
        ("no-such@example", messages.UNKNOWN_TYPE),
        ("", messages.UNKNOWN_TYPE),
    ],
)
async def test_a_channel_of_any_other_type_is_refused_with_a_sentence(
    client: Client, served: Served, kind: str, code: int
) -> None:
    client.send(messages.OPEN, then=String(kind) + UInt32(9) + UInt32(WINDOW) + UInt32(32768))
    assert await client.refusal() == (9, code, ONLY_FORWARDS)
    means = " (a shell, a command or sftp)" if kind == "session" else ""
    assert served.refusals == [(Reason.UNSUPPORTED, f"a channel of the type {kind!r}{means}")]
    client.ask(number=3)
    assert (await served.request()).target == ("node-a", 22)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"host": b"x" * (LONGEST_HOST + 1)}, "a name of 256 bytes"),
        ({"largest": SMALLEST_PACKET - 1}, "packets of 511 bytes"),
    ],
)
async def test_unusable_names_and_packet_sizes_are_refused(
    client: Client, served: Served, asked: dict[str, object], text: str
) -> None:
    client.ask(**asked)
    said = (await client.refusal())[2]
    assert text in said
    [(reason, why)] = served.refusals
    assert (reason, said) == (Reason.BAD_REQUEST, f"kubemux: bad_request ({why})")
    assert served.requests.empty()
    assert served.links[-1].load == 0


async def test_names_and_ports_come_as_they_were_written(client: Client, served: Served) -> None:
    client.ask(host=b"caf\xc3\xa9\n\xff", port=(1 << 32) - 1)
    request = await served.request()
    assert request.target == ("caf\u00e9\n\ufffd", (1 << 32) - 1)
    assert request.origin == ("127.0.0.1", 4711)
    request.refuse(messages.CONNECT_FAILED, "caf\u00e9")
    assert await client.refusal() == (7, messages.CONNECT_FAILED, "caf\u00e9")


async def test_a_request_is_answered_only_once(client: Client, served: Served) -> None:
    client.ask()
    request = await served.request()
    request.refuse(messages.PROHIBITED, "no")
    request.refuse(messages.PROHIBITED, "no, again")
    with pytest.raises(ConnectionResetError):
        request.accept()
    assert (await client.refusal())[2] == "no"
    client.ask()
    request = await served.request()
    channel = request.accept()
    request.refuse(messages.PROHIBITED, "too late")
    await client.confirmation()
    channel.abort()
    await client.receive(messages.CLOSE)
    assert client.heard.empty()


async def test_the_number_of_channels_of_a_client_is_limited(client: Client, served: Served) -> None:
    """A channel without an answer counts. One that has ended does not."""
    for number in range(3):
        client.ask(number=number)
    requests = [await served.request() for _ in range(3)]
    channel = requests[0].accept()
    _, ours, _ = await client.confirmation()
    for _ in range(2):
        client.ask(number=3)
        assert (await client.refusal())[:2] == (3, messages.SHORTAGE)
    assert served.links[-1].load == 3
    requests[1].refuse(messages.PROHIBITED, "no")
    await client.refusal()
    client.ask(number=4)
    requests.append(await served.request())
    client.ask(number=5)
    assert (await client.refusal())[:2] == (5, messages.SHORTAGE)
    channel.abort()
    client.send(messages.CLOSE, ours)
    await until(lambda: served.links[-1].load == 2)
    client.ask(number=6)
    await served.request()


async def test_a_request_waits_while_there_is_no_memory(client: Client, served: Served) -> None:
    client.ask()
    request = await served.request()
    served.budget.charge(served.budget.limit)
    with pytest.raises(MemoryExhausted):
        request.accept()
    served.budget.release(served.budget.limit)
    request.accept().abort()
    await client.confirmation()


async def test_a_server_that_we_have_dialled_opens_nothing(tmp_path: Path, data_plane: str) -> None:
    script = Script()
    async with asyncssh_server(tmp_path, script) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        assert gateway._links[0].data_plane == data_plane
        for kind in ("forwarded-tcpip", "direct-tcpip", "session"):
            script.send(messages.OPEN, then=asking(kind))
            answer = await script.receive(messages.OPEN_FAILURE)
            assert NOT_HERE.encode() in answer


# -------------------------------------------------------------------------------------------- broken protocol


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        String("direct-tcpip"),
        UInt32(1 << 31) + b"x",
        asking()[:-1],
        asking() + b"x",
        asking()[:-8] + UInt32(1000),
        asking(largest=0),
        asking("session", largest=0),
    ],
    ids=[
        "empty",
        "a type alone",
        "a long type",
        "cut off",
        "too long",
        "a long name",
        "no room",
        "no room, a shell",
    ],
)
async def test_a_malformed_open_ends_the_link(client: Client, served: Served, rest: bytes) -> None:
    client.send(messages.OPEN, then=rest)
    assert (await ended(served)).reason == "protocol_error"
    assert served.requests.empty()


async def test_a_message_on_a_channel_that_is_not_open_ends_the_link(client: Client, served: Served) -> None:
    client.ask()
    request = await served.request()
    client.send(messages.DATA, 0, then=String("x"))
    assert (await ended(served)).reason == "protocol_error"
    with pytest.raises(ConnectionResetError):
        request.accept()


async def test_requests_without_end_while_one_is_handled_end_the_link(
    client: Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncssh keeps all of them, and answers them in a recursion."""
    handled = asyncio.get_running_loop().create_future()
    conn = served.conns[-1]

    async def requested(*_: object) -> bool:
        return bool(await handled)

    monkeypatch.setattr(conn._owner, "server_requested", requested)
    client.send(GLOBAL_REQUEST, then=String("tcpip-forward") + Boolean(True) + String("kube") + UInt32(1))
    for _ in range(MOST_QUEUED - 1):
        client.send(GLOBAL_REQUEST, then=String("no-such@example") + Boolean(True))
    await until(lambda: len(conn._global_request_queue) == MOST_QUEUED)
    assert served.links[-1].error is None
    client.send(GLOBAL_REQUEST, then=String("no-such@example") + Boolean(True))
    assert f"makes {MOST_QUEUED} requests" in str(await ended(served))
    handled.set_result(False)


async def test_the_largest_number_of_requests_that_may_wait_is_answered(
    client: Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = asyncio.get_running_loop().create_future()

    async def requested(*_: object) -> bool:
        return bool(await handled)

    monkeypatch.setattr(served.conns[-1]._owner, "server_requested", requested)
    answers = [client.conn._make_global_request(b"tcpip-forward", String("kube"), UInt32(1))]
    answers += [client.conn._make_global_request(b"no-such@example") for _ in range(MOST_QUEUED - 1)]
    asked = asyncio.gather(*answers)
    await until(lambda: len(served.conns[-1]._global_request_queue) == MOST_QUEUED)
    handled.set_result(False)
    async with asyncio.timeout(SECONDS):
        assert {kind for kind, _ in await asked} == {REQUEST_FAILURE}


@pytest.mark.parametrize("times", [1, 2])
async def test_host_keys_are_proved_once(tmp_path: Path, data_plane: str, times: int) -> None:
    """A signature takes up to 7 ms, and a request has room for 900 keys."""
    async with Served(tmp_path, send_server_host_keys=True) as served, log_in(served) as client:
        assert served.links[-1].data_plane == data_plane
        (key,) = served.conns[-1]._all_server_host_keys
        asked = b"hostkeys-prove-00@openssh.com", *[String(key)] * times
        async with asyncio.timeout(SECONDS):
            answers = [(await client.conn._make_global_request(*asked))[0] for _ in range(2)]
        assert answers == [REQUEST_SUCCESS if times == 1 else REQUEST_FAILURE, REQUEST_FAILURE]


# ---------------------------------------------------------------------------------------------------- numbers


async def test_numbers_are_reused_and_late_messages_are_dropped(
    client: Client, served: Served, data_plane: str
) -> None:
    """A client may send credit until our CLOSE reaches it. A new channel must not use that credit."""
    seen = set()
    for number in range(5):
        client.ask(number=number)
        channel = (await served.request()).accept()
        user = Collector()
        channel.attach(user)
        theirs, ours, _ = await client.confirmation()
        assert theirs == number
        seen.add(ours)
        client.send(messages.DATA, ours, then=String(b"%d" % number))
        client.send(messages.EOF, ours)
        client.send(messages.CLOSE, ours)
        await client.receive(messages.CLOSE)
        client.send(messages.WINDOW_ADJUST, ours, 100)
        async with asyncio.timeout(SECONDS):
            await user.lost.wait()
        assert (bytes(user.data), user.error) == (b"%d" % number, None)
    await until(lambda: served.links[-1].load == 0)
    assert not served.links[-1].closed.done()
    if data_plane == "native":
        assert len(seen) == 5, "a number rests after a close"


async def test_a_client_may_use_one_number_twice(client: Client, served: Served) -> None:
    """The client only confuses itself: our own numbers distinguish the channels."""
    channels = []
    for _ in range(2):
        client.ask(number=7)
        channel = (await served.request()).accept()
        user = Collector()
        channel.attach(user)
        channels.append(((await client.confirmation())[1], channel, user))
    for ours, _, _ in channels:
        client.send(messages.DATA, ours, then=String(b"%d" % ours))
    for ours, channel, user in channels:
        await until(lambda user=user: bool(user.data))  # type: ignore[misc]
        assert bytes(user.data) == b"%d" % ours
        channel.abort()


async def test_the_window_and_packet_size_of_a_client_are_respected(client: Client, served: Served) -> None:
    client.ask(window=1000, largest=SMALLEST_PACKET)
    channel = (await served.request()).accept()
    user = Collector()
    channel.attach(user)
    _, ours, window = await client.confirmation()
    assert window <= served.budget.used
    room = channel.get_buffer(2000)
    size = min(len(room), 2000)
    room[:size] = b"x" * size
    channel.buffer_updated(size)
    sizes = [len(await client.receive(messages.DATA)) - messages.DATA_HEADER for _ in range(2)]
    assert sizes == [SMALLEST_PACKET, 1000 - SMALLEST_PACKET]
    assert user.full[-1]
    client.send(messages.WINDOW_ADJUST, ours, 5000)
    if size > 1000:
        await client.receive(messages.DATA)
    await until(lambda: not user.full[-1])
    channel.abort()


async def test_both_sides_open_channels_at_the_same_time(client: Client, served: Served) -> None:
    link = served.links[-1]
    loop = asyncio.get_running_loop()
    opening = loop.create_task(link.open_channel(ORIGIN, origin=ORIGIN, timeout=SECONDS))
    client.ask(number=0)
    theirs = (await served.request()).accept()
    async with asyncio.timeout(SECONDS):
        heard = sorted([await client.heard.get() for _ in range(2)])
    asked = messages.parse_open(memoryview(heard[0]))
    assert asked.kind == messages.FORWARDED
    other = messages.parse_confirmation(memoryview(heard[1])).sender
    assert asked.sender != other
    client.send(messages.OPEN_CONFIRMATION, asked.sender, 1, WINDOW, 32768)
    ours = await opening
    assert link.load == 2
    theirs.abort()
    ours.abort()


# ---------------------------------------------------------------------------------------------------- parsing


@given(message=st.binary(max_size=200))
def test_any_bytes_are_an_open_or_a_protocol_error(message: bytes) -> None:
    try:
        asked = messages.parse_open(memoryview(message))
        target, origin = messages.parse_tcpip(asked.rest)
    except ProtocolError:
        return
    again = messages.open_tcpip(
        asked.kind,
        asked.sender,
        asked.window,
        asked.largest,
        (target[0].decode("latin-1"), target[1]),
        (origin[0].decode("latin-1"), origin[1]),
    )
    assert len(again) >= len(message)


numbers = st.integers(0, (1 << 32) - 1)
hosts = st.text(max_size=50)


@given(
    sender=numbers,
    window=numbers,
    largest=st.integers(1, (1 << 32) - 1),
    host=hosts,
    port=numbers,
    origin=hosts,
)
def test_we_parse_our_own_open_requests(
    sender: int, window: int, largest: int, host: str, port: int, origin: str
) -> None:
    ends = (host, port), (origin, port)
    message = messages.open_tcpip(messages.DIRECT, sender, window, largest, *ends)
    asked = messages.parse_open(memoryview(message))
    assert asked[:4] == (messages.DIRECT, sender, window, largest)
    assert messages.parse_tcpip(asked.rest) == tuple((name.encode(), number) for name, number in ends)
    for end in range(len(message)):
        with pytest.raises(ProtocolError):
            messages.parse_tcpip(messages.parse_open(memoryview(message)[:end]).rest)
