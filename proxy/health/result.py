"""The possible results of a probe, each a reason of `proxy.errors`, and which of them mean alive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.errors import LinkDown, LinkError, ProxyError, Stage
from proxy.errors.reasons import Reason
from proxy.health.certificate import Certificate
from proxy.runtime.endpoint import Endpoint


class Result(StrEnum):
    """The result of a finished probe, in one word."""

    OK = Reason.OK
    UNAUTHORIZED = Reason.UNAUTHORIZED
    LINK_DOWN = Reason.LINK_DOWN
    CHANNEL_REFUSED = Reason.CHANNEL_REFUSED
    CHANNEL_PROHIBITED = Reason.CHANNEL_PROHIBITED
    CHANNEL_FAILED = Reason.CHANNEL_FAILED
    TIMEOUT = Reason.TIMEOUT
    CLOSED = Reason.CLOSED
    TLS_UNTRUSTED = Reason.TLS_UNTRUSTED
    TLS_NAME_MISMATCH = Reason.TLS_NAME_MISMATCH
    TLS_EXPIRED = Reason.TLS_EXPIRED
    TLS_NOT_YET_VALID = Reason.TLS_NOT_YET_VALID
    TLS_CLIENT_CERT = Reason.TLS_CLIENT_CERT
    TLS_FAILED = Reason.TLS_FAILED
    HTTP_FAILED = Reason.HTTP_FAILED
    UNHEALTHY = Reason.UNHEALTHY
    CREDENTIALS_UNUSABLE = Reason.CREDENTIALS_UNUSABLE
    INTERNAL = Reason.INTERNAL

    @property
    def alive(self) -> bool:
        """Whether an API server answered. A 401 or 403 is an answer, too."""
        return self in {Result.OK, Result.UNAUTHORIZED}

    @property
    def hint(self) -> str:
        """What the operator can do; empty for `ok`.

        The word `CLUSTER` in it is a placeholder, which `Outcome.named` replaces by the cluster's name.
        """
        return Reason(self).remedy


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one probe ended."""

    result: Result
    message: str
    """One sentence: what happened, and where."""
    hint: str
    """What the operator can do; empty if all is well."""
    seconds: float
    """How long the probe took."""
    stage: Stage
    """The step in which it ended. All steps before have succeeded."""
    status: int | None = None
    """The HTTP status code, if there was an answer."""
    expiries: tuple[tuple[str, float], ...] = ()
    """When the certificates in use expire: (`server` | `ca` | `client`, Unix time)."""
    timings: tuple[tuple[Stage, float], ...] = ()
    """Seconds of each step that was begun, in order. `channel` includes everything before it."""
    server: Endpoint | None = None
    """The API server that got the request; None if the probe failed before."""
    refused: Certificate | None = None
    """The server's certificate, if it was refused."""

    @property
    def certificate_expiry(self) -> float | None:
        """When the server's certificate expires, in Unix time; None if it was not verified."""
        return dict(self.expiries).get("server")

    def named(self, cluster: str) -> Outcome:
        """The same outcome, with the cluster's name in the hint."""
        if self.hint != self.result.hint:  # the hint of an error, in which CLUSTER is no placeholder
            return self
        return replace(self, hint=self.hint.replace("CLUSTER", cluster))


class Failure(Exception):
    """Ends a probe with a result other than `ok`. Internal: `probe()` catches it and returns an `Outcome`."""

    def __init__(
        self, result: Result, message: str, *, hint: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.result = result
        self.hint = result.hint if hint is None else hint
        self.status = status


def result_of(error: ProxyError) -> Result:
    """The result for a connection that could not be opened.

    If no result has the same word as the error's reason, it is `link_down` for errors of links and
    `channel_failed` for others.
    """
    try:
        return Result(error.reason)
    except ValueError:
        return Result.LINK_DOWN if isinstance(error, LinkError | LinkDown) else Result.CHANNEL_FAILED


def unreached(error: ProxyError, seconds: float) -> Outcome:
    """The outcome of a probe whose connection could not be opened."""
    result = result_of(error)
    stage = getattr(error, "stage", Stage.CHANNEL)
    return Outcome(result, str(error), error.hint or result.hint, seconds, stage, timings=((stage, seconds),))
