"""The algorithms that an ssh_config asks for, and the order in which kubemux offers them. Pure.

`ssh -G` prints a list after it has applied the file's `+`, `-` and `^` to ssh's defaults. A comparison with
those defaults shows what the file asked for. kubemux offers the algorithms of the printed list. Their order
is the file's if the file gives one, otherwise kubemux's own (AES-GCM first, for example):

    printed                                   asked for, and our order
    the defaults, perhaps others after them   `+`: our order, then the others
    some of the defaults, in their order      `-`: our order
    some, then the defaults without them      `^`: these, then our order
    anything else                             the list as it is
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A list that is not ssh's default, as `ssh -G` has printed it."""

    names: Names
    defaults: Names

    def merged(self, ours: Sequence[str]) -> Names:
        """The names; those to which the file gives no order are in the order of `ours`."""
        return _unique(*self._ordered(), *(name for name in ours if name in self.names), *self.names)

    def _ordered(self) -> Names:
        defaults = [name for name in self.defaults if name in self.names]
        if self.names[: len(defaults)] == tuple(defaults):
            return ()
        for length in range(1, len(self.names)):
            first = self.names[:length]
            if self.names[length:] == tuple(name for name in self.defaults if name not in first):
                return first
        return self.names


def split(text: str) -> Names:
    """The names of a list, each once."""
    return _unique(*filter(None, text.split(",")))


def usable(names: Iterable[str], known: Iterable[str]) -> Names:
    """Those of `names` that are `known`, in the order of `names`."""
    there_are = frozenset(known)
    return tuple(name for name in names if name in there_are)


def _unique(*names: str) -> Names:
    return tuple(dict.fromkeys(names))
