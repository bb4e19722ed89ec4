"""The scripted entry as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.connect.scripted import Entry


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Entry]:
    with closing(Entry(tmp_path)) as one:
        yield one
