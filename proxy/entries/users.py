"""Proxy users: checks passwords against a file of htpasswd(1).

bcrypt makes each check slow on purpose: 0.3 s at cost 12. A thread runs one check at a time, and a few may
wait. After a successful check, the same password is compared by an HMAC, whose key exists only in this
process. So a client with many connections waits for bcrypt only once.

The time of a check does not show whether a user exists. A wrong password always takes one bcrypt, and so does
an unknown user, with the hash of some existing user. (One fixed hash would not do: the costs in a file may
differ.)
"""

from __future__ import annotations

import hmac
import secrets
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import bcrypt

from proxy.config import credential_file
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.htpasswd import Accounts, parse
from proxy.runtime.blocking import FILES_S, Hangs, Place
from proxy.runtime.shared import Shared

CHECK_S: Final = 8.0
MOST_CHECKS: Final = 24
"""The limit of checks that run or wait. At 0.3 s each (cost 12), the last one still ends in time."""
_BCRYPT_BYTES: Final = 72
"""Bytes of a password that bcrypt uses. htpasswd(1) ignores the rest. The bcrypt package refuses more."""

_BUSY: Final = "too many other passwords wait to be checked"


class Busy(Exception):
    """A password was not checked, because too many checks wait."""


class Users:
    """The users of one file, for one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Place(f"users_file {path}")
        self._cpu = Place("checking a password")
        self._checks: Shared[bytes, bool | None] = Shared("users")
        """By proof, so that simultaneous clients with the same user and password share one check."""
        self._key = secrets.token_bytes(32)
        self._accounts: Accounts = MappingProxyType({})
        self._hashes: tuple[bytes, ...] = ()
        self._proofs: dict[str, bytes] = {}
        """By user: the proof (`_proof`) of the password that bcrypt has accepted."""

    def __repr__(self) -> str:
        return f"<Users {self.path} {len(self._accounts)}>"

    async def load(self) -> None:
        """Read the file; an empty file has no users.

        Raises Unusable or Hangs, and then keeps the users that were read before.
        """
        accounts = await self._files.run(_read, self.path, timeout=FILES_S)
        self._proofs = {
            user: proof for user, proof in self._proofs.items() if accounts.get(user) == self._accounts[user]
        }
        self._accounts, self._hashes = accounts, tuple(accounts.values())

    async def is_right(self, user: str, password: bytes) -> bool:
        """Whether this is the password of `user`. Raises Busy."""
        password = password[:_BCRYPT_BYTES]
        hashed = self._accounts.get(user)
        proof = self._proof(user, hashed or b"", password)
        if hashed is not None and hmac.compare_digest(self._proofs.get(user, b""), proof):
            return True
        if not self._hashes:
            return False
        if len(self._checks) >= MOST_CHECKS and proof not in self._checks:
            raise Busy(_BUSY)
        check = partial(self._check, password, hashed or self._decoy(user))
        is_right = await self._checks.run(proof, check, name="check")
        if is_right is None:
            raise Busy(_BUSY)
        # A reload may have removed the user meanwhile, or changed the password.
        if not is_right or hashed is None or self._accounts.get(user) != hashed:
            return False
        self._proofs[user] = proof
        return True

    async def close(self) -> None:
        """Cancel the checks, and the clients that wait for one."""
        await self._checks.close()

    async def _check(self, password: bytes, hashed: bytes) -> bool | None:
        try:
            return await self._cpu.run(bcrypt.checkpw, password, hashed, timeout=CHECK_S)
        except Hangs:  # it has waited too long for checks before it
            return None

    def _decoy(self, user: str) -> bytes:
        """The hash with which the password of an unknown user is checked.

        One user always gets the same hash: otherwise the time would vary, and show that the user is unknown.
        """
        number = int.from_bytes(self._proof(user, b"", b"")[:8])
        return self._hashes[number % len(self._hashes)]

    def _proof(self, user: str, hashed: bytes, password: bytes) -> bytes:
        return hmac.digest(
            self._key, b"\0".join((user.encode(errors="surrogatepass"), hashed, password)), "sha256"
        )


def _read(path: Path) -> Accounts:
    data, status = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    if credential_file.is_too_open(path, status):
        raise Unusable("is a secret that others may read", f"chmod 600 {path}")
    accounts, bad = parse(data, path=path)
    if bad:
        number, message, hint = bad[0]
        raise Unusable(f"line {number} {message}", hint)
    return accounts
