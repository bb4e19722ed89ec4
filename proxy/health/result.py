"""What a probe can find: a closed set of results, which of them mean alive, and what to do about each.

The words are the `result` label of `kubemux_probes_total`, the log field and the word in `kubemux status`, so
none may be renamed lightly and none may be made up at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from proxy.errors import LinkDown, LinkError, ProxyError, Stage
from proxy.health.certificate import Certificate


class Result(StrEnum):
    """One word for a finished probe."""

    OK = "ok"
    UNAUTHORIZED = "unauthorized"
    LINK_DOWN = "link_down"
    CHANNEL_REFUSED = "channel_refused"
    CHANNEL_PROHIBITED = "channel_prohibited"
    CHANNEL_FAILED = "channel_failed"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    TLS_UNTRUSTED = "tls_untrusted"
    TLS_NAME_MISMATCH = "tls_name_mismatch"
    TLS_EXPIRED = "tls_expired"
    TLS_NOT_YET_VALID = "tls_not_yet_valid"
    TLS_CLIENT_CERT = "tls_client_cert"
    TLS_FAILED = "tls_failed"
    HTTP_FAILED = "http_failed"
    UNHEALTHY = "unhealthy"
    CREDENTIALS_UNUSABLE = "credentials_unusable"
    INTERNAL = "internal"

    @property
    def alive(self) -> bool:
        """Whether an API server answered. Refusing our credentials (401, 403) is an answer."""
        return self in {Result.OK, Result.UNAUTHORIZED}

    @property
    def hint(self) -> str:
        """What to do about it, naming configuration keys; empty for `ok`.

        `CLUSTER` stands for the name: `Outcome.named`.
        """
        return _HINTS[self]


_HINTS: Final[dict[Result, str]] = {
    Result.OK: "",
    Result.UNAUTHORIZED: "the API server is alive; to see its health too, give probe.token_file or "
    "probe.client_cert",
    Result.LINK_DOWN: "kubemux status shows why the gateway is down; kubemux probe CLUSTER shows at which "
    "step",
    Result.CHANNEL_REFUSED: "is the API server listening at api_servers, as seen from the gateway?",
    Result.CHANNEL_PROHIBITED: "sshd's AllowTcpForwarding or PermitOpen, or permitopen= in "
    "authorized_keys, forbids api_servers",
    Result.CHANNEL_FAILED: "the gateway's sshd log says why it opens no channel: journalctl -u ssh",
    Result.TIMEOUT: "the API server is overloaded or packets are dropped on the way; raise probe.timeout "
    "if it is only slow",
    Result.CLOSED: "something hangs up on us: is api_servers the API server itself, or a load balancer "
    "without a live backend?",
    Result.TLS_UNTRUSTED: "clients that trust another CA are served all the same: if kubectl works, "
    "tls.ca_file is the wrong one "
    "(it must hold certificate-authority-data of the kubeconfig: rotated?), else it is the wrong server",
    Result.TLS_NAME_MISMATCH: "clients that ask for another name are served all the same: set "
    "tls.server_name to one that the "
    "certificate has (kubernetes is usual); kubemux probe CLUSTER lists them",
    Result.TLS_EXPIRED: "renew it (kubeadm certs renew apiserver), or set this machine's clock right",
    Result.TLS_NOT_YET_VALID: "compare this machine's clock with the API server's: timedatectl",
    Result.TLS_CLIENT_CERT: "give probe.client_cert and probe.client_key, signed by a CA that the server "
    "trusts, not expired",
    Result.TLS_FAILED: "does api_servers point to the HTTPS port (6443), and does the server speak TLS 1.2 "
    "or later?",
    Result.HTTP_FAILED: "what answers there is not an API server: check api_servers",
    Result.UNHEALTHY: "the API server says so itself: kubectl get --raw '/readyz?verbose', and check "
    "probe.path",
    Result.CREDENTIALS_UNUSABLE: "the file must exist, be readable by the daemon's user and hold PEM (or a "
    "token): "
    "tls.ca_file, probe.token_file, client_cert, client_key",
    Result.INTERNAL: "this is a bug in kubemux: its log has the traceback",
}


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
