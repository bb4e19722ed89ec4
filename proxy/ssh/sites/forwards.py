"""The forwards that a site has registered on one of its links (`tcpip-forward`, RFC 4254 7.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from proxy.config.matches import Host
from proxy.errors import ForwardRefused
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import in_ascii

_LARGEST_PORT: Final = 65535
_SHOWN: Final = 80
"""Characters of a name in a sentence."""


class Forwards:
    """Fixed forwards, and at most one dynamic forward.

    `-R NAME:PORT:HOST:PORT` is a fixed forward: clients that ask for NAME:PORT reach HOST:PORT. `-R
    SITE:PORT` with the site's own name and no target is the dynamic forward: a SOCKS5 server in the site's
    ssh client. The SSH protocol does not distinguish the two, so the name decides.
    """

    def __init__(self, site: str, *, most: int, is_taken: Callable[[str], bool]) -> None:
        """`most` is the maximum number of forwards. `is_taken(name)` says whether another site
        has this name.
        """
        self.site = site
        self.most = most
        self._is_taken = is_taken
        self._fixed: set[Endpoint] = set()
        self.dynamic: Endpoint | None = None

    def __repr__(self) -> str:
        return f"<Forwards of {self.site} fixed={len(self._fixed)} dynamic={self.dynamic}>"

    def __len__(self) -> int:
        return len(self._fixed) + (self.dynamic is not None)

    def __iter__(self) -> Iterator[Endpoint]:
        yield from ([self.dynamic] if self.dynamic else [])
        yield from sorted(self._fixed)

    def register(self, host: str, port: int, *, may_listen: bool) -> Endpoint:
        """Add a forward that the site requests. Raises ForwardRefused.

        `may_listen` says whether the options of the site's key allow this forward.
        """
        bind = f"{in_ascii(host, most=_SHOWN) or 'localhost'}:{port}"
        if host != host.lower():
            raise ForwardRefused(
                f"-R {bind} has capitals, and names are asked for in lower case: write {bind.lower()}"
            )
        if not 0 < port <= _LARGEST_PORT:
            raise ForwardRefused(
                f"-R {bind}: kubemux chooses no port, so write one, as in -R {self.site}:1080"
            )
        if not host or host in ("localhost", "*"):
            raise ForwardRefused(
                f"-R {port} has no name: write -R {self.site}:{port}, or -R NAME:{port}:HOST:PORT"
            )
        try:
            name = str(Host.parse(host))
        except ValueError as exc:
            raise ForwardRefused(f"-R {bind}: {exc}") from None
        if name != host:
            raise ForwardRefused(
                f"-R {bind}: clients ask for it in another form: write {Endpoint(name, port)}"
            )
        if not may_listen:
            raise ForwardRefused(f"-R {bind}: the options of the key do not allow it")
        if host != self.site and self._is_taken(host):
            raise ForwardRefused(f"-R {bind} has the name of another site, and this is {self.site}")
        one = Endpoint(host, port)
        if len(self) >= self.most and one not in self._fixed and one != self.dynamic:
            raise ForwardRefused(f"-R {bind}: sites.{self.site}.max_forwards is {self.most}")
        if host == self.site:
            if self.dynamic not in (None, one):
                raise ForwardRefused(f"-R {bind}: -R {self.dynamic} is there already, and one is enough")
            self.dynamic = one
        else:
            self._fixed.add(one)
        return one

    def recheck(self, may_listen: Callable[[str, int], bool]) -> None:
        """Raise ForwardRefused if a forward is not allowed any more; `may_listen` asks the key's options."""
        for one in self:
            if not may_listen(*one):
                raise ForwardRefused(f"-R {one}: the options of the key do not allow it any more")
            if one.host != self.site and self._is_taken(one.host):
                raise ForwardRefused(f"-R {one} has the name of another site, and this is {self.site}")

    def cancel(self, host: str, port: int) -> bool:
        """Remove a forward. Returns whether there was one."""
        one = Endpoint(host, port)
        if one == self.dynamic:
            self.dynamic = None
            return True
        found = one in self._fixed
        self._fixed.discard(one)
        return found

    def fixed(self, target: Endpoint) -> Endpoint | None:
        """The fixed forward for clients that ask for `target`."""
        if target in self._fixed:
            return target
        one = Endpoint(target.host.lower(), target.port)
        return one if one in self._fixed else None

    def can_reach(self, target: Endpoint) -> bool:
        """Whether a forward may reach `target`: the dynamic one may reach every target."""
        return self.dynamic is not None or self.fixed(target) is not None
