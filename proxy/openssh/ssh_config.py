"""Reads an ssh_config by running `ssh -G` twice: with the file, and without any file.

ssh prints its defaults, too. An option was asked for if the two outputs differ in it. `ssh -G` leaves some
options unexpanded; they are expanded here (`proxy/openssh/tokens.py`). `proxy/openssh/keywords.py` lists what
kubemux does with each option.

    ssh -G -N -F FILE [-l USER] [-p PORT] -- ALIAS

prints one `keyword value` on each line; some keywords appear on several lines.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from proxy.errors import CredentialsUnusable
from proxy.openssh import tokens
from proxy.openssh.algorithms import Asked, split
from proxy.openssh.keywords import KEYWORDS, UNKNOWN, Use
from proxy.runtime import program

_HASH: Final = ("-o", "ControlPath=%C")
"""The meaning of `%C` depends on ssh's version. ssh prints it in this option, which is not used otherwise."""
_FAMILIES: Final = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_MAX_SAID: Final = 300
NEEDS_SSH: Final = (
    "install it (apt install openssh-client), or say in the gateway what the file says, instead of ssh_config"
)
_REMEDIES: Final = {
    "No user exists": "give the user that runs kubemux an entry in /etc/passwd (systemd: User= with "
    "sysusers.d), or say host, "
    "port, user, identity_files and known_hosts in the gateway, instead of ssh_config",
    "jumphost loop": "say `ProxyJump none` in ssh_config for the host that needs no jump",
}
"""Words in an error of ssh, and the hint for that error."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One option that the file asks for, and what kubemux does with it (`why` is empty if it is used)."""

    keyword: str
    value: str
    use: Use
    why: str = ""


@dataclass(frozen=True, slots=True)
class SshConfig:
    """The settings of an ssh_config for one alias. A field is None or empty for ssh's default."""

    path: Path
    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    are_identities_named: bool
    """Whether the file names `identities`. If not, they are those that ssh tries by default."""
    known_hosts: tuple[Path, ...]
    """The user's files, then the system's."""
    has_user_known_hosts: bool
    """False if the file says `UserKnownHostsFile none`."""
    certificates: tuple[Path, ...] = ()
    identities_only: bool = False
    keyboard_interactive: bool = True
    agent: str | None = None
    """IdentityAgent: a socket, empty for none at all."""
    revoked_host_keys: tuple[Path, ...] = ()
    known_hosts_command: tuple[str, ...] = ()
    """KnownHostsCommand, for `run_known_hosts_command`."""
    commanded: bytes = b""
    """What that command has printed: lines as in known_hosts."""
    host_key_alias: str | None = None
    family: socket.AddressFamily = socket.AF_UNSPEC
    bind_address: str | None = None
    connect_timeout: float | None = None
    tcp_keepalive: bool = True
    rekey_bytes: int | None = None
    rekey_seconds: int | None = None
    proxy_command: str | None = None
    proxy_jump: str | None = None
    ciphers: Asked | None = None
    kex_algorithms: Asked | None = None
    macs: Asked | None = None
    host_key_algorithms: Asked | None = None
    public_key_algorithms: Asked | None = None
    remarks: tuple[Remark, ...] = ()


def is_ssh_here() -> bool:
    """Whether this machine has ssh(1), without which no ssh_config can be read."""
    return shutil.which("ssh") is not None


@dataclass(frozen=True, slots=True)
class Printed:
    """What `ssh -G` has printed for one alias."""

    path: Path
    alias: str
    asked: bytes
    """The output with the file."""
    default: bytes
    """The output without a file."""


async def print_options(
    path: Path, alias: str, *, user: str | None = None, port: int | None = None
) -> Printed:
    """What ssh prints for `ssh -G -F path [-l user] [-p port] alias`. Raises CredentialsUnusable."""
    given = [*(("-l", user) if user else ()), *(("-p", str(port)) if port else ())]
    return Printed(
        path, alias, await _ssh_g(path, alias, str(path), given), await _ssh_g(path, alias, "none", given)
    )


async def _ssh_g(path: Path, alias: str, file: str, given: list[str]) -> bytes:
    command = ["ssh", "-G", "-N", *_HASH, "-F", file, *given, "--", alias]
    try:
        ran = await program.run(command)
    except FileNotFoundError as exc:
        raise CredentialsUnusable(
            f"ssh_config {path} is read by ssh(1), and there is none on this machine", hint=NEEDS_SSH
        ) from exc
    except (OSError, ValueError) as exc:
        raise CredentialsUnusable(f"ssh_config {path} cannot be used: ssh -G: {exc}") from exc
    if ran.code:
        said = (
            _last_lines(ran.errors.decode(errors="replace"), path)
            or f"ssh -G ended with exit code {ran.code}"
        )
        usual = f"ssh says so, too: ssh -G -F {path} -- {shlex.quote(alias)}"
        hint = next((hint for words, hint in _REMEDIES.items() if words in said), usual)
        raise CredentialsUnusable(
            f"ssh_config {path} for {alias} cannot be used: {_printable(said)}", hint=hint
        )
    return ran.output


async def run_known_hosts_command(config: SshConfig) -> SshConfig:
    """`config` with the lines that its KnownHostsCommand prints.

    Raises CredentialsUnusable if the command fails: ssh(1) trusts no server then, either.
    """
    command = config.known_hosts_command
    try:
        ran = await program.run(command)
    except (OSError, ValueError) as exc:
        raise CredentialsUnusable(
            f"KnownHostsCommand {command[0]} of ssh_config {config.path} cannot be run: {exc}"
        ) from exc
    if ran.code:
        said = _printable(ran.errors.decode(errors="replace").strip())
        raise CredentialsUnusable(
            f"KnownHostsCommand {command[0]} of ssh_config {config.path} ended with exit code "
            f"{ran.code}{said and ': '}{said}",
            hint=f"try it: {shlex.join(command)}",
        )
    return replace(config, commanded=ran.output)


def _last_lines(text: str, path: Path) -> str:
    """The last lines of ssh's errors, joined. What a `Match exec` has printed comes before them."""
    lines = [line.strip().removeprefix(str(path)).lstrip(": ") for line in text.splitlines()]
    return "; ".join([line for line in lines if line and not line.startswith("terminating")][-3:])


def options(output: bytes) -> dict[str, tuple[str, ...]]:
    """The values of each keyword in the output of `ssh -G`. Paths may be in any encoding."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in os.fsdecode(output).split("\n"):
        keyword, _, value = line.partition(" ")
        if keyword:
            found[keyword.lower()].append(value)
    return {keyword: tuple(values) for keyword, values in found.items()}


def parse(printed: Printed, environ: Mapping[str, str] = os.environ) -> SshConfig:
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
                found.append(Remark(keyword, _printable(value), use, known.why if use is known.use else ""))
        return found

    def _unusable(self, keyword: str, value: str, why: str, hint: str) -> CredentialsUnusable:
        return CredentialsUnusable(
            f"ssh_config {self._path} for {self._alias}: {keyword} {_printable(value)} {why}", hint=hint
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


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_SAID])
