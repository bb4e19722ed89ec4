"""A daemon whose files change: what it renews, when, and what it does not."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.config.loader import load
from proxy.daemon import file_scan
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.daemon.reload import reload
from proxy.daemon.renewal import Renewal
from tests.integration.conftest import cluster, gateway
from tests.support.daemon import Daemon as Written
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Authority, Certificates

pytestmark = pytest.mark.sshd

SELDOM = {"interval": "1h", "timeout": "60s", "threshold": 1}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may stop the thread that reads the files for seconds. Then they do not hang."""
    monkeypatch.setattr(file_scan, "FILES_S", 120.0)


@asynccontextmanager
async def running(
    sshd: Sshd, folder: Path, certificates: Certificates
) -> AsyncIterator[tuple[Daemon, Renewal, Path, Path]]:
    """A daemon in this loop, its `Renewal`, its key and its CA file."""
    key, ca = folder / "key", folder / "ca"
    key.write_bytes(sshd.identity.read_bytes())
    key.chmod(0o600)
    ca.write_bytes(certificates.ca.read_bytes())
    async with Https(certificates) as server:
        edge = gateway(sshd, identity_files=[str(key)], connections=1)
        prod = cluster(free_port(), server.endpoint, ca=ca, probe=SELDOM)
        path = Written(folder, gateways={"edge": edge}, clusters={"prod": prod}).config
        daemon = Daemon(load(path), config_path=path)
        await daemon.start(Controller(daemon))
        try:
            await until(lambda: sample(daemon, "cluster_up", cluster="prod") == 1)
            yield daemon, Renewal(daemon, asyncio.Lock()), key, ca
        finally:
            await daemon.stop(timeout=0)


def sample(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics.registry.get_sample_value(f"kubemux_{name}", labels) or 0.0


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def replaced(daemon: Daemon) -> float:
    return sample(daemon, "gateway_reconnects_total", gateway="edge", reason="replaced")


async def test_a_changed_key_is_used_once_it_has_stopped_changing(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    async with running(sshd, tmp_path, certificates) as (daemon, renewal, key, _):
        assert [await renewal.renew_changed() for _ in range(3)] == [False] * 3, (
            "nothing has changed since the start"
        )
        key.write_bytes(sshd.new_identity("second").read_bytes())
        assert not await renewal.renew_changed(), "the file may still be written to"
        assert await renewal.renew_changed()
        assert not await renewal.renew_changed()
        await until(lambda: replaced(daemon) == 1)
        key.write_bytes(key.read_bytes())
        assert not any([await renewal.renew_changed() for _ in range(3)]), (
            "the stamp has changed, but not the contents"
        )
        sshd.new_certificate()[1].rename(f"{key}-cert.pub")
        assert any([await renewal.renew_changed() for _ in range(2)]), "beside the key, and used"


async def test_a_file_that_always_changes_is_used_after_three_scans(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    async with running(sshd, tmp_path, certificates) as (daemon, renewal, key, ca):
        [await renewal.renew_changed() for _ in range(3)]
        key.write_bytes(sshd.new_identity("second").read_bytes())
        found = []
        for number in range(6):  # the sizes differ, as two writes may get the same time
            ca.write_bytes(certificates.ca.read_bytes() + b"#" * number + b"\n")
            found.append(await renewal.renew_changed())
        assert found == [False, False, True, False, False, True]
        await until(lambda: replaced(daemon) == 1)


async def test_a_file_that_cannot_be_used_renews_nothing(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    """A file that everybody may read, or that is missing, changes nothing. When it can be used again, it is
    used.
    """
    async with running(sshd, tmp_path, certificates) as (daemon, renewal, key, _):
        [await renewal.renew_changed() for _ in range(2)]
        key.write_bytes(sshd.new_identity("second").read_bytes())
        key.chmod(0o644)
        assert not any([await renewal.renew_changed() for _ in range(3)])
        away = key.rename(tmp_path / "away")
        assert not any([await renewal.renew_changed() for _ in range(3)])
        away.rename(key)
        key.chmod(0o600)
        assert any([await renewal.renew_changed() for _ in range(2)])
        await until(lambda: replaced(daemon) == 1)
        assert sample(daemon, "gateway_connects_total", gateway="edge", result="ok") == 2


async def test_a_new_ca_is_tried_at_once(sshd: Sshd, tmp_path: Path, certificates: Certificates) -> None:
    """The next regular probe is an hour away. Client connections do not depend on the CA file."""
    async with running(sshd, tmp_path, certificates) as (daemon, renewal, _, ca):
        [await renewal.renew_changed() for _ in range(2)]
        right = ca.read_bytes()
        ca.write_bytes(Authority(tmp_path / "other").ca.cert.read_bytes())
        assert any([await renewal.renew_changed() for _ in range(2)])
        await until(lambda: sample(daemon, "cluster_up", cluster="prod") == 0)
        ca.write_bytes(right)
        assert any([await renewal.renew_changed() for _ in range(2)])
        await until(lambda: sample(daemon, "cluster_up", cluster="prod") == 1)
        assert replaced(daemon) == 0


def passed_over(logs: Sequence[Mapping[str, object]]) -> list[str]:
    return [
        f"{entry['event']}: {entry['key']}"
        for entry in logs
        if entry["event"] in {"file hangs", "file answers again"}
    ]


async def test_a_file_that_hangs_is_named_once_and_other_files_are_still_scanned(
    sshd: Sshd, tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_scan, "FILES_S", 3.0)
    async with running(sshd, tmp_path, certificates) as (daemon, renewal, key, ca):
        [await renewal.renew_changed() for _ in range(2)]
        disk = DeadDisk(ca, monkeypatch)
        with capture_logs() as logs:
            key.write_bytes(sshd.new_identity("second").read_bytes())
            assert any([await renewal.renew_changed() for _ in range(3)]), (
                "what hangs keeps no other file from being taken"
            )
            await until(lambda: replaced(daemon) == 1)
            monkeypatch.setattr(file_scan, "FILES_S", 60.0)
            began = asyncio.get_running_loop().time()
            assert not any([await renewal.renew_changed() for _ in range(3)])
            assert asyncio.get_running_loop().time() - began < 30, "it is not waited for again"
            assert passed_over(logs) == ["file hangs: clusters.prod"]
            [message] = [entry["message"] for entry in logs if entry["event"] == "file hangs"]
            assert f"looking at {ca} has been hanging since 20" in str(message)
            ca.write_bytes(Authority(tmp_path / "other").ca.cert.read_bytes())
            disk.answer()
            await until_look(renewal)
            await until(lambda: sample(daemon, "cluster_up", cluster="prod") == 0)
            assert passed_over(logs) == ["file hangs: clusters.prod", "file answers again: clusters.prod"]


async def until_look(renewal: Renewal) -> None:
    async with asyncio.timeout(60):
        while not await renewal.renew_changed():
            await asyncio.sleep(0.01)


class DeadDisk:
    """Calls for `path` hang."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._over = threading.Event()
        stat = Path.stat

        def hanging(asked: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            if asked == path and threading.current_thread() is not threading.main_thread():
                assert self._over.wait(120)
            return stat(asked, follow_symlinks=follow_symlinks)

        monkeypatch.setattr(Path, "stat", hanging)

    def answer(self) -> None:
        self._over.set()


async def test_a_reload_does_not_wait_for_a_scan_that_hangs(
    sshd: Sshd, tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan's results belong to the old configuration, so they are dropped."""
    async with running(sshd, tmp_path, certificates) as (daemon, _, _, ca):
        reloading = asyncio.Lock()
        renewal = Renewal(daemon, reloading)
        [await renewal.renew_changed() for _ in range(2)]
        disk = DeadDisk(ca, monkeypatch)
        look = asyncio.get_running_loop().create_task(renewal.renew_changed())
        await asyncio.sleep(0)
        async with asyncio.timeout(30), reloading:
            await reload(daemon)
        disk.answer()
        assert not await look
