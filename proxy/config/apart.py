"""Reading a configuration in a process of its own: `python -m proxy.config.apart FILE`, which the daemon
starts and waits for.

The daemon then has neither the YAML parser nor what parsing leaves behind in its heap (9 MB with 100 gateways
and clusters), and a large file does not hold its interpreter: ruamel.yaml reads 80 KB a second. A file that
hangs, hangs that process, which says so after FILES_S seconds and can be ended.
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
"""Twice what the largest file takes that is read at all."""
_MOST: Final = 64 << 20


class Loaded(NamedTuple):
    """A configuration, and what was found of the files that it names."""

    config: Config
    fingerprint: Mapping[Path, bytes]
    """See `proxy.config.credentials.Look`."""
    hanging: tuple[Problem, ...] = ()
    """Gateways and clusters of which a file does not answer; whether it can be used, nobody knows."""


async def load(path: Path) -> Loaded:
    """What `proxy.config.loader.load_patiently` makes of `path`. Raises ConfigError."""
    command = [sys.executable, "-P", "-m", "proxy.config.apart", str(path)]
    paths = [
        str(Path(__file__).parents[2]),
        os.environ.get("PYTHONPATH", ""),
    ]  # this very code, and what it needs
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            ran = await program.run(command, environment=environment, most=_MOST)
    except (OSError, ValueError) as exc:
        raise _failed(
            path, f"no end after {TIMEOUT_S:g} s" if isinstance(exc, TimeoutError) else str(exc)
        ) from exc
    if ran.code:
        sys.stderr.write(ran.complaints.decode("utf-8", "replace"))  # a bug's traceback
        raise _failed(path, _why(ran.code))
    if ran.complaints:  # Python's warnings: from here they go where ours do
        warnings.warn(ran.complaints.decode("utf-8", "replace").strip(), RuntimeWarning, stacklevel=2)
    result = pickle.loads(ran.output)  # noqa: S301 - from ourselves, through a pipe that nobody else has
    if isinstance(result[0], Config):
        return Loaded(*result)
    text, state = result
    error = ConfigError.__new__(
        ConfigError, text
    )  # its own constructor counts and cuts the problems: that is done
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
    from proxy.config import loader  # for the child alone: that is what it is for

    signal.signal(
        signal.SIGPIPE, signal.SIG_DFL
    )  # a daemon that was stopped meanwhile is no error, and wants no traceback
    try:
        config, found, hanging = loader.load_patiently(Path(sys.argv[1]))
        result: object = config, dict(found.fingerprint), tuple(hanging)
    except ConfigError as error:
        result = str(error), vars(error)
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
