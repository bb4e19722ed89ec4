"""All reasons that a user can see, in one list: each with its meaning and its remedy.

The word of a reason is a metric label (`result`, `reason`) and the log field `reason`. `kubemux status`
prints it, and `proxy.errors.page` writes it into docs/troubleshooting.md. Alerts of users depend on these
words: never rename one, and never build one at run time.
"""

from __future__ import annotations

from proxy.errors import callers
from proxy.errors.words import Subject, Word

_G, _P, _C, _D, _L = Subject.GATEWAY, Subject.PROBE, Subject.CLIENT, Subject.DAEMON, Subject.LOGIN


class Reason(Word):
    """What can go wrong, and how a connection can end."""

    OK = "ok", (_G, _P, _D, _L), "it worked: a dial, a probe, a reload, a login"

    # -------------------------------------------------------------------------------- links to a gateway

    UNRESOLVABLE = (
        "unresolvable",
        (_G,),
        "the gateway's name does not resolve",
        "check gateways.*.host (and ssh_config's HostName), and the bastion's resolver: getent hosts NAME",
    )
    UNREACHABLE = (
        "unreachable",
        (_G,),
        "TCP to sshd failed: refused, no route, reset; or a jump host does not forward to it",
        "is sshd running there, and does a firewall let this machine through?",
    )
    CONNECT_TIMEOUT = (
        "connect_timeout",
        (_G,),
        "sshd did not answer, or did not finish the login, within `connect_timeout`",
        "packets may be dropped on the way, or sshd is overloaded (MaxStartups); raise connect_timeout "
        "if it is only slow",
    )
    PROXY_COMMAND_FAILED = (
        "proxy_command_failed",
        (_G,),
        "the ProxyCommand of ssh_config could not be run, or has ended; the message has its exit code",
        "run the command as the daemon's user; what it writes to its standard error is in the log "
        "(ProxyCommand says)",
    )
    HANDSHAKE_FAILED = (
        "handshake_failed",
        (_G, _L),
        "TCP works, but the exchange of SSH versions or keys does not",
        "is that port an SSH server? Its log says more: journalctl -u ssh",
    )
    BAD_VERSION = (
        "bad_version",
        (_G,),
        "the server's first line is not an SSH version: it has bytes that are not ASCII (RFC 4253 4.2)",
        "SSH versions are ASCII: is that port an SSH server, and is its version string (sshd's "
        "VersionAddendum) ASCII?",
    )
    HOST_KEY_UNKNOWN = (
        "host_key_unknown",
        (_G,),
        "known_hosts has no key for this server",
        "compare the fingerprint with one from a trusted source, then add the key to known_hosts",
    )
    HOST_KEY_CHANGED = (
        "host_key_changed",
        (_G, _C),
        "the server shows another key than known_hosts has: the key was rotated, the server was rebuilt, or "
        "an attacker is between us and the server; the message has both fingerprints",
        "find out why before you trust it; then replace the old line in known_hosts: ssh-keygen -R HOST",
    )
    HOST_KEY_REVOKED = (
        "host_key_revoked",
        (_G, _C),
        "the server shows a key that known_hosts marks `@revoked`, or that RevokedHostKeys has",
        "do not connect: this key was revoked on purpose; the server needs a new one",
    )
    AUTH_FAILED = (
        "auth_failed",
        (_G,),
        "sshd refused every key that we have, or wants more than a key",
        "is the public key in authorized_keys of that user, and the certificate still valid? sshd's log "
        "says why it refused",
    )
    JUMP_FAILED = (
        "jump_failed",
        (_G,),
        "a gateway of the jump chain cannot be reached; the message says which, and why",
        "mend that gateway: its own line in kubemux status, or kubemux probe CLUSTER, shows at which step it "
        "stops",
    )
    KEEPALIVE_TIMEOUT = (
        "keepalive_timeout",
        (_G, _C),
        "the gateway stopped answering on a link that was up",
        "the network or the gateway's machine no longer answers; kubemux dials again by itself",
    )
    LINK_LOST = (
        "link_lost",
        (_G, _C),
        "a link that was up has ended: closed by sshd, or reset",
        "kubemux dials again by itself; if this repeats, sshd's log on the gateway says why it hangs up",
    )
    PROTOCOL_ERROR = (
        "protocol_error",
        (_G, _C),
        "the server broke the SSH protocol, so kubemux ended the link",
        "kubemux dials again by itself; if this repeats, something on the way to the gateway alters "
        "bytes, or its sshd is broken",
    )
    REPLACED = (
        "replaced",
        (_G, _C),
        "kubemux closed a link because a new one replaces it (reconnect, a changed key, `max_link_age`); a "
        "client still used it when `retire_timeout` was over",
    )
    LINK_FAILED = (
        "link_failed",
        (_G,),
        "a link failed, and nothing more is known",
        "the message, and sshd's log on the gateway, say more",
    )

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

    UNAUTHORIZED = (
        "unauthorized",
        (_P,),
        "alive: the API server answered with 401 or 403",
        "the API server is alive; to see its health too, give probe.token_file or probe.client_cert",
    )
    TLS_UNTRUSTED = (
        "tls_untrusted",
        (_P,),
        "reached, but its certificate is not signed by a CA of `tls.ca_file`",
        "clients that trust another CA are served all the same: if kubectl works, tls.ca_file is the wrong "
        "one (it must hold certificate-authority-data of the kubeconfig: rotated?), else it is the wrong "
        "server",
    )
    TLS_NAME_MISMATCH = (
        "tls_name_mismatch",
        (_P,),
        "reached, but its certificate is for other names than `tls.server_name`",
        "clients that ask for another name are served all the same: set tls.server_name to one that the "
        "certificate has (kubernetes is usual); kubemux probe CLUSTER lists them",
    )
    TLS_EXPIRED = (
        "tls_expired",
        (_P,),
        "reached, but its certificate, or that of its CA, has expired",
        "renew it (kubeadm certs renew apiserver), or set this machine's clock right",
    )
    TLS_NOT_YET_VALID = (
        "tls_not_yet_valid",
        (_P,),
        "reached, but its certificate is not valid yet",
        "compare this machine's clock with the API server's: timedatectl",
    )
    TLS_CLIENT_CERT = (
        "tls_client_cert",
        (_P,),
        "the server does not accept the probe's client certificate, or wants one",
        "give probe.client_cert and probe.client_key, signed by a CA that the server trusts, not expired",
    )
    TLS_FAILED = (
        "tls_failed",
        (_P,),
        "the server does not speak TLS, or only versions of it that kubemux does not accept",
        "does api_servers point to the HTTPS port (6443), and does the server speak TLS 1.2 or later?",
    )
    HTTP_FAILED = (
        "http_failed",
        (_P,),
        "the answer is not HTTP, or longer than that of any API server",
        "what answers there is not an API server: check api_servers",
    )
    UNHEALTHY = (
        "unhealthy",
        (_P,),
        "the API server answers that it is not healthy, or its answer is not that of an API server",
        "the API server says so itself: kubectl get --raw '/readyz?verbose', and check probe.path",
    )

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
