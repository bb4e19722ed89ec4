"""The entries of a kubeconfig: reads them as plain values, and adds them to the tree of a file.

clusters: [{name: prod, cluster: {server: ..., certificate-authority-data: ...}}]
users:    [{name: admin, user: {...}}]
contexts: [{name: prod, context: {cluster: prod, user: admin}}]
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem
from proxy.kubeconfig import reading

Body = Mapping[str, object]

KINDS = {"clusters": "cluster", "contexts": "context", "users": "user"}
"""Section, and the key of an entry that holds its body."""

_FILES = {
    "clusters": ("certificate-authority",),
    "contexts": (),
    "users": ("client-certificate", "client-key", "tokenFile"),
}
"""Keys that hold paths relative to the kubeconfig's folder (client-go, tools/clientcmd/loader.go)."""

# kubectl reads YAML 1.1, where a bare `yes` or `0777` is not a string; we read 1.2. Text that is a string in
# both needs no quotes.
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[A-Za-z/][A-Za-z0-9/+=._@-]*", re.IGNORECASE)
_UNINDENTED = re.compile(r"(?<=\n)(\n*#.*|\n+\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """Entries by name, with absolute file paths. Bodies hold keys: never log them."""

    clusters: Mapping[str, Body] = field(default_factory=dict, repr=False)
    contexts: Mapping[str, Body] = field(default_factory=dict, repr=False)
    users: Mapping[str, Body] = field(default_factory=dict, repr=False)


def default_files(environ: Mapping[str, str]) -> list[Path]:
    """The files that kubectl would read, if they exist: those of `$KUBECONFIG`, else `~/.kube/config`."""
    if value := environ.get("KUBECONFIG"):
        named = [Path(part) for part in dict.fromkeys(value.split(os.pathsep)) if part]
    else:
        named = [Path(environ.get("HOME", "/")) / ".kube" / "config"]
    return [path for path in named if path.exists()]


def load(paths: Iterable[Path]) -> Kubeconfig:
    """The entries of all files, merged as kubectl does. Raises ConfigError.

    If two files have an entry of the same name, the one in the earlier file is used as a whole.
    """
    parsed = [parse(reading.read(path)) for path in paths]
    return Kubeconfig(
        clusters=ChainMap(*[dict(file.clusters) for file in parsed]),
        contexts=ChainMap(*[dict(file.contexts) for file in parsed]),
        users=ChainMap(*[dict(file.users) for file in parsed]),
    )


def parse(document: Document) -> Kubeconfig:
    """The entries of one file.

    Raises ConfigError if it does not look like a kubeconfig, or two entries have the same name.
    """
    root = {} if document.root is None else document.root
    if not isinstance(root, dict):
        raise ConfigError(
            document.path, [Problem(1, "", "not a kubeconfig: expected a mapping", "is it the right file?")]
        )
    folder = Path(document.path).absolute().parent
    problems: list[Problem] = []
    found: dict[str, dict[str, Body]] = {}
    for section, kind in KINDS.items():
        bodies = found[section] = {}
        entries = root.get(section) or []
        if not isinstance(entries, list):
            problems.append(
                Problem(
                    document.line((section,)),
                    section,
                    "expected a list of entries",
                    "see kubectl config view",
                )
            )
            continue
        for index, entry in enumerate(entries):
            line = document.line((section, index))
            body = entry.get(kind) if isinstance(entry, dict) else None
            if not isinstance(entry, dict) or not isinstance(body, dict | None):
                problems.append(
                    Problem(
                        line,
                        section,
                        f"expected an entry with `name` and `{kind}`",
                        "see kubectl config view",
                    )
                )
                continue
            name = text(entry.get("name"))
            if name in bodies:
                problems.append(
                    Problem(
                        line, section, f"the name {name!r} is there twice", "remove or rename one of the two"
                    )
                )
            bodies[name] = _absolute(section, body or {}, folder)
    if problems:
        raise ConfigError(document.path, problems)
    return Kubeconfig(**found)


def text(value: object) -> str:
    """A scalar as kubectl reads it where it expects text: `name: 42` is "42", a missing value is ""."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _absolute(section: str, body: Body, folder: Path) -> Body:
    body = dict(body)
    for key in _FILES[section]:
        if body.get(key):
            body[key] = os.path.normpath(folder / text(body[key]))
    plugin = body.get("exec") if section == "users" else None
    # client-go looks up a command without a slash in $PATH (GetAuthInfoFileReferences).
    if isinstance(plugin, dict) and "/" in text(plugin.get("command")):
        body["exec"] = {**plugin, "command": os.path.normpath(folder / text(plugin["command"]))}
    return body


def fresh(value: object, *, flow: bool = False) -> object:
    """A copy of `value` to put into the tree of another file, without comments.

    Text is quoted if YAML 1.1 and 1.2 might read it differently.
    """
    node: CommentedMap | CommentedSeq
    if isinstance(value, Mapping):
        node = CommentedMap({fresh(key): fresh(item, flow=flow) for key, item in value.items()})
    elif isinstance(value, list | tuple):
        node = CommentedSeq([fresh(item, flow=flow) for item in value])
    elif isinstance(value, str):
        return str(value) if _PLAIN.fullmatch(value) else DoubleQuotedScalarString(value)
    else:
        return value
    if flow:
        node.fa.set_flow_style()
    return node


def append(root: CommentedMap, section: str, item: object, *, key: str | None = None) -> None:
    """Add `item` to the end of the list `section` of `root`; with `key`, to the mapping `section`.

    ruamel attaches a comment to the value before it. A comment above the next section would so end up above
    `item`; it is moved below it.
    """
    last = _last(root, section) if section in root else None
    if not root.get(section):  # missing, null, [] or {}
        root[section] = CommentedSeq() if key is None else CommentedMap()
    node = root[section]
    if key is None:
        node.append(item)
    else:
        node[fresh(key)] = item
    if last:
        _move_heading(last, _last(root, section))


_Place = tuple[CommentedMap | CommentedSeq, str | int]


def _last(root: CommentedMap, section: str) -> _Place:
    container: CommentedMap | CommentedSeq = root
    key: str | int = section
    while (
        isinstance(node := container[key], CommentedMap | CommentedSeq) and node and not node.fa.flow_style()
    ):
        container, key = node, next(reversed(node)) if isinstance(node, CommentedMap) else len(node) - 1
    return container, key


def _move_heading(source: _Place, target: _Place) -> None:
    (container, key), (new_container, new_key) = source, target
    slot = 2 if isinstance(container, CommentedMap) else 0
    comments = container.ca.items.get(key)
    token = comments[slot] if comments and len(comments) > slot else None
    if not isinstance(token, CommentToken) or not (match := _UNINDENTED.search(token.value)):
        return
    token.value = token.value[: match.start()]
    heading = CommentToken("\n" + match[0], CommentMark(0), None)
    new_slot = 2 if isinstance(new_container, CommentedMap) else 0
    new_container.ca.items[new_key] = [heading if index == new_slot else None for index in range(4)]
