"""Which entry commands of this machine connect to."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.entries import choose
from proxy.config.model import Config, EntryConfig, EntryTlsConfig
from proxy.errors import ConfigError
from proxy.runtime.endpoint import Endpoint

FILE = Path("/etc/kubemux/config.yaml")
TLS = EntryTlsConfig(cert_file=Path("/c"), key_file=Path("/k"))
REMOTE = EntryConfig(listen=Endpoint("127.0.0.1", 3129), tls=TLS)
PLAIN = EntryConfig(listen=Endpoint("127.0.0.1", 3128))


def test_an_entry_with_tls_is_for_others() -> None:
    config = Config(version=1, entries={"remote": REMOTE, "proxy": PLAIN})
    assert choose(config, FILE) == ("proxy", PLAIN.listen)
    with pytest.raises(ConfigError, match="1 problem") as caught:
        choose(config, FILE, "remote")
    [problem] = caught.value.problems
    assert (problem.key, problem.message) == (
        "entries.remote",
        "speaks TLS, which kubemux connect does not",
    )
    with pytest.raises(ConfigError, match="1 problem"):
        choose(Config(version=1, entries={"remote": REMOTE}), FILE)
