"""The identities of a local uid in `allow` rules: the user's number and name, and those of all its groups.

    uid:1002  uid:alice  gid:1002  gid:alice  gid:27  gid:sre

Names and groups come from NSS (nsswitch.conf(5)), which may ask a directory over the network and hang. So a
thread looks them up, with a deadline, and they are cached for a minute. A user who is removed from a group is
still accepted as its member for up to a minute. While NSS hangs or fails, only the uid's number is known: it
comes from the kernel.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import structlog

from proxy.runtime.blocking import Hangs, Place, doing
from proxy.runtime.shared import Shared

log = structlog.get_logger("kubemux.callers")

KEPT_S: Final = 60.0
LOOKUP_S: Final = 3.0
MOST_KEPT: Final = 1024
"""How many uids are cached. A user with subordinate uids (subuid(5)) can connect with 65,536 different ones.
"""

NOBODY: Final[frozenset[str]] = frozenset()


class _Kept(NamedTuple):
    until: float
    identities: frozenset[str]


class Identities:
    """Looks up uids, for one event loop. Simultaneous callers of one uid share one lookup."""

    def __init__(self, look_up: Callable[[int], frozenset[str]] | None = None) -> None:
        self._look_up = look_up or identities_of
        self._place = Place("users and groups")
        self._asked: Shared[int, frozenset[str]] = Shared("identities")
        self._kept: dict[int, _Kept] = {}
        """Oldest first, because all are kept for the same time."""
        self._hangs = False

    def __repr__(self) -> str:
        return f"<Identities kept={len(self._kept)} asked={len(self._asked)}>"

    async def of(self, uid: int | None) -> frozenset[str]:
        """The identities of a caller with this uid; none if the uid is not known (None)."""
        if uid is None:
            return NOBODY
        kept = self._kept.get(uid)
        if kept and asyncio.get_running_loop().time() < kept.until:
            return kept.identities
        return await self._asked.run(uid, partial(self._ask, uid), name=f"uid {uid}")

    async def close(self) -> None:
        """Cancel the lookups, and the callers that wait for one."""
        await self._asked.close()

    async def _ask(self, uid: int) -> frozenset[str]:
        until = asyncio.get_running_loop().time() + KEPT_S
        try:
            identities = await self._place.run(self._look_up, uid, timeout=LOOKUP_S)
        except (Hangs, OSError) as exc:  # OSError: of getgrouplist(3), or of the files of NSS
            if not self._hangs:
                hint = f"until it answers, callers have a uid and no groups: try getent passwd {uid}"
                log.warning("users and groups cannot be looked up", message=str(exc), hint=hint)
            self._hangs = True
            return frozenset({f"uid:{uid}"})
        if self._hangs:
            log.info("users and groups can be looked up again")
            self._hangs = False
        self._keep(uid, _Kept(until, identities))
        return identities

    def _keep(self, uid: int, kept: _Kept) -> None:
        self._kept.pop(uid, None)
        if len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[uid] = kept


def identities_of(uid: int) -> frozenset[str]:
    """The identities of `uid` by NSS. Blocks."""
    doing(f"looking up uid {uid}")
    found = {f"uid:{uid}"}
    try:
        user = pwd.getpwuid(uid)
    except KeyError:  # a uid without a name has no groups: NSS lists groups by user name
        return frozenset(found)
    found |= _named("uid", user.pw_name)
    doing(f"looking up the groups of {user.pw_name}")
    for gid in os.getgrouplist(user.pw_name, user.pw_gid):
        found.add(f"gid:{gid}")
        with suppress(KeyError):  # a group without a name
            found |= _named("gid", grp.getgrgid(gid).gr_name)
    return frozenset(found)


def _named(kind: str, name: str) -> set[str]:
    """The identity for a name. A name that is a number is left out: a user called 1002 is not uid 1002."""
    return set() if name.isdecimal() else {f"{kind}:{name}"}
