"""The answer for each reason of a refusal: a code in each protocol, and a sentence for users."""

from __future__ import annotations

from typing import Final, NamedTuple

from proxy.errors.reasons import Reason
from proxy.errors.words import Subject
from proxy.runtime.text import in_ascii
from proxy.ssh.native.wire.messages import CONNECT_FAILED, PROHIBITED, SHORTAGE

LONGEST_LINE: Final = 200
"""The maximum length of a reason phrase in characters: clients cut longer ones."""
LONGEST_SUBJECT: Final = 64


class Codes(NamedTuple):
    """A reason as codes that client programs understand: RFC 9110 15, RFC 1928 6 and RFC 4254 5.1."""

    status: int
    reply: int
    failure: int = CONNECT_FAILED


GENERAL_FAILURE: Final = 1
NOT_ALLOWED: Final = 2
NETWORK_UNREACHABLE: Final = 3
HOST_UNREACHABLE: Final = 4
CONNECTION_REFUSED: Final = 5
TTL_EXPIRED: Final = 6
COMMAND_NOT_SUPPORTED: Final = 7
ADDRESS_TYPE_NOT_SUPPORTED: Final = 8

_CODES: Final = {
    Reason.BAD_REQUEST: Codes(400, GENERAL_FAILURE),
    Reason.DENIED: Codes(403, NOT_ALLOWED, PROHIBITED),
    Reason.UNKNOWN_NAME: Codes(404, HOST_UNREACHABLE, PROHIBITED),
    Reason.UNSUPPORTED: Codes(405, COMMAND_NOT_SUPPORTED, PROHIBITED),
    Reason.AUTH_REQUIRED: Codes(407, NOT_ALLOWED, PROHIBITED),
    Reason.HEAD_TIMEOUT: Codes(408, GENERAL_FAILURE),
    Reason.INTERNAL: Codes(500, GENERAL_FAILURE),
    Reason.CHANNEL_REFUSED: Codes(502, CONNECTION_REFUSED),
    # sshd's own rules forbid the connection.
    Reason.CHANNEL_PROHIBITED: Codes(502, NOT_ALLOWED, PROHIBITED),
    Reason.CHANNEL_FAILED: Codes(502, GENERAL_FAILURE),
    Reason.UNRESOLVABLE: Codes(502, HOST_UNREACHABLE),
    Reason.DRAINED: Codes(503, GENERAL_FAILURE),
    Reason.SHUTDOWN: Codes(503, GENERAL_FAILURE),
    Reason.LIMIT: Codes(503, GENERAL_FAILURE, SHORTAGE),
    Reason.CLUSTER_LIMIT: Codes(503, GENERAL_FAILURE, SHORTAGE),
    Reason.HOST_LIMIT: Codes(503, GENERAL_FAILURE, SHORTAGE),
    Reason.MEMORY: Codes(503, GENERAL_FAILURE, SHORTAGE),
    Reason.LINK_DOWN: Codes(503, NETWORK_UNREACHABLE),
    Reason.TIMEOUT: Codes(504, TTL_EXPIRED),
    Reason.CONNECT_TIMEOUT: Codes(504, TTL_EXPIRED),
}


def codes(reason: Reason) -> Codes:
    """The codes for a reason. The default means that the network behind the gateway cannot be reached."""
    if reason in _CODES:
        return _CODES[reason]
    return _CODES[Reason.LINK_DOWN if Subject.GATEWAY in reason.subjects else Reason.INTERNAL]


def sentence(reason: Reason, message: str, subject: str, *, most: int = LONGEST_LINE) -> str:
    """`kubemux: SUBJECT: REASON (MESSAGE)` in printable ASCII, at most `most` characters."""
    about = f"{in_ascii(subject, most=LONGEST_SUBJECT)}: " if subject else ""
    told = f"kubemux: {about}{reason}"
    return f"{told} ({in_ascii(message, most=most - len(told) - len(' ()'))})" if message else told
