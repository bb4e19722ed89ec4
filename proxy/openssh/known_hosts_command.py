"""Runs KnownHostsCommand of ssh_config(5), once for each dial."""

from __future__ import annotations

import shlex
from dataclasses import replace

from proxy.errors import CredentialsUnusable
from proxy.openssh.ssh_config import SshConfig
from proxy.openssh.ssh_g import printable
from proxy.runtime import program


async def run(config: SshConfig) -> SshConfig:
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
        said = printable(ran.errors.decode(errors="replace").strip())
        raise CredentialsUnusable(
            f"KnownHostsCommand {command[0]} of ssh_config {config.path} ended with exit code "
            f"{ran.code}{said and ': '}{said}",
            hint=f"try it: {shlex.join(command)}",
        )
    return replace(config, commanded=ran.output)
