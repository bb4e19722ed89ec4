"""Prepares a dial: reads everything that the configuration and its `ssh_config` name.

Each dial reads it again, because files may have been rotated. That happens in a thread: a disk may hang, a
passphrase costs bcrypt, and `Match exec` in an ssh_config runs programs. asyncssh itself gets no ssh_config,
because it reads the file differently from ssh(1) (`proxy/openssh`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import asyncssh

from proxy.config import expiry
from proxy.config.model import GatewayConfig
from proxy.config.ssh_agent import NO_AGENT, no_agent
from proxy.errors import CredentialsUnusable, RetryClass
from proxy.openssh import known_hosts_command, ssh_config_reader, ssh_g
from proxy.openssh.ssh_config import Remark, SshConfig
from proxy.openssh.ssh_g import Printed
from proxy.runtime.blocking import Hangs, Place, doing
from proxy.ssh.login import algorithms, trust, user_keys
from proxy.ssh.login.options import arguments
from proxy.ssh.login.user_keys import UserKeys

_HANGS: Final = (
    "a disk, or the server it is mounted from, that does not answer, or a `Match exec` that does not end? "
    "Mend it, or name other "
    "files and reload; kubemux goes on by itself when it has ended"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a dial of one server needs; all files are read.

    `options` are asyncssh's: host, port and user, our keys, the algorithms. `trusted` has the host keys that
    we accept.
    """

    options: asyncssh.SSHClientConnectionOptions
    trusted: trust.Trusted
    host_key_algorithms: Sequence[str]
    """The host key algorithms that the server may choose from."""
    certificates: Sequence[tuple[Path, expiry.Validity]] = ()
    """Our certificates that will expire."""
    connect_timeout: float = 10.0
    bind_address: str | None = None
    proxy_command: str | None = None
    """From ssh_config, with its tokens expanded; a shell runs it."""
    proxy_jump: str | None = None
    """From ssh_config, with its tokens expanded."""
    remarks: tuple[Remark, ...] = ()
    """Options of the ssh_config, and what kubemux does with them."""
    passed_over: tuple[str, ...] = ()
    """Keys and certificates that the ssh_config names but we cannot use, with the reasons."""
    left_out: tuple[str, ...] = ()
    """Algorithms that ssh_config names and kubemux does not have."""
    agent: str | None = None
    """The socket of the ssh-agent, if its keys are offered too."""
    agent_keys: Sequence[bytes] | None = None
    """The public keys that the agent may offer (IdentitiesOnly); None for all."""
    named_keys: Sequence[bytes] = ()
    """The public keys that ssh_config names; the agent offers these first."""
    is_asked_further: bool = True
    """Whether keyboard-interactive may follow when the server has accepted a key.

    A daemon cannot answer questions, but some servers ask none.
    """


async def prepare(config: GatewayConfig, place: Place | None = None) -> Prepared:
    """Read in `place` everything that `config` refers to, within `connect_timeout`.

    Raises CredentialsUnusable, which names the file.
    """
    place = place or Place(f"settings of {config.host}")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.connect_timeout
    try:
        found = await _read_ssh_config(config, place, deadline)
        return await place.run(_prepare, config, found, timeout=deadline - loop.time())
    except CredentialsUnusable as exc:
        # Nothing was sent, so no sshd counts it against us. The file may soon be readable again.
        exc.retry = RetryClass.SOON
        raise
    except Hangs as exc:
        failure = CredentialsUnusable(f"keys and settings for {config.host}: {exc}", hint=_HANGS)
        failure.retry = RetryClass.SOON
        raise failure from exc


async def _read_ssh_config(config: GatewayConfig, place: Place, deadline: float) -> SshConfig | None:
    """The settings of the gateway's ssh_config for it; None if it names no ssh_config.

    Programs that the file runs (`Match exec`) are killed at the deadline.
    """
    if config.ssh_config is None:
        return None
    waited_for = "ssh -G has not read it"
    try:
        async with asyncio.timeout_at(deadline):
            printed = await ssh_g.print_options(
                config.ssh_config, config.host, user=config.user, port=config.port
            )
            waited_for = "what it names has not been found"
            found = await place.run(_parse, printed, timeout=deadline - asyncio.get_running_loop().time())
            if found.known_hosts_command and not config.known_hosts:
                waited_for = f"its KnownHostsCommand {found.known_hosts_command[0]} has not ended"
                found = await known_hosts_command.run(found)
            return found
    except TimeoutError as exc:
        raise CredentialsUnusable(
            f"ssh_config {config.ssh_config} for {config.host}: {waited_for} within "
            f"{config.connect_timeout:g} s",
            hint="a `Match exec` or another command in it that does not end, a name that is looked up "
            "(CanonicalizeHostname), or "
            "a disk that hangs?",
        ) from exc


def _parse(printed: Printed) -> SshConfig:
    doing(f"looking for what {printed.path} names")
    return ssh_config_reader.read(printed)


def _prepare(config: GatewayConfig, found: SshConfig | None) -> Prepared:
    agent = _agent(config, found)
    keys = _keys(config, found, agent)
    settings = arguments(config, found)
    doing("asking the system who runs kubemux")
    try:
        options = asyncssh.SSHClientConnectionOptions(**settings)
    except Exception as exc:  # asyncssh lets many exceptions through
        said = str(exc) or type(exc).__name__
        raise CredentialsUnusable(f"the settings for {config.host} cannot be used: {said}") from exc
    options.client_keys = keys.pairs  # not an argument: without any, asyncssh would look for keys at home
    trusted = trust.read(config, options, found)
    options.server_host_key_algs = offered = trusted.algorithms(algorithms.for_host_keys(found))
    ours = Prepared(
        options,
        trusted,
        offered,
        tuple(expiry.user_certificates(config)),
        settings["login_timeout"],
        agent=agent,
    )
    return ours if found is None else _with(ours, found, keys)


def _keys(config: GatewayConfig, found: SshConfig | None, agent: str | None) -> UserKeys:
    if found is None or config.identity_files:
        return user_keys.named(config)
    return user_keys.of_ssh_config(config, found, has_agent=bool(agent))


def _with(ours: Prepared, found: SshConfig, keys: UserKeys) -> Prepared:
    is_agent_asked = keys.public or not found.identities_only
    return replace(
        ours,
        agent=ours.agent if is_agent_asked else None,
        agent_keys=tuple(keys.public) if found.identities_only else None,
        named_keys=tuple(keys.public),
        is_asked_further=found.keyboard_interactive,
        bind_address=found.bind_address,
        proxy_command=found.proxy_command,
        proxy_jump=found.proxy_jump,
        remarks=found.remarks,
        passed_over=tuple(keys.passed_over),
        left_out=tuple(algorithms.left_out(found)),
    )


def _agent(config: GatewayConfig, found: SshConfig | None) -> str | None:
    """The socket of an agent, if the gateway or an IdentityAgent asks for one.

    Raises CredentialsUnusable if it does not exist. asyncssh would log in without it, and the error would
    then blame the server.
    """
    asked = found.agent if found and (config.agent or not config.identity_files) else None
    if asked == "" and config.agent and found:
        raise CredentialsUnusable(
            f"agent: true for {config.host}, but ssh_config {found.path} says IdentityAgent none",
            hint="take out one of the two",
        )
    if not asked and not config.agent:
        return None
    path = asked or os.environ.get("SSH_AUTH_SOCK")
    if why := no_agent(path):
        said = f"IdentityAgent in ssh_config {config.ssh_config}" if asked else "agent: true"
        raise CredentialsUnusable(f"{said} for {config.host}, but {why}", hint=NO_AGENT)
    return path
