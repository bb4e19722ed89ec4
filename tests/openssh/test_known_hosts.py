"""Which lines of a known_hosts file are about a server, compared with what ssh-keygen(1) finds."""

from __future__ import annotations

import base64
import hmac
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.openssh.known_hosts import canonical, find, holding, is_entry, is_line, names
from tests.support.ssh_keys import hash_hosts, new_key, public

BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)
KEY = "ssh-ed25519 " + base64.b64encode(BLOB).decode()


def lines(text: str, name: str) -> list[int]:
    return [entry.line for entry in find(text.encode(), name.encode()).entries]


@pytest.mark.parametrize(
    ("hosts", "name", "found"),
    [
        ("edge", "edge", True),
        ("Edge.Example", "edge.example", True),
        ("edge,other", "other", True),
        ("edgeother", "edge", False),
        ("xedge", "edge", False),
        ("[edge]:2222", "[edge]:2222", True),
        ("[edge]:2222", "edge", False),
        ("edge", "[edge]:2222", False),
        ("*", "edge", True),
        ("*.example", "edge.example", True),
        ("*.example", "example", False),
        ("e?ge", "edge", True),
        ("*,!edge", "edge", False),
        ("!edge,*", "other", True),
        ("!edge", "other", False),
        ("[*]:2222", "[edge]:2222", True),
        ("fe80::8%w0", "fe80::8%w0", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.11", False),
    ],
)
def test_a_known_hosts_line_matches_the_hosts_it_lists(hosts: str, name: str, found: bool) -> None:
    assert lines(f"# {hosts} {KEY}\n\n{hosts} {KEY} a comment\n", name) == [3] * found
    assert lines(f" \t{hosts}\t{KEY}\r\n", name) == [1] * found
    for marker in ("@cert-authority", "@revoked"):
        assert lines(f"{marker} {hosts} {KEY}\n", name) == [1] * found


PATTERNS = st.lists(
    st.text("ab.*?!", min_size=1, max_size=5).filter(lambda text: text.strip("!")), min_size=1, max_size=3
)


@pytest.mark.sshd
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    patterns=PATTERNS,
    name=st.text("ab.", min_size=1, max_size=4),
    marker=st.sampled_from(["", "@cert-authority ", "@revoked "]),
)
def test_patterns_match_as_in_ssh_keygen(tmp_path: Path, patterns: list[str], name: str, marker: str) -> None:
    path = tmp_path / "known_hosts"
    text = f"{marker}{','.join(patterns)} {KEY}\n"
    path.write_text(text)
    done = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", path], capture_output=True, timeout=60, check=False
    )
    assert bool(lines(text, name)) == (done.returncode == 0), text


@pytest.mark.sshd
def test_lines_with_hashed_names_are_found(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    key = public(new_key(tmp_path / "key"))
    path.write_text(
        f"edge,10.0.0.1 {key}\n[edge]:2222 {key}\n@revoked edge {key}\n@cert-authority edge {key}\n"
    )
    hash_hosts(path)
    text = path.read_text()
    assert "10.0.0.1" not in text
    assert [entry.marker for entry in find(text.encode(), b"edge").entries] == [
        b"",
        b"@revoked",
        b"@cert-authority",
    ]
    assert len(lines(text, "10.0.0.1")) == len(lines(text, "[edge]:2222")) == 1
    assert lines(text, "edg") == []


def test_a_hashed_line_may_be_marked() -> None:
    """ssh-keygen does not hash lines with a marker, but ssh(1) understands them if they are hashed."""
    salt = bytes(range(20))
    parts = (base64.b64encode(part).decode() for part in (salt, hmac.digest(salt, b"edge", "sha1")))
    hashed = f"|1|{'|'.join(parts)}"
    assert lines(f"@revoked {hashed} {KEY}\n", "edge") == [1]
    assert lines(f" {hashed} {KEY}\n", "edge") == [1]
    assert lines(f"{hashed} {KEY}\n", "other") == []


@pytest.mark.parametrize(
    "line",
    [
        "edge",
        "edge ssh-ed25519",
        f"edge ssh-rsa {KEY.split()[1]}",
        "edge ssh-ed25519 AAAA",
        f"edge {KEY}!",
        f"@trusted edge {KEY}",
        "@revoked edge",
        f"|1|c2FsdA== {KEY}",
        f"|2|{'A' * 27}=|{'A' * 27}= {KEY}",
        "edge \xff\xfe\x00",
    ],
)
def test_malformed_lines_do_not_hide_other_lines(line: str) -> None:
    data = f"{line}\nedge {KEY}\n".encode("latin-1")
    found = find(data, b"edge")
    assert [entry.line for entry in found.entries] == [2]
    assert found.unreadable in ([1], []), "a line that cannot be about the server is not parsed"
    bad, good, _ = data.split(b"\n")
    assert not is_line(bad)
    assert not is_entry(bad)
    assert is_entry(good)


def test_the_lines_with_a_key_are_found_under_any_name() -> None:
    other = "ssh-ed25519 " + base64.b64encode(BLOB[:-1] + b"x").decode()
    data = f"edge {KEY}\n@revoked * {KEY} comment\nother {other}\n# {KEY}\nlast {KEY}".encode()
    assert [entry.line for entry in holding(data, BLOB)] == [1, 2, 5]


@pytest.mark.parametrize(
    ("host", "port", "alias", "found"),
    [
        ("Edge.Example", 22, "", ["edge.example"]),
        ("Edge", 2222, "", ["[edge]:2222", "edge"]),
        ("edge", 2222, "Alias", ["alias"]),
        ("FE80::0008", 22, "", ["fe80::8"]),
        ("127.1", 22, "", ["127.0.0.1"]),
        ("::1", 2222, "", ["[::1]:2222", "::1"]),
        ("no such%name", 22, "", ["no such%name"]),
    ],
)
def test_names_and_addresses_are_looked_up_as_ssh_writes_them(
    host: str, port: int, alias: str, found: list[str]
) -> None:
    assert names(host, port, alias) == tuple(name.encode() for name in found)


def test_a_link_local_address_keeps_its_scope() -> None:
    assert canonical("FE80::8%lo") == "fe80::8%lo"


@pytest.mark.parametrize("is_hashed", [False, True])
def test_twenty_thousand_hosts_are_searched_fast(is_hashed: bool) -> None:
    """2 MiB, or 2.8 MiB with hashes: 45 ms of CPU on a busy machine, mostly for SHA-1. CI may be slower."""
    salted = b"|1|" + base64.b64encode(bytes(20)) + b"|" + base64.b64encode(bytes(20))
    hosts = [salted if is_hashed else b"host-%05d.example.com" % number for number in range(20_000)]
    data = b"".join(host + b" " + KEY.encode() + b"\n" for host in hosts)
    took = []
    for _ in range(5):
        started = time.thread_time()
        found = find(data, b"host-15000.example.com")
        took.append(time.thread_time() - started)
        assert (len(found.entries), found.unreadable) == (not is_hashed, [])
    assert min(took) < 0.2
