"""The choice of a link's data plane: the first that supports the connection, from the one in the environment
on.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest
import structlog

from proxy.relay.budget import MemoryBudget
from proxy.ssh import planes
from proxy.ssh.data_plane import DataPlane, PlaneUser, Unsupported
from proxy.ssh.planes import DATA_PLANE, MODES, take_over
from proxy.ssh.turns import Turns

CONN = cast("asyncssh.SSHClientConnection", object())
LINK = cast("PlaneUser", SimpleNamespace(name="edge/1", server="10.0.0.1:22", on_open=None))


def test_the_data_planes_are_native_and_asyncssh() -> None:
    assert MODES == ("native", "asyncssh")


@pytest.fixture
def unsupported(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Three planes; those in the returned set support no connection."""
    refusing: set[str] = set()

    def make(mode: str) -> planes.Make:
        def made(*_: Any) -> DataPlane:
            if mode in refusing:
                raise Unsupported(f"not by {mode}")
            return cast("DataPlane", mode)

        return made

    modes = ("core", "native", "asyncssh")
    monkeypatch.setattr(planes, "_PLANES", {mode: make(mode) for mode in modes})
    monkeypatch.setattr(planes, "MODES", modes)
    monkeypatch.delenv(DATA_PLANE, raising=False)
    return refusing


def taken() -> tuple[object, list[object]]:
    with structlog.testing.capture_logs() as said:
        plane = take_over(CONN, MemoryBudget(1 << 20, 1), Turns(), LINK)
    return plane, [entry["message"] for entry in said]


@pytest.mark.parametrize(
    ("asked", "refusing", "plane", "said"),
    [
        (None, set(), "core", []),
        ("no such plane", set(), "core", []),
        ("native", set(), "native", []),
        ("asyncssh", {"core", "native"}, "asyncssh", []),
        (None, {"core"}, "native", ["not by core"]),
        (None, {"core", "native"}, "asyncssh", ["not by core", "not by native"]),
        ("native", {"core", "native"}, "asyncssh", ["not by native"]),
    ],
)
def test_the_first_plane_that_supports_a_connection_carries_it(
    asked: str | None,
    refusing: set[str],
    plane: str,
    said: list[str],
    unsupported: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if asked is not None:
        monkeypatch.setenv(DATA_PLANE, asked)
    unsupported |= refusing
    assert taken() == (plane, said)


@pytest.mark.parametrize(("on_open", "level"), [(None, "warning"), (print, "info")])
def test_a_cipher_that_a_client_has_chosen_causes_no_warning(
    on_open: object, level: str, unsupported: set[str]
) -> None:
    unsupported |= {"core"}
    link = cast("PlaneUser", SimpleNamespace(name="ops/1", server="ssh-user:ops", on_open=on_open))
    with structlog.testing.capture_logs() as said:
        take_over(CONN, MemoryBudget(1 << 20, 1), Turns(), link)
    assert [entry["log_level"] for entry in said] == [level]


def test_without_any_supported_plane_unsupported_is_raised(unsupported: set[str]) -> None:
    unsupported |= {"core", "native", "asyncssh"}
    with pytest.raises(Unsupported, match="not by asyncssh"):
        taken()
