"""The reasons about links to a gateway, as `proxy.errors.reasons` lists them."""

from __future__ import annotations

from typing import Final

from proxy.errors.words import Subject

_G, _C, _L = Subject.GATEWAY, Subject.CLIENT, Subject.LOGIN

UNRESOLVABLE: Final = (
    "unresolvable",
    (_G,),
    "the gateway's name does not resolve",
    "check gateways.*.host (and ssh_config's HostName), and the bastion's resolver: getent hosts NAME",
)
UNREACHABLE: Final = (
    "unreachable",
    (_G,),
    "TCP to sshd failed: refused, no route, reset; or a jump host does not forward to it",
    "is sshd running there, and does a firewall let this machine through?",
)
CONNECT_TIMEOUT: Final = (
    "connect_timeout",
    (_G,),
    "sshd did not answer, or did not finish the login, within `connect_timeout`",
    "packets may be dropped on the way, or sshd is overloaded (MaxStartups); raise connect_timeout "
    "if it is only slow",
)
PROXY_COMMAND_FAILED: Final = (
    "proxy_command_failed",
    (_G,),
    "the ProxyCommand of ssh_config could not be run, or has ended; the message has its exit code",
    "run the command as the daemon's user; what it writes to its standard error is in the log "
    "(ProxyCommand says)",
)
HANDSHAKE_FAILED: Final = (
    "handshake_failed",
    (_G, _L),
    "TCP works, but the exchange of SSH versions or keys does not",
    "is that port an SSH server? Its log says more: journalctl -u ssh",
)
BAD_VERSION: Final = (
    "bad_version",
    (_G,),
    "the server's first line is not an SSH version: it has bytes that are not ASCII (RFC 4253 4.2)",
    "SSH versions are ASCII: is that port an SSH server, and is its version string (sshd's "
    "VersionAddendum) ASCII?",
)
HOST_KEY_UNKNOWN: Final = (
    "host_key_unknown",
    (_G,),
    "known_hosts has no key for this server",
    "compare the fingerprint with one from a trusted source, then add the key to known_hosts",
)
HOST_KEY_CHANGED: Final = (
    "host_key_changed",
    (_G, _C),
    "the server shows another key than known_hosts has: the key was rotated, the server was rebuilt, or "
    "an attacker is between us and the server; the message has both fingerprints",
    "find out why before you trust it; then replace the old line in known_hosts: ssh-keygen -R HOST",
)
HOST_KEY_REVOKED: Final = (
    "host_key_revoked",
    (_G, _C),
    "the server shows a key that known_hosts marks `@revoked`, or that RevokedHostKeys has",
    "do not connect: this key was revoked on purpose; the server needs a new one",
)
AUTH_FAILED: Final = (
    "auth_failed",
    (_G,),
    "sshd refused every key that we have, or wants more than a key",
    "is the public key in authorized_keys of that user, and the certificate still valid? sshd's log "
    "says why it refused",
)
JUMP_FAILED: Final = (
    "jump_failed",
    (_G,),
    "a gateway of the jump chain cannot be reached; the message says which, and why",
    "mend that gateway: its own line in kubemux status, or kubemux probe CLUSTER, shows at which step it "
    "stops",
)
KEEPALIVE_TIMEOUT: Final = (
    "keepalive_timeout",
    (_G, _C),
    "the gateway stopped answering on a link that was up",
    "the network or the gateway's machine no longer answers; kubemux dials again by itself",
)
LINK_LOST: Final = (
    "link_lost",
    (_G, _C),
    "a link that was up has ended: closed by sshd, or reset",
    "kubemux dials again by itself; if this repeats, sshd's log on the gateway says why it hangs up",
)
PROTOCOL_ERROR: Final = (
    "protocol_error",
    (_G, _C),
    "the server broke the SSH protocol, so kubemux ended the link",
    "kubemux dials again by itself; if this repeats, something on the way to the gateway alters "
    "bytes, or its sshd is broken",
)
REPLACED: Final = (
    "replaced",
    (_G, _C),
    "kubemux closed a link because a new one replaces it (reconnect, a changed key, `max_link_age`); a "
    "client still used it when `retire_timeout` was over",
)
LINK_FAILED: Final = (
    "link_failed",
    (_G,),
    "a link failed, and nothing more is known",
    "the message, and sshd's log on the gateway, say more",
)
