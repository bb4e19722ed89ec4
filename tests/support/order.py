"""A plugin that decides which worker runs which test, and in which order.

Workers get tests one by one, so that no worker is left with a long file at the end. Files whose tests share
something expensive stay on one worker. Tests that start other programs run first, short tests fill the time
that is left. Within each of these classes the order is random.

Each worker collects all tests, but each starts with other files. So in a fresh clone it finds most files
compiled by the others, instead of compiling the same file at the same time as they do.

(`--dist=loadgroup` would do, but pytest-xdist 3.8 cannot write a group into the node ids of pytest 9.2.)
"""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling

_TESTS: Final = Path(__file__).parents[1]

_KUBE_APISERVER: Final = "kube-apiserver"
_TOGETHER: Final = {
    "tests/health/test_as_kubectl.py": "kubectl's complaints",
    "tests/integration/test_egress.py": _KUBE_APISERVER,
    "tests/integration/test_kubectl.py": _KUBE_APISERVER,
    "tests/integration/test_life.py": _KUBE_APISERVER,
    "tests/integration/test_notebook_page.py": _KUBE_APISERVER,
    "tests/integration/test_pods.py": _KUBE_APISERVER,
    "tests/integration/test_proxy_clients.py": "one entry for all",
    "tests/integration/test_proxy_kubectl.py": _KUBE_APISERVER,
    "tests/integration/test_site_in_kubernetes.py": _KUBE_APISERVER,
    "tests/integration/test_site_kubectl.py": _KUBE_APISERVER,
    "tests/integration/test_watch_through_reloads.py": _KUBE_APISERVER,
    "tests/systemd/test_recipe.py": "wheels",
    "tests/test_source.py": "syntax trees",
    "tests/test_support.py": _KUBE_APISERVER,
    "tests/try_skypilot.py": _KUBE_APISERVER,
}
"""By file, the name of what its tests share: all tests that share it run on one worker."""

_FIRST: Final = ("bench", "faults", "integration", "systemd", "test_packaging.py")
"""Files and folders whose tests take long."""


class OneByOne(LoadScopeScheduling):  # type: ignore[misc]  # untyped
    """Gives a test to any free worker, and all tests of a group to the same worker."""

    def _split_scope(self, nodeid: str) -> str:
        return _TOGETHER.get(nodeid.partition("::")[0], nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneByOne:
    return OneByOne(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    ours = item.path.is_relative_to(_TESTS)  # a test of the fixtures writes test files elsewhere
    if (
        ours
        and isinstance(item, pytest.Function)
        and "etcd" in item.fixturenames
        and _file(item) not in _TOGETHER
    ):
        raise pytest.UsageError(
            f"{_file(item)} uses a {_KUBE_APISERVER}: write it into _TOGETHER of {__file__}"
        )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    found = report.result
    if isinstance(collector, pytest.Directory) and found:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        start = len(found) * worker // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        report.result = [*found[start:], *found[:start]]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Sort the tests by turn, and keep pytest-randomly's order within a turn. Before that, all workers need
    the same order.
    """
    items.sort(key=lambda item: item.path)
    yield
    items.sort(key=lambda item: _turn(item.path))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the session's fixtures after a group: an idle kube-apiserver would use 3 % of a core
    until the end.
    """
    group = _TOGETHER.get(_file(item))
    if group and nextitem and _TOGETHER.get(_file(nextitem)) != group:
        item.session._setupstate.teardown_exact(None)


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@cache
def _turn(path: Path) -> int:
    if any(path == _TESTS.parent / file for file in _TOGETHER):
        return 0
    return 1 if any(path.is_relative_to(_TESTS / name) for name in _FIRST) else 2
