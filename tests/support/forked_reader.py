"""The reader of the configuration (`proxy.config.apart`), forked by a daemon that was forked itself.

Its imports take a quarter of a second of CPU, more than all else that a daemon does until it is ready. They
are made before the daemon is forked, and hidden from it: the daemon has none of these modules, and its
readers have them.
"""

from __future__ import annotations

import inspect
import os
import resource
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tests.support.forks import PIPES, Order, become

_MODULE: Final = "proxy.config.apart"
_HIDDEN: Final = frozenset({"proxy", "pydantic", "pydantic_core", "ruamel"})
"""Packages of which a daemon has nothing, or not all."""
_hidden: Final[dict[str, ModuleType]] = {}


def prepare() -> None:
    """Import what the reader needs, and hide what the daemon has not imported by itself."""
    own = set(sys.modules)
    import_module("proxy.config.loader").parse(b"version: 1\n", "")  # pydantic compiles the model
    for name in sys.modules.keys() - own:
        if name.partition(".")[0] in _HIDDEN:
            _hidden[name] = sys.modules.pop(name)


def install() -> None:
    """From now on, a reader that this process starts is forked."""
    subprocess.Popen = _Reader  # type: ignore[assignment, misc]


class _Reader(subprocess.Popen[bytes]):
    """A `Popen` that forks the reader, and executes everything else."""

    def _execute_child(self, *given: Any) -> None:
        execute: Callable[..., None] = super()._execute_child  # type: ignore[misc]
        asked: dict[str, Any] = inspect.signature(execute).bind(*given).arguments
        command = list(asked["args"])
        if _MODULE not in command:
            execute(*given)
            return
        order: Order = {
            "words": command[command.index(_MODULE) + 1 :],
            "environment": asked["env"],
            "folder": str(Path.cwd()),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "descriptors": [0, 1, 2],
            "starts_session": asked["start_new_session"],
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads are not in the fork
            self.pid = os.fork()
        if not self.pid:
            _read(order, [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]])
        self._child_created: bool = True
        self._close_pipe_fds(*(asked[name] for name in PIPES))  # type: ignore[attr-defined]


def _read(order: Order, descriptors: list[int]) -> None:
    """Be the reader. Does not return."""
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        become(order, descriptors)
        sys.modules.update(_hidden)
        del sys.modules[_MODULE]  # runpy warns of what it runs for a second time
        runpy.run_module(_MODULE, run_name="__main__", alter_sys=True)
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
    finally:
        os._exit(1)
