"""Fixtures for all tests: real servers, uvloop, and the check that a test leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import hypothesis
import pytest
import pytest_asyncio
import structlog

from bench import charts
from tests.support import parts
from tests.support.apiserver import ApiServer, run_etcd
from tests.support.kubemux import forkers
from tests.support.leaks import Leaks, LoopLeaks, Uvloop, quick_collections
from tests.support.ports import claim
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytest_plugins = ["pytester", "tests.faults.table", "tests.support.order"]

# In these versions, asyncio's writelines() never pauses the protocol (cpython#127655). Tests that need the
# pause run on the daemon's loop only.
_PAUSES_NOBODY: Final = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)


def pytest_configure(config: pytest.Config) -> None:
    # The suite starts kubemux hundreds of times. To compile it each time takes a sixth of each start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Go's garbage collector takes a third of kubectl's CPU, and there is enough memory.
    os.environ.setdefault("GOGC", "400")
    # On a busy machine, an example may take longer than 200 ms, and those of a test may be drawn too slowly.
    hypothesis.settings.register_profile(
        "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("suite")
    for part, (text, _) in parts.PARTS.items():
        config.addinivalue_line("markers", f"{part}: {text}; skipped without, failed if CI=true")
    config.addinivalue_line(
        "markers", "both_loops(pauses=False): run on uvloop and asyncio's own loop, not on uvloop alone"
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": Uvloop}
    marker = item.get_closest_marker("both_loops")
    if marker and not (_PAUSES_NOBODY and marker.kwargs.get("pauses")):
        factories["asyncio"] = asyncio.new_event_loop
    return factories


def pytest_itemcollected(item: pytest.Item) -> None:
    # Between the check of the process and the test's own fixtures: so this is the last check of a running
    # loop.
    if (
        isinstance(item, pytest.Function)
        and pytest_asyncio.is_async_test(item)
        and "_quiet_loop" not in item.fixturenames
    ):
        item.fixturenames.insert(item.fixturenames.index("_nothing_left") + 1, "_quiet_loop")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in parts.PARTS:
        if item.get_closest_marker(part):
            parts.need(part)


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> Iterator[None]:
    # libuv makes a pipe for signals with the first loop, and never closes it. Our ports stay open, too.
    Uvloop().close()
    claim()
    with forkers(), quick_collections():
        yield


@pytest.fixture(autouse=True)
def _signal_mask() -> Iterator[None]:
    """Restore the signal mask. `kubemux run` blocks SIGHUP until the daemon runs. If a test calls it in this
    process, no daemon runs, and programs that later tests start would inherit the mask.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Restore the logging: a command that runs in this process changes the level for later tests."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _nothing_left(_quick_collections: None) -> Iterator[None]:
    leaks = Leaks()
    gc.freeze()  # otherwise the check's garbage collections read all existing objects: 4 ms for each test
    yield
    if left := leaks.everything():
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest_asyncio.fixture
async def _quiet_loop(_nothing_left: None) -> AsyncIterator[None]:
    leaks = LoopLeaks()
    yield
    if left := await leaks.everything():
        pytest.fail("the test left in its event loop:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Open matplotlib's font files, which stay open, before a test that draws is checked for leaks."""
    with charts.chart(tmp_path_factory.mktemp("fonts") / "empty.svg", "bold", "regular", 1):
        pass


@pytest.fixture
def sshd_factory(tmp_path: Path) -> Iterator[SshdFactory]:
    """Call it for every sshd that the test needs; all are stopped at its end."""
    parts.need("sshd")
    with ExitStack() as stack:
        count = iter(range(100))

        def start(*, config: Mapping[str, str] | None = None, host_certificate: bool = False) -> Sshd:
            return stack.enter_context(
                Sshd(tmp_path / f"sshd{next(count)}", config=config, host_certificate=host_certificate)
            )

        yield start


@pytest.fixture
def sshd(sshd_factory: SshdFactory) -> Sshd:
    """A running sshd."""
    return sshd_factory()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA, a server certificate for `kubernetes` alone, an administrator's certificate."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running etcd."""
    parts.need("apiserver")
    with run_etcd(tmp_path_factory.mktemp("etcd")) as url:
        yield url


@pytest.fixture(scope="session")
def apiserver(etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running kube-apiserver."""
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    # Without the cache for pods, a watch gets etcd's own answer: 410 after a compaction.
    with server.run(etcd, "--watch-cache-sizes=pods#0"):
        yield server


@pytest.fixture(scope="session")
def second_apiserver(etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Another cluster: its own CA, its own objects."""
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    with server.run(etcd):
        yield server
