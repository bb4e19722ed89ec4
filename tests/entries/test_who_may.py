"""From a client's socket to the decision of `allow`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from proxy.config.allow import Rule
from proxy.entries.callers import uid_of
from proxy.entries.client_certificates import identities_of
from proxy.entries.identities import Identities
from proxy.routing.allow import is_allowed
from tests.support.users import ROOT_ONLY, as_user

pytestmark = pytest.mark.both_loops

STRANGER: Final = 4242
Connect = Callable[[int], tuple[socket.socket, socket.socket]]


def rules(*lines: str) -> tuple[Rule, ...]:
    return tuple(map(Rule.parse, lines))


@pytest.fixture
async def known() -> AsyncIterator[Identities]:
    known = Identities()
    yield known
    await known.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A function that connects over loopback as a uid; it returns the accepted socket."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def connect(uid: int) -> tuple[socket.socket, socket.socket]:
            with as_user(uid):
                client = stack.enter_context(socket.create_connection(server.getsockname(), timeout=60))
            return client, stack.enter_context(server.accept()[0])

        yield connect


@ROOT_ONLY
@pytest.mark.parametrize(
    ("allow", "root", "stranger"),
    [
        (("uid:0",), True, False),
        (("uid:root",), True, False),
        (("gid:root",), True, False),
        (("gid:0", f"uid:{STRANGER}"), True, True),
        ((f"uid:{STRANGER}",), False, True),
        ((f"gid:{STRANGER}",), False, False),  # a uid without a name has no groups
        (("cert:uid:0", "proxy-user:root", "uid:1"), False, False),
        (("any",), True, True),
        ((), False, False),
    ],
)
async def test_a_caller_is_let_in_by_its_identity(
    known: Identities, connect: Connect, allow: tuple[str, ...], root: bool, stranger: bool
) -> None:
    let_in = [is_allowed(rules(*allow), await known.of(uid_of(connect(uid)[1]))) for uid in (0, STRANGER)]
    assert let_in == [root, stranger]


@ROOT_ONLY
async def test_a_client_that_has_closed_is_let_in_only_by_any(known: Identities, connect: Connect) -> None:
    client, accepted = connect(0)
    client.sendall(b"x")
    client.close()
    identities = await known.of(uid_of(accepted))
    assert not is_allowed(rules("uid:0", "uid:root", "gid:0", "uid:65534", "gid:nogroup"), identities)
    assert is_allowed(rules("any"), identities)


@pytest.mark.parametrize(
    ("rule", "kind", "name"),
    [
        ("cert:CI.Example.com", "DNS", "ci.example.com"),
        ("cert:ci.example.com", "DNS", "CI.Example.com"),
        ("cert:FD00:0::9", "IP Address", "FD00:0:0:0:0:0:0:9"),
        ("cert:spiffe://example.com/ns/Argo", "URI", "spiffe://example.com/ns/Argo"),
        ("cert:Ops@example.com", "email", "Ops@example.com"),
    ],
)
def test_a_rule_names_a_certificate_however_it_is_written(rule: str, kind: str, name: str) -> None:
    certificate = {"subjectAltName": ((kind, name),)}
    assert is_allowed(rules(rule), identities_of(certificate))
    assert not is_allowed(rules(f"{rule}x"), identities_of(certificate))


@pytest.mark.parametrize("rule", ["cert:spiffe://example.com/ns/argo", "cert:ops@example.com"])
def test_case_matters_in_names_that_are_no_host_names(rule: str) -> None:
    names = (("URI", "spiffe://example.com/ns/Argo"), ("email", "Ops@example.com"))
    assert not is_allowed(rules(rule), identities_of({"subjectAltName": names}))
