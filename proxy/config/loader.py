"""Reads a file into a `Config`, or raises a ConfigError with everything that is wrong in it.

There are four passes: YAML, the types of values, the rules between sections, and the files that the
configuration names. If a pass refuses a value, a harmless one takes its place (a stand-in), so that the next
pass can check everything else. Findings about a stand-in are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from proxy.config import (
    allow_warnings,
    credentials,
    naming,
    permit_warnings,
    reading,
    rules,
    unix_files,
    yaml,
)
from proxy.config.credentials import Inspection
from proxy.config.findings import Finding, Loc, dotted, prefixes
from proxy.config.keys import Section
from proxy.config.model import DEFAULTS, Config
from proxy.config.reading import KEY
from proxy.config.scrutiny import Scrutiny
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem
from proxy.runtime.text import shown, suggest

Raw = dict[str, object]


def load(path: Path, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in the file `path`, which is read once.

    Raises ConfigError, also if reading one of the named files hangs. Blocks.
    """
    return _strict(yaml.read(path), scrutiny)


def load_with_doubts(path: Path) -> tuple[Config, list[Problem]]:
    """Like `load`, but also returns warnings about accepted values without an effect."""
    document = yaml.read(path)
    config = _strict(document, Scrutiny.FILES)
    findings = [
        *allow_warnings.warnings(config),
        *unix_files.in_the_way(config),
        *naming.unused(config),
        *naming.hidden(config),
        *permit_warnings.warnings(config),
    ]
    return config, _problems(document, findings)


def load_for_daemon(path: Path) -> tuple[Config, Inspection, list[Problem], list[Problem]]:
    """The configuration, the state of the files it names, a problem for each section whose files hang, and
    warnings about accepted rules that match nobody.

    Unlike `load` it does not fail if a file hangs: the daemon serves everything else meanwhile. Raises
    ConfigError. Blocks.
    """
    document = yaml.read(path)
    config, found, findings = _build(document, Scrutiny.FILES)
    if config is None or findings:
        raise ConfigError(document.path, _problems(document, findings))
    doubts = _problems(document, allow_warnings.warnings(config))
    return config, found, _problems(document, found.hanging), doubts


def parse(data: bytes, path: str, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in `data`; messages name `path`. The files it names are read. Raises ConfigError."""
    return _strict(yaml.parse(data, path), scrutiny)


def keys(document: Document) -> dict[object, object]:
    """The top-level mapping of the file. Raises ConfigError if the file is empty or not a mapping."""
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


def _build(document: Document, scrutiny: Scrutiny) -> tuple[Config | None, Inspection, list[Finding]]:
    findings: list[Finding] = []
    raw = _plain(keys(document), (), findings)
    broken = {finding.loc for finding in findings}
    lost = set(broken)
    _merge_defaults(raw, findings, broken, lost)
    config = _validated(raw, findings, broken, lost)
    found = Inspection()
    # If `gateways:` itself is wrong or misspelt, do not also report each cluster's gateway as missing.
    is_misspelt = "gateways" not in raw and any(len(loc) == 1 for loc in lost)
    if config and ("gateways",) not in broken and not is_misspelt:
        found = credentials.inspect(config, scrutiny)
        later = (*rules.check(config), *found.findings)
        above = {prefix for loc in lost for prefix in prefixes(loc)}
        findings += [f for f in later if f.loc not in above and broken.isdisjoint(prefixes(f.loc))]
    return config, found, findings


def _plain(node: dict[object, object], loc: Loc, findings: list[Finding]) -> Raw:
    """`node` as plain dicts with text keys.

    A key without a value is a finding, except at the top level: there, `clusters:` alone means no clusters.
    """
    plain: Raw = {}
    for key, value in node.items():
        here = (*loc, key if isinstance(key, str | int) else str(key))
        if not isinstance(key, str):
            findings.append(Finding(here, f"the key {shown(key)} is not text", "put it in quotes"))
        if value is None and loc:
            findings.append(Finding(here, "has no value", "give it one, or remove the line"))
        elif value is not None:
            plain[str(key)] = _plain_value(value, here, findings)
    return plain


def _plain_value(value: object, loc: Loc, findings: list[Finding]) -> object:
    if isinstance(value, dict):
        return _plain(value, loc, findings)
    if isinstance(value, list):
        return [_plain_value(item, (*loc, index), findings) for index, item in enumerate(value)]
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value) if isinstance(value, str) else int(value)  # not ruamel's subclasses, for pydantic
    return value


def _merge_defaults(raw: Raw, findings: list[Finding], broken: set[Loc], lost: set[Loc]) -> None:
    """Merge `defaults:` into each entry, and the mappings inside it (such as `tls`) key by key.

    The defaults are checked first, on their own. `broken` gets the places of mistakes. `lost` gets those of
    them without a stand-in: there a value is missing, and a rule might report that as a second mistake.
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
                # A key that is missing here may be in each entry. A duration out of range is reported at the
                # entries that use it.
                if error["type"] == "missing" or reading.is_time_out_of_range(error, model):
                    continue
                loc = reading.place(error)
                findings.append(reading.explain(error, ("defaults", key, *loc), model))
                heirs = {(section, name, *loc) for name, own in entries.items() if not _overrides(own, loc)}
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
            merged[key] = under | value  # a new dict for each entry: `_repair` changes it in place
    return merged


def _overrides(own: object, loc: Loc) -> bool:
    """Whether an entry has its own value at `loc`, so that a mistake in the default there does not matter.

    Lists are not merged.
    """
    for key in loc:
        if not isinstance(own, dict):
            return True
        if key not in own:
            return False
        own = own[key]
    return True


def _validated(raw: Raw, findings: list[Finding], broken: set[Loc], lost: set[Loc]) -> Config | None:
    errors = reading.mistakes(Config, raw)
    # Bad names first: no other mistake of the same entry is then reported.
    for error in sorted(errors, key=_is_in_value):
        loc = reading.place(error)
        if broken.isdisjoint(prefixes(loc)):
            findings.append(reading.explain(error, loc, Config))
            broken.add(loc)
    # A round may put {} in the place of a section; the next one then adds the section's required keys.
    for _ in range(3):
        errors.sort(key=_is_in_value, reverse=True)  # bad names last: they remove their whole entry
        lost.update(reading.place(error) for error in errors if not _repair(raw, error, Config))
        errors = reading.mistakes(Config, raw)
    return None if errors else reading.read(Config, raw)


def _is_in_value(error: ErrorDetails) -> bool:
    """Whether the mistake is in a value, and not in the name of a gateway or cluster."""
    return KEY not in error["loc"]


def _repair(raw: Raw, error: ErrorDetails, section: type[Section]) -> bool:
    """Replace the wrong value by a stand-in and return True.

    If there is no stand-in, remove the value from `raw` and return False.
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
    """The problems by line, each once: a wrong default of ten clusters is one problem, at the default."""
    problems = []
    for loc, message, hint in findings:
        place = _origin(document, loc)
        problems.append(Problem(document.line(place), dotted(place), message, hint))
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.key))


def _origin(document: Document, loc: Loc) -> Loc:
    """Where the file has the value of `loc`: there, or in `defaults:`."""
    for key, (section, _) in DEFAULTS.items():
        default = ("defaults", key, *loc[2:])
        if loc[:1] == (section,) and len(loc) > 2 and not document.has(loc) and document.has(default):
            return default
    return loc
