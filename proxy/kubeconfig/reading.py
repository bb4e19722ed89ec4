"""Reads kubeconfigs as kubectl does (YAML 1.1 by go-yaml). Other programs write them, so more is allowed than
in kubemux's own file.

Allowed are anchors, aliases and merge keys, `%YAML`, private tags, tabs between words, a key twice (the last
counts), UTF-16. An alias is replaced by a copy of its value, so that one entry can be changed without
another; the size of all copies is limited. Comments are kept.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ruamel.yaml.composer import Composer
from ruamel.yaml.events import AliasEvent, CollectionStartEvent, Event, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scanner import RoundTripScanner
from ruamel.yaml.tag import Tag

from proxy.config import yaml
from proxy.config.files import Unusable, read_bytes
from proxy.config.yaml import MAX_BYTES, MAX_DEPTH, Document, Refused
from proxy.errors import ConfigError, Problem

MAX_COPIED: Final = 20_000
"""The most nodes that are copied for aliases: a thousand users with ten keys each.

Without a limit, one page of aliases could become gigabytes.
"""

_CORE: Final = "tag:yaml.org,2002:"
_MERGE: Final = f"{_CORE}merge"
_STRING, _BOOL = f"{_CORE}str", f"{_CORE}bool"
_KEPT: Final = {f"{_CORE}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
# Of YAML 1.1, beside true and false: https://yaml.org/type/bool.html
_SWITCHES: Final = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON"), "true"),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), "false"),
}
_HEAD: Final = re.compile(r"\A((?:[#%].*\n|\s*\n)+)---[ \t\r]*$", re.MULTILINE)
_MARKS: Final = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read(path: Path, *, whole: bool = False) -> Document:
    """Read `path` once and parse it. Raises ConfigError."""
    try:
        data, _ = read_bytes(path, limit=MAX_BYTES)
    except Unusable as exc:
        raise ConfigError(str(path), [Problem(0, "", f"the file {exc}", exc.hint)]) from exc
    return parse(data, str(path), whole=whole)


def parse(data: bytes, path: str, *, whole: bool = False) -> Document:
    """The first document in `data`; with `whole`, a second document is an error.

    Raises ConfigError. Its messages name `path`, and never quote a value.
    """
    try:
        text = data.decode(_MARKS.get(data[:2], "utf-8-sig"))
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            path, [Problem(line, "", "the file is not UTF-8 text", "save it as UTF-8")]
        ) from exc
    return yaml.compose(
        _HEAD.sub(_as_comments, text, count=1), path, _OnlyComposer if whole else _Composer, _Scanner
    )


def _as_comments(match: re.Match[str]) -> str:
    """The lines above `---` as comments, the directives (`%YAML 1.1`) too, which change nothing here.

    `---` itself is left out, because ruamel loses the comments above it.
    """
    return re.sub("^%", "#%", match[1], flags=re.MULTILINE)


class _Scanner(RoundTripScanner):
    def scan_to_next_token(self) -> object:
        reader = self.reader
        while reader.column and reader.peek() in " \t":
            # kubectl allows tabs between words. At the start of a line they stay an error.
            reader.forward()
        return super().scan_to_next_token()


class _Composer(Composer):
    """Makes a tree in which aliases and merge keys are replaced by copies, and each key is there once."""

    def __init__(self, loader: object = None) -> None:
        super().__init__(loader=loader)
        self.warn_double_anchors = False
        self._open: set[str] = set()
        self._copied = 0

    def get_single_node(self) -> Node | None:
        self.parser.get_event()  # the start of the stream
        node: Node | None = self.get_node()
        return node  # kubectl ignores further documents

    def compose_node(self, parent: Node | None, index: object) -> Node:
        event = self.parser.peek_event()
        if isinstance(event, AliasEvent):
            if event.anchor in self._open:
                raise _refused(event, f"the anchor {event.anchor!r} contains itself")
            return self._copy(super().compose_node(parent, index), event, 1)
        _untag(event)
        anchor = event.anchor
        if anchor is not None:
            self._open.add(anchor)
        node: Node = super().compose_node(parent, index)
        self._open.discard(anchor)
        node.anchor = None  # it is written out where it is used
        if isinstance(node, MappingNode):
            node.value = list(_merged(node, event))
        elif (
            isinstance(node, ScalarNode)
            and not node.style
            and (switch := _SWITCHES.get(node.value))
            and node.tag == _STRING
        ):
            node.ctag, node.value = Tag(suffix=_BOOL), switch
        return node

    def _copy(self, node: Node, event: Event, depth: int) -> Node:
        self._copied += 1
        if self._copied > MAX_COPIED or depth > MAX_DEPTH:
            raise _refused(event, "aliases (*) stand for more than any kubeconfig needs")
        marks = node.start_mark, node.end_mark
        if isinstance(node, SequenceNode):
            items = [self._copy(item, event, depth + 1) for item in node.value]
            return SequenceNode(node.ctag, items, *marks, flow_style=node.flow_style)
        if isinstance(node, MappingNode):
            pairs = [
                (self._copy(key, event, depth + 1), self._copy(item, event, depth + 1))
                for key, item in node.value
            ]
            return MappingNode(node.ctag, pairs, *marks, flow_style=node.flow_style)
        return ScalarNode(node.ctag, node.value, *marks, style=getattr(node, "style", None))


class _OnlyComposer(_Composer):
    """For a file that is written back. It also refuses a second document, which would be lost."""

    def get_single_node(self) -> Node | None:
        node: Node | None = Composer.get_single_node(self)
        return node


def _untag(event: Event) -> None:
    """Remove a tag that kubectl does not know: its value is read as if it had no tag."""
    if isinstance(event, ScalarEvent) and event.ctag is not None and str(event.ctag) == _STRING:
        # `!!str 42` is "42".
        event.ctag, event.implicit, event.style = (
            None,
            (False, True),
            event.style or '"',
        )
    elif isinstance(event, ScalarEvent) and event.ctag is not None and str(event.ctag) not in _KEPT:
        event.ctag, event.implicit = None, (not event.style, bool(event.style))
    elif isinstance(event, CollectionStartEvent) and event.ctag is not None and str(event.ctag) not in _KEPT:
        event.ctag, event.implicit = None, True


def _merged(mapping: MappingNode, event: Event) -> Iterator[tuple[Node, Node]]:
    """The items of a mapping, with the items of the merged mapping in place of `<<`.

    If a key is there twice, merged or not, the last one counts, as in go-yaml.
    """
    items: dict[object, tuple[Node, Node]] = {}
    for key, value in mapping.value:
        merged = [(key, value)] if key.tag != _MERGE else _sources(value, event)
        for pair in merged:
            name = pair[0].value if isinstance(pair[0], ScalarNode) else id(pair[0])
            items.pop(name, None)
            items[name] = pair
    yield from items.values()


def _sources(value: Node, event: Event) -> Iterable[tuple[Node, Node]]:
    """The items to merge. If several mappings have the same key, the first mapping counts."""
    sources = reversed(value.value) if isinstance(value, SequenceNode) else [value]
    for source in sources:
        if not isinstance(source, MappingNode):
            raise _refused(event, "a merge key (<<) wants a mapping, or a list of them")
        yield from source.value


def _refused(event: Event, message: str) -> Refused:
    line = event.start_mark.line + 1
    return Refused(
        [
            Problem(
                line,
                "",
                message,
                "kubectl config view --flatten writes a file without aliases, if it can read it",
            )
        ]
    )
