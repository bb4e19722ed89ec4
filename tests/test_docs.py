"""The pages are correct: links lead somewhere, commands and options exist, tables agree with the code.

The recipes of the README and of install.md are run in tests/systemd/test_recipe.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from typing import Final

import click
import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from proxy import cli
from proxy.metrics import Metrics
from tests.support import pages
from tests.support.pages import ROOT
from tests.test_source import CLEAN, CODE, LAYERS

PAGES: Final = pages.pages()
SCREEN: Final = (24, 110)
"""Lines and columns."""


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    astray = []
    for link in pages.links(page):
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in pages.anchors(str(target.relative_to(ROOT)))):
            astray.append(link)
    assert not astray


@pytest.mark.parametrize("page", PAGES)
def test_a_line_has_one_sentence(page: str) -> None:
    """So that a change of one sentence changes one line. An item of a list may have several sentences."""
    several = [
        line
        for line in pages.prose(page)
        if not re.match(r"\||#|[*-] |\d+\.|  ", line) and re.search(r"[a-z`)][.!?] [A-Z`\[]", line)
    ]
    assert not several


def test_the_readme_is_short_and_every_page_is_found_from_it() -> None:
    assert len(pages.read("README.md").splitlines()) <= 150
    linked = set(pages.links("README.md"))
    wanted = {page for page in PAGES if re.fullmatch(r"docs/[^/]+\.md", page)}
    assert not {page for page in wanted if page not in linked}


def test_the_readme_has_the_commands_of_sites() -> None:
    """tests/systemd/test_sites_recipe.py executes them."""
    section = pages.read("docs/sites.md").partition("\n## From nothing\n")[2].partition("\n## ")[0]
    on_the_bastion, at_the_site, each_user, then = re.findall(
        r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE
    )
    lines = pages.shell("README.md", "Sites").splitlines(keepends=True)
    commands = "".join(line for line in lines if not line.startswith("#"))
    assert commands == on_the_bastion + at_the_site + each_user
    assert pages.block("README.md", "Sites", "yaml") == pages.block("docs/sites.md", "From nothing", "yaml")
    assert all(f"`{line}`" in pages.read("README.md") for line in then.splitlines())


def commands(page: str) -> list[list[str]]:
    """Every `kubemux …` of a shell block or of a code span, as words; `a | b` are two."""
    shells = [line.partition("#")[0] for block in pages.shells(page) for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", "\n".join(pages.prose(page)))
    found = []
    for text in (*shells, *spans):
        said = re.search(r"(?:^|[\s/])(kubemux [a-z].*)", text)
        if said and "://" not in said[1]:
            first, *others = said[1].split(" | ")
            found += [first, *(f"kubemux {other}" for other in others)]
    return [shlex.split(re.split(r"[;&<>]| 2>", one)[0]) for one in found]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_command_and_option_exists(page: str) -> None:
    for words in commands(page):
        context = click.Context(cli.main)
        command: click.Command = cli.main
        rest = words[1:]
        while rest and isinstance(command, click.Group):
            found = command.get_command(context, rest[0])
            assert found is not None, f"{page}: {shlex.join(words)}: no command {rest[0]}"
            command, rest = found, rest[1:]
        known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
        for word in rest:
            assert not word.startswith("-") or word in known, f"{page}: {shlex.join(words)}: no option {word}"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*pages.shells(page), *re.findall(r"`([^`]+)`", "\n".join(pages.prose(page)))])
    assert not set(re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z-]+)", code, re.MULTILINE)) - targets


@pytest.mark.parametrize("page", PAGES)
def test_shell_blocks_can_be_read_by_a_shell(page: str) -> None:
    for block in pages.shells(page):
        subprocess.run(["bash", "-n"], input=block, text=True, timeout=30, check=True)


def test_make_help_fits_on_a_screen() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    lines = said.stdout.splitlines()
    assert len(lines) <= SCREEN[0]
    assert max(map(len, lines)) <= SCREEN[1]


@pytest.mark.parametrize("command", CLEAN, ids=" ".join)
def test_hooks_run_what_the_gates_run(command: list[str]) -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert f"entry: .venv/bin/python -m {' '.join([*command, *CODE])}\n" in hooks


def test_a_commit_of_pages_alone_runs_their_tests_alone() -> None:
    [repo] = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["repos"]
    at_commit = [hook for hook in repo["hooks"] if "pre-push" not in hook.get("stages", ())]
    ran = [
        hook["id"]
        for hook in at_commit
        if "python" not in hook.get("types", ()) and re.search(hook.get("files", ""), "docs/install.md")
    ]
    assert ran == ["pages"]
    entries = " ".join(hook["entry"] for hook in at_commit)
    assert "tests/test_docs.py" in entries
    assert "tests/test_source.py" in entries


def test_every_metric_has_a_row() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="1", dropped_entries=int)
    metrics.gateway("g")
    metrics.cluster("c")
    families = [family for family in registry.collect() if family.name.startswith("kubemux_")]
    rows = {
        f"kubemux_{name.strip('`')}": (kind, set(labels.strip("-").split(", ")) - {""})
        for name, kind, labels, _ in pages.rows("docs/operations.md", "metric (prefix `kubemux_`)")
    }
    known = {f"{one.name}_total" if one.type == "counter" else one.name: one for one in families}
    assert {name: kind for name, (kind, _) in rows.items()} == {name: one.type for name, one in known.items()}
    labels = {
        name: set().union(*(sample.labels for sample in one.samples)) - {"le"} for name, one in known.items()
    }
    shown = {name: found for name, found in labels.items() if found}  # some have no sample at first
    assert {name: rows[name][1] for name in shown} == shown


def test_every_alert_has_a_row() -> None:
    rules = (ROOT / "config/prometheus/kubemux.rules.yml").read_text()
    told = re.findall(r"`(\w+)`", "".join(row[0] for row in pages.rows("docs/operations.md", "alert")))
    assert set(told) == set(re.findall(r"alert: (\w+)", rules))


def test_every_dependency_has_a_reason() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    table = {
        row[0].strip("[").partition("]")[0]: row for row in pages.rows("docs/architecture.md", "package")
    }
    assert table.keys() == {re.split(r"[\[>=<]", one)[0] for one in wanted}
    assert all(len(row) == 3 and row[2] for row in table.values())


def test_the_wings_stand_in_their_order() -> None:
    told = [re.findall(r"`([\w.]+)`", row[0])[0] for row in pages.rows("docs/architecture.md", "wing")]
    assert told == [name for names in LAYERS for name in names if name != "proxy.__main__"]
