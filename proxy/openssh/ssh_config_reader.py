"""Makes the settings of one alias from what `ssh -G` has printed.

`ssh -G` leaves some options unexpanded; they are expanded here (`proxy/openssh/tokens.py`).
`proxy/openssh/keywords.py` lists what kubemux does with each option.
"""

from __future__ import annotations

import os
import pwd
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from proxy.errors import CredentialsUnusable
from proxy.openssh import tokens
from proxy.openssh.algorithms import Asked, split
from proxy.openssh.keywords import KEYWORDS, UNKNOWN, Use
from proxy.openssh.ssh_config import Remark, SshConfig
from proxy.openssh.ssh_g import Printed, options, printable

_FAMILIES: Final = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


def read(printed: Printed, environ: Mapping[str, str] = os.environ) -> SshConfig:
    """The settings in what ssh has printed.

    Blocks, because it looks up users and files. Raises CredentialsUnusable for an option that cannot be
    honoured.
    """
    return _Reader(printed, environ).read()


class _Reader:
    def __init__(self, printed: Printed, environ: Mapping[str, str]) -> None:
        self._path = printed.path
        self._alias = alias = printed.alias
        self._printed = options(printed.asked)
        self._default = options(printed.default)
        self._environ = environ
        me = pwd.getpwuid(os.getuid())  # it exists: otherwise ssh -G has failed
        host = self._one("hostname") or alias
        name = self._one("host") or alias
        local = socket.gethostname()
        jump, _, _ = (self._one("proxyjump") or "").rpartition(",")[2].rpartition("@")[2].partition(":")
        self._tokens = {
            "C": self._one("controlpath") or "",
            "L": local.partition(".")[0],
            "d": me.pw_dir,
            "h": host,
            "i": str(os.getuid()),
            "j": jump,
            "k": self._one("hostkeyalias") or name,
            "l": local,
            "n": name,
            "p": self._one("port") or "22",
            "r": self._one("user") or me.pw_name,
            "u": me.pw_name,
        }

    def read(self) -> SshConfig:
        """All settings. Raises CredentialsUnusable."""
        remarks = tuple(self._remarks())
        bytes_, seconds = (int(number) for number in (self._one("rekeylimit") or "0 0").split())
        timeout = self._one("connecttimeout") or "none"
        return SshConfig(
            path=self._path,
            host=self._tokens["h"],
            port=int(self._tokens["p"]),
            user=self._tokens["r"],
            identities=self._files("identityfile"),
            are_identities_named=self._differs("identityfile"),
            certificates=self._files("certificatefile"),
            identities_only=self._one("identitiesonly") == "yes",
            keyboard_interactive=self._one("kbdinteractiveauthentication") != "no",
            agent=self._agent(),
            known_hosts=(*self._list("userknownhostsfile"), *self._list("globalknownhostsfile")),
            has_user_known_hosts=bool(self._list("userknownhostsfile")),
            revoked_host_keys=self._list("revokedhostkeys"),
            known_hosts_command=self._known_hosts_command(),
            host_key_alias=self._one("hostkeyalias"),
            family=_FAMILIES[self._one("addressfamily") or "any"],
            bind_address=self._one("bindaddress"),
            connect_timeout=float(timeout) if timeout.isdecimal() and int(timeout) else None,
            tcp_keepalive=self._one("tcpkeepalive") != "no",
            rekey_bytes=bytes_ or None,
            rekey_seconds=seconds or None,
            proxy_command=self._command("proxycommand"),
            proxy_jump=self._command("proxyjump"),
            ciphers=self._names("ciphers"),
            kex_algorithms=self._names("kexalgorithms"),
            macs=self._names("macs"),
            host_key_algorithms=self._names("hostkeyalgorithms"),
            public_key_algorithms=self._names("pubkeyacceptedalgorithms")
            or self._names("pubkeyacceptedkeytypes"),
            remarks=remarks,
        )

    def _one(self, keyword: str) -> str | None:
        return next(iter(self._printed.get(keyword, ())), None)

    def _differs(self, keyword: str) -> bool:
        return self._printed.get(keyword) != self._default.get(keyword)

    def _remarks(self) -> list[Remark]:
        """All options that the file asks for. Raises CredentialsUnusable for the first that is refused."""
        found = []
        for keyword, values in self._printed.items():
            if not self._differs(keyword) or keyword in ("controlpath", "host"):
                continue
            known = KEYWORDS.get(keyword, UNKNOWN)
            for value in values:
                if known.use is Use.REFUSED and not known.is_fine(value):
                    raise self._unusable(keyword, value, "cannot be honoured", known.why)
                use = Use.HARMLESS if known.use is Use.REFUSED else known.use
                found.append(Remark(keyword, printable(value), use, known.why if use is known.use else ""))
        return found

    def _unusable(self, keyword: str, value: str, why: str, hint: str) -> CredentialsUnusable:
        return CredentialsUnusable(
            f"ssh_config {self._path} for {self._alias}: {keyword} {printable(value)} {why}", hint=hint
        )

    def _expanded(
        self, keyword: str, value: str, allowed: Mapping[str, str], environ: Mapping[str, str] | None
    ) -> str:
        try:
            return tokens.expand(value, allowed, environ)
        except ValueError as exc:
            raise self._unusable(
                keyword, value, f"cannot be expanded: {exc}", "see TOKENS in ssh_config(5)"
            ) from exc

    def _file(self, keyword: str, value: str) -> Path:
        try:
            return Path(self._expanded(keyword, tokens.tilde(value, _home), self._tokens, self._environ))
        except ValueError as exc:
            raise self._unusable(keyword, value, f"cannot be expanded: {exc}", "check the spelling") from exc

    def _files(self, keyword: str) -> tuple[Path, ...]:
        return tuple(
            self._file(keyword, value) for value in self._printed.get(keyword, ()) if value.lower() != "none"
        )

    def _list(self, keyword: str) -> tuple[Path, ...]:
        """The files of an option that has several. ssh prints them on one line, without quotes, so a path
        with a space cannot be told from two paths.

        Some versions of ssh have expanded them already. So if a path exists, a `%` in it is a plain
        character.
        """
        line = self._one(keyword) or ""
        words = line.split(" ") if line and line.lower() != "none" else []
        joined = (" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 2, len(words) + 1))
        if len(words) > 1 and (
            not all(word.startswith(("/", "~")) for word in words) or any(map(os.path.lexists, joined))
        ):
            hint = (
                "ssh -G does not say where a path ends: name files without spaces, or known_hosts in "
                "the gateway"
            )
            raise self._unusable(keyword, line, "has a space in a path", hint)
        return tuple(Path(word) if os.path.lexists(word) else self._file(keyword, word) for word in words)

    def _agent(self) -> str | None:
        """IdentityAgent. Only `$VARIABLE` must be expanded here: ssh -G has expanded the rest."""
        value = self._one("identityagent")
        if value is None:
            return None
        if value == "none":
            return ""
        if value == "SSH_AUTH_SOCK" or value.startswith("$"):
            return self._environ.get(value.removeprefix("$"), "")
        return value

    def _command(self, keyword: str) -> str | None:
        """ProxyCommand or ProxyJump. ssh makes a ProxyJump part of a command, so both are expanded alike."""
        value = self._one(keyword)
        if value is None or value.lower() == "none":
            return None
        return self._expanded(keyword, value, {token: self._tokens[token] for token in "hknpr"}, None)

    def _known_hosts_command(self) -> tuple[str, ...]:
        """The words of KnownHostsCommand. It runs once for each dial, before the server sends its key."""
        value = self._one("knownhostscommand")
        if value is None or value.lower() == "none":
            return ()
        host, port = self._tokens["h"], self._tokens["p"]
        searched = self._one("hostkeyalias") or (host if port == "22" else f"[{host}]:{port}")
        try:
            words = shlex.split(value)
        except ValueError as exc:
            raise self._unusable(
                "knownhostscommand", value, f"cannot be taken apart: {exc}", "check its quotes"
            ) from exc
        if not words[0].startswith("/"):
            raise self._unusable(
                "knownhostscommand", value, "is no absolute path", "ssh(1) runs no other either"
            )
        if any(f"%{token}" in value.replace("%%", "") for token in "Kft"):
            hint = (
                "kubemux asks once, before the server shows its key: take out %K, %f and %t, and print "
                "all keys of the host"
            )
            raise self._unusable("knownhostscommand", value, "cannot be honoured", hint)
        allowed = self._tokens | {"H": searched, "I": "HOSTNAME"}
        return (
            words[0],
            *(self._expanded("knownhostscommand", word, allowed, self._environ) for word in words[1:]),
        )

    def _names(self, keyword: str) -> Asked | None:
        if not self._differs(keyword):
            return None
        return Asked(split(self._one(keyword) or ""), split(",".join(self._default.get(keyword, ()))))


def _home(user: str) -> str:
    try:
        return (pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())).pw_dir
    except KeyError as exc:
        raise ValueError(f"there is no user {user}") from exc
