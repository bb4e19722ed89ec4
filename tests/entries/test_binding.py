"""Why an address cannot be bound, and what to do then."""

from __future__ import annotations

import os

import pytest

from proxy.entries import binding
from proxy.errors import ListenError
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint

NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_port_that_only_root_may_bind_has_a_remedy_of_its_own() -> None:
    os.seteuid(NOBODY)
    try:
        with pytest.raises(ListenError, match=r"listen on 127\.0\.0\.1:1: Permission denied") as caught:
            await binding.bind(Endpoint("127.0.0.1", 1), Place("names"))
    finally:
        os.seteuid(0)
    assert "below 1024" in caught.value.hint
    assert "kubemux.socket" in caught.value.hint
