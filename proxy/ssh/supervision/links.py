"""The links of one gateway: which get new channels, which are to be replaced, which retire.

Pure: decisions, no I/O.

    add          renew, mark_stale          retire_surplus         remove
    ---> fresh -------------------> stale ----------------> retiring ------->

A stale link serves until its replacement is up (make before break), like a connection of an older generation
in asyncpg's pool. So a gateway has at most `wanted` links that serve, and as many again that only wait for
their last channel to end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from operator import attrgetter
from typing import Final, Generic, Protocol, TypeVar


class Loaded(Protocol):
    """The load of a link."""

    @property
    def load(self) -> int:
        """The number of channels that are open or being opened."""

    @property
    def weight(self) -> int:
        """How busy it is, in coarse steps (`proxy.ssh.pace`)."""


L = TypeVar("L", bound=Loaded)

MAX_PREFERRED: Final = 4096
"""How many targets are remembered. Without a limit, each reload could add more."""

_STALE: Final = -1
_load = attrgetter("load")
_weight = attrgetter("weight")


class Links(Generic[L]):
    """The links of one gateway. Iteration yields those that serve, oldest first."""

    def __init__(self) -> None:
        self.generation = 0
        """The version of the settings and files (keys, certificates, known_hosts) that new links are made
        with.

        Read it before the settings and files are read.
        """
        self.retiring: list[L] = []
        self._serving: list[L] = []
        self._generations: dict[L, int] = {}
        self._choice: list[L] = []
        self._preferred: dict[Hashable, L] = {}

    def __repr__(self) -> str:
        return f"<Links {self._serving} stale={len(self.stale)} retiring={self.retiring}>"

    def __iter__(self) -> Iterator[L]:
        return iter(self._serving)

    def __len__(self) -> int:
        return len(self._serving)

    def __getitem__(self, index: int) -> L:
        return self._serving[index]

    @property
    def stale(self) -> list[L]:
        """Links that serve and are to be replaced."""
        return [link for link in self._serving if self._generations[link] != self.generation]

    def choose(self, target: Hashable) -> L:
        """The least busy link, for a new channel to `target`; a stale one only if there is no other.

        Raises ValueError if none serves.

        Of equally busy links it chooses the one that `target` had last. Requests to one API server are then
        read and written together: with two links 32 clients had 36,000 answers a second, with one 44,000,
        because each sshd was woken less often. And a busy cluster slows down the channels of only one link.
        """
        preferred = self._preferred.get(target)
        if preferred is None or preferred.weight:
            least = min(map(_weight, self._choice))
            if preferred is None or preferred.weight > least:
                targets = Counter(self._preferred.values())
                preferred = min(
                    (link for link in self._choice if link.weight == least),
                    key=lambda link: (link.load, targets[link]),
                )
                if len(self._preferred) >= MAX_PREFERRED:
                    self._preferred.clear()
                self._preferred[target] = preferred
        return preferred

    def lacks(self, wanted: int) -> bool:
        """Whether one more link must be dialled."""
        return len(self._serving) - len(self.stale) < wanted

    def add(self, link: L, generation: int) -> None:
        """Add a link that is up; `generation` is the value of `self.generation` before its settings were
        read.

        The links of all targets are chosen again: otherwise all targets would stay on the first link that
        came up, because waiting clients went there.
        """
        self._serving.append(link)
        self._generations[link] = generation
        self._preferred.clear()
        self._choose()

    def renew(self) -> None:
        """Make every link stale, also those that are being dialled."""
        self.generation += 1
        self._choose()

    def mark_stale(self, link: L, *, wanted: int) -> bool:
        """Make `link` stale if it serves and one more link may retire. Returns whether it did."""
        if (
            link not in self._serving
            or self._generations[link] != self.generation
            or len(self.retiring) >= wanted
        ):
            return False
        self._generations[link] = _STALE
        self._choose()
        return True

    def retire_surplus(self, wanted: int) -> list[L]:
        """Retire the links above `wanted`, stale ones first, then the oldest. Returns them."""
        leaving = [
            *self.stale,
            *(link for link in self._serving if self._generations[link] == self.generation),
        ]
        leaving = leaving[: max(0, len(self._serving) - wanted)]
        for link in leaving:
            self._serving.remove(link)
            self.retiring.append(link)
        self._choose()
        return leaving

    def retiring_surplus(self, wanted: int) -> list[L]:
        """The retiring links above `wanted`, those with the fewest channels: they must be closed now.

        Of links with equally many channels, those that retired last: their channels may be probes, while the
        channels that are left on an older link are watches or downloads.
        """
        youngest_first = self.retiring[::-1]
        youngest_first.sort(key=_load)
        return youngest_first[: max(0, len(self.retiring) - wanted)]

    def remove(self, link: L) -> bool:
        """Remove a link that has ended. Returns whether it served, so that another is needed. Idempotent."""
        if self._generations.pop(link, None) is None:
            return False
        if link in self.retiring:
            self.retiring.remove(link)
            return False
        self._serving.remove(link)
        self._choose()
        return True

    def clear(self) -> None:
        """Remove all links."""
        self._serving.clear()
        self.retiring.clear()
        self._generations.clear()
        self._choice.clear()
        self._preferred.clear()

    def _choose(self) -> None:
        """Update the links that may be chosen, so that the choice for a new channel is cheap."""
        stale = set(self.stale)
        self._choice = [link for link in self._serving if link not in stale] or list(self._serving)
        self._preferred = {target: link for target, link in self._preferred.items() if link in self._choice}
