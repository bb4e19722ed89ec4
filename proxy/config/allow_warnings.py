"""Warnings of rules in `allow` that match nobody, because no such user, group, certificate or password can
exist.

They are not errors: a user database that does not answer must not prevent the daemon's start, and such a rule
does no harm.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from proxy.config.allow import ANY, Rule
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.findings import Finding, Loc
from proxy.config.htpasswd import parse
from proxy.config.model import Config
from proxy.config.rules import is_wildcard
from proxy.config.ssh_rules import SSH
from proxy.runtime.blocking import FILES_S, Hangs, all_of, doing
from proxy.runtime.endpoint import Endpoint, Local
from proxy.runtime.text import nearest, shown

_LOCAL: Final = frozenset({"uid", "gid"})
_BY_KEY: Final = {"ssh-user": "user", "site": "site"}
"""The kinds of callers who log in to the SSH server."""
_NOBODY: Final = 65534

NameOf = Callable[[str, str], tuple[str, int]]
"""For a kind (`uid` or `gid`) and a name: the name as the user database has it, and the number. Raises
KeyError.
"""


class _WayIn(NamedTuple):
    """One listener or entry: the kinds of identity that its clients can have, and the file with their
    passwords.
    """

    kinds: frozenset[str]
    users_file: Path | None = None


def warnings(config: Config, name_of: NameOf | None = None) -> list[Finding]:
    """A warning for each rule that matches nobody. Blocks for at most FILES_S seconds."""
    found = all_of({"users": partial(_all, config, name_of or _name_of)}, timeout=FILES_S)["users"]
    if isinstance(found, Hangs):
        return [
            Finding((), str(found), "so rules of `allow` could not be checked; does getent passwd answer?")
        ]
    return found


def _all(config: Config, name_of: NameOf) -> list[Finding]:
    return [
        Finding((*loc, "allow", index), *doubt)
        for loc, allow, ways in _lists(config)
        if all(rule.kind != ANY for rule in allow)
        for index, rule in enumerate(allow)
        if (doubt := _no_login(rule, config, ways) if rule.kind in _BY_KEY else _doubt(rule, ways, name_of))
    ]


def _lists(config: Config) -> Iterator[tuple[Loc, tuple[Rule, ...], list[_WayIn]]]:
    """Each `allow` list, with the listeners and entries whose clients it is checked for."""
    entries = {
        name: _WayIn(
            _kinds_at(entry.listen)
            | ({"cert"} if entry.tls.client_ca_file else set())
            | ({"proxy-user"} if entry.users_file else set()),
            entry.users_file,
        )
        for name, entry in config.entries.items()
    }
    if config.ssh_server is not None:
        entries[SSH] = _WayIn(frozenset(_BY_KEY))
    for name, cluster in config.clusters.items():
        own = [_WayIn(_kinds_at(cluster.listen))] if cluster.listen else []
        yield ("clusters", name), cluster.allow or (), [*own, *entries.values()]
    for index, route in enumerate(config.routes):
        named = entries if route.entries is None else route.entries
        yield ("routes", index), route.allow or (), [entries[name] for name in named if name in entries]
    for name, entry in config.entries.items():
        yield ("entries", name), entry.allow or (), [entries[name]]


def _kinds_at(listen: Local) -> frozenset[str]:
    """The kinds of rules that the kernel's knowledge can match at this address: only local clients have a
    uid.
    """
    is_local = not isinstance(listen, Endpoint) or listen.is_loopback or is_wildcard(listen.host)
    return _LOCAL if is_local else frozenset()


def _doubt(rule: Rule, ways: list[_WayIn], name_of: NameOf) -> tuple[str, str] | None:
    """Why the rule matches nobody, and the remedy; None if it may match somebody."""
    if not any(rule.kind in way.kinds for way in ways):
        return _NO_WAY[rule.kind]
    if rule.kind in _LOCAL:
        return _no_user(rule, name_of)
    if rule.kind == "proxy-user":
        return _no_account(rule.name, [way.users_file for way in ways if way.users_file])
    return None


_NO_WAY: Final = {
    **dict.fromkeys(
        _LOCAL,
        (
            "lets nobody in: users of this machine are known on loopback and unix sockets alone",
            "let clients come by such a `listen`, or write cert:NAME or proxy-user:NAME",
        ),
    ),
    "cert": (
        "lets nobody in: no entry by which clients come here asks for certificates",
        "add client_ca_file: FILE to the entry's `tls`",
    ),
    "proxy-user": (
        "lets nobody in: no entry by which clients come here asks for passwords",
        "add users_file: FILE to the entry",
    ),
}


def _no_login(rule: Rule, config: Config, ways: list[_WayIn]) -> tuple[str, str] | None:
    """Why no user or site of the SSH server matches the rule, and the remedy; None if one may."""
    if config.ssh_server is None:
        others = "uid:NAME, gid:NAME, cert:NAME or proxy-user:NAME"
        return (
            "lets nobody in: users and sites come by ssh_server, which is missing",
            f"add ssh_server, or write {others}",
        )
    if not any(rule.kind in way.kinds for way in ways):
        return (
            "lets nobody in: users and sites come by ssh_server, and this list is for other entries",
            "write it in `allow` of a cluster, or of a route whose `entries` have ssh",
        )
    named: dict[str, Collection[str]] = {"ssh-user": config.users, "site": config.sites}
    if rule.name in named[rule.kind]:
        return None
    [other] = named.keys() - {rule.kind}
    close = nearest(rule.name, named[rule.kind])
    meant = f"{other}:{rule.name}" if rule.name in named[other] else close and f"{rule.kind}:{close}"
    kind = _BY_KEY[rule.kind]
    hint = f"add it to {kind}s{f', or did you mean {meant}?' if meant else ''}"
    return f"lets nobody in: there is no {kind} {shown(rule.name)}", hint


def _no_user(rule: Rule, name_of: NameOf) -> tuple[str, str] | None:
    kind, getent = ("user", "passwd") if rule.kind == "uid" else ("group", "group")
    name, number = rule.name, int(rule.name) if rule.name.isdecimal() else None
    if number is None:
        try:
            name, number = name_of(rule.kind, rule.name)
        except KeyError:
            message = f"lets nobody in: there is no {kind} {shown(rule.name)} on this machine"
            return message, f"write one that this prints: getent {getent} | cut -d: -f1; or a number"
    if name != rule.name:
        return f"lets nobody in: this machine calls that {kind} {shown(name)}", f"write {rule.kind}:{name}"
    if rule.kind == "uid" and number == _NOBODY:
        message = f"lets nobody in: the kernel says {_NOBODY} for everybody whose uid it cannot tell"
        return message, "let that program run as a user of its own"
    return None


def _name_of(kind: str, name: str) -> tuple[str, int]:
    doing(f"looking up {kind}:{name}")
    if kind == "uid":
        user = pwd.getpwnam(name)
        return user.pw_name, user.pw_uid
    group = grp.getgrnam(name)
    return group.gr_name, group.gr_gid


def _no_account(user: str, files: Iterable[Path]) -> tuple[str, str] | None:
    paths = list(dict.fromkeys(files))
    for path in paths:
        try:
            accounts, _ = parse(read_bytes(path, limit=MAX_CREDENTIAL_BYTES)[0], path=path)
        except Unusable:  # `credentials` reports it
            return None
        if user in accounts:
            return None
    message = f"lets nobody in: there is no user {shown(user)} in {' or '.join(map(str, paths))}"
    return message, f"add the user: htpasswd -B -C 12 {paths[0]} {user}"
