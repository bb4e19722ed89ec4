"""The jump hosts of a gateway: those of its `jump`, or of a ProxyJump in its ssh_config."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config.model import GatewayConfig


def jumps(
    config: GatewayConfig, gateways: Mapping[str, GatewayConfig], asked: str | None
) -> list[tuple[str, GatewayConfig]]:
    """The jump hosts of `config`, by name: its `jump`, else the ProxyJump that is `asked`."""
    if config.jump:
        return [(name, gateways[name]) for name in config.jump]
    return [(hop.strip(), proxy_jump(config, hop)) for hop in asked.split(",")] if asked else []


def proxy_jump(config: GatewayConfig, hop: str) -> GatewayConfig:
    """The gateway for a hop of `ProxyJump [user@]host[:port]`.

    It may be an alias of the same ssh_config. It uses the known_hosts and keys of `config`.
    """
    user, _, address = hop.strip().removeprefix("ssh://").rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        host, port = address, ""
    jump = {"host": host.strip("[]"), "port": int(port) if port else None, "user": user or None, "jump": ()}
    return config.model_copy(update=jump)
