"""What asyncssh is told about a gateway: settings, keys and known_hosts, out of the configuration and its `ssh_config`.

It is read in a thread, anew for each dial: the files may have been rotated, their disk may hang, a passphrase costs bcrypt,
and `Match exec` in an ssh_config runs programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh

from proxy.blocking import Hangs, Place, doing
from proxy.config import expiry
from proxy.config.credentials import NO_AGENT, no_agent
from proxy.config.model import GatewayConfig, KeepaliveConfig
from proxy.errors import CredentialsUnusable, RetryClass
from proxy.ssh import known_hosts

_ENCRYPTION: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
"""AES-GCM first: with AES instructions it costs a fifth of the others."""

_HANGS: Final = (
    "a disk, or the server it is mounted from, that does not answer, or a `Match exec` that does not end? Mend it, or name other "
    "files and reload; kubemux goes on by itself when it has ended"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything `asyncssh.connect` needs, files already read.

    `settings` are its keyword arguments: as many types as there are arguments. `options` is what asyncssh makes of them:
    the host, port and user that count, and the ProxyJump of ssh_config. `trusted` is whom we take the server to be.
    """

    settings: Mapping[str, Any]
    options: asyncssh.SSHClientConnectionOptions
    trusted: known_hosts.Trusted
    certificates: Sequence[tuple[Path, expiry.Validity]] = ()
    """Of the user, those that end."""


async def prepare(config: GatewayConfig, place: Place | None = None) -> Prepared:
    """Read what `config` refers to in `place`, within `connect_timeout`. Raises CredentialsUnusable, which names the file."""
    place = place or Place(f"settings of {config.host}")
    try:
        return await place.run(_prepare, config, timeout=config.connect_timeout)
    except CredentialsUnusable as exc:
        exc.retry = RetryClass.SOON  # nothing was sent: no sshd counts it against us, and a file may be back in a moment
        raise
    except Hangs as exc:
        failure = CredentialsUnusable(f"keys and settings for {config.host}: {exc}", hint=_HANGS)
        failure.retry = RetryClass.SOON
        raise failure from exc


def _prepare(config: GatewayConfig) -> Prepared:
    settings = _settings(config)
    doing(f"reading {config.ssh_config}" if config.ssh_config else "asking the system who runs kubemux")
    try:
        options = asyncssh.SSHClientConnectionOptions(**settings)
    except Exception as exc:  # asyncssh hands on whatever its parser of ssh_config stumbles over
        source = f"ssh_config {config.ssh_config}" if config.ssh_config else "the settings"
        said = str(exc).removeprefix(str(config.ssh_config)).strip() or type(exc).__name__
        raise CredentialsUnusable(f"{source} for {config.host} cannot be used: {said}") from exc
    if config.agent:
        _check_agent(config, options.agent_path)
    trusted = known_hosts.read(config, options)
    return Prepared(settings, options, trusted, tuple(expiry.user_certificates(config)))


def ticks(keepalive: KeepaliveConfig) -> tuple[float, int]:
    """The interval in seconds and the count to give to asyncssh for keepalive.

    It asks at each tick of silence and gives up one tick after the last question; so this many questions go unanswered, and the
    link is given up, as with ssh(1), after interval × max_missed.
    """
    tries = keepalive.max_missed
    return keepalive.interval * tries / (tries + 1), tries


def _settings(config: GatewayConfig) -> dict[str, Any]:
    interval, tries = ticks(config.keepalive)
    settings: dict[str, Any] = {
        "host": config.host,
        "config": [str(config.ssh_config)] if config.ssh_config else None,
        "keepalive_interval": interval,
        "keepalive_count_max": tries,
        "login_timeout": config.connect_timeout,
        "connect_timeout": None,  # not ssh_config's: ours is the deadline
        "encryption_algs": list(_ENCRYPTION),
        "compression_algs": ["none"],
        "preferred_auth": "publickey",
        "password_auth": False,
        "kbdint_auth": False,
        "host_based_auth": False,
        "gss_kex": False,
        "gss_auth": False,
        "x509_trusted_certs": None,
    }
    if not config.agent:
        settings["agent_path"] = None
    if config.port is not None:
        settings["port"] = config.port
    if config.user is not None:
        settings["username"] = config.user
    passphrase = _passphrase(config)
    if passphrase is not None:
        settings["passphrase"] = passphrase
    if config.identity_files:
        settings["client_keys"] = _keys(config, passphrase)
    elif config.certificate_files:
        settings["client_certs"] = [str(path) for path in config.certificate_files]
    return settings


def _passphrase(config: GatewayConfig) -> str | None:
    if config.passphrase_file is None:
        return None
    doing(f"reading {config.passphrase_file}")
    try:
        return config.passphrase_file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise CredentialsUnusable(f"passphrase_file {config.passphrase_file} cannot be read: {_said(exc)}") from exc


def _keys(config: GatewayConfig, passphrase: str | None) -> list[asyncssh.SSHKeyPair]:
    """The keys of `identity_files` with their certificates: one by one, so that an error names its file."""
    named = [certificate for path in config.certificate_files for certificate in _certificates(path)]
    keys: list[asyncssh.SSHKeyPair] = []
    for path in config.identity_files:
        doing(f"reading {path}")
        try:
            # Not by its path: asyncssh would compare it with a KEY.pub beside it, which ssh(1) does not need, and a key that was
            # replaced leaves behind.
            found = asyncssh.read_private_key_list(str(path), passphrase)
        except (OSError, ValueError) as exc:
            raise _key_unusable(path, config.passphrase_file, exc) from exc
        if not found:
            raise _key_unusable(path, None, ValueError("there is none in it"))
        keys += asyncssh.load_keypairs(found, certlist=[*named, *_beside(path, found)])
    return keys


def _beside(path: Path, keys: Sequence[asyncssh.SSHKey]) -> list[asyncssh.SSHCertificate]:
    """The certificate that ssh(1) would take along with the key at `path`."""
    certificate = Path(f"{path}-cert.pub")
    doing(f"looking for {certificate}")
    if not certificate.exists():
        return []
    found = _certificates(certificate)
    if not {one.key.public_data for one in found} & {key.public_data for key in keys}:
        hint = f"have the key signed again (ssh-keygen -s), or remove what is left of another: mv {certificate} {certificate}.old"
        raise CredentialsUnusable(f"certificate file {certificate} is not of the key beside it, {path}", hint=hint)
    return found


def _certificates(path: Path) -> list[asyncssh.SSHCertificate]:
    doing(f"reading {path}")
    try:
        found = asyncssh.load_certificates(str(path))
    except (OSError, ValueError) as exc:
        raise CredentialsUnusable(f"certificate file {path} cannot be used: {_said(exc)}") from exc
    if not found:
        raise CredentialsUnusable(f"certificate file {path} holds no certificate", hint="ssh-keygen -L -f FILE shows one")
    return list(found)


def _key_unusable(path: Path, passphrase_file: Path | None, exc: Exception) -> CredentialsUnusable:
    if isinstance(exc, OSError):
        return CredentialsUnusable(f"key {path} cannot be read: {_said(exc)}")
    if passphrase_file is None and "passphrase" in str(exc).lower():
        return CredentialsUnusable(
            f"key {path} is encrypted, and the gateway has no passphrase_file",
            hint="add passphrase_file: FILE to the gateway, or load the key into an ssh-agent and say agent: true",
        )
    if passphrase_file is not None:
        return CredentialsUnusable(f"key {path} cannot be opened with passphrase_file {passphrase_file}: {exc}")
    return CredentialsUnusable(f"key {path} cannot be used: {exc}", hint="it should be a private key as ssh-keygen writes it")


def _check_agent(config: GatewayConfig, agent_path: str | None) -> None:
    """Asyncssh goes on without an agent that is not there, and the server's refusal would blame the wrong side."""
    if why := no_agent(agent_path):
        raise CredentialsUnusable(f"agent: true for {config.host}, but {why}", hint=NO_AGENT)


def _said(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def proxy_jump(config: GatewayConfig, hop: str) -> GatewayConfig:
    """A hop of `ProxyJump [user@]host[:port]`: an alias of the same ssh_config, with the gateway's known_hosts and keys."""
    user, _, address = hop.strip().removeprefix("ssh://").rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        host, port = address, ""
    jump = {"host": host.strip("[]"), "port": int(port) if port else None, "user": user or None, "jump": ()}
    return config.model_copy(update=jump)
