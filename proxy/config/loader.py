"""A file becomes a `Config`, or a ConfigError that holds everything wrong with it.

There are four passes: the YAML, the types, the rules between sections, the files that are named. A value that
a pass refuses is replaced by a harmless stand-in, so that the next pass can check everything else. Findings
about a stand-in are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from proxy.config import credentials, reading, rules, yaml
from proxy.config.credentials import Look, Scrutiny
from proxy.config.findings import Finding, Loc, dotted, prefixes
from proxy.config.keys import Section
from proxy.config.model import DEFAULTS, Config
from proxy.config.reading import KEY
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem
from proxy.runtime.text import shown, suggest

Raw = dict[str, object]


def load(path: Path, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in `path`, which is read once.

    Raises ConfigError, also for files that do not answer. Blocking.
    """
    return _strict(yaml.read(path), scrutiny)


def load_patiently(path: Path) -> tuple[Config, Look, list[Problem]]:
    """The same, the state of the files, and which do not answer: here that is no mistake.

    Raises ConfigError. Blocking.
    """
    document = yaml.read(path)
    config, found, findings = _build(document, Scrutiny.FILES)
    if config is None or findings:
        raise ConfigError(document.path, _problems(document, findings))
    return config, found, _problems(document, found.hanging)


def parse(data: bytes, path: str, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in `data`; `path` is for messages. Reads the files it names. Raises ConfigError."""
    return _strict(yaml.parse(data, path), scrutiny)


def keys(document: Document) -> dict[object, object]:
    """The keys of the file, as they are written. Raises ConfigError if it is empty or no mapping."""
    if not isinstance(document.root, dict):
        message = (
            "the file is empty" if document.root is None else "the file is not a mapping of keys to values"
        )
        hint = "config/minimal.yaml is a start: version, gateways, clusters"
        raise ConfigError(document.path, [Problem(1, "", message, hint)])
    return document.root


def _strict(document: Document, scrutiny: Scrutiny) -> Config:
    config, found, findings = _build(document, scrutiny)
    if config is None or findings or found.hanging:
        raise ConfigError(document.path, _problems(document, [*findings, *found.hanging]))
    return config


def _build(document: Document, scrutiny: Scrutiny) -> tuple[Config | None, Look, list[Finding]]:
    findings: list[Finding] = []
    raw = _plain(keys(document), (), findings)
    broken = {finding.loc for finding in findings}
    lost = set(broken)
    _merge_defaults(raw, findings, broken, lost)
    config = _validated(raw, findings, broken, lost)
    found = Look()
    # Without the section itself, or under a misspelt key, every reference to it would look dangling.
    is_astray = "gateways" not in raw and any(len(loc) == 1 for loc in lost)
    if config and ("gateways",) not in broken and not is_astray:
        found = credentials.look(config, scrutiny)
        later = (*rules.check(config), *found.findings)
        above = {prefix for loc in lost for prefix in prefixes(loc)}
        findings += [f for f in later if f.loc not in above and broken.isdisjoint(prefixes(f.loc))]
    return config, found, findings


def _plain(node: dict[object, object], loc: Loc, findings: list[Finding]) -> Raw:
    """`node` as plain mappings with text keys; empty values are refused, but an empty section is one without
    entries.
    """
    plain: Raw = {}
    for key, value in node.items():
        here = (*loc, key if isinstance(key, str | int) else str(key))
        if not isinstance(key, str):
            findings.append(Finding(here, f"the key {shown(key)} is not text", "put it in quotes"))
        if value is None and loc:
            findings.append(Finding(here, "has no value", "give it one, or remove the line"))
        elif value is not None:
            plain[str(key)] = _plain(value, here, findings) if isinstance(value, dict) else _scalar(value)
    return plain


def _scalar(value: object) -> object:
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value) if isinstance(value, str) else int(value)  # ruamel's remember how they were written
    return value


def _merge_defaults(raw: Raw, findings: list[Finding], broken: set[Loc], lost: set[Loc]) -> None:
    """Put `defaults:` under each entry, one level deep for nested mappings.

    They are checked on their own first.

    `broken` gets the places that a finding is about, `lost` those of them that leave a gap: rules would find
    fault with it.
    """
    defaults = raw.pop("defaults", {})
    if not isinstance(defaults, dict):
        findings.append(Finding(("defaults",), "expected a mapping", "with the keys gateway and cluster"))
        return
    unknown = [key for key in defaults if key not in DEFAULTS]
    findings += [Finding(("defaults", key), "unknown key", suggest(key, DEFAULTS)) for key in unknown]
    for key, (section, model) in DEFAULTS.items():
        entries, shared = raw.get(section), defaults.get(key, {})
        if not isinstance(shared, dict):
            findings.append(
                Finding(
                    ("defaults", key), f"expected a mapping, got {shown(shared)}", "indent its keys below it"
                )
            )
        elif isinstance(entries, dict):
            for error in reading.mistakes(model, shared):
                # The entries have what is missing; a time is too short or too long where it is used.
                if error["type"] == "missing" or reading.is_time_out_of_range(error, model):
                    continue
                loc = reading.place(error)
                findings.append(reading.explain(error, ("defaults", key, *loc), model))
                heirs = {(section, name, *loc) for name, own in entries.items() if not _says(own, loc)}
                broken |= heirs
                if not _repair(shared, error, model):
                    lost |= heirs
            raw[section] = {
                name: _merged(shared, own) if isinstance(own, dict) else own for name, own in entries.items()
            }


def _merged(shared: Raw, own: Raw) -> Raw:
    merged = shared | own
    for key, under in shared.items():
        if isinstance(under, dict) and isinstance(value := merged[key], dict):
            merged[key] = under | value  # a copy: a mistake in it is repaired for each entry
    return merged


def _says(own: object, loc: Loc) -> bool:
    """Whether an entry has a value of its own where its default is wrong. Lists are not merged."""
    for key in loc:
        if not isinstance(own, dict):
            return True
        if key not in own:
            return False
        own = own[key]
    return True


def _validated(raw: Raw, findings: list[Finding], broken: set[Loc], lost: set[Loc]) -> Config | None:
    errors = reading.mistakes(Config, raw)
    for error in sorted(errors, key=_is_named):  # a bad name is told once, and nothing else of that entry
        loc = reading.place(error)
        if broken.isdisjoint(prefixes(loc)):
            findings.append(reading.explain(error, loc, Config))
            broken.add(loc)
    for _ in range(3):  # a section that is gone altogether needs its own keys stood in for, in the next round
        errors.sort(key=_is_named, reverse=True)  # an entry with a bad name is taken out as a whole, last
        lost.update(reading.place(error) for error in errors if not _repair(raw, error, Config))
        errors = reading.mistakes(Config, raw)
    return None if errors else reading.read(Config, raw)


def _is_named(error: ErrorDetails) -> bool:
    return KEY not in error["loc"]


def _repair(raw: Raw, error: ErrorDetails, section: type[Section]) -> bool:
    """Put a harmless value in the place of what is wrong.

    If there is none, take it out of `raw`, and return False.
    """
    *way, last = reading.place(error)
    parent: Any = raw
    for step in way:
        parent = parent[step]
    stand_in = reading.stand_in(error, section)
    if stand_in is None:
        del parent[last]
        return False
    parent[last] = stand_in
    return True


def _problems(document: Document, findings: Sequence[Finding]) -> list[Problem]:
    """By line, each once: what a default does to ten clusters is one problem, at the default."""
    problems = []
    for loc, message, hint in findings:
        place = _origin(document, loc)
        problems.append(Problem(document.line(place), dotted(place), message, hint))
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.key))


def _origin(document: Document, loc: Loc) -> Loc:
    for key, (section, _) in DEFAULTS.items():
        default = ("defaults", key, *loc[2:])
        if loc[:1] == (section,) and len(loc) > 2 and not document.has(loc) and document.has(default):
            return default
    return loc
