"""The arguments of asyncssh's options for one login, from the configuration and its `ssh_config`."""

from __future__ import annotations

import os
from typing import Any, Final

from proxy.config.model import GatewayConfig, KeepaliveConfig
from proxy.errors import CredentialsUnusable
from proxy.openssh.ssh_config import SshConfig
from proxy.ssh.login import algorithms
from proxy.ssh.login.nobody import own_name

_PORT: Final = 22
_CONNECT_TIMEOUT: Final = GatewayConfig(host="any").connect_timeout
_NAMELESS: Final = "say user: NAME in the gateway"


def ticks(keepalive: KeepaliveConfig) -> tuple[float, int]:
    """Interval and count for our keepalive, and for asyncssh's, which jump hosts have.

    Both send a request after each interval, and end the connection one interval after the last request. With
    these two numbers it ends after interval × max_missed, as with ssh(1).
    """
    tries = keepalive.max_missed
    return keepalive.interval * tries / (tries + 1), tries


def arguments(config: GatewayConfig, found: SshConfig | None) -> dict[str, Any]:
    interval, tries = ticks(config.keepalive)
    settings: dict[str, Any] = {
        "host": found.host if found else config.host,
        "port": found.port if found else config.port or _PORT,
        "username": found.user if found else config.user or _own_name(),
        "config": None,
        "keepalive_interval": interval,
        "keepalive_count_max": tries,
        "login_timeout": _connect_timeout(config, found),
        "connect_timeout": None,  # our own deadline is used instead
        **algorithms.settings(found),
        "compression_algs": ["none"],
        "preferred_auth": "publickey,keyboard-interactive",  # the second may follow a key, without a question
        "password_auth": False,
        "host_based_auth": False,
        "gss_kex": False,
        "gss_auth": False,
        "x509_trusted_certs": None,
        "utf8_decode_errors": "replace",  # a banner in Latin-1 must not end the login
        "x509_trusted_cert_paths": [],  # or asyncssh would look for them at home
        "client_keys": None,
        "agent_path": None,  # the agent is asked before the connection: `proxy/ssh/login/agent.py`
    }
    if found is None:
        return settings
    settings |= {
        "host_key_alias": found.host_key_alias,
        "family": found.family,
        "tcp_keepalive": found.tcp_keepalive,
        "proxy_command": found.proxy_command,
    }
    if found.rekey_bytes:
        settings["rekey_bytes"] = found.rekey_bytes
    if found.rekey_seconds:
        settings["rekey_seconds"] = found.rekey_seconds
    return settings


def _connect_timeout(config: GatewayConfig, found: SshConfig | None) -> float:
    """The `connect_timeout` of the gateway, if the configuration sets it, otherwise that of ssh_config."""
    asked = found.connect_timeout if found else None
    return (
        asked if asked is not None and config.connect_timeout == _CONNECT_TIMEOUT else config.connect_timeout
    )


def _own_name() -> str:
    if name := own_name():
        return name
    raise CredentialsUnusable(
        f"uid {os.getuid()}, which runs kubemux, has no name to log in with", hint=_NAMELESS
    )
