"""A reload: the daemon applies a new configuration, all of it or nothing. Unchanged parts are not touched.

The new file is read and checked as a whole first. Then removed gateways and clusters are retired, which frees
their ports, changed ones are replaced, and new ones are added. Connections through something that was removed
or replaced have `limits.drain_timeout` to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from proxy.admin.orders import ReloadResult
from proxy.admin.status import summary
from proxy.config import diff
from proxy.config.apart import Loaded, load
from proxy.daemon import access
from proxy.daemon.daemon import Daemon
from proxy.daemon.graph import Graph
from proxy.daemon.routed import Routed
from proxy.daemon.served_site import ServedSite
from proxy.errors import ConfigError, ProxyError
from proxy.errors.reasons import Reason
from proxy.runtime import logging, systemd

log = structlog.get_logger("kubemux.reload")


class Stopping(ProxyError):
    """The daemon is stopping, so it does not reload."""

    reason = Reason.STOPPING


async def reload(daemon: Daemon) -> ReloadResult:
    """Read the daemon's file again and apply it.

    Raises ConfigError or Stopping. Then nothing has changed, with one exception: a key that is no longer in
    its file lets nobody in.
    """
    if daemon.is_draining:
        raise Stopping("kubemux is being stopped")
    systemd.notify(systemd.reloading())
    try:
        loaded = await load(daemon.config_path)
        # The stop began while the file was read; nothing would close the sockets that are bound now.
        if daemon.is_draining:
            raise Stopping("kubemux is being stopped")
        access.check(loaded.config, daemon.config_path)
    except ConfigError as exc:
        daemon.metrics.config_reloads.labels(Reason.REJECTED).inc()
        log.error("reload rejected", config=str(daemon.config_path), problems=exc.render().splitlines())
        # A file without its last key is a mistake of the configuration. Its key is removed nevertheless.
        daemon.graph.ssh.renew()
        raise
    else:
        result = await _apply(daemon.graph, loaded)
        daemon.metrics.config_reloads.labels(Reason.OK).inc()
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
            await systemd.ready(systemd.status(summary(daemon.snapshot())))


async def _apply(graph: Graph, loaded: Loaded) -> ReloadResult:
    config = loaded.config
    plan = diff.plan(graph.config, config, diff.changed(graph.fingerprint, loaded.fingerprint))
    plan = replace(
        plan,
        clusters=_reopened(plan.clusters, graph),
        routes=_open_again(plan.routes, graph.routes),
        sites=_open_again(plan.sites, graph.sites),
    )
    if plan.log:
        logging.configure(config.log.format, config.log.level)
    await graph.reconfigure(config, plan, loaded.fingerprint)
    clusters = plan.clusters

    warnings = ["admin: changes take effect at the next restart"] if plan.admin else []
    if clusters.removed and not config.clusters:
        log.warning(
            "no cluster is left",
            removed=clusters.removed,
            hint="was the file cut off? Mend it, and reload again",
        )
        warnings.append("clusters: none is left")
    warnings += [str(cluster.listen_error) for cluster in graph.clusters.values() if cluster.listen_error]
    warnings += [str(entry.listener.error) for entry in graph.entries.values() if entry.listener.error]
    if graph.ssh.listener is not None and graph.ssh.listener.error:
        warnings.append(str(graph.ssh.listener.error))
    warnings += [f"{one.key}: {one.message}" for one in (*loaded.hanging, *loaded.doubts)]
    return ReloadResult(
        added=_named(plan, lambda change: change.added),
        changed=_named(plan, lambda change: (*change.changed, *change.renewed, *change.adjusted)),
        removed=_named(plan, lambda change: change.removed),
        warnings=tuple(warnings),
    )


def _reopened(clusters: diff.Change, graph: Graph) -> diff.Change:
    """`clusters` with the drained ones as changed, so that the reload starts them again."""

    def drained(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if graph.clusters[name].is_drained)

    reopened = (*drained(clusters.renewed), *drained(clusters.kept))
    return replace(
        clusters,
        changed=(*clusters.changed, *reopened),
        renewed=tuple(name for name in clusters.renewed if name not in reopened),
        kept=tuple(name for name in clusters.kept if name not in reopened),
    )


def _open_again(change: diff.Change, parts: Mapping[str, Routed | ServedSite]) -> diff.Change:
    """`change`, of routes or sites, with the drained ones as renewed: every reload opens those that stay."""
    drained = tuple(name for name in change.kept if parts[name].is_drained)
    kept = tuple(name for name in change.kept if name not in drained)
    return replace(change, renewed=(*change.renewed, *drained), kept=kept)


def _named(plan: diff.Plan, names: Callable[[diff.Change], tuple[str, ...]]) -> tuple[str, ...]:
    changes = {
        "gateway": plan.gateways,
        "cluster": plan.clusters,
        "route": plan.routes,
        "entry": plan.entries,
        "site": plan.sites,
        "user": plan.users,
        "": plan.ssh_server,
    }
    return tuple(f"{kind} {name}".lstrip() for kind, change in changes.items() for name in names(change))
