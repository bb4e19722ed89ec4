"""Which targets clients may ask a site for: its `permit`."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Final

from proxy.config import ssh_rules
from proxy.config.model import SiteConfig
from proxy.errors import ChannelProhibited
from proxy.runtime.endpoint import Endpoint

MOST_REMEMBERED: Final = 1024
"""The number of targets for which the answer is remembered."""


class Permit:
    """The `permit` of one site. A reload makes a new one."""

    def __init__(self, site: str, config: SiteConfig) -> None:
        self._site = site
        self._config = config
        # Reading an address takes 3 us, a name 6 us, and each connection asks twice.
        self._includes = lru_cache(maxsize=MOST_REMEMBERED)(partial(ssh_rules.permits, config))

    def __repr__(self) -> str:
        return f"<Permit of {self._site} {self._config.permit}>"

    def __contains__(self, target: Endpoint) -> bool:
        try:
            return self._includes(target)
        except ValueError:
            return False

    def require(self, target: Endpoint) -> None:
        """Raise ChannelProhibited if the site may not be asked for `target`."""
        try:
            is_permitted = self._includes(target)
        except ValueError as exc:
            raise ChannelProhibited(f"site {self._site}: {exc}") from exc
        if not is_permitted:
            raise ChannelProhibited(
                ssh_rules.not_permitted(self._site, self._config, target),
                hint=f"add {target} to sites.{self._site}.permit, if it may be asked for",
            )
