"""The message when two KEXINITs have no algorithm in common (RFC 4253 7.1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.login.agreement import disagreement


def kexinit(*lists: str) -> bytes:
    names = [*lists, *[""] * (10 - len(lists))]
    return bytes(17) + b"".join(len(text).to_bytes(4) + text.encode() for text in names) + bytes(5)


OURS = kexinit(
    "curve25519-sha256,ext-info-c,kex-strict-c-v00@openssh.com",
    "ssh-ed25519,rsa-sha2-256",
    "aes128-ctr",
    "aes128-ctr",
    "m",
    "m",
)


def test_each_kind_names_both_sides_and_the_allowed_values() -> None:
    theirs = ["curve25519-sha256", "ssh-ed25519", "aes128-ctr", "aes128-ctr", "m", "m"]
    assert disagreement("edge:22", OURS, kexinit(*theirs)) is None
    for index, other, what, option in (
        (0, "sntrup761x25519-sha512,ext-info-s", "key exchange", "KexAlgorithms"),
        (1, "ssh-rsa,ssh-foo", "host key algorithm", "HostKeyAlgorithms"),
        (2, "3des-cbc", "cipher", "Ciphers"),
        (3, "3des-cbc", "cipher", "Ciphers"),
        (4, "hmac-md5", "MAC", "MACs"),
        (5, "hmac-md5", "MAC", "MACs"),
    ):
        found = disagreement("edge:22", OURS, kexinit(*theirs[:index], other, *theirs[index + 1 :]))
        assert found
        assert found.reason == "handshake_failed"
        it_has = other.replace(",ext-info-s", "").replace(",", ", ")
        assert str(found).startswith(
            f"edge:22 and kubemux have no {what} in common: it has {it_has}, kubemux has "
        )
        assert "kex-strict" not in str(found)
        assert option in found.hint
    rsa = disagreement("edge:22", OURS, kexinit(theirs[0], "ssh-rsa,ssh-foo"))
    assert rsa
    assert rsa.hint.endswith("an ssh_config in the gateway that says HostKeyAlgorithms +ssh-rsa")
    sntrup = disagreement("edge:22", OURS, kexinit("sntrup761x25519-sha512"))
    assert sntrup
    assert "ssh_config" not in sntrup.hint.replace("sshd_config", ""), "no option enables it"


def test_no_mac_is_needed_beside_a_cipher_that_has_its_own() -> None:
    names = ("k", "h", "aes128-gcm@openssh.com", "aes128-gcm@openssh.com")
    assert disagreement("edge:22", kexinit(*names, "a", "a"), kexinit(*names, "b", "b")) is None


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_give_a_short_printable_message_or_none(ours: bytes, theirs: bytes) -> None:
    found = disagreement("edge:22", bytes(17) + ours, bytes(17) + theirs)
    assert found is None or (str(found).isprintable() and len(str(found)) < 1000)
