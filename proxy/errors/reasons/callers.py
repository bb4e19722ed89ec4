"""The reasons about callers and their requests, as `proxy.errors.reasons` lists them."""

from __future__ import annotations

from typing import Final

from proxy.errors.words import Subject

_C, _G, _L = Subject.CLIENT, Subject.GATEWAY, Subject.LOGIN

# -------------------------------------------------------------------------------------- at an entry

BAD_REQUEST: Final = (
    "bad_request",
    (_C,),
    "what a client of an entry has sent is no request that can be read, or names no host and port; the "
    "message says why",
    "does it ask for HOST:PORT by HTTP CONNECT or SOCKS5 without TLS, or by ssh -J, -W, -L or -D?",
)
UNSUPPORTED: Final = (
    "unsupported",
    (_C,),
    "a client of a proxy entry asked for what it does not do: a plain HTTP request, SOCKS4, or BIND and "
    "UDP of SOCKS5; or a client of the SSH server for a shell, X11, an agent or a unix socket",
    "ask by HTTP CONNECT or SOCKS5: kubectl's proxy-url, curl --proxytunnel; the entry is no web server. By "
    "SSH: ssh -J, -W, -L or -D, with -N",
)
HEAD_TIMEOUT: Final = (
    "head_timeout",
    (_C,),
    "a client of a proxy entry did not send its whole request in time",
    "what connects there and says nothing? A port check does no harm",
)
TLS_HANDSHAKE: Final = (
    "tls_handshake",
    (_C,),
    "a client of an entry with `tls` did not finish the TLS handshake; the message says why",
    "does the client trust the CA of `cert_file`, and is its own certificate one of `client_ca_file`'s, "
    "and still valid? Try openssl s_client -connect HOST:PORT -cert FILE -key FILE",
)
AUTH_REQUIRED: Final = (
    "auth_required",
    (_C,),
    "the entry asks for a user and a password, and the client gave none, or wrong ones",
    "write them into the proxy's URL: http://USER:PASSWORD@HOST:PORT",
)
DENIED: Final = (
    "denied",
    (_C,),
    "`allow` lets others in, and not this caller; the message says who it was taken for. Or the options of "
    "the caller's SSH key do not let it ask for that",
    "add the caller to `allow` of the cluster or route, if that is meant; or see permitopen= and restrict in "
    "its line of authorized_keys",
)

# -------------------------------------------------------------- at the SSH server, before the login

UNKNOWN_KEY: Final = (
    "unknown_key",
    (_L,),
    "a client of the SSH server has shown a key, or a certificate of a CA, that no site and no user has",
    "is its public key in a file of `authorized_keys`? The message has its fingerprint, as ssh-keygen -l "
    "-f FILE prints it",
)
KEY_OPTION: Final = (
    "key_option",
    (_L,),
    "the line of the key has an option that kubemux does not enforce, or cannot be used, or the key is "
    "another's, too; the message says which",
    "kubemux check names the line: correct the option, or take the line out",
)
KEY_SOURCE: Final = (
    "key_source",
    (_L,),
    "the key may not come from this address: `from` of its line, or `source-address` of its certificate",
    "the message has the address that the client comes from; is a NAT or a VPN in between?",
)
KEY_EXPIRED: Final = (
    "key_expired",
    (_L, _G, _C),
    "the key (`expiry-time` of its line) or its certificate has expired, and its connections end",
    "have it signed again, or write a later date",
)
KEY_REVOKED: Final = (
    "key_revoked",
    (_L,),
    "the key, or the CA of its certificate, is in a file of `revoked_keys`",
    "it was revoked on purpose: its owner needs another one",
)
KEY_REMOVED: Final = (
    "key_removed",
    (_L, _G, _C),
    "the key may no longer log in, because its file or the configuration has changed; its connections end",
    "a site or user with another key logs in again by itself",
)
CERTIFICATE: Final = (
    "certificate",
    (_L,),
    "the CA is one that we know, but its certificate lets nobody in: a host's, not valid yet, without a "
    "principal of ours, or with a critical option that kubemux does not enforce; the message says which",
    "ssh-keygen -L -f KEY-cert.pub shows all of that",
)
OTHER_NAME: Final = (
    "other_name",
    (_L,),
    "the client has the key of one user or site, and asked for the name of another; the message has both "
    "fingerprints",
    "is the right key on the right machine? A site logs in with its own name, or with none of ours",
)
WEAK_SIGNATURE: Final = (
    "weak_signature",
    (_L,),
    "the client signs with SHA-1 (`ssh-rsa`), or its certificate was signed so",
    "a newer client signs with rsa-sha2-256; or make another key: ssh-keygen -t ed25519",
)
BAD_SIGNATURE: Final = (
    "bad_signature",
    (_L,),
    "the client has the public key, and not its private one",
    "who is it? The log has the address",
)
FORWARD_REFUSED: Final = (
    "forward_refused",
    (_G, _L),
    "a site has asked for a forward (`-R`) that it cannot have; the message says why",
    "mend the ssh command of the site; kubemux site add NAME prints one that fits",
)
NO_LOGIN: Final = (
    "no_login",
    (_L,),
    "a client of the SSH server has left without showing a key, or has not signed with the one that it has "
    "shown",
    "a port check does no harm; a client that has no key, cannot read its private key, or does not trust our "
    "host key, leaves as well",
)
LOGIN_TIMEOUT: Final = (
    "login_timeout",
    (_L,),
    "a client of the SSH server has not logged in within `login_timeout`",
    "what connects there and says nothing? Does an agent wait for somebody to touch a key?",
)
STARTUPS: Final = (
    "startups",
    (_L,),
    "closed at once: `max_startups` connections have not logged in, or `per_source_max_startups` of that "
    "source",
    "if they are your own, list their network in ssh_server.sources",
)
PENALTY: Final = (
    "penalty",
    (_L,),
    "closed at once: logins from that source have failed too often lately",
    "it ends by itself, after 15 s to 10 min, or by `kubemux reload`; "
    "networks in ssh_server.sources get no penalty",
)
