"""The certificates of the probe's tests."""

from __future__ import annotations

from tests.health.conftest import pki as pki
