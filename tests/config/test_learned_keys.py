"""Which host keys may be learned from a server that lists them, for every kind of known_hosts line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import learned_keys
from proxy.config.learned_keys import Learned, Update
from proxy.openssh.known_hosts import AUTHORITY, REVOKED, Entry, find
from tests.support.ssh_keys import hash_hosts, new_key, public

NAME = b"[edge.example.com]:2222"


def blob(number: int, kind: bytes = b"ssh-ed25519") -> bytes:
    key = bytes([number]) * 32
    return len(kind).to_bytes(4) + kind + len(key).to_bytes(4) + key


OLD, NEW, OTHER, CERTIFICATE = blob(1), blob(2), blob(3), blob(4, b"ssh-ed25519-cert-v01@openssh.com")


def entry(hosts: bytes, key: bytes, marker: bytes = b"") -> Entry:
    return Entry(1, marker, hosts, key)


KNOWN = [entry(NAME, OLD)]
BY_OLD = learned_keys.fingerprint(OLD)


def learned(*keys: bytes, name: bytes = NAME) -> list[Learned]:
    return [Learned(name, key, BY_OLD) for key in keys]


def test_a_new_key_beside_a_known_one_is_learned() -> None:
    change = learned_keys.update(KNOWN, [], NAME, OLD, [OLD, NEW])
    assert change == Update(new=(NEW,), voucher=BY_OLD)
    assert learned_keys.updated([], NAME, change) == learned(NEW)


def test_a_list_without_a_new_key_changes_nothing() -> None:
    assert learned_keys.update(KNOWN, learned(NEW), NAME, OLD, [NEW, OLD]) == Update(voucher=BY_OLD)


def test_a_learned_key_proves_the_next_as_long_as_known_hosts_has_the_first() -> None:
    change = learned_keys.update(KNOWN, learned(NEW), NAME, NEW, [NEW, OTHER])
    assert change == Update(new=(OTHER,), voucher=BY_OLD)
    assert learned_keys.updated(learned(NEW), NAME, change) == learned(NEW, OTHER), (
        "known_hosts still has the first"
    )


def test_learned_keys_that_the_server_dropped_are_forgotten() -> None:
    """known_hosts itself is never changed."""
    change = learned_keys.update(KNOWN, learned(NEW, OTHER), NAME, OLD, [OLD, OTHER])
    assert change == Update(gone=(NEW,), voucher=BY_OLD)
    assert learned_keys.updated(learned(NEW, OTHER), NAME, change) == learned(OTHER)


def test_learned_keys_are_removed_with_the_known_hosts_key_that_vouched_for_them() -> None:
    assert learned_keys.vouched_for(KNOWN, learned(NEW)) == learned(NEW)
    assert learned_keys.vouched_for([], learned(NEW)) == []
    assert learned_keys.vouched_for([entry(NAME, OTHER)], learned(NEW)) == []
    assert learned_keys.vouched_for([entry(b"elsewhere", OLD)], learned(NEW)) == []
    assert learned_keys.vouched_for([entry(NAME, OLD, REVOKED)], learned(NEW)) == []
    assert learned_keys.vouched_for([entry(b"*", OLD)], learned(NEW)) == []
    assert learned_keys.update([], learned(NEW), NAME, NEW, [NEW, OTHER]).refused


@pytest.mark.parametrize(
    ("known", "shown", "announced"),
    [
        ([entry(NAME, OLD)], CERTIFICATE, [OLD, NEW]),
        ([entry(NAME, OLD), entry(NAME, OTHER, AUTHORITY)], OLD, [OLD, NEW]),
        ([entry(NAME, OLD), entry(NAME, OTHER, REVOKED)], OLD, [OLD, NEW]),
        ([entry(b"[*.example.com]:2222", OLD)], OLD, [OLD, NEW]),
        ([entry(b"[edge.example.com]:2222,!x", OLD)], OLD, [OLD, NEW]),
        ([entry(b"[edge.example.com]:2222,a,b", OLD)], OLD, [OLD, NEW]),
        ([entry(NAME, OLD), entry(b"other", NEW)], OLD, [OLD, NEW]),
        ([entry(b"edge.example.com", OLD)], OLD, [OLD, NEW]),
        ([entry(NAME, OTHER)], OLD, [OLD, NEW]),
        ([], OLD, [OLD, NEW]),
        ([entry(NAME, OLD)], OLD, [OLD, NEW, NEW]),
        ([entry(NAME, OLD)], OLD, []),
        ([entry(NAME, OLD)], OLD, [OLD, *(blob(n) for n in range(10, 50))]),
    ],
)
def test_no_key_is_learned_where_openssh_learns_none(
    known: list[Entry], shown: bytes, announced: list[bytes]
) -> None:
    change = learned_keys.update(known, learned(OTHER), NAME, shown, announced)
    assert change == Update(refused=change.refused)
    assert change.refused


def test_certificates_and_unknown_kinds_are_not_learned() -> None:
    strange = [CERTIFICATE, blob(5, b"ssh-dss"), b"", b"\0\0\0\x63short"]
    assert learned_keys.update(KNOWN, [], NAME, OLD, [OLD, *strange]) == Update(voucher=BY_OLD)


def test_a_line_with_a_hashed_name_or_an_address_beside_it_vouches_for_new_keys(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    path = tmp_path / "known_hosts"
    for names, is_hashed in ((NAME.decode(), True), (f"{NAME.decode()},[192.0.2.1]:2222", False)):
        path.write_text(f"# comment\n{names} {public(key)} comment\n\nnot a line\n")
        if is_hashed:
            path.write_text(f"{names} {public(key)}\n")
            hash_hosts(path)
        [line] = known = find(path.read_bytes(), NAME).entries
        change = learned_keys.update(known, [], NAME, line.blob, [line.blob, NEW])
        assert change == Update(new=(NEW,), voucher=learned_keys.fingerprint(line.blob))


@given(st.lists(st.tuples(st.sampled_from([NAME, b"edge"]), st.integers(1, 9)), unique=True))
def test_the_file_reads_as_it_was_written(entries: list[tuple[bytes, int]]) -> None:
    lines = [
        Learned(name, blob(number), BY_OLD, line) for line, (name, number) in enumerate(entries, start=1)
    ]
    assert learned_keys.parse(learned_keys.render(lines)) == (lines, [])


def test_a_line_that_kubemux_has_not_written_is_not_used() -> None:
    [line] = learned(NEW)
    ours = learned_keys.render([line])
    kind, key = ours.split()[1:3]
    others = [
        b"# a comment",
        b"edge " + kind + b" " + key,
        b"@cert-authority " + ours.strip(),
        ours.strip() + b" and more",
        ours.strip().replace(NAME, b"*"),
        ours.strip().replace(NAME, b"edge,other"),
        ours.strip().replace(kind, b"ssh-rsa"),
        ours.strip().replace(key, key[:-3]),
        ours.strip().replace(b"vouched-for-by", b"from"),
        ours.strip()[:-1] + b"\xff",
        b"\0",
    ]
    found, numbers = learned_keys.parse(ours + b"\n" + b"\n".join(others))
    assert found == [line._replace(line=1)]
    assert numbers == list(range(3, 3 + len(others)))
