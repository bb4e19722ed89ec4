"""Which names an authority may sign for (RFC 5280 4.2.1.10)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from cryptography import x509

from proxy.config.certificates import is_domain
from proxy.health import server_names
from proxy.health.anchors import Certificate
from proxy.health.chain_rules import refused_by_all
from proxy.runtime.text import printable

MAX_COMPARISONS: Final = 10_000
"""The most comparisons of a name with a constraint. The server decides how many of both its certificates have
(CVE-2025-58187).
"""


ADDRESSES: Final = (ipaddress.IPv4Address, ipaddress.IPv6Address)


def require_allowed_names(path: Sequence[Certificate]) -> None:
    """Raise Refused if a certificate does not allow the names of those below it (RFC 5280 4.2.1.10)."""
    compared = 0
    for length, authority in enumerate(path):
        constraints = authority.extension(x509.NameConstraints)
        if constraints is None:
            continue
        for name in (name for certificate in path[:length] for name in certificate.names):
            if isinstance(name, x509.DNSName) and not is_domain(name.value):
                raise refused_by_all(f"names {printable(name.value)}, which {authority} cannot have allowed")
            for allows, subtrees in (
                (True, constraints.permitted_subtrees),
                (False, constraints.excluded_subtrees),
            ):
                same = [subtree for subtree in subtrees or () if type(subtree) is type(name)]
                compared += len(same)
                if compared > MAX_COMPARISONS:
                    raise refused_by_all(f"has more than {MAX_COMPARISONS} names to compare with constraints")
                if (
                    same
                    and any(_is_within(name, subtree, if_unsure=not allows) for subtree in same) is not allows
                ):
                    raise refused_by_all(
                        f"names {printable(str(name.value))}, which {authority} may not sign for"
                    )


def _is_within(name: x509.GeneralName, subtree: x509.GeneralName, *, if_unsure: bool) -> bool:
    match name, subtree:
        case x509.IPAddress(), x509.IPAddress():
            return not isinstance(subtree.value, ADDRESSES) and name.value in subtree.value
        case x509.DNSName(), x509.DNSName():
            return server_names.is_below(name.value, subtree.value, covered=if_unsure)
        case _:
            return if_unsure
