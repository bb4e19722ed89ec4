"""Parses the requests of a proxy entry's clients: HTTP CONNECT (RFC 9110 9.3.6) and SOCKS5 (RFC 1928).

These modules do no I/O. The client's first byte tells which protocol it speaks:

    head = begin(data[0], needs_user=False)
    step = head.feed(data)  # see proxy.entries.heads.head for what it may be
"""

from __future__ import annotations

from proxy.entries.heads.head import Asked as Asked
from proxy.entries.heads.head import Credentials as Credentials
from proxy.entries.heads.head import Head as Head
from proxy.entries.heads.head import Login as Login
from proxy.entries.heads.head import Rejected as Rejected
from proxy.entries.heads.head import Reply as Reply
from proxy.entries.heads.head import Step as Step
from proxy.entries.heads.http_connect import HttpConnect
from proxy.entries.heads.socks5 import VERSION, VERSION_4, Socks5


def begin(first: int, *, needs_user: bool) -> Head:
    """The parser for a client whose first byte is `first`. `needs_user`: the client must send user and
    password.
    """
    return (Socks5 if first in (VERSION, VERSION_4) else HttpConnect)(needs_user=needs_user)
