"""Taking a new configuration while running: all of it or none, and what is equal is not touched.

The new file is read and checked as a whole first. Then what was removed goes (its ports are free for others),
what changed is replaced, what is new is added; connections of what is gone have `limits.drain_timeout` to
end.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from proxy.admin.orders import ReloadResult
from proxy.admin.status import summary
from proxy.config import credentials, diff
from proxy.config.apart import load
from proxy.config.model import Config
from proxy.daemon.cluster import HALF_CLOSE_S
from proxy.daemon.daemon import Daemon
from proxy.errors import ConfigError, ProxyError
from proxy.runtime import logging, systemd

log = structlog.get_logger("kubemux.reload")


class Stopping(ProxyError):
    """Too late to reload."""

    reason = "stopping"
    hint = "the next start reads the new file"


async def reload(daemon: Daemon) -> ReloadResult:
    """Read the daemon's file again and apply it.

    Raises ConfigError or Stopping, and then nothing has changed.
    """
    if daemon.is_draining:
        raise Stopping("kubemux is being stopped")
    systemd.notify(systemd.reloading())
    try:
        loaded = await load(daemon.config_path)
        if daemon.is_draining:  # since then: what would be bound now, nobody would close
            raise Stopping("kubemux is being stopped")
    except ConfigError as exc:
        daemon.metrics.config_reloads.labels("rejected").inc()
        log.error("reload rejected", config=str(daemon.config_path), problems=exc.render().splitlines())
        raise
    else:
        plan = diff.plan(daemon.config, loaded.config, diff.changed(daemon.fingerprint, loaded.fingerprint))
        result = await _apply(daemon, loaded.config, plan)
        result = replace(
            result, warnings=(*result.warnings, *(f"{one.key}: {one.message}" for one in loaded.hanging))
        )
        known = {**daemon.fingerprint, **loaded.fingerprint}
        daemon.fingerprint = {path: known[path] for path in credentials.files(loaded.config) if path in known}
        daemon.metrics.config_reloads.labels("ok").inc()
        daemon.metrics.config_last_success.set_to_current_time()
        log.info(
            "reloaded",
            added=result.added,
            changed=result.changed,
            removed=result.removed,
            warnings=result.warnings,
        )
        return result
    finally:
        if not daemon.is_draining:
            systemd.notify(systemd.READY, systemd.status(summary(daemon.snapshot())))


async def _apply(daemon: Daemon, config: Config, plan: diff.Plan) -> ReloadResult:
    gateways, clusters = plan.gateways, plan.clusters
    reopened = tuple(name for name in (*clusters.kept, *clusters.renewed) if daemon.entries[name].is_drained)
    timeout = config.limits.drain_timeout
    daemon.config = config
    if plan.log:
        logging.configure(config.log.format, config.log.level)
    if plan.limits:
        daemon.take_limits()
        for entry in daemon.entries.values():
            entry.admit_or_refuse(daemon.sockets)  # hold_timeout may be longer now

    old_entries = {
        name: daemon.entries.pop(name) for name in (*clusters.removed, *clusters.changed, *reopened)
    }
    old_gateways = {name: daemon.gateways.pop(name) for name in (*gateways.removed, *gateways.changed)}
    for name in (*gateways.changed, *gateways.added):
        daemon.add_gateway(name)
    for name in gateways.renewed:
        daemon.gateways[name].reconfigure(config.gateways[name], config.gateways)
    for name in (*clusters.kept, *clusters.renewed):
        if name not in reopened:
            entry = daemon.entries[name]
            entry.cluster.config = config.clusters[name]
            entry.cluster.route = daemon.route(entry.cluster.config)
            if name in clusters.renewed:
                entry.monitor.take(entry.cluster.config)

    heirs = {config.clusters[name].listen: name for name in (*clusters.changed, *reopened, *clusters.added)}
    inherited = {}
    for name, entry in old_entries.items():
        heir = heirs.get(entry.listener.address)
        if heir is not None and entry.listener.is_bound:
            inherited[heir] = (
                entry.listener
            )  # the same socket, under a new name perhaps: no client is refused in between
        else:
            daemon.unlisten(entry)
        daemon.retiring.spawn(daemon.retire(name, entry, timeout=timeout), name=f"cluster {name}")
    for name, gateway in old_gateways.items():
        daemon.retiring.spawn(gateway.drain(timeout + HALF_CLOSE_S), name=f"gateway {name}")
    await daemon.sockets.settled(heirs)
    await asyncio.gather(
        *(
            daemon.add_cluster(name, inherited.get(name))
            for name in (*clusters.changed, *reopened, *clusters.added)
        )
    )
    for name in clusters.removed:
        daemon.metrics.forget_cluster(name)
    for name in gateways.removed:
        daemon.metrics.forget_gateway(name)

    warnings = ["admin: changes take effect at the next restart"] if plan.admin else []
    if clusters.removed and not config.clusters:
        log.warning(
            "no cluster is left",
            removed=clusters.removed,
            hint="was the file cut off? Mend it, and reload again",
        )
        warnings.append("clusters: none is left")
    warnings += [str(entry.listen_error) for entry in daemon.entries.values() if entry.listen_error]
    return ReloadResult(
        added=_named(gateways.added, clusters.added),
        changed=_named(
            (*gateways.changed, *gateways.renewed),
            (*clusters.changed, *dict.fromkeys((*clusters.renewed, *reopened))),
        ),
        removed=_named(gateways.removed, clusters.removed),
        warnings=tuple(warnings),
    )


def _named(gateways: tuple[str, ...], clusters: tuple[str, ...]) -> tuple[str, ...]:
    return (*(f"gateway {name}" for name in gateways), *(f"cluster {name}" for name in clusters))
