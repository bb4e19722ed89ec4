"""The callbacks of asyncssh during a login: the server's key is checked before we show it any key of ours.

What the server sends is kept in `Heard`, from which `proxy/ssh/errors.py` makes messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from weakref import ref

import asyncssh

from proxy.errors import CredentialsUnusable, HostKeyChanged
from proxy.openssh.revoked import Unanswered, is_in_krl
from proxy.runtime.text import printable
from proxy.ssh import internals
from proxy.ssh.errors import Heard, describe_key, host_key_line
from proxy.ssh.login.agreement import disagreement
from proxy.ssh.login.learning import Announcement, split
from proxy.ssh.login.verify import Server, revoked, verify
from proxy.ssh.metered import Metered

Lost = Callable[[Exception | None], None]


class Login(asyncssh.SSHClient):
    """The callbacks of one asyncssh connection during its login.

    `on_lost` is called when the connection ends. `name` is the server's name in known_hosts.
    `is_asked_further` allows keyboard-interactive after the server has accepted a key.
    """

    def __init__(
        self,
        server: Server,
        name: bytes,
        *,
        seconds: float,
        on_lost: Lost | None,
        is_asked_further: bool = True,
    ) -> None:
        self.announcement: asyncio.Future[Announcement] = asyncio.get_running_loop().create_future()
        self.host_key = b""
        """The server's key or certificate (RFC 4253 6.6, PROTOCOL.certkeys); empty until we trust it."""
        self._server = server
        self._name = name
        self._seconds = seconds
        self._on_lost = on_lost
        self._is_asked_further = is_asked_further
        self._key: asyncssh.SSHKey | None = None
        self.heard = Heard()
        self._conn: ref[asyncssh.SSHClientConnection] | None = None
        self._krls = list(server.trusted.krls)
        """The revocation lists in which the server's key has not been looked up yet."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Replace the parts of asyncssh that are less strict than ssh(1)."""
        Metered(conn)
        internals.accept_any_answer(conn)
        internals.on_host_key(conn, self._verify)
        internals.on_host_keys(conn, partial(self._host_keys_announced, conn))
        internals.on_greeting(conn, self._greeted)
        internals.on_login(conn, self.require_unrevoked, self._shows, self._refused)
        self._conn = ref(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.host_key and self._conn and (conn := self._conn()):
            self.heard.disagreement = disagreement(self._server.name, *internals.offers(conn))
        if self._on_lost is not None:
            self._on_lost(exc)

    async def require_unrevoked(self) -> None:
        """Look the server's key up in the revocation lists. Raises LinkError."""
        while self._krls:
            krl = self._krls[0]
            try:
                if await is_in_krl(krl, host_key_line(self.host_key), seconds=self._seconds):
                    raise revoked(self._server, f"{krl} has it")
            except Unanswered as exc:
                raise CredentialsUnusable(
                    f"RevokedHostKeys {krl} cannot be asked about the host key of {self._server.name}: {exc}",
                    hint="without it any host key may be a revoked one, so none is trusted; try: "
                    "ssh-keygen -Q -l -f FILE",
                ) from exc
            del self._krls[0]

    def kbdint_auth_requested(self) -> str | None:
        """Allow keyboard-interactive, but only after the server has accepted a key.

        Some servers then ask no question, for example with a PAM module that checks only the address.
        """
        return "" if self.heard.accepted and self._is_asked_further else None

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        """Answer if there are no questions, as ssh(1) does. A daemon cannot answer a question."""
        del name, instructions, lang
        self.heard.prompts += [printable(prompt) for prompt, _ in prompts]
        return None if prompts else []

    def _greeted(self, data: bytes) -> None:
        if not data.startswith(b"SSH-"):
            line = printable(data.partition(b"\n")[0].decode("utf-8", "replace"))
            self.heard.greeting = self.heard.greeting or line

    def _shows(self, pair: asyncssh.SSHKeyPair) -> None:
        if (
            key := describe_key(pair)
        ) not in self.heard.shown:  # RSA is shown once for each of its signatures
            self.heard.shown.append(key)

    def _refused(self, methods: Sequence[str], is_step: bool) -> None:
        self.heard.methods = tuple(printable(method) for method in methods[:10])
        if self.heard.shown:
            if is_step:
                self.heard.accepted = self.heard.shown[-1]
            else:
                self.heard.is_refused = True

    def _verify(self, shown: bytes) -> asyncssh.SSHKey:
        if self._key is not None and shown == self.host_key:
            # A later key exchange. A certificate may have expired since the login; like ssh(1), we accept
            # that.
            return self._key
        if self._key is not None and self._server.trusted.krls:
            raise HostKeyChanged(
                f"{self._server.name} shows another host key than it had when the link came up"
            )
        self._key = verify(self._server, shown)
        self.host_key = shown
        return self._key

    def _host_keys_announced(self, conn: asyncssh.SSHClientConnection, payload: bytes) -> None:
        if not self.announcement.done():  # sshd sends the list only once
            self.announcement.set_result(Announcement(conn, self._name, self.host_key, split(payload)))
