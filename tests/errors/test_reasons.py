"""The one list of reasons, compared with the code, the documentation and the alerts."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import proxy
from proxy.errors import ChannelError, LinkError, ProxyError
from proxy.errors.page import filled
from proxy.errors.reasons import Reason
from proxy.errors.words import Subject
from proxy.health.result import Result

ROOT = Path(__file__).parents[2]
LIST = set((ROOT / "proxy" / "errors" / "reasons").iterdir())
PAGE = ROOT / "docs" / "troubleshooting.md"


@cache
def sources() -> dict[Path, ast.Module]:
    """The syntax trees of the program's other modules."""
    return {path: ast.parse(path.read_text()) for path in (ROOT / "proxy").rglob("*.py") if path not in LIST}


def kinds(root: type[ProxyError]) -> set[type[ProxyError]]:
    return {root}.union(*map(kinds, root.__subclasses__()))


@pytest.fixture(scope="module")
def errors() -> set[type[ProxyError]]:
    """Every class of the tree, wherever it is defined."""
    for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {kind for kind in kinds(ProxyError) if kind.__module__.startswith("proxy.")}


def about(subject: Subject) -> set[Reason]:
    return {reason for reason in Reason if subject in reason.subjects}


def test_each_reason_has_a_meaning_and_a_subject() -> None:
    for reason in Reason:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)
        assert reason.meaning
        assert reason.subjects
        assert reason.meaning[-1] not in ".;,"


def test_the_code_uses_each_reason() -> None:
    named = {
        node.attr
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Reason"
    }
    assert set(Reason.__members__) - named == set()


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """String literals that are passed as a reason or a result, instead of a member of the list."""
    for node in ast.walk(tree):
        given: list[tuple[ast.expr, ast.expr | None]] = []
        match node:
            case ast.Assign(targets=[target], value=value):
                given = (
                    list(zip(target.elts, value.elts, strict=False))
                    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                    else [(target, value)]
                )
            case ast.AnnAssign(target=target, value=value):
                given = [(target, value)]
            case ast.keyword(arg=str(arg), value=value):
                given = [(ast.Name(arg), value)]
            case ast.arguments(kwonlyargs=names, kw_defaults=defaults):
                given = [(ast.Name(name.arg), default) for name, default in zip(names, defaults, strict=True)]
            case ast.Subscript(value=target, slice=value):
                given = [(target, value)]
            case ast.Call(func=ast.Attribute(attr="labels", value=target), args=[value]):
                given = [(target, value)]
        for named, word in given:
            name = ast.unparse(named).rpartition(".")[2]
            if name not in {"reason", "results", "connects", "reconnects", "config_reloads"}:
                continue
            match word:
                case ast.Constant(value=str(text)) if text:
                    yield word.lineno, text
                case ast.JoinedStr():
                    yield word.lineno, ast.unparse(word)


def test_every_reason_is_from_the_list() -> None:
    assert {path: found for path, tree in sources().items() if (found := list(literals(tree)))} == {}


def test_the_check_finds_a_reason_that_is_not_from_the_list() -> None:
    made_up = [
        "reason = 'x'",
        "self.reason = f'{x}'",
        "reason, message = 'x', y",
        "class A:\n    reason: str = 'x'",
        "log.info('event', reason='x')",
        "def f(*, reason='x'): ...",
        "record.connects['x'] += 1",
        "metrics.config_reloads.labels('x').inc()",
    ]
    assert [source for source in made_up if not list(literals(ast.parse(source)))] == []


def test_each_error_has_a_reason_of_its_kind(errors: set[type[ProxyError]]) -> None:
    for kind in errors:
        assert isinstance(kind.reason, Reason), kind
        if issubclass(kind, LinkError):
            assert Subject.GATEWAY in kind.reason.subjects, kind
        if issubclass(kind, ChannelError):
            assert Subject.CLIENT in kind.reason.subjects, kind


def test_the_hint_of_an_error_is_the_remedy_of_its_reason_unless_it_has_its_own(
    errors: set[type[ProxyError]],
) -> None:
    others = {kind.__name__ for kind in errors if kind.hint != kind.reason.remedy}
    assert others == {"LinkClosed", "LinkReplaced", "Unfinished"} & others
    assert all(kind("why").hint == kind.hint for kind in (LinkError, ChannelError))
    assert LinkError("why", hint="better").hint == "better"


def test_the_results_of_probes_are_those_of_the_list() -> None:
    assert set(map(str, Result)) == set(map(str, about(Subject.PROBE)))
    assert all(result.hint == Reason(result).remedy for result in Result)


def test_the_page_is_generated_from_the_list() -> None:
    page = PAGE.read_text()
    assert re.findall(r"<!-- reasons: (\w+) -->", page) == [*Subject]
    assert filled(page) == page, f"python -m proxy.errors.page {PAGE.relative_to(ROOT)}"


def test_nothing_is_documented_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert set(rows) == set(Reason)


@pytest.mark.parametrize("path", ["config/prometheus/kubemux.rules.yml", "config/grafana-dashboard.json"])
def test_alerts_and_the_dashboard_use_reasons_of_the_list(path: str) -> None:
    text = (ROOT / path).read_text()
    asked = re.findall(r'(?:result|reason)(?:=~|!~|!=|=)\\?"([a-z_|]+)\\?"', text)
    assert asked
    assert {word for words in asked for word in words.split("|")} <= set(Reason)
