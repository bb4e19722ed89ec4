"""Opens sockets as another user of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """In the block, sockets that this thread opens belong to `uid`."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
