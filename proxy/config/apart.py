"""Reading a configuration in a process of its own: `python -m proxy.config.apart FILE`, which the daemon starts and waits for.

The daemon then has neither the YAML parser nor what parsing leaves behind in its heap (9 MB with 100 gateways and clusters), and
a large file does not hold its interpreter: ruamel.yaml reads 80 KB a second.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from proxy.config.model import Config
from proxy.errors import ConfigError, Problem

TIMEOUT_S: Final = 120.0
"""Twice what the largest file takes that is read at all."""


def load(path: Path) -> Config:
    """What `proxy.config.loader.load` makes of `path`. Raises ConfigError. Blocking: from a loop, call it in a thread."""
    command = [sys.executable, "-P", "-m", "proxy.config.apart", str(path)]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]  # this very code, and what it needs
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=TIMEOUT_S,
            check=True,
            process_group=0,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise ConfigError(str(path), [Problem(0, "", f"reading it failed: {_why(exc)}", "kubemux check tells more")]) from exc
    result = pickle.loads(done.stdout)  # noqa: S301 - from ourselves, through a pipe that nobody else has
    if isinstance(result, Config):
        return result
    text, state = result
    error = ConfigError.__new__(ConfigError, text)  # its own constructor counts and cuts the problems: that is done
    vars(error).update(state)
    raise error


def _why(exc: Exception) -> str:
    if not isinstance(exc, subprocess.CalledProcessError):
        return str(exc) if isinstance(exc, OSError) else f"no end after {TIMEOUT_S:g} s"
    if exc.returncode < 0:
        return f"its reader was ended by {signal.Signals(-exc.returncode).name}"
    return f"its reader ended with exit code {exc.returncode}"


def main() -> None:
    """The child: the configuration, or what is wrong with it, goes to standard output."""
    from proxy.config import loader  # for the child alone: that is what it is for

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a daemon that was stopped meanwhile is no error, and wants no traceback
    try:
        result: object = loader.load(Path(sys.argv[1]))
    except ConfigError as error:
        result = str(error), vars(error)
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
