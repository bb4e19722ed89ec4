"""What may be learned from a server that lists its host keys, over every kind of known_hosts line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import learned_keys
from proxy.config.learned_keys import Line, Update
from tests.support.ssh_keys import hash_hosts, new_key, public

NAME = b"[edge.example.com]:2222"


def blob(number: int, kind: bytes = b"ssh-ed25519") -> bytes:
    key = bytes([number]) * 32
    return len(kind).to_bytes(4) + kind + len(key).to_bytes(4) + key


OLD, NEW, OTHER, CERTIFICATE = blob(1), blob(2), blob(3), blob(4, b"ssh-ed25519-cert-v01@openssh.com")
KNOWN = [Line(NAME, OLD)]


def learned(*keys: bytes, by: bytes = OLD, name: bytes = NAME) -> list[Line]:
    return [Line(name, key, b"", learned_keys.fingerprint(by)) for key in keys]


def test_a_new_key_beside_a_known_one_is_learned() -> None:
    change = learned_keys.update(KNOWN, [], NAME, OLD, [OLD, NEW])
    assert change == Update(new=(NEW,))
    assert learned_keys.learn(KNOWN, [], NAME, OLD, change) == learned(NEW)


def test_nothing_new_is_no_change() -> None:
    assert learned_keys.update(KNOWN, learned(NEW), NAME, OLD, [NEW, OLD]) == Update()


def test_a_learned_key_may_bring_in_the_next_in_the_name_of_the_first() -> None:
    change = learned_keys.update(KNOWN, learned(NEW), NAME, NEW, [NEW, OTHER])
    assert change == Update(new=(OTHER,))
    assert learned_keys.learn(KNOWN, learned(NEW), NAME, NEW, change) == learned(NEW, OTHER), (
        "known_hosts still has the first"
    )


def test_what_the_server_has_no_more_is_forgotten_of_what_was_learned() -> None:
    """Nothing is ever taken from known_hosts itself."""
    change = learned_keys.update(KNOWN, learned(NEW, OTHER), NAME, OLD, [OLD, OTHER])
    assert change == Update(gone=(NEW,))
    assert learned_keys.learn(KNOWN, learned(NEW, OTHER), NAME, OLD, change) == learned(OTHER)


def test_a_key_taken_out_of_known_hosts_takes_along_what_it_brought_in() -> None:
    assert learned_keys.valid(KNOWN, learned(NEW)) == learned(NEW)
    assert learned_keys.valid([], learned(NEW)) == []
    assert learned_keys.valid([Line(NAME, OTHER)], learned(NEW)) == []
    assert learned_keys.valid([Line(b"elsewhere", OLD)], learned(NEW)) == []
    assert learned_keys.valid([Line(NAME, OLD, b"@revoked")], learned(NEW)) == []
    assert learned_keys.valid([Line(b"*", OLD)], learned(NEW)) == []
    assert learned_keys.valid(KNOWN, learned(NEW, name=b"*")) == []
    assert learned_keys.update([], learned(NEW), NAME, NEW, [NEW, OTHER]).refused


def test_a_key_that_is_taken_out_while_it_vouches_brings_nothing_in() -> None:
    change = learned_keys.update(KNOWN, [], NAME, OLD, [OLD, NEW])
    assert learned_keys.learn([Line(NAME, OTHER)], [], NAME, OLD, change) == []


@pytest.mark.parametrize(
    ("known", "shown", "announced"),
    [
        ([Line(NAME, OLD)], CERTIFICATE, [OLD, NEW]),
        ([Line(NAME, OLD), Line(NAME, OTHER, b"@cert-authority")], OLD, [OLD, NEW]),
        ([Line(NAME, OLD), Line(NAME, OTHER, b"@revoked")], OLD, [OLD, NEW]),
        ([Line(b"[*.example.com]:2222", OLD)], OLD, [OLD, NEW]),
        ([Line(b"[edge.example.com]:2222,!x", OLD)], OLD, [OLD, NEW]),
        ([Line(b"[edge.example.com]:2222,a,b", OLD)], OLD, [OLD, NEW]),
        ([Line(NAME, OLD), Line(b"other", NEW)], OLD, [OLD, NEW]),
        ([Line(b"edge.example.com", OLD)], OLD, [OLD, NEW]),
        ([Line(NAME, OTHER)], OLD, [OLD, NEW]),
        ([], OLD, [OLD, NEW]),
        ([Line(NAME, OLD)], OLD, [OLD, NEW, NEW]),
        ([Line(NAME, OLD)], OLD, [OLD, *(blob(n) for n in range(10, 50))]),
    ],
)
def test_what_openssh_would_not_learn_from(known: list[Line], shown: bytes, announced: list[bytes]) -> None:
    change = learned_keys.update(known, [], NAME, shown, announced)
    assert change.refused
    assert not change.new


def test_certificates_and_unknown_kinds_are_not_learned() -> None:
    strange = [CERTIFICATE, blob(5, b"ssh-dss"), b"", b"\0\0\0\x63short"]
    assert learned_keys.update(KNOWN, [], NAME, OLD, [OLD, *strange]) == Update()


def test_hashed_names_and_an_address_beside_the_name_are_fine(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    path = tmp_path / "known_hosts"
    for names, is_hashed in ((NAME.decode(), True), (f"{NAME.decode()},[192.0.2.1]:2222", False)):
        path.write_text(f"# comment\n{names} {public(key)} comment\n\nnot a line\n")
        if is_hashed:
            path.write_text(f"{names} {public(key)}\n")
            hash_hosts(path)
        [line] = known = learned_keys.parse(path.read_bytes())
        assert learned_keys.update(known, [], NAME, line.blob, [line.blob, NEW]) == Update(new=(NEW,))


@given(st.lists(st.tuples(st.sampled_from([NAME, b"edge"]), st.integers(1, 9)), unique=True))
def test_the_file_reads_as_it_was_written(entries: list[tuple[bytes, int]]) -> None:
    lines = [Line(name, blob(number), b"", learned_keys.fingerprint(OLD)) for name, number in entries]
    assert learned_keys.parse(learned_keys.render(lines)) == lines


@pytest.mark.parametrize(("port", "name"), [(22, b"edge"), (2222, b"[edge]:2222")])
def test_names_are_those_of_openssh(port: int, name: bytes) -> None:
    assert learned_keys.name_of("Edge", port) == name
