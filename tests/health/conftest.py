"""Certificates with every kind of fault, from one PKI."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.health.scripted import Pki
from tests.support.tls import Authority


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    name = ("kubernetes",)
    hour = timedelta(hours=1)
    return Pki(
        authority,
        good=authority.issue("good", dns=name),
        foreign=Authority(tmp_path_factory.mktemp("other"), "other").issue("foreign", dns=name),
        wrong_name=authority.issue("wrong-name", dns=("somebody.example",), ips=("192.0.2.1",)),
        expired=authority.issue("expired", dns=name, valid=(-2 * hour, -hour)),
        not_yet_valid=authority.issue("not-yet-valid", dns=name, valid=(hour, 2 * hour)),
        client=authority.issue("client"),
    )
