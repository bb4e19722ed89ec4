"""Which entry the commands on this machine use."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.entries import choose
from proxy.config.model import Config, EntryConfig, EntryTlsConfig
from proxy.errors import ConfigError
from proxy.runtime.endpoint import Endpoint, UnixPath

FILE = Path("/etc/kubemux/config.yaml")
TLS = EntryTlsConfig(cert_file=Path("/c"), key_file=Path("/k"))
REMOTE = EntryConfig(listen=Endpoint("127.0.0.1", 3129), tls=TLS)
CLOSED = EntryConfig(listen=UnixPath("/run/closed.sock"), users_file=Path("/u"))
PLAIN = EntryConfig(listen=Endpoint("127.0.0.1", 3128))


@pytest.mark.parametrize(
    ("name", "entry", "says"),
    [
        ("remote", REMOTE, "speaks TLS, which kubemux connect does not"),
        ("closed", CLOSED, "asks for a password, which kubemux connect does not send"),
    ],
)
def test_commands_of_this_machine_use_no_entry_with_tls_or_passwords(
    name: str, entry: EntryConfig, says: str
) -> None:
    config = Config(version=1, entries={name: entry, "proxy": PLAIN})
    assert choose(config, FILE) == ("proxy", PLAIN.listen)
    with pytest.raises(ConfigError, match="1 problem") as caught:
        choose(config, FILE, name)
    [problem] = caught.value.problems
    assert (problem.key, problem.message) == (f"entries.{name}", says)
    with pytest.raises(ConfigError, match="1 problem"):
        choose(Config(version=1, entries={name: entry}), FILE)
