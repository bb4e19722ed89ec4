"""What every process says of itself, under the names that all Prometheus clients use: `process_*`, `python_*`."""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from proxy.series import Computed, Registry, Sample

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def register(registry: Registry) -> None:
    """Add them. Linux has them in /proc (proc_pid_stat(5)); elsewhere `process_*` are missing."""

    def single(name: str, text: str, kind: str, read: str) -> None:
        registry.families.append(Computed(name, text, kind, partial(_process, read, "_total" if kind == "counter" else "")))

    single("process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", "virtual")
    single("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", "resident")
    single("process_start_time_seconds", "Start time of the process in Unix time.", "gauge", "started")
    single("process_cpu_seconds", "User and system CPU time spent in seconds.", "counter", "cpu")
    single("process_open_fds", "Open file descriptors.", "gauge", "open_fds")
    single("process_max_fds", "The most file descriptors there may be.", "gauge", "max_fds")
    for name, key, text in (
        ("collections", "collections", "Times this generation was collected."),
        ("objects_collected", "collected", "Objects collected during gc."),
        ("objects_uncollectable", "uncollectable", "Uncollectable objects found during gc."),
    ):
        registry.families.append(Computed(f"python_gc_{name}", text, "counter", partial(_collected, key)))
    info = (("implementation", platform.python_implementation()), ("version", platform.python_version()))
    registry.families.append(Computed("python_info", "Python platform information.", "gauge", lambda: [Sample("", info, 1)]))


def _process(what: str, suffix: str) -> Iterator[Sample]:
    try:
        yield Sample(suffix, (), _READ[what]())
    except OSError:  # another system, or /proc is not mounted
        return


def _stat() -> list[str]:
    # The second field is the program's name in parentheses, and may hold anything.
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def _booted() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)  # not from /proc/stat, which systemd's ProcSubset=pid hides


def _collected(key: str) -> Iterator[Sample]:
    for generation, counts in enumerate(gc.get_stats()):
        yield Sample("_total", (("generation", str(generation)),), counts[key])


_READ: Final[dict[str, Callable[[], float]]] = {
    "virtual": lambda: float(_stat()[20]),
    "resident": lambda: float(_stat()[21]) * _PAGE,
    "started": lambda: float(_stat()[19]) / _TICKS + _booted(),
    "cpu": lambda: sum(os.times()[:2]),
    "open_fds": lambda: float(len(os.listdir("/proc/self/fd"))),  # noqa: PTH208 - a number, not paths
    "max_fds": lambda: float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
}
