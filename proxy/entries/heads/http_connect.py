"""HTTP CONNECT (RFC 9110 9.3.6, RFC 9112): parses the head of a request, and makes its answer.

h11 does not parse the head, for two reasons. It refuses an HTTP/1.1 request without `Host`, as RFC 9112 3.2
demands. Go's server makes an exception for CONNECT, on which clients of Konnectivity may depend, and so do
we: `Host` adds nothing to the request line (kube-apiserver sends `Host: 127.0.0.1`). And h11 does not check
the request line before the whole head has arrived.

The head is never forwarded, so an ambiguous head harms no server behind us. A bare LF also ends a line (RFC
9112 2.2), which helps people who type a request.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from proxy.entries.heads.answers import LONGEST_LINE, codes, sentence
from proxy.entries.heads.head import MOST, Asked, Credentials, Head, Login, Rejected, Step, target
from proxy.errors.reasons import Reason

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_LINE: Final = re.compile(rb"(%b) ([!-~]+) HTTP/([0-9]\.[0-9])" % _TOKEN)
_FIELD: Final = re.compile(rb"(%b):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)" % _TOKEN)
_END: Final = re.compile(rb"\n\r?\n")
_TLS: Final = 0x16
"""The first byte of a TLS handshake (RFC 8446 5.1)."""

_ACCEPTED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_FIELDS: Final = {
    Reason.UNSUPPORTED: "Allow: CONNECT\r\n",
    Reason.AUTH_REQUIRED: 'Proxy-Authenticate: Basic realm="kubemux"\r\n',
}


class HttpConnect(Head):
    """A client that speaks HTTP, or a protocol that this entry does not know. Both get an HTTP answer."""

    def __init__(self, *, needs_user: bool) -> None:
        self._needs_user = needs_user
        self._held = bytearray()
        self._asked: Asked | None = None

    def feed(self, data: bytes) -> Step:
        """The first line is checked when it is complete, so that a client of another protocol is refused at
        once.
        """
        seen = len(self._held)
        self._held += data
        if self._held[:1] == bytes((_TLS,)):
            return self._bad("this entry speaks HTTP and SOCKS5 without TLS: a proxy-url begins with http://")
        line, is_whole, _ = self._held[: MOST + 1].partition(b"\n")
        request = _LINE.fullmatch(line.removesuffix(b"\r")) if is_whole else None
        if is_whole and not (request and request[3].startswith(b"1.")):
            return self._bad("expected a request line as CONNECT HOST:PORT HTTP/1.1")
        end = _END.search(self._held, max(0, seen - 2))
        if (end.end() if end else len(self._held)) > MOST:
            return self._bad(f"a head of more than {MOST} bytes")
        if not end or not request:
            return None
        fields = bytes(self._held[len(line) + 1 : end.start() + 1])
        early = bytes(self._held[end.end() :])
        self._held.clear()
        return self._judge(request[1], request[2].decode("ascii"), fields, early)

    def login(self, *, is_known: bool) -> Step:
        return self._asked if is_known else self._unknown("wrong user or password")

    def accepted(self) -> bytes:
        return _ACCEPTED

    def refused(self, reason: Reason, message: str = "", *, subject: str = "") -> bytes:
        start = f"HTTP/1.1 {codes(reason).status} "
        phrase = sentence(reason, message, subject, most=LONGEST_LINE - len(start))
        return (
            f"{start}{phrase}\r\n{_FIELDS.get(reason, '')}Content-Type: text/plain\r\n"
            f"Content-Length: {len(phrase) + 1}\r\nConnection: close\r\n\r\n{phrase}\n"
        ).encode("ascii")

    def _judge(self, method: bytes, asked: str, lines: bytes, early: bytes) -> Step:
        fields: dict[bytes, list[bytes]] = {}
        for line in lines.split(b"\n")[:-1]:
            field = _FIELD.fullmatch(line.removesuffix(b"\r"))
            if not field:  # a folded line, too (RFC 9112 5.2)
                return self._bad("a line that is not a header field")
            fields.setdefault(field[1].lower(), []).append(field[2].rstrip(b" \t"))
        if method != b"CONNECT":
            return self._rejected(Reason.UNSUPPORTED, _instead(asked))
        if any(len(fields.get(name, ())) > 1 for name in (b"host", b"proxy-authorization")):
            return self._bad("Host or Proxy-Authorization is there twice")
        # CONNECT has no content (RFC 9110 9.3.6). If we allowed it, it would be taken for `early` bytes.
        if b"transfer-encoding" in fields or {*fields.get(b"content-length", ())} - {b"0"}:
            return self._bad("CONNECT with content")
        try:
            self._asked = Asked(target(asked), early)
        except ValueError as exc:
            return self._bad(str(exc))
        if not self._needs_user:
            return self._asked
        credentials = _basic(*fields.get(b"proxy-authorization", ()))
        return Login(credentials) if credentials else self._unknown("the entry needs a user and a password")

    def _bad(self, message: str) -> Rejected:
        return self._rejected(Reason.BAD_REQUEST, message)

    def _unknown(self, message: str) -> Rejected:
        return self._rejected(Reason.AUTH_REQUIRED, message)

    def _rejected(self, reason: Reason, message: str) -> Rejected:
        self._held.clear()
        return Rejected(reason, message, self.refused(reason, message))


def _instead(asked: str) -> str:
    """The hint for a request with another method, by the form of its request-target (RFC 9112 3.2)."""
    if "://" in asked:
        return "only CONNECT and SOCKS5 are proxied here, no plain HTTP requests: curl takes --proxytunnel"
    return "this is a proxy for CONNECT and SOCKS5, no web server: kubectl takes it as proxy-url"


def _basic(given: bytes = b"") -> Credentials | None:
    """The credentials of the scheme Basic (RFC 7617 2); None for another scheme, or if they are malformed."""
    scheme, _, encoded = given.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        pair = binascii.a2b_base64(encoded.strip(b" "), strict_mode=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = pair.partition(":")
    is_sound = colon and user and not any(char < " " or char == "\x7f" for char in user + password)
    return Credentials(user, password) if is_sound else None
