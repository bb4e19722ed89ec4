"""The handshake and the login with one server, and why they have failed."""

from __future__ import annotations

import time

import asyncssh

from proxy.config import expiry
from proxy.errors import LinkError
from proxy.ssh import internals
from proxy.ssh.errors import describe_handshake, identity, is_hung_up
from proxy.ssh.login import agent as agents
from proxy.ssh.login import trust
from proxy.ssh.login.agent import Agent
from proxy.ssh.login.client import Login
from proxy.ssh.login.prepared import Prepared
from proxy.ssh.login.proxy_command import ProxyCommand
from proxy.ssh.login.tcp import Tcp

Tunnel = asyncssh.SSHClientConnection | Tcp | ProxyCommand
"""What carries a connection: the jump host before it, TCP, or a ProxyCommand."""


async def shake_hands(
    prepared: Prepared, server: str, tunnel: Tunnel, agent: Agent | None, client: Login
) -> asyncssh.SSHClientConnection:
    """Connect to the server through `tunnel`, and log in. Raises LinkError."""
    options = prepared.options
    options.known_hosts = trust.NOBODY
    options.tunnel = tunnel
    options.protocol_factory = lambda: client
    try:
        return await internals.connect(options)
    except LinkError:
        raise
    except Exception as exc:
        # not only asyncssh.Error: for packets of a hostile peer, asyncssh raises other exceptions, too
        if agent is not None and agent.failure and isinstance(exc, asyncssh.PermissionDenied):
            failure: LinkError = agents.unusable(agent, f"{server} takes no other key")
            # The server has not refused us if it accepted the key and only the agent did not sign.
            failure.is_counted = client.heard.is_refused
            raise failure from exc
        who = identity(prepared.options) + _likely_causes(prepared)
        failure = describe_handshake(server, exc, who=who, heard=client.heard)
        if isinstance(tunnel, ProxyCommand) and is_hung_up(exc):
            failure = await tunnel.explain(failure, "before the SSH handshake was done")
        raise failure from exc


def _likely_causes(prepared: Prepared) -> str:
    """Facts that may explain why a server refuses us without a reason."""
    now = time.time()
    said = [
        f"; {path} expired on {expiry.date(validity.end)}"
        for path, validity in prepared.certificates
        if validity.end < now
    ]
    return "".join([*said, *(f"; not used: {one}" for one in prepared.passed_over)])
