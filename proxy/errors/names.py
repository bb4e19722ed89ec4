"""The errors about a name that is asked for: by an operator, or by a client."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.errors.base import ProxyError
from proxy.errors.reasons import Reason
from proxy.runtime.text import suggest


class UnknownName(ProxyError):
    """No cluster, gateway or context has that name. The hint lists similar names. Exit code 2."""

    reason = Reason.UNKNOWN_NAME

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """The error for a `name` that is not in `known`."""
        return cls(f"no {kind} is called {name!r}", hint=suggest(name, sorted(known)))


class UnknownTarget(ProxyError):
    """No cluster and no route has the name that a client asks for. The message suggests similar names."""

    reason = Reason.UNKNOWN_NAME


class Ambiguous(UnknownTarget):
    """A client asks for an address that is an API server of several clusters."""


class Denied(ProxyError):
    """No rule of `allow` names the caller."""

    reason = Reason.DENIED
