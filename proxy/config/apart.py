"""The daemon reads its configuration in a child process: `python -m proxy.config.apart FILE`.

So the daemon loads neither the YAML parser nor pydantic, and what parsing leaves in the heap (9 MB with 100
gateways and clusters) goes with the child. A large file does not hold the daemon's interpreter: ruamel.yaml
reads 80 KB a second. A file system that hangs holds the child, which reports that after FILES_S seconds and
can be killed.
"""

from __future__ import annotations

import asyncio
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
"""Twice the time that the largest accepted file takes."""
_MOST: Final = 64 << 20


class Loaded(NamedTuple):
    """A configuration, and the state of the files that it names."""

    config: Config
    fingerprint: Mapping[Path, bytes]
    """See `proxy.config.credentials.Look`."""
    hanging: tuple[Problem, ...] = ()
    """Gateways and clusters with a file that does not answer, so that it could not be checked."""


async def load(path: Path) -> Loaded:
    """What `proxy.config.loader.load_patiently` makes of `path`. Raises ConfigError."""
    command = [sys.executable, "-P", "-m", "proxy.config.apart", str(path)]
    paths = [
        str(Path(__file__).parents[2]),
        os.environ.get("PYTHONPATH", ""),
    ]  # this code and its libraries
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            ran = await program.run(command, environment=environment, most=_MOST)
    except (OSError, ValueError) as exc:
        raise _failed(
            path, f"no end after {TIMEOUT_S:g} s" if isinstance(exc, TimeoutError) else str(exc)
        ) from exc
    if ran.code:
        sys.stderr.write(ran.complaints.decode("utf-8", "replace"))  # the traceback of a bug
        raise _failed(path, _why(ran.code))
    if ran.complaints:  # Python's warnings: from here they go where ours do
        warnings.warn(ran.complaints.decode("utf-8", "replace").strip(), RuntimeWarning, stacklevel=2)
    result = pickle.loads(ran.output)  # noqa: S301 - from ourselves, through a pipe that nobody else has
    if isinstance(result[0], Config):
        return Loaded(*result)
    text, state = result
    # Its constructor has counted and cut the problems already, in the child.
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
    """The child: the configuration, or what is wrong with it, goes to standard output."""
    from proxy.config import loader  # only the child may have it

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # no traceback when the daemon was stopped meanwhile
    try:
        config, found, hanging = loader.load_patiently(Path(sys.argv[1]))
        result: object = config, dict(found.fingerprint), tuple(hanging)
    except ConfigError as error:
        result = str(error), vars(error)
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
