"""Proxy users: who has the right password, by a file as htpasswd(1) writes it.

A check costs what bcrypt costs, on purpose: 0.3 s at cost 12. It runs in a thread, one at a time, and a few
may wait. Who was right before is checked by an HMAC instead, with a key that this process alone has, so that
a client of many connections does not pay for each.

Neither tells by its time who has an account: a wrong password always costs a bcrypt, and so does an unknown
user, by the hash of some other user. (The costs of a file may differ, and one fixed hash would show then who
is unknown.)
"""

from __future__ import annotations

import hmac
import secrets
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import bcrypt

from proxy.config import credentials
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.htpasswd import Accounts, parse
from proxy.runtime.blocking import FILES_S, Hangs, Place
from proxy.runtime.shared import Shared

CHECK_S: Final = 8.0
MOST_CHECKS: Final = 24
"""Checks that run or wait. One of cost 12 takes 0.3 s, so the last one is still in time."""
_BCRYPT_BYTES: Final = 72
"""What bcrypt takes of a password. htpasswd(1) leaves the rest out, and the library refuses a longer one."""


_BUSY: Final = "too many other passwords wait to be checked"


class Busy(Exception):
    """A password was not checked: too many others wait for that."""


class Users:
    """The users of one file, for one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Place(f"users_file {path}")
        self._cpu = Place("checking a password")
        self._checks: Shared[bytes, bool | None] = Shared("users")
        """By proof: clients of one user who come at the same time cost one check."""
        self._key = secrets.token_bytes(32)
        self._accounts: Accounts = MappingProxyType({})
        self._hashes: tuple[bytes, ...] = ()
        self._proofs: dict[str, bytes] = {}
        """User -> HMAC of the password that was right."""

    def __repr__(self) -> str:
        return f"<Users {self.path} {len(self._accounts)}>"

    async def load(self) -> None:
        """Read the file. Raises Unusable or Hangs, and keeps what was read before.

        An empty file is one without users.
        """
        accounts = await self._files.run(_read, self.path, timeout=FILES_S)
        self._proofs = {
            user: proof for user, proof in self._proofs.items() if accounts.get(user) == self._accounts[user]
        }
        self._accounts, self._hashes = accounts, tuple(accounts.values())

    async def is_right(self, user: str, password: bytes) -> bool:
        """Whether `user` has this password. Raises Busy."""
        password = password[:_BCRYPT_BYTES]
        hashed = self._accounts.get(user)
        proof = self._proof(user, hashed or b"", password)
        if hashed is not None and hmac.compare_digest(self._proofs.get(user, b""), proof):
            return True
        if not self._hashes:
            return False
        if len(self._checks) >= MOST_CHECKS and proof not in self._checks:
            raise Busy(_BUSY)
        check = partial(self._check, password, hashed or self._another(user))
        is_right = await self._checks.run(proof, check, name="check")
        if is_right is None:
            raise Busy(_BUSY)
        # It may have been removed meanwhile, or have another password.
        if not is_right or hashed is None or self._accounts.get(user) != hashed:
            return False
        self._proofs[user] = proof
        return True

    async def close(self) -> None:
        """End the checks, and who waits for one."""
        await self._checks.close()

    async def _check(self, password: bytes, hashed: bytes) -> bool | None:
        try:
            return await self._cpu.run(bcrypt.checkpw, password, hashed, timeout=CHECK_S)
        except Hangs:  # others were before it
            return None

    def _another(self, user: str) -> bytes:
        """The hash by which an unknown user is checked: always the same one, or the time would tell."""
        number = int.from_bytes(self._proof(user, b"", b"")[:8])
        return self._hashes[number % len(self._hashes)]

    def _proof(self, user: str, hashed: bytes, password: bytes) -> bytes:
        return hmac.digest(
            self._key, b"\0".join((user.encode(errors="surrogatepass"), hashed, password)), "sha256"
        )


def _read(path: Path) -> Accounts:
    data, status = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    if credentials.is_too_open(path, status):
        raise Unusable("is a secret that others may read", f"chmod 600 {path}")
    accounts, bad = parse(data, path=path)
    if bad:
        number, message, hint = bad[0]
        raise Unusable(f"line {number} {message}", hint)
    return accounts
