"""The state of the daemon at one moment, as plain values. Each object of the daemon makes its own snapshot.

`proxy/admin/status.py` turns them into the JSON of `/status`. Nothing here does I/O or reads a clock. Times
are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class GatewayState(StrEnum):
    """A gateway's state as its supervisor sees it."""

    CONNECTING = "connecting"
    UP = "up"
    """Every link is up."""
    DEGRADED = "degraded"
    """Some links are up; or all are up, but dials to replace them fail."""
    DOWN = "down"
    IDLE = "idle"
    """It is dialled on demand, and no client needs it."""


class ClusterState(StrEnum):
    """A cluster's state as its probes see it."""

    UNKNOWN = "unknown"
    """No probe has ended yet."""
    UP = "up"
    DOWN = "down"
    IDLE = "idle"
    """No client needs its gateway, so it is not probed."""


class DiscoveryState(StrEnum):
    """How current a route's pod addresses are."""

    ASKING = "asking"
    """The API server has not sent them yet."""
    WATCHING = "watching"
    """They are current."""
    BROKEN = "broken"
    """The watch is broken, and is tried again. The addresses are those from before."""


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """One live SSH connection."""

    server: str
    """`HOST:PORT` that was dialled."""
    age: float
    channels: int
    data_plane: str
    """`native` or `asyncssh`."""
    cipher: str
    rtt: float | None


@dataclass(frozen=True, slots=True)
class SiteLinkSnapshot(LinkSnapshot):
    """One connection of a site. `server` is `site NAME at HOST:PORT`."""

    address: str
    """The address of the site: `HOST:PORT`."""
    key: str
    """The fingerprint of the key that it has logged in with."""
    forwards: tuple[str, ...]
    """`NAME:PORT` of each `-R`, the dynamic one first."""


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """One gateway."""

    name: str
    state: GatewayState
    links: tuple[LinkSnapshot, ...]
    wanted: int
    """How many links the configuration asks for."""
    reconnects: int
    retry_in: float | None
    """Seconds until the next dial; None if none is due."""
    reason: str = ""
    """Why the last dial or link failed, a word of `proxy.errors.reasons`; empty while all is well."""
    message: str = ""
    hint: str = ""
    retiring: tuple[LinkSnapshot, ...] = ()
    """Links that were replaced: they open no new channels, and are closed when their last channel ends."""
    certificate_expiry: float | None = None
    """Unix time at which the first of the user's and the server's certificates expires."""
    hosts: int | None = None
    """How many hosts of a gateway pattern are in use now; None for an ordinary gateway."""


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """One cluster."""

    name: str
    gateway: str
    listen: str
    """Empty if clients reach it only by name, through an entry."""
    listening: bool
    """Whether clients can connect."""
    state: ClusterState
    reason: str
    """The result of the last probe; empty before the first."""
    message: str
    hint: str
    probe_seconds: float | None
    api_server: str
    """The API server that new connections try first."""
    connections: int
    connections_total: int
    bytes_to_cluster: int
    bytes_from_cluster: int
    certificate_expiry: float | None
    """Unix time."""


@dataclass(frozen=True, slots=True)
class EntrySnapshot:
    """One entry, whose clients ask for clusters and routes by name."""

    name: str
    listen: str
    listening: bool
    reason: str
    """Why the entry does not listen, or refuses every client; empty if it works."""
    message: str
    hint: str
    connections: int
    connections_total: int


@dataclass(frozen=True, slots=True)
class DiscoverySnapshot:
    """What kubemux knows of one route's pods."""

    cluster: str
    state: DiscoveryState
    pods: int
    """How many are known, running or not."""
    reason: str
    """Why the watch is broken, a word of `proxy.errors.reasons`; empty if it is not broken."""
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """One route."""

    name: str
    match: tuple[str, ...]
    gateway: str
    connections: int
    connections_total: int
    bytes_to_target: int
    bytes_from_target: int
    discovery: DiscoverySnapshot | None = None
    """Only for a route to pods."""
    drained: bool = False
    """Whether it accepts no connections because of `kubemux drain`."""


@dataclass(frozen=True, slots=True)
class RefusalSnapshot:
    """What the SSH server has refused a site: its login, or a forward."""

    reason: str
    """A word of `proxy.errors.reasons`."""
    message: str
    age: float
    """Seconds since then."""


@dataclass(frozen=True, slots=True)
class SiteSnapshot:
    """One site."""

    name: str
    state: GatewayState
    """`connecting` until it comes for the first time since the daemon's start; never `degraded`, `idle`."""
    links: tuple[SiteLinkSnapshot, ...]
    """Those that serve, oldest first."""
    retiring: tuple[SiteLinkSnapshot, ...]
    callers: tuple[SiteLinkSnapshot, ...]
    """Connections without a forward: nothing is reached through them."""
    most: int
    """How many links it may have (`connections`)."""
    connected: float | None
    """Seconds since it came; it has had a link since then. None if it is away."""
    away: float | None
    """Seconds since its last link ended, or since the daemon's start. None if it is connected."""
    reconnects: int
    reason: str
    """Why it is away, a word of `proxy.errors.reasons`; empty if it is connected."""
    message: str
    hint: str
    refused: RefusalSnapshot | None
    """The last refusal since the daemon's start."""
    connections: int
    """Of clients who ask for `NAME.SITE`; those of clusters and routes are counted there."""
    connections_total: int
    bytes_to_site: int
    bytes_from_site: int
    drained: bool = False
    """Whether those clients are refused since `kubemux drain`."""


@dataclass(frozen=True, slots=True)
class LoginSnapshot:
    """One SSH connection of a user."""

    address: str
    """Where it comes from: `HOST:PORT`."""
    age: float
    """Seconds since the login."""
    key: str
    """The fingerprint of the key that it has logged in with."""
    certificate: str
    """The key ID and serial number of its certificate; empty for a plain key."""
    channels: int
    open: tuple[str, ...]
    """The `HOST:PORT` that its channels have asked for, each once."""


@dataclass(frozen=True, slots=True)
class UserSnapshot:
    """One user of the SSH server."""

    name: str
    identity: str
    """The name as `allow`, `status` and the log have it: `ssh-user:ops`."""
    most: int
    """How many connections it may have (`connections`)."""
    logins: tuple[LoginSnapshot, ...]
    """Those that are connected, oldest first."""


@dataclass(frozen=True, slots=True)
class DaemonSnapshot:
    """Everything `/status`, `/readyz` and the sd_notify status line need."""

    version: str
    pid: int
    uptime: float
    ready: bool
    """All listeners are bound and nothing is being shut down."""
    draining: bool
    config_path: str
    connections: int
    buffered_bytes: int
    memory_limit: int
    gateways: tuple[GatewaySnapshot, ...] = field(default=())
    clusters: tuple[ClusterSnapshot, ...] = field(default=())
    entries: tuple[EntrySnapshot, ...] = field(default=())
    routes: tuple[RouteSnapshot, ...] = field(default=())
    sites: tuple[SiteSnapshot, ...] = field(default=())
    users: tuple[UserSnapshot, ...] = field(default=())
