"""What importing a command costs: its modules take longer than all that it does before its first answer."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without garbage collections: almost all that modules make stays.

    To look through it again and again took 40 of the 350 ms of CPU that the daemon's modules need.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def without_compilers() -> Iterator[None]:
    """Import with a PATH on which nothing is found.

    asyncssh looks for liboqs by `ctypes.util.find_library`. Where ldconfig does not know it, that runs gcc
    and ld, if they are there: 20 ms, and nothing that a daemon should start.
    """
    path = os.environ.get("PATH")
    os.environ["PATH"] = os.devnull  # an empty one is the working directory
    try:
        yield
    finally:
        if path is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = path


@contextmanager
def without(library: str) -> Iterator[None]:
    """Make imports of `library` fail, as if it were not installed, unless it was imported already."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]  # what the import system takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[library]
