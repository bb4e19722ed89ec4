"""Reads the files that the gateways and clusters name. A section whose file hangs is logged and left out.

While no file hangs, one thread reads the files of all sections: for 200 sections that takes 1 ms, and 35 ms
with a thread for each. When that thread hangs, each section gets a thread of its own. A section that hangs
keeps its own thread until its file can be read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import structlog

from proxy.config.credentials import HANGS
from proxy.config.findings import Loc, dotted
from proxy.config.references import Section
from proxy.runtime.blocking import FILES_S, Hangs, Place

T = TypeVar("T")
Sections = Mapping[Loc, Section]
LookAt = Callable[[Loc, Section], T]

log = structlog.get_logger("kubemux.renewal")

APART: Final = 8
"""Sections that are read at the same time, each in its own thread, after one has hung."""


class FileScan:
    """Reads the files of sections, and remembers which sections hang."""

    def __init__(self) -> None:
        self._together = Place("files")
        self._apart: dict[Loc, tuple[Section, Place]] = {}

    async def run(self, sections: Sections, look: LookAt[T]) -> dict[Loc, T]:
        """What `look` returns for each of `sections`, without those that hang."""
        self._apart = {
            loc: (section, place)
            for loc, (section, place) in self._apart.items()
            if sections.get(loc) == section
        }
        together = {loc: section for loc, section in sections.items() if loc not in self._apart}
        try:
            found = await self._together.run(_each, together, look, timeout=FILES_S)
        except Hangs:
            self._together = Place("files")  # the old one waits for its thread
            found = {}
        few = asyncio.Semaphore(APART)
        async with asyncio.TaskGroup() as group:
            for loc in sections.keys() - found.keys():
                group.create_task(self._alone(loc, sections[loc], look, found, few))
        return {loc: found[loc] for loc in sections if loc in found}

    async def _alone(
        self, loc: Loc, section: Section, look: LookAt[T], found: dict[Loc, T], few: asyncio.Semaphore
    ) -> None:
        _, place = self._apart.get(loc) or (section, Place(f"files of {dotted(loc)}"))
        try:
            async with few:
                found[loc] = await place.run(look, loc, section, timeout=FILES_S)
        except Hangs as exc:
            if loc not in self._apart:
                log.warning("file hangs", key=dotted(loc), message=str(exc), hint=HANGS)
            self._apart[loc] = section, place
        else:
            if self._apart.pop(loc, None) is not None:
                log.info("file answers again", key=dotted(loc))


def _each(sections: Sections, look: LookAt[T]) -> dict[Loc, T]:
    return {loc: look(loc, section) for loc, section in sections.items()}
