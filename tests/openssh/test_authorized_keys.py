"""authorized_keys in the format of sshd(8), and the lines of it that are not used."""

from __future__ import annotations

import pytest

from proxy.openssh import authorized_keys
from proxy.openssh.authorized_keys import Bad, Key, Options, parse, read_options
from tests.support import ssh_keys


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> str:
    return ssh_keys.public(ssh_keys.new_key(tmp_path_factory.mktemp("keys") / "key"))


def one(text: str) -> Key | Bad:
    good, bad = parse(text.encode())
    assert len(good) + len(bad) == 1
    return good[0] if good else bad[0]


@pytest.mark.parametrize("before", ["", "  ", "no-pty ", 'no-pty,from="10.0.0.0/8, 10.1.*" '])
def test_a_key_is_read_alone_and_after_options(line: str, before: str) -> None:
    found = one(f"{before}{line} ops@laptop")
    assert isinstance(found, Key) is (", " not in before)
    assert found.blob


def test_a_file_written_on_windows_is_read(line: str) -> None:
    keys, bad = parse(f"\ufeff{line}\r\n# mine\r\nrestrict {line}\r\n".encode())
    assert ([key.options.may_forward for key in keys], bad) == ([True, False], ())


def test_comments_and_empty_lines_are_skipped() -> None:
    assert parse(b"# ssh-ed25519 AAAA\n\n   \n") == ((), ())


@pytest.mark.parametrize(
    ("options", "may_forward"),
    [
        ("", True),
        ("restrict", False),
        ("restrict,port-forwarding", True),
        ("port-forwarding,RESTRICT", False),
    ],
)
def test_the_last_flag_wins(options: str, may_forward: bool) -> None:
    assert read_options(options).may_forward is may_forward


@pytest.mark.parametrize(
    "options",
    [
        'command="true"',
        'environment="A=b"',
        'tunnel="1"',
        "verify-required",
        "no-such-option",
        'from="*.example.com"',
        'from="!laptop.example.com,*"',
        'from="10.0.0.1/8"',
        'from="*,!::ffff:10.0.0.1"',
        'from="fe80::1%eth0"',
        'from="10.0.0.0/8",from="*"',
        "from=10.0.0.0/8",
        'permitopen="host"',
        'permitopen="host:0"',
        'expiry-time="2026"',
        'expiry-time="20261340"',
        'expiry-time="00010101"',
        'principals="a"',
        "cert-authority,principals",
        'cert-authority,principals="a,,b"',
        'pty="yes"',
        "restrict,",
        ",restrict",
        'restrict "',
    ],
)
def test_an_option_that_cannot_be_enforced_refuses_the_key(line: str, options: str) -> None:
    found = one(f"{options} {line}")
    assert isinstance(found, Bad)
    assert found.hint
    assert found.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('permitopen="node-a"', "has the option permitopen: 'node-a' is not HOST:PORT"),
        ('permitlisten="a:0"', "has the option permitlisten: 'a:0' is not HOST:PORT"),
        ('expiry-time="2027"', "has the option expiry-time: '2027' is not YYYYMMDD[HHMM[SS]][Z]"),
        ('from="10.1.0.0/33"', "has the option from: '10.1.0.0/33' is not an address, a network, or an "),
    ],
)
def test_the_message_names_the_option(line: str, options: str, message: str) -> None:
    found = one(f"{options} {line}")
    assert isinstance(found, Bad)
    assert found.message.startswith(message)
    assert found.hint == "correct the option, or take the line out"


@pytest.mark.parametrize(
    ("first", "message", "remedy"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "is a private key", "replace it by its .pub file"),
        ("PuTTY-User-Key-File-3: ssh-ed25519", "is a private key", "replace it by its .pub file"),
        ("---- BEGIN SSH2 PUBLIC KEY ----", "is a public key in another format", "ssh-keygen -i -f FILE"),
        ("-----BEGIN PUBLIC KEY-----", "is a public key in another format", "ssh-keygen -i -m PKCS8"),
    ],
)
def test_a_file_of_another_format_is_recognized(line: str, first: str, message: str, remedy: str) -> None:
    keys, bad = parse(f"{first}\nAAAA\n{line}\n".encode())
    assert len(keys) == 1
    assert bad[0].message.startswith(message)
    assert remedy in bad[0].hint


def test_a_cut_key_and_a_certificate_have_remedies_of_their_own(line: str) -> None:
    kind, encoded = line.split()[:2]
    found = one(f"{kind} {encoded[:60]}")
    assert isinstance(found, Bad)
    assert found.hint.startswith("copy the whole line")


def test_a_file_with_too_many_invalid_lines_is_not_read_to_its_end(line: str) -> None:
    most = authorized_keys.MOST_JUNK
    keys, bad = parse(b"junk\n" * most + line.encode())
    assert (keys, len(bad)) == ((), most)
    keys, bad = parse(b"junk\n" * (most - 1) + line.encode())
    assert (len(keys), len(bad)) == (1, most - 1)


def test_a_quoted_value_may_contain_separators(line: str) -> None:
    found = one(rf'command="echo \"a, b\" c" {line}')
    assert isinstance(found, Bad)
    assert (found.message, bool(found.blob)) == (
        "has the option command, which kubemux does not enforce",
        True,
    )


def test_options_about_features_that_kubemux_lacks_are_ignored() -> None:
    options = "no-pty,pty,no-X11-forwarding,no-agent-forwarding,no-user-rc,agent-forwarding"
    assert read_options(options) == Options()
