"""A daemon with longer deadlines than a user's: on a busy machine, the other side may need seconds."""

from __future__ import annotations

import json
import sys
from typing import Final

_RUN: Final = """
import json, runpy, sys
from importlib import import_module
for name, value in json.loads(sys.argv[1]).items():
    module, _, constant = name.rpartition(".")
    vars(import_module(module))[constant] *= value
del sys.argv[1:5]
runpy.run_module("proxy", run_name="__main__", alter_sys=True)
"""


def patient(times: float, *constants: str) -> tuple[str, ...]:
    """The `wrapper` of a `tests.support.daemon.Daemon` whose `constants` (MODULE.NAME) are so many times as
    long.
    """
    return (sys.executable, "-c", _RUN, json.dumps(dict.fromkeys(constants, times)))


HALF_CLOSES: Final = patient(60, "proxy.daemon.connections.HALF_CLOSE_S")
"""An API server has a minute after a half-close, until its connections are reset."""
