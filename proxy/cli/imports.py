"""Makes imports of commands faster. Imports take most of the time until a command prints something."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without garbage collections, because nearly all objects of modules stay.

    Collections took 40 of the 350 ms of CPU for importing the daemon's modules.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def without_compilers() -> Iterator[None]:
    """Import with a PATH without any program.

    asyncssh looks for liboqs with `ctypes.util.find_library`. If ldconfig does not know liboqs, that function
    runs gcc and ld, if they exist. This takes 20 ms, and a daemon should not start compilers.
    """
    path = os.environ.get("PATH")
    os.environ["PATH"] = os.devnull  # an empty PATH means the working directory
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
    sys.modules[library] = None  # type: ignore[assignment]  # None makes an import fail
    try:
        yield
    finally:
        del sys.modules[library]
