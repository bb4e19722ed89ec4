"""Reads and writes YAML files by ruamel.yaml's round-trip mode, which keeps line numbers and comments.

It is YAML 1.2: `yes` and `off` are text. Anchors and aliases, merge keys, tags, duplicate keys, deep nesting
and a second document are refused: they could make a small file large in memory, or hide what it means.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import Composer, MaxDepthExceededError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, StreamMark
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import RoundTripScanner

from proxy.config.files import Unusable, read_bytes
from proxy.config.findings import Loc
from proxy.errors import ConfigError, Problem
from proxy.runtime.blocking import FILES_S, Hangs, all_of

MAX_BYTES = 4 << 20
MAX_DEPTH = 32
"""How deep mappings and lists may be nested. The configuration needs 5 levels, a kubeconfig 8.

It keeps ruamel's recursion far below Python's limit.
"""

_WRITE_OUT = "write it out; in kubemux's own file, `defaults:` holds what repeats"
_MERGE = "tag:yaml.org,2002:merge"
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]{18,}|0x[0-9A-Fa-f_]{19,}|0o[0-7_]{19,})")
"""Python refuses to read a number of more than 4300 digits, and a float can hold 308."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file. Change `root` in place and `dump` it to keep the comments."""

    path: str
    root: object = field(repr=False)
    """`CommentedMap`, `CommentedSeq` or a scalar; None if the file is empty."""

    def line(self, loc: Loc) -> int:
        """The line (from 1) of the key or list item at `loc`, or of the nearest one above it that exists."""
        line, node = self.root.lc.line if isinstance(self.root, CommentedMap | CommentedSeq) else 0, self.root
        for step in loc:
            if (found := _step(node, step)) is None:
                break
            line, node = found
        return line + 1

    def has(self, loc: Loc) -> bool:
        """Whether the file has a value at `loc`, and not only a default."""
        node = self.root
        for step in loc:
            if (found := _step(node, step)) is None:
                return False
            _, node = found
        return True


def _step(node: object, step: str | int) -> tuple[int, object] | None:
    """The line (from 0) and the value of an item of `node`, if there is one."""
    if isinstance(node, CommentedMap) and step in node:
        return node.lc.data[step][0], node[step]
    if isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
        return node.lc.data[step][0], node[step]
    return None


def read(path: Path, *, limit: int = MAX_BYTES) -> Document:
    """Read `path` once and parse it. Raises ConfigError, also if that takes longer than FILES_S seconds."""
    try:
        [found] = all_of({path: partial(read_bytes, path, limit=limit)}, timeout=FILES_S).values()
    except Unusable as exc:
        raise ConfigError(str(path), [Problem(0, "", f"the file {exc}", exc.hint)]) from exc
    if isinstance(found, Hangs):
        hint = "its disk, or the server that it is mounted from, does not answer"
        raise ConfigError(str(path), [Problem(0, "", str(found), hint)]) from found
    return parse(found[0], str(path))


def parse(data: bytes, path: str) -> Document:
    """The one document in `data`. Messages name `path`.

    Raises ConfigError; its messages never quote a value, because a value may be a secret.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            path, [Problem(line, "", "the file is not UTF-8 text", "save it as UTF-8")]
        ) from exc
    return compose(text, path, _StrictComposer, RoundTripScanner)


def compose(text: str, path: str, composer: type[Composer], scanner: type[RoundTripScanner]) -> Document:
    """The document in `text`. `composer` decides which nodes are accepted. Raises ConfigError."""
    yaml = _round_trip()
    yaml.Composer, yaml.Scanner = composer, scanner
    try:
        return Document(path, yaml.load(text))
    except Refused as exc:
        raise ConfigError(path, exc.problems) from exc
    except Exception as exc:  # ruamel also raises ValueError, TypeError and others for odd scalars
        problem = _translate(exc, text)
        raise ConfigError(path, [problem]) from exc


def dump(root: object) -> bytes:
    """`root` as YAML, with its comments, order and quotes.

    ruamel would write an anchor for an object that is there twice; here it writes the value twice. The one
    comment that is lost is that between `? KEY` and its value: ruamel writes it before the colon, where no
    parser reads what follows as the key's value.
    """
    _drop_comments_of_keys(root)
    yaml, out = _round_trip(), io.BytesIO()
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(root, out)
    return out.getvalue()


def _drop_comments_of_keys(node: object) -> None:
    if isinstance(node, CommentedMap):
        for comments in node.ca.items.values():
            comments[0] = None
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _drop_comments_of_keys(child)


def _round_trip() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.preserve_quotes = True
    yaml.width = 1 << 20  # do not fold a long line
    return yaml


class Refused(Exception):
    """Raised by a composer that does not accept some nodes of a file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(len(problems))
        self.problems = problems


class _StrictComposer(Composer):
    """Collects all refused nodes before ruamel makes values of them, so that no alias is expanded."""

    def __init__(self, loader: object = None) -> None:
        super().__init__(loader=loader)
        self.warn_double_anchors = False
        self._problems: dict[int, Problem] = {}

    def get_single_node(self) -> Node | None:
        node: Node | None = super().get_single_node()
        if self._problems:
            raise Refused(list(self._problems.values()))
        return node

    def compose_document(self) -> Node:
        start = self.parser.peek_event()
        if start.version or start.tags:
            self._refuse(
                start.start_mark,
                "directives (%) are not supported",
                "remove the line; files are read as YAML 1.2",
            )
        node: Node = super().compose_document()
        return node

    def compose_node(self, parent: Node | None, index: object) -> Node:
        event = self.parser.peek_event()
        node: Node = super().compose_node(parent, index)
        if event.anchor is not None:
            self._refuse(event.start_mark, "anchors and aliases (& and *) are not supported", _WRITE_OUT)
        elif getattr(event, "ctag", None) is not None:
            self._refuse(
                event.start_mark, "tags (!) are not supported", "remove the tag, or put the value in quotes"
            )
        elif node.tag == _MERGE:
            self._refuse(event.start_mark, "merge keys (<<) are not supported", _WRITE_OUT)
        elif isinstance(node, ScalarNode) and not node.style and _LONG_NUMBER.fullmatch(node.value):
            self._refuse(event.start_mark, "a number of more than 18 digits", "no key takes one so large")
        elif isinstance(node, ScalarNode) and _SURROGATE.search(node.value):  # by an escape: `"\ud83d"`
            self._refuse(event.start_mark, "half a character (a surrogate)", "write the character itself")
        if isinstance(node, MappingNode):
            for key in _duplicates(node):
                self._refuse(
                    key.start_mark, f"the key {key.value!r} is there twice", "remove or rename one of the two"
                )
        return node

    def _refuse(self, mark: StreamMark, message: str, hint: str) -> None:
        self._problems.setdefault(mark.line, Problem(mark.line + 1, "", message, hint))


def _duplicates(mapping: MappingNode) -> Iterator[Node]:
    seen: set[str] = set()
    for key, _ in mapping.value:
        if not isinstance(key.value, str):
            continue
        if key.value in seen:
            yield key
        seen.add(key.value)


def _line(text: str, number: int) -> str:
    """Line `number` of `text`, from 1."""
    return next(itertools.islice(text.splitlines(), number - 1, None), "")


def _translate(exc: Exception, text: str) -> Problem:
    hint = "check the indentation, colons and quotes in this line and the one above"
    if isinstance(exc, ReaderError):
        code = exc.character if isinstance(exc.character, int) else ord(exc.character)
        message = f"the control character 0x{code:02x} is not allowed"
        return Problem(text.count("\n", 0, exc.position) + 1, "", message, "is it a text file?")
    if not isinstance(exc, MarkedYAMLError):
        return Problem(
            0,
            "",
            f"not valid YAML ({type(exc).__name__})",
            "quote values that look like dates or numbers but are not",
        )
    mark = exc.problem_mark or exc.context_mark
    # If the error is at the end of the file, ruamel's mark is one line below the last.
    line = min(mark.line + 1, len(text.splitlines()) or 1) if mark else 0
    if isinstance(exc, MaxDepthExceededError):
        return Problem(
            line,
            "",
            f"nested deeper than {MAX_DEPTH} levels",
            "no valid file needs that: look for stray brackets",
        )
    # `_duplicates` finds keys that are the same text; ruamel finds those that are equal as values (1, 0x1).
    # Its own message would quote both values.
    if isinstance(exc, DuplicateKeyError):
        return Problem(line, "", "a key is there twice", "remove or rename one of the two")
    if exc.problem == "but found another document":
        return Problem(line, "", "a second document starts here", "keep one document: remove the --- line")
    message = ": ".join(part for part in ("not valid YAML", exc.context, exc.problem) if part)
    if "'\\t'" in message:
        hint = "indent with spaces, not tabs"
    if "flow" in message and "${" in _line(text, line):
        hint = 'in brackets and braces, put what has a variable in quotes: ["${NAME}/FILE"]'
    if "alias" in message:
        hint = "put text that starts with * in quotes; anchors and aliases are not supported"
    return Problem(line, "", message, hint)
