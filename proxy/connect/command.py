"""`kubemux connect` as a process: its arguments, standard streams and exit code."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final, NamedTuple

from proxy.connect.asking import NotConnected, entry, target, through
from proxy.connect.streams import hand_over, pump, takes_descriptors
from proxy.runtime.endpoint import Endpoint, Local
from proxy.runtime.text import for_terminal

VARIABLE: Final = "KUBEMUX_ENTRY"
_STDIN, _STDOUT, _STDERR = range(3)


class Order(NamedTuple):
    """A parsed command line."""

    entry: Local
    target: Endpoint
    is_passed: bool


def attempt(words: list[str]) -> int | None:
    """Run the command and return its exit code; None, without doing anything, if `words` are not plain.

    Plain words are valid arguments that name the entry, unless $KUBEMUX_ENTRY does.
    """
    order = read(words, os.environ.get(VARIABLE, ""))
    return None if order is None else run(order)


def read(words: list[str], where: str) -> Order | None:
    """Parse `words`; `where` is the default for the entry. None if they are not plain."""
    rest = iter(words)
    names: list[str] = []
    is_passed = False
    for word in rest:
        if word == "--fdpass":
            is_passed = True
        elif word == "--entry":
            where = next(rest, "")
        elif word.startswith("--entry="):
            where = word.removeprefix("--entry=")
        elif word.startswith("-"):
            return None
        else:
            names.append(word)
    if not where or len(names) != 2:
        return None
    try:
        return Order(entry(where), target(*names), is_passed)
    except ValueError:
        return None


def run(order: Order) -> int:
    """Connect, and relay bytes or pass the socket on. Returns the exit code: 0, 1, or 2 (usage)."""
    _open_standard_streams()
    if order.is_passed and not takes_descriptors(_STDOUT):
        return _complain(
            "--fdpass needs a unix socket as standard output: `ProxyUseFdpass yes` makes ssh give one", 2
        )
    try:
        with through(order.entry, order.target) as sock:
            if order.is_passed:
                hand_over(sock, _STDOUT)
            else:
                pump(sock, _STDIN, _STDOUT)
    except NotConnected as exc:
        hint = f"\n  hint: {exc.hint}" if exc.hint else ""
        return _complain(f"{order.target}: {exc}{hint}", 1)
    except BrokenPipeError:  # the program that started us has ended
        return 1
    except OSError as exc:  # mostly a full disk
        return _complain(f"standard output: {exc.strerror or exc}", 1)
    return 0


def _complain(text: str, code: int) -> int:
    with suppress(OSError):
        os.write(_STDERR, f"kubemux: {for_terminal(text)}\n".encode(errors="replace"))
    return code


def _open_standard_streams() -> None:
    """Open /dev/null for standard streams that are closed: otherwise our socket would get one of their
    numbers.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
