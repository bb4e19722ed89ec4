"""One connection of an SSH client, before and after its login: the callbacks of asyncssh.

asyncssh asks the session whether each offered key is accepted. It does not enforce the key's options after
the login: the owner of the connection (`Guest`) does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import Final, NamedTuple, Protocol, cast

import asyncssh
from asyncssh.public_key import decode_ssh_certificate, decode_ssh_public_key

from proxy.config.key_table import Table
from proxy.errors import LinkError
from proxy.errors.reasons import Reason
from proxy.openssh import certificates
from proxy.openssh.blobs import Reader
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown
from proxy.ssh import internals, serving
from proxy.ssh.metered import MOST_UNOPENED, Metered
from proxy.ssh.native.wire import messages
from proxy.ssh.open_requests import ONLY_FORWARDS
from proxy.ssh.server.gate import Gate
from proxy.ssh.server.login import SIGNATURES, Login, Refused, decide
from proxy.ssh.server.startups import Source

MOST_TRIES: Final = 20
"""Failed attempts per connection. sshd allows 6 (MaxAuthTries): an agent with many keys uses them up."""

MOST_PACKETS: Final = 200
"""Packets before the login. OpenSSH sends five, and one more for each key."""
LARGEST_BEFORE: Final = 64 << 10
"""Before the login, the maximum size of a packet and of received bytes that wait for asyncssh. RFC 4253 6.1
requires 35,000 bytes.
"""


class Guest(Protocol):
    """The owner of a connection after its login."""

    def lost(self, exc: Exception | None) -> None:
        """The connection has ended; `exc` is None if the client closed it without a reason."""

    def recheck(self) -> None:
        """The options of the key may have changed. End what they no longer permit, except channels."""

    def ends(self, error: LinkError) -> None:
        """The server is about to end the connection because of `error`. A call of `lost` follows."""


class TurnedAway(Guest):
    """The owner of a connection that ends at once after its login. It does nothing."""

    def lost(self, exc: Exception | None) -> None:
        """Nothing to do: the connection has no link."""

    def recheck(self) -> None:
        """See `lost`."""

    def ends(self, error: LinkError) -> None:
        """See `lost`."""


class Server(Protocol):
    """The server, as its sessions see it."""

    @property
    def table(self) -> Table:
        """The current table of keys and their owners."""

    @property
    def gate(self) -> Gate:
        """The gate where logins wait for their turn."""

    def made(self, session: Session) -> None:
        """A client has connected."""

    def now(self) -> float:
        """The Unix time."""

    def logged_in(self, session: Session, login: Login) -> Guest:
        """A client has logged in. Returns the owner of its connection from now on."""

    def lost(self, session: Session, exc: Exception | None) -> None:
        """A connection has ended."""


class Visit(NamedTuple):
    """Where a connection comes from, and when it began."""

    address: Endpoint
    source: Source
    since: float
    """When its handshake began: seconds of the loop's clock."""


class Connection(asyncssh.SSHServerConnection):
    """asyncssh's connection, with two changes: it lets the session decide about the login, and sends no
    IGNORE.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHServerConnectionOptions, visit: Visit
    ) -> None:
        super().__init__(loop, options)
        self.visit = visit

    def process_packet(
        self, pkttype: int, pktid: int, packet: asyncssh.packet.SSHPacket
    ) -> bool | Awaitable[None]:
        """Handle a packet for the connection itself. Raises ProtocolError."""
        session = cast("Session | None", self.get_owner())
        if session is not None and session.login is None:
            session.count(pkttype)
        return super().process_packet(pkttype, pktid, packet)

    def send_packet(
        self, pkttype: int, *args: bytes, handler: asyncssh.packet.SSHPacketLogger | None = None
    ) -> None:
        """Send a packet. asyncssh sends an IGNORE before each packet of the login, which costs as much as the
        packet. It protects CBC (RFC 4251 9.3.1), and we offer no cipher that uses CBC.
        """
        if pkttype != messages.IGNORE:
            super().send_packet(pkttype, *args, handler=handler)

    async def reload_config(self) -> None:
        """Do nothing. asyncssh would rebuild its options for each user name, in the default executor."""

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Whether this key is accepted, and the signature valid if there is one."""
        session = cast("Session | None", self.get_owner())
        return session is not None and session.check(username, key_data, msg, signature)

    def send_userauth_failure(self, partial_success: bool) -> None:
        """Tell the client that an attempt has failed. An unsupported method counts as a failed attempt."""
        super().send_userauth_failure(partial_success)
        session = cast("Session | None", self.get_owner())
        if session is not None:
            session.failed()


class Session(asyncssh.SSHServer):
    """One client. `login` is None until the client has logged in. A new table of keys may replace it."""

    def __init__(self, server: Server) -> None:
        self._metered: Metered
        self.conn: Connection
        """Set by `connection_made`, like `visit`."""
        self.visit: Visit
        self.login: Login | None = None
        self.guest: Guest | None = None
        self.refusal: Refused | None = None
        """Why the client's last known key was refused. If no key is known: its last certificate, or else its
        first key.
        """
        self.asked = ""
        """The user name of the client's last attempt."""
        self.open: Counter[Endpoint] = Counter()
        """What the client's channels have asked for, and how many channels each has."""
        self.has_tried_key = False
        self.tries = 0
        """How many attempts have failed."""
        self._packets = 0
        self._exchanges = 0
        self._server = server
        self._proved: Login | None = None

    def __repr__(self) -> str:
        return f"<Session {self.login.identity if self.login else 'before its login'}>"

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._metered = Metered(conn)
        self._metered.most_unopened = LARGEST_BEFORE
        self._metered.gate = self._server.gate
        internals.limit_packets(conn, LARGEST_BEFORE)
        serving.on_guess(conn)
        serving.on_service(conn)
        self.conn = cast("Connection", conn)
        self.visit = self.conn.visit
        self._server.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.lost(self, exc)

    # ------------------------------------------------------------------------------------------------ login

    @property
    def has_tried(self) -> bool:
        """Whether the client has tried to log in. The first attempt is `none`, by which clients ask for the
        methods (RFC 4252 5.2).
        """
        return self.has_tried_key or self.tries > 1

    @property
    def has_signed(self) -> bool:
        """Whether the client has proved that it has a key that is accepted."""
        return self._proved is not None

    def public_key_auth_supported(self) -> bool:
        return True

    def check(self, asked: str, blob: bytes, message: bytes, signature: bytes) -> bool:
        """Whether this key, and its signature if there is one, let the client in."""
        self.asked, self.has_tried_key = asked, True
        try:
            login = decide(
                self._server.table, blob, asked=asked, address=self.visit.address, now=self._server.now()
            )
            if signature or message:
                self._verify(login, message, signature)
                self._proved = login
        except Refused as exc:
            is_unknown = self.refusal is None or self.refusal.reason is Reason.UNKNOWN_KEY
            # ssh offers a certificate and its key. If both are unknown, the certificate says more.
            says_more = exc.reason is not Reason.UNKNOWN_KEY or (
                is_unknown and certificates.is_certificate(blob)
            )
            if self.refusal is None or says_more:
                self.refusal = exc
            return False
        return True

    def _verify(self, login: Login, message: bytes, signature: bytes) -> None:
        try:
            algorithm = Reader(signature).string().decode("ascii", "replace")
            if certificates.is_certificate(login.blob):
                key = decode_ssh_certificate(login.blob).key  # this checks the CA's signature
            else:
                key = decode_ssh_public_key(login.blob)
        except ValueError as exc:
            raise Refused(Reason.BAD_SIGNATURE, f"the key {login.fingerprint} cannot be used: {exc}") from exc
        if algorithm not in SIGNATURES:
            raise Refused(
                Reason.WEAK_SIGNATURE,
                f"the key {login.fingerprint} signs with {shown(algorithm)}, which is not accepted",
            )
        key.set_touch_required(login.options.needs_touch)
        session_id = internals.session_id(self.conn)
        if not key.verify(len(session_id).to_bytes(4) + session_id + message, signature):
            raise Refused(Reason.BAD_SIGNATURE, f"the signature by {login.fingerprint} is wrong")

    def count(self, kind: int) -> None:
        """Count a packet before the login. Raises ProtocolError if there are more than a login needs. A
        second key exchange is not needed, and would cost us a signature.
        """
        self._packets += 1
        self._exchanges += kind == messages.KEXINIT
        if self._packets > MOST_PACKETS or self._exchanges > 1:
            raise asyncssh.ProtocolError("it does not log in, and goes on sending")

    def failed(self) -> None:
        """Count a failed attempt. After MOST_TRIES the connection is closed."""
        self.tries += 1
        if self.tries >= MOST_TRIES:
            self.conn.disconnect(asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "too many keys were tried")

    def auth_completed(self) -> None:
        if self._proved is None:  # asyncssh ends the connection
            raise RuntimeError("asyncssh accepts a login whose key was not checked")
        if internals.is_gone(self.conn):  # asyncssh is about to call `connection_lost`
            return
        self._metered.most_unopened, self._metered.gate = MOST_UNOPENED, None
        internals.limit_packets(self.conn, MOST_UNOPENED)
        self.login = self._proved
        self.guest = self._server.logged_in(self, self.login)

    def disconnect(self, why: str, *, answers_first: bool = True) -> None:
        """End the connection. The ssh client prints `why`, a whole sentence.

        A callback may call this before asyncssh has sent the answer to the client's request. With
        `answers_first` that answer is sent before the disconnect.
        """
        end = partial(self.conn.disconnect, asyncssh.DISC_BY_APPLICATION, why)
        if answers_first:
            asyncio.get_running_loop().call_soon(end)
        else:
            end()

    # ------------------------------------------------------------------ channels that the session refuses

    def session_requested(self) -> bool:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, ONLY_FORWARDS)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        del dest_host, dest_port, orig_host, orig_port
        raise asyncssh.ChannelOpenError(
            asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "kubemux opens no channels on this connection"
        )

    def unix_connection_requested(self, dest_path: str) -> bool:
        del dest_path
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, ONLY_FORWARDS)
