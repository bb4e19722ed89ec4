"""The requests that clients of the SSH server may make, and the answers to refused ones."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from proxy.config.key_table import Who
from proxy.entries import ssh_entry
from proxy.entries.arrival import Arrival
from proxy.entries.ssh_entry import MOST_LINES, SshEntry
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics
from proxy.openssh.authorized_keys import Options
from proxy.openssh.permits import Permit
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.native.wire.messages import CONNECT_FAILED, PROHIBITED, SHORTAGE
from proxy.ssh.server.login import Login
from proxy.ssh.server.session import Server, Session

Kind = Literal["site", "user"]


class Refusal(NamedTuple):
    """What the client gets."""

    code: int
    text: str


class Request:
    """A `proxy.relay.interfaces.OpenRequest` that remembers its answer."""

    def __init__(self, target: Endpoint) -> None:
        self.target = target
        self.origin = Endpoint("10.0.0.1", 1)
        self.answers: list[Refusal] = []

    def accept(self) -> Channel:
        raise AssertionError("nothing is accepted here")

    def refuse(self, code: int, text: str) -> None:
        self.answers.append(Refusal(code, text))


class Door:
    """The entry, and the arrivals that it has passed on."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry(), version="")
        self.arrivals: list[Arrival] = []
        self.entry = SshEntry(self.metrics, self.arrivals.append)

    def ask(
        self, host: str, port: int, *, kind: Kind = "user", name: str = "ops", options: Options | None = None
    ) -> Request:
        request = Request(Endpoint(host, port))
        self.entry.asked(session_of(kind, name, options), request)
        return request


def session_of(kind: Kind = "user", name: str = "ops", options: Options | None = None) -> Session:
    """The session of a client that has logged in."""
    session = Session(cast("Server", None))
    session.login = Login(
        who=Who(kind, name),
        asked=name,
        address=Endpoint("192.0.2.1", 4711),
        blob=b"",
        fingerprint="",
        options=options or Options(),
        may_forward=options is None or options.may_forward,
        expires=None,
    )
    return session


HOUR: Final = 3600.0


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a line of the log stands for all that a test asks."""
    monkeypatch.setattr(ssh_entry, "SELDOM_S", HOUR)


@pytest.mark.usefixtures("seldom")
async def test_refusals_are_counted_and_one_line_of_the_log_stands_for_many() -> None:
    door = Door()
    ops, edge = session_of(), session_of("site", "edge")
    with capture_logs() as logs:
        for _ in range(1000):
            door.entry.refused(ops, Reason.LIMIT, "users.ops.max_channels is 1, and as many are open")
        door.entry.refused(ops, Reason.UNSUPPORTED, "a channel of the type 'session'")
        door.entry.refused(edge, Reason.LIMIT, "sites.edge.max_channels is 1, and as many are open")
    record = door.metrics.entry("ssh")
    assert record.results == {Reason.LIMIT: 1001, Reason.UNSUPPORTED: 1}
    assert record.active == 0
    assert [(log["caller"], log["reason"], log["channels"]) for log in logs] == [
        ("ssh-user:ops", "limit", 1),
        ("ssh-user:ops", "unsupported", 1),
        ("site:edge", "limit", 1),
    ]


@pytest.mark.usefixtures("seldom")
def test_a_client_that_scans_for_names_does_not_fill_the_log() -> None:
    door = Door()
    with capture_logs() as logs:
        for port in range(1, 1001):
            door.ask("node-b", port, options=NARROW)
            door.ask("node-b", port, name="other", options=NARROW)
    told = [log for log in logs if log["caller"] == "ssh-user:ops"]
    assert [log["asked"] for log in told] == [f"node-b:{port}" for port in range(1, MOST_LINES + 1)]
    assert len(logs) == 2 * MOST_LINES
    assert door.metrics.entry("ssh").results == {Reason.DENIED: 2000}
    for due in door.entry._refused_names.values():
        due._since -= HOUR
    with capture_logs() as logs:
        door.ask("node-c", 22, options=NARROW)
    assert [(log["asked"], log["channels"]) for log in logs] == [("node-c:22", 1000 - MOST_LINES + 1)]


def test_a_client_is_handed_on_with_its_identity_and_counted() -> None:
    door = Door()
    request = door.ask("fd00:0::7", 6443)
    (arrival,) = door.arrivals
    assert arrival.asked == Endpoint("fd00::7", 6443)
    assert arrival.fields() == {
        "client": "192.0.2.1:4711",
        "entry": "ssh",
        "caller": "ssh-user:ops",
        "asked": "[fd00::7]:6443",
    }
    assert (arrival.is_answered, arrival.needs_allow) == (True, False)
    record = door.metrics.entry("ssh")
    assert record.active == 1
    arrival.refuse(Reason.DENIED, "ssh-user:ops is not in allow")
    arrival.ended(Reason.DENIED)
    assert request.answers == [Refusal(PROHIBITED, "kubemux: fd00::7: denied (ssh-user:ops is not in allow)")]
    assert (record.active, record.results) == (0, {Reason.DENIED: 1})


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.UNKNOWN_NAME, PROHIBITED),
        (Reason.CHANNEL_REFUSED, CONNECT_FAILED),
        (Reason.LINK_DOWN, CONNECT_FAILED),
        (Reason.AUTH_FAILED, CONNECT_FAILED),
        (Reason.TIMEOUT, CONNECT_FAILED),
        (Reason.CLUSTER_LIMIT, SHORTAGE),
        (Reason.MEMORY, SHORTAGE),
    ],
)
def test_a_reason_has_a_code_and_a_sentence(reason: Reason, code: int) -> None:
    door = Door()
    request = door.ask("prod-eu", 443)
    door.arrivals[0].refuse(reason, "why\r\n\x1b[31m")
    assert request.answers == [Refusal(code, rf"kubemux: prod-eu: {reason} (why\r\n\x1b[31m)")]


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("a" * 256, 22),
        ("a\0b", 22),
        ("", 22),
        ("a b", 22),
        ("prod-eu", 0),
        ("prod-eu", 2**32 - 1),
    ]
    + [(f"prod{sign}eu", 22) for sign in "@?%/\x7fé\n"],
)
def test_a_request_without_a_valid_name_is_refused(host: str, port: int) -> None:
    door = Door()
    (answer,) = door.ask(host, port).answers
    assert not door.arrivals
    assert answer.code == CONNECT_FAILED
    assert answer.text.startswith("kubemux: bad_request (")
    assert door.metrics.entry("ssh").results == {Reason.BAD_REQUEST: 1}


@given(st.text(max_size=300), st.integers(0, 2**32 - 1))
def test_any_name_is_handed_on_or_answered_in_one_printable_line(host: str, port: int) -> None:
    door = Door()
    request = door.ask(host, port)
    assert len(request.answers) + len(door.arrivals) == 1
    for answer in request.answers:
        assert answer.text.isascii()
        assert answer.text.isprintable()
        assert len(answer.text) <= 200


NARROW = Options(opens=(Permit("node-a", 22), Permit("10.*", None)))


@pytest.mark.parametrize(
    ("host", "port", "options", "why"),
    [
        ("node-a", 23, NARROW, "permitopen of the key of ssh-user:ops does not have node-a:23"),
        ("node-b", 22, NARROW, "permitopen of the key of ssh-user:ops does not have node-b:22"),
        (
            "node-a",
            22,
            Options(may_forward=False),
            "the key of ssh-user:ops may open nothing: it has restrict or no-port-forwarding",
        ),
    ],
)
def test_the_options_of_a_key_come_first(host: str, port: int, options: Options, why: str) -> None:
    door = Door()
    (answer,) = door.ask(host, port, options=options).answers
    assert not door.arrivals
    assert answer == Refusal(PROHIBITED, f"kubemux: {host}: denied ({why})")
    assert door.metrics._records.denied["ssh"] == {Reason.DENIED: 1}


@pytest.mark.parametrize(("host", "port"), [("node-a", 22), ("NODE-A", 22), ("10.0.0.7", 9000)])
def test_a_target_that_the_options_allow_is_passed_on(host: str, port: int) -> None:
    door = Door()
    assert not door.ask(host, port, options=NARROW).answers
    assert len(door.arrivals) == 1


def test_a_site_needs_an_allow_and_does_not_learn_which_names_exist() -> None:
    door = Door()
    request = door.ask("prod-eu", 443, kind="site", name="factory-7")
    (arrival,) = door.arrivals
    assert arrival.needs_allow
    assert arrival.caller.proved == {"site:factory-7"}
    arrival.refuse(Reason.UNKNOWN_NAME, "nearest: prod-us")
    arrival.refuse(Reason.DENIED, "site:factory-7 is not in allow")
    first, second = request.answers
    assert first == second
    arrival.refuse(Reason.CHANNEL_REFUSED, "no")
    assert request.answers[2].text == "kubemux: prod-eu: channel_refused (no)"


def test_when_kubemux_stops_no_client_is_passed_on() -> None:
    door = Door()
    door.entry.closed_because = "kubemux stops"
    (answer,) = door.ask("prod-eu", 443).answers
    assert answer == Refusal(CONNECT_FAILED, "kubemux: prod-eu: shutdown (kubemux stops)")
    assert not door.arrivals
