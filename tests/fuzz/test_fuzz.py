"""The fuzz targets on random inputs, and on every input that once broke one; atheris searches further (`make
fuzz`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.entries.heads import Head, Rejected, Step
from proxy.entries.tls_transport import TlsTransport
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.native import incoming
from proxy.ssh.native.handover import Handover, TakenOver
from proxy.ssh.native.native_plane import NativePlane
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.sites.forwards import Forwards
from tests.fuzz import heads, keys, link, packets, parsers, sites, tls
from tests.fuzz.border import ManualLoop, Wire
from tests.fuzz.choices import Choices
from tests.fuzz.ear import Ear
from tests.fuzz.gateway import GLOBAL_REQUEST, Gateway
from tests.fuzz.takeover import Takeover
from tests.support.daemon import ROOT

TARGETS: dict[str, Callable[[bytes], None]] = {
    "heads": heads.run,
    "keys": keys.run,
    "link": link.run,
    "packets": packets.run,
    "parsers": parsers.run,
    "sites": sites.run,
    "tls": tls.run,
}
FINDINGS = sorted((ROOT / "tests" / "fuzz" / "findings").glob("*/*"))
CORPUS = sorted((ROOT / "tests" / "fuzz" / "corpus").glob("*/*"))


@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=1500))
def test_any_input_keeps_the_rules(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_inputs_that_once_broke_a_rule_keep_the_rules() -> None:
    run_all(FINDINGS)


def test_the_inputs_of_the_corpus_keep_the_rules() -> None:
    """Each of these inputs reaches code that those before it do not."""
    assert any(learnt.read_bytes()[:1] >= link.TAKEOVER for learnt in CORPUS if learnt.parent.name == "link")
    run_all(CORPUS)


def test_heads_reach_every_end_in_both_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus reaches every result: a fuzzer that never sees a served client would prove little."""
    seen = set[tuple[str, str]]()
    check = heads._check

    def checked(head: Head, end: Step) -> None:
        name = end.reason if isinstance(end, Rejected) else type(end).__name__
        seen.add((type(head).__name__, name))
        check(head, end)

    monkeypatch.setattr(heads, "_check", checked)
    run_all([learnt for learnt in CORPUS if learnt.parent.name == "heads"])
    ends = {"Asked", "bad_request", "unsupported", "auth_required", "head_timeout"}
    assert seen == {(head, end) for head in ("HttpConnect", "Socks5") for end in ends}


def test_random_scripts_carry_data_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fuzzer that only sees refusals would prove nothing."""
    seen: dict[str, int] = {}

    def count(name: str, of: type, method: str) -> None:
        original = getattr(of, method)

        def counted(*args: object, **kwargs: object) -> object:
            seen[name] = seen.get(name, 0) + 1
            return original(*args, **kwargs)

        monkeypatch.setattr(of, method, counted)

    for name in ("channel_data", "channel_eof", "channel_lost", "channel_full"):
        count(name, link.Client, name)
    count("heard", Ear, "_message")
    count("stalled", Wire, "stall")
    count("flooded", Gateway, "flood")
    count("late", Gateway, "_late")
    count("accepted", NativePlane, "accept")
    count("refused", NativePlane, "refuse")
    scripts = (bytes(byte * (7 + seed) * 31 % 251 for byte in range(1, 1500)) for seed in range(60))
    for script in scripts:
        link.run(script)
    clients = {"channel_data", "channel_eof", "channel_lost", "channel_full"}
    assert seen.keys() == clients | {"heard", "stalled", "flooded", "late", "accepted", "refused"}


def test_takeovers_reach_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are inputs after which the connection stays open, with answers from asyncssh and from the link,
    and inputs that end it before and after the takeover.
    """
    seen: Counter[str] = Counter()
    check, begin = Takeover._check, Handover.begin

    def checked(self: Takeover) -> None:
        seen["over" if self._is_over else "answered" if self._answers else "quiet"] += 1
        check(self)

    def begun(self: Handover) -> TakenOver:
        taken = begin(self)
        seen["with bytes" if taken.received else "with none"] += 1
        return taken

    monkeypatch.setattr(Takeover, "_check", checked)
    monkeypatch.setattr(Handover, "begin", begun)
    for seed in range(40):
        link.run(link.TAKEOVER + bytes(byte * (7 + seed) * 31 % 251 for byte in range(1, 60)))
    assert seen.keys() == {"over", "answered", "quiet", "with bytes", "with none"}


@pytest.mark.parametrize("rule", ["received bytes are lost", "a turn has no limit"])
def test_the_targets_notice_a_broken_rule_of_floods_and_takeovers(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Handover.begin
    if rule == "a turn has no limit":
        monkeypatch.setattr(incoming, "TURN", 1 << 20)
    else:
        monkeypatch.setattr(Handover, "begin", lambda self: begin(self)._replace(received=b""))
    with pytest.raises(AssertionError):
        run_all(CORPUS)


def run_scripts(count: int) -> None:
    for seed in range(count):
        tls.run(Random(seed).randbytes(10 + 7 * seed % 400))  # noqa: S311 - the same each time


def test_tls_scripts_cover_the_intended_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are broken connections; and unbroken ones with both versions, both kinds of protocol, an end from
    each side, and bytes in both directions.
    """
    seen = set[str]()
    check = tls.Script._check

    def checked(self: tls.Script) -> None:
        seen.add("honest" if self._is_honest else "broken")
        if self._is_honest:
            seen.update((type(self._relay).__name__, str(self._client.version())))
            seen.update(
                name
                for name, is_so in (
                    ("up", self._relay.came),
                    ("down", self._answered),
                    ("client's end", self._relay.has_ended),
                    ("relay's end", self._has_client_been_ended),
                )
                if is_so
            )
        check(self)

    monkeypatch.setattr(tls.Script, "_check", checked)
    run_scripts(100)
    ways = {"Streamed", "Buffered", "TLSv1.2", "TLSv1.3", "up", "down", "client's end", "relay's end"}
    assert seen >= {"honest", "broken"} | ways


@pytest.mark.parametrize(
    "rule", ["an end loses bytes", "a paused relay gets bytes", "an end is reported twice"]
)
def test_the_target_tls_notices_a_broken_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if rule == "an end loses bytes":
        monkeypatch.setattr(TlsTransport, "_notify_if_drained", TlsTransport._notify)
    elif rule == "a paused relay gets bytes":
        monkeypatch.setattr(TlsTransport, "pause_reading", lambda self: self._socket.pause_reading())
    else:
        monkeypatch.setattr(
            TlsTransport, "_has_passed_eof", property(lambda _: False, lambda *_: None), raising=False
        )
    with pytest.raises(AssertionError):
        run_scripts(400)


def test_scripts_of_sites_reach_every_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that are reached, refused ones, nonsense, and forwards that are kept and refused."""
    seen = set[str]()
    told, register = sites.told, Forwards.register

    def telling(pieces: list[bytes]) -> str | bytes:
        said = told(pieces)
        seen.add(said if isinstance(said, str) else "reached")
        return said

    def registering(self: Forwards, host: str, port: int, *, may_listen: bool) -> Endpoint:
        one = register(self, host, port, may_listen=may_listen)
        seen.add("dynamic" if host == sites.SITE else "fixed")
        return one

    monkeypatch.setattr(sites, "told", telling)
    monkeypatch.setattr(Forwards, "register", registering)
    for seed in range(300):
        sites.run(Random(seed).randbytes(5 + seed % 60))  # noqa: S311 - the same each time
    assert seen == {"more", "reached", "ChannelRefused", "ChannelError", "dynamic", "fixed"}


def run_all(inputs: list[Path]) -> None:
    for one in inputs:
        TARGETS[one.parent.name](one.read_bytes())


def test_the_targets_notice_broken_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets notice a parser that raises ValueError, an end that is reported twice, and an
    extra byte.
    """
    monkeypatch.setattr(messages, "parse_bare", int)
    with pytest.raises(ValueError, match="invalid literal"):
        parsers.run(bytes((1, 2)))
    client = link.Client.__new__(link.Client)
    client.is_lost = False
    client.channel_lost(None)
    with pytest.raises(AssertionError):
        client.channel_lost(None)
    with pytest.raises(ProtocolError):
        Ear().hear(bytes(100))


def test_an_error_in_a_callback_is_kept() -> None:
    loop = ManualLoop()
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert len(loop.unhandled) == 1


def test_choices_after_the_last_byte_are_zero() -> None:
    choices = Choices(b"\x07")
    assert choices.below(4) == 3
    assert choices.is_over
    assert (choices.uint32(), choices.content(5), choices.rest()) == (0, bytes(5), b"")
    assert Gateway(choices, {}).message()[0] == GLOBAL_REQUEST
