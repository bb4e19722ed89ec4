"""The part of the model about names that clients ask for: the entries where they ask, and the routes."""

from __future__ import annotations

from proxy.config.allow import Allowed
from proxy.config.keys import Section, key
from proxy.config.listen import GROUP, MODE, Listen, Mode
from proxy.config.matches import Leading, Pattern
from proxy.config.values import DIRECT, Name


class RouteConfig(Section):
    """What else clients may ask for by name, and which way it leads; the first that matches decides."""

    name: Name = key("Its name in messages, of this route alone.", "eu-hosts")
    match: tuple[Pattern, ...] = key(
        "What clients may ask for, each with a port, a range (`:2000-2999`) or any (`:*`). In a name, `*` "
        "stands for a part of a label, `**` for whole labels. A network, or one address, matches addresses.",
        ["*.eu.internal:22", "10.0.0.0/16:2209"],
        min_length=1,
    )
    gateway: Name = key(
        "The gateway that leads there; `direct` means without SSH.", "eu-edge", DIRECT, elsewhere=True
    )
    target: Leading | None = key(
        "What the gateway connects to. `{host}` and `{port}` stand for what the client has asked for, `{1}` "
        "for what the first star of `match` stands for.",
        "{1}.notebooks.svc:2209",
        default=None,
        unset="what the client has asked for",
        elsewhere=True,
    )
    allow: tuple[Allowed, ...] | None = key(
        "Who may. `any` lets everybody in, callers that nobody knows included.",
        ["gid:sre", "proxy-user:ci"],
        default=None,
        unset="whom the entry lets in",
        min_length=1,
    )
    entries: tuple[Name, ...] | None = key(
        "The entries that it is for; at others it is passed over.",
        ["egress"],
        default=None,
        unset="all",
        min_length=1,
    )


class EntryConfig(Section):
    """An address where clients ask for what they want by name, by HTTP CONNECT or SOCKS5."""

    listen: Listen = key(
        "The local address, or a unix socket.",
        "127.0.0.1:3128",
        "unix:/run/kubemux-entries/proxy.sock",
        elsewhere=True,
    )
    mode: Mode | None = key(MODE, "0660", default=None, unset="0600 (the daemon's user alone)")
    group: Name | None = key(GROUP, "kube", default=None, unset="the daemon's")
