"""All reasons that a user can see, in one list: each with its meaning and its remedy.

The word of a reason is a metric label (`result`, `reason`) and the log field `reason`. `kubemux status`
prints it, and `proxy.errors.page` writes it into docs/troubleshooting.md. Alerts of users depend on these
words: never rename one, and never build one at run time.
"""

from __future__ import annotations

from proxy.errors.reasons import callers, links, probes
from proxy.errors.words import Subject, Word

_G, _P, _C, _D, _L = Subject.GATEWAY, Subject.PROBE, Subject.CLIENT, Subject.DAEMON, Subject.LOGIN


class Reason(Word):
    """What can go wrong, and how a connection can end."""

    OK = "ok", (_G, _P, _D, _L), "it worked: a dial, a probe, a reload, a login"

    # -------------------------------------------------------------------------------- links to a gateway

    UNRESOLVABLE = links.UNRESOLVABLE
    UNREACHABLE = links.UNREACHABLE
    CONNECT_TIMEOUT = links.CONNECT_TIMEOUT
    PROXY_COMMAND_FAILED = links.PROXY_COMMAND_FAILED
    HANDSHAKE_FAILED = links.HANDSHAKE_FAILED
    BAD_VERSION = links.BAD_VERSION
    HOST_KEY_UNKNOWN = links.HOST_KEY_UNKNOWN
    HOST_KEY_CHANGED = links.HOST_KEY_CHANGED
    HOST_KEY_REVOKED = links.HOST_KEY_REVOKED
    AUTH_FAILED = links.AUTH_FAILED
    JUMP_FAILED = links.JUMP_FAILED
    KEEPALIVE_TIMEOUT = links.KEEPALIVE_TIMEOUT
    LINK_LOST = links.LINK_LOST
    PROTOCOL_ERROR = links.PROTOCOL_ERROR
    REPLACED = links.REPLACED
    LINK_FAILED = links.LINK_FAILED

    # -------------------------------------------------------------------------------- of more than one kind

    CREDENTIALS_UNUSABLE = (
        "credentials_unusable",
        (_G, _P, _L),
        "a key, certificate, passphrase, token, known_hosts or CA file cannot be used, or an ssh_config has "
        "an option that kubemux cannot follow; the message names it",
        "the file must exist, be readable by the daemon's user and hold what its key says: a private key, "
        "PEM, a token",
    )
    CLOSED = (
        "closed",
        (_G, _P, _C),
        "a probe's connection was closed by the other side before an answer; or kubemux closed a link itself "
        "(it stops, or the gateway is no longer configured)",
        "something hangs up on us: is api_servers the API server itself, or a load balancer without a live "
        "backend?",
    )
    INTERNAL = (
        "internal",
        (_G, _P, _C, _D),
        "an unexpected exception: a bug in kubemux or in a library",
        "this is a bug: please report it with the traceback in the log; kubemux goes on, and tries again by "
        "itself",
    )

    # -------------------------------------------------------------------------------- channels

    LINK_DOWN = (
        "link_down",
        (_P, _C),
        "no link of the gateway is up: a client waited `hold_timeout` for one, or it connected when there "
        "had been none for longer than that",
        "kubemux status shows why the gateway or site is down; kubemux probe CLUSTER shows at which step",
    )
    CHANNEL_REFUSED = (
        "channel_refused",
        (_P, _C),
        "the gateway could not connect to the API server (RFC 4254 5.1, SSH_OPEN_CONNECT_FAILED)",
        "is the API server listening there, as seen from the gateway? Try on the gateway: nc -vz HOST PORT",
    )
    CHANNEL_PROHIBITED = (
        "channel_prohibited",
        (_P, _C),
        "sshd does not allow this forwarding (SSH_OPEN_ADMINISTRATIVELY_PROHIBITED)",
        "sshd's AllowTcpForwarding or PermitOpen, or permitopen= in authorized_keys, does not allow "
        "this address",
    )
    CHANNEL_FAILED = (
        "channel_failed",
        (_P, _C),
        "sshd did not open the channel, for another reason, which the message gives",
        "the gateway's sshd log says why it opens no channel: journalctl -u ssh",
    )
    TIMEOUT = (
        "timeout",
        (_P, _C),
        "no channel within `connect_timeout`, or no answer within `probe.timeout`; the message says which "
        "step waited",
        "packets are dropped on the way (look at routes and firewalls from the gateway), or the API server "
        "is overloaded; raise probe.timeout if it is only slow",
    )

    # -------------------------------------------------------------------------------- probes

    UNAUTHORIZED = probes.UNAUTHORIZED
    TLS_UNTRUSTED = probes.TLS_UNTRUSTED
    TLS_NAME_MISMATCH = probes.TLS_NAME_MISMATCH
    TLS_EXPIRED = probes.TLS_EXPIRED
    TLS_NOT_YET_VALID = probes.TLS_NOT_YET_VALID
    TLS_CLIENT_CERT = probes.TLS_CLIENT_CERT
    TLS_FAILED = probes.TLS_FAILED
    HTTP_FAILED = probes.HTTP_FAILED
    UNHEALTHY = probes.UNHEALTHY

    # -------------------------------------------------------------------------------- how clients end

    CLIENT_CLOSED = "client_closed", (_C,), "the client ended its connection"
    CLIENT_RESET = "client_reset", (_C,), "the client reset its connection, or left while it waited"
    CLUSTER_CLOSED = (
        "cluster_closed",
        (_C,),
        "the API server ended the connection",
        "its log says why, if the client complains",
    )
    CLUSTER_RESET = (
        "cluster_reset",
        (_C,),
        "the channel was closed without an end of the stream; kubemux reset the client",
        "the API server's log, or sshd's, says why, if the client complains",
    )
    IDLE = (
        "idle",
        (_C,),
        "no byte went either way for `idle_timeout`: kubemux reset the client",
        "is idle_timeout longer than the pauses of its watches?",
    )
    SHUTDOWN = (
        "shutdown",
        (_C,),
        "the client was still connected when `drain_timeout` was over, after a stop, a drain, or a reload "
        "that removed or moved its cluster; or `kubemux drain --caller` ended its connections",
    )
    LIMIT = (
        "limit",
        (_C, _L),
        "refused: `limits.max_connections` clients are connected; or a site or user has `max_channels` "
        "channels open, or a user `connections` SSH connections",
        "connections_active shows which cluster's; who opens so many? If that is meant, raise the limit: the "
        "message names it",
    )
    CLUSTER_LIMIT = (
        "cluster_limit",
        (_C,),
        "refused: its cluster has `max_connections` clients",
        "who opens so many? Else raise max_connections of the cluster",
    )
    HOST_LIMIT = (
        "host_limit",
        (_C,),
        "refused: its gateway pattern has `max_hosts` hosts, and clients use all of them",
        "on_demand_gateways counts them; who asks for so many? Else raise max_hosts of the gateway",
    )
    MEMORY = (
        "memory",
        (_C,),
        "refused: all of `limits.memory` was in use for `hold_timeout` (the log says `clients wait for "
        "memory`)",
        "raise limits.memory, or lower limits.max_connections; buffered_bytes and paused_relays show clients "
        "that do not read",
    )

    # -------------------------------------------------------------------------------- who asks, and for what

    BAD_REQUEST = callers.BAD_REQUEST
    UNSUPPORTED = callers.UNSUPPORTED
    HEAD_TIMEOUT = callers.HEAD_TIMEOUT
    TLS_HANDSHAKE = callers.TLS_HANDSHAKE
    AUTH_REQUIRED = callers.AUTH_REQUIRED
    DENIED = callers.DENIED

    # -------------------------------------------------------------------------------- logins

    UNKNOWN_KEY = callers.UNKNOWN_KEY
    KEY_OPTION = callers.KEY_OPTION
    KEY_SOURCE = callers.KEY_SOURCE
    KEY_EXPIRED = callers.KEY_EXPIRED
    KEY_REVOKED = callers.KEY_REVOKED
    KEY_REMOVED = callers.KEY_REMOVED
    FORWARD_REFUSED = callers.FORWARD_REFUSED
    CERTIFICATE = callers.CERTIFICATE
    OTHER_NAME = callers.OTHER_NAME
    WEAK_SIGNATURE = callers.WEAK_SIGNATURE
    BAD_SIGNATURE = callers.BAD_SIGNATURE
    NO_LOGIN = callers.NO_LOGIN
    LOGIN_TIMEOUT = callers.LOGIN_TIMEOUT
    STARTUPS = callers.STARTUPS
    PENALTY = callers.PENALTY

    # -------------------------------------------------------------------------------- the daemon, commands

    LISTEN_FAILED = (
        "listen_failed",
        (_D,),
        "kubemux could not bind a local address, or the admin socket; it tries again",
        "choose an address of this machine and a port that is free",
    )
    DRAINED = (
        "drained",
        (_C, _D),
        "the cluster, route or site takes no connections since `kubemux drain`",
        "kubemux reload opens it again",
    )
    CONFIG = (
        "config",
        (_D,),
        "a configuration, or a kubeconfig, cannot be used; every problem is listed with its line",
        "mend what the report lists; kubemux check shows it again",
    )
    REJECTED = (
        "rejected",
        (_D,),
        "a reload was refused as a whole, and the configuration stays as it is",
        "its report is in the log: kubemux check shows it, too",
    )
    STOPPING = (
        "stopping",
        (_D,),
        "it is too late to reload: kubemux is being stopped",
        "the next start reads the new file",
    )
    UNKNOWN_NAME = (
        "unknown_name",
        (_C, _D),
        "no cluster, gateway, context or route has the name that a command was given, or that a client of an "
        "entry asked for",
        "kubemux status lists the names",
    )
    ADMIN = (
        "admin",
        (_D,),
        "a command could not reach the running daemon, or got no answer that it understands",
        "is it running, and could it open its admin addresses? systemctl status kubemux (--user, if it is "
        "yours), or the log of kubemux run",
    )
    WRITE_FAILED = (
        "write_failed",
        (_D,),
        "a command could not write a file; an existing file is unchanged",
        "may this user write there (else use sudo), and is there free space?",
    )
