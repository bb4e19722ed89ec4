"""What a probe can find: those of the reasons that are its results, and which of them mean alive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.errors import LinkDown, LinkError, ProxyError, Stage
from proxy.errors.reasons import Reason
from proxy.health.certificate import Certificate


class Result(StrEnum):
    """One word for a finished probe."""

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
        """Whether an API server answered. Refusing our credentials (401, 403) is an answer."""
        return self in {Result.OK, Result.UNAUTHORIZED}

    @property
    def hint(self) -> str:
        """What to do about it, naming configuration keys; empty for `ok`.

        `CLUSTER` stands for the name: `Outcome.named`.
        """
        return Reason(self).remedy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe found."""

    result: Result
    message: str
    """One sentence: what was seen, where."""
    hint: str
    """What to do; empty if all is well."""
    seconds: float
    """From start to end."""
    stage: Stage
    """The step it ended in; all before it passed."""
    status: int | None = None
    """The HTTP status code, if one came."""
    expiries: tuple[tuple[str, float], ...] = ()
    """Certificates seen: (`server` | `ca` | `client`, end of validity in Unix time)."""
    timings: tuple[tuple[Stage, float], ...] = ()
    """Seconds of each step that was entered, in order. `channel` includes everything before it."""
    refused: Certificate | None = None
    """The server's certificate, if it is what was wrong."""

    @property
    def certificate_expiry(self) -> float | None:
        """The end of the server certificate's validity in Unix time, None if none was verified."""
        return dict(self.expiries).get("server")

    def named(self, cluster: str) -> Outcome:
        """The same, with the cluster's name in the hint."""
        if self.hint != self.result.hint:  # of other words than ours
            return self
        return replace(self, hint=self.hint.replace("CLUSTER", cluster))


class Failure(Exception):
    """A probe's end short of `ok`, inside this package only: `probe()` turns it into an `Outcome`."""

    def __init__(
        self, result: Result, message: str, *, hint: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.result = result
        self.hint = result.hint if hint is None else hint
        self.status = status


def result_of(error: ProxyError) -> Result:
    """The result for a connection that could not be made.

    A reason that has no result of its own falls under its layer's.
    """
    try:
        return Result(error.reason)
    except ValueError:
        return Result.LINK_DOWN if isinstance(error, LinkError | LinkDown) else Result.CHANNEL_FAILED


def unreached(error: ProxyError, seconds: float) -> Outcome:
    """The outcome of a probe that got no connection."""
    result = result_of(error)
    stage = getattr(error, "stage", Stage.CHANNEL)
    return Outcome(result, str(error), error.hint or result.hint, seconds, stage, timings=((stage, seconds),))
