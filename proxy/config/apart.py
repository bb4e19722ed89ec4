"""The daemon reads its configuration in a child process: `python -m proxy.config.apart FILE`.

So the daemon imports neither the YAML parser nor pydantic. Parsing leaves 9 MB in the heap (with 100 gateways
and clusters); they are freed when the child exits. ruamel.yaml reads 80 KB a second, so parsing a large file
in the daemon would block its interpreter. A file system that hangs blocks only the child, which reports it
after FILES_S seconds and can be killed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from proxy.config.model import Config
from proxy.errors import ConfigError, Problem
from proxy.runtime import program

TIMEOUT_S: Final = 120.0
"""Twice the time that reading the largest accepted file takes."""
_MAX_OUTPUT: Final = 64 << 20


class Loaded(NamedTuple):
    """A configuration, and the state of the files that it names."""

    config: Config
    fingerprint: Mapping[Path, bytes]
    """See `proxy.config.credentials.Inspection`."""
    hanging: tuple[Problem, ...] = ()
    """Gateways and clusters that name a file whose disk or server does not answer: nobody could check it."""
    doubts: tuple[Problem, ...] = ()
    """Warnings about accepted rules that match nobody."""


async def load(path: Path) -> Loaded:
    """Run `proxy.config.loader.load_for_daemon` on `path` in a child process. Raises ConfigError."""
    command = [sys.executable, "-P", "-m", "proxy.config.apart", str(path)]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # kubemux has no plugins. To find some, pydantic would read the metadata of all installed packages.
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
    }
    try:
        async with asyncio.timeout(TIMEOUT_S):
            ran = await program.run(command, environment=environment, most=_MAX_OUTPUT)
    except (OSError, ValueError) as exc:
        raise _failed(
            path, f"no end after {TIMEOUT_S:g} s" if isinstance(exc, TimeoutError) else str(exc)
        ) from exc
    if ran.code:
        sys.stderr.write(ran.errors.decode("utf-8", "replace"))  # the traceback of a bug
        raise _failed(path, _why(ran.code))
    if ran.errors:  # Python's warnings: issue them again here, where the daemon's log gets them
        warnings.warn(ran.errors.decode("utf-8", "replace").strip(), RuntimeWarning, stacklevel=2)
    result = pickle.loads(ran.output)  # noqa: S301 - from ourselves, through a pipe that nobody else has
    if isinstance(result[0], Config):
        return Loaded(*result)
    text, state = result
    # Without __init__: in the child it has counted the problems and dropped those beyond MAX_PROBLEMS.
    error = ConfigError.__new__(ConfigError, text)
    vars(error).update(state)
    raise error


def _failed(path: Path, why: str) -> ConfigError:
    return ConfigError(str(path), [Problem(0, "", f"reading it failed: {why}", "kubemux check tells more")])


def _why(code: int) -> str:
    if code < 0:
        return f"its reader was ended by {signal.Signals(-code).name}"
    return f"its reader ended with exit code {code}"


def main() -> None:
    """In the child: write the configuration, or the ConfigError, to standard output."""
    gc.disable()  # all of it ends with the process
    from proxy.config import loader  # here, because the daemon imports this module and must not import that

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # no traceback if the daemon has exited meanwhile
    try:
        config, found, hanging, doubts = loader.load_for_daemon(Path(sys.argv[1]))
        result: object = config, dict(found.fingerprint), tuple(hanging), tuple(doubts)
    except ConfigError as error:
        result = str(error), vars(error)
    sys.stdout.buffer.write(pickle.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # a thread may hang, and freeing all objects first takes 50 ms


if __name__ == "__main__":
    main()
