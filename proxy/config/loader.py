"""A file becomes a `Config`, or a ConfigError that holds everything wrong with it.

Four passes, each over what the one before left usable: the YAML, the types, the rules across sections, the
files referred to. What a pass refuses is replaced by a harmless stand-in, so that the next still sees the rest; findings
about the stand-ins themselves are dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, get_args, get_origin

from proxy.config import credentials, rules, yaml
from proxy.config.credentials import Scrutiny
from proxy.config.model import DIRECT, ClusterConfig, Config, GatewayConfig
from proxy.config.rules import Finding, suggest
from proxy.config.typed import KEY, Loc, Mistake, Mistakes, Section, hints
from proxy.config.values import Endpoint, shown
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem

Raw = dict[str, object]

_NOWHERE: Final = Endpoint("127.0.0.1", 0)
_STAND_INS: Final[Raw] = {"version": 1, "host": "unknown", "gateway": DIRECT, "listen": _NOWHERE, "api_servers": (_NOWHERE,)}
"""For the keys that have no default."""

_EXAMPLES: Final = {
    "version": "version: 1",
    "host": "host: bastion.example.com",
    "user": "user: tunnel",
    "gateway": f"gateway: NAME, or gateway: {DIRECT}",
    "listen": 'listen: "127.0.0.1:16443"',
    "api_servers": 'api_servers: ["10.0.0.10:6443"]',
    "memory": "memory: 256MiB",
    "hold_timeout": "hold_timeout: 5s",
    "drain_timeout": "drain_timeout: 30s",
    "connect_timeout": "connect_timeout: 10s",
    "interval": "interval: 10s",
    "timeout": "timeout: 5s",
    "path": "path: /healthz",
    "server_name": "server_name: kubernetes",
    "jump": "jump: [hq]",
    "identity_files": "identity_files: [/etc/kubemux/keys/eu]",
    "certificate_files": "certificate_files: [/etc/kubemux/keys/eu-cert.pub]",
    "known_hosts": "known_hosts: [/etc/kubemux/known_hosts]",
    "[key]": "prod-eu",
}

_DEFAULTS: Final[dict[str, tuple[str, type[Section]]]] = {
    "gateway": ("gateways", GatewayConfig),
    "cluster": ("clusters", ClusterConfig),
}


def load(path: Path, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in `path`, which is read once. Raises ConfigError. Blocking."""
    return _build(yaml.read(path), scrutiny)


def parse(data: bytes, path: str, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in `data`; `path` is for messages. Reads the files it names. Raises ConfigError."""
    return _build(yaml.parse(data, path), scrutiny)


def keys(document: Document) -> dict[object, object]:
    """What the file holds, as it is there. Raises ConfigError if that is nothing, or no mapping."""
    if not isinstance(document.root, dict):
        message = "the file is empty" if document.root is None else "the file is not a mapping of keys to values"
        hint = "config/minimal.yaml is a start: version, gateways, clusters"
        raise ConfigError(document.path, [Problem(1, "", message, hint)])
    return document.root


def _build(document: Document, scrutiny: Scrutiny) -> Config:
    findings: list[Finding] = []
    raw = _plain(keys(document), (), findings)
    broken = {finding.loc for finding in findings}
    _merge_defaults(raw, findings, broken)
    config = _validated(raw, findings, broken)
    # Without the section itself, every reference to it would look dangling.
    if config and ("gateways",) not in broken:
        later = (*rules.check(config), *credentials.check(config, scrutiny))
        above = {prefix for loc in broken for prefix in _prefixes(loc)}
        findings += [f for f in later if f.loc not in above and broken.isdisjoint(_prefixes(f.loc))]
    if config is None or findings:
        raise ConfigError(document.path, _problems(document, findings))
    return config


def _plain(node: dict[object, object], loc: Loc, findings: list[Finding]) -> Raw:
    """`node` as plain mappings with text keys; empty values are refused, but an empty section is one without entries."""
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
    return str(value) if isinstance(value, str) else value  # ruamel's subclasses remember quotes


def _merge_defaults(raw: Raw, findings: list[Finding], broken: set[Loc]) -> None:
    """Put `defaults:` under each entry, one level deep for nested mappings. They are checked on their own first."""
    defaults = raw.pop("defaults", {})
    if not isinstance(defaults, dict):
        findings.append(Finding(("defaults",), "expected a mapping", "with the keys gateway and cluster"))
        return
    unknown = [key for key in defaults if key not in _DEFAULTS]
    findings += [Finding(("defaults", key), "unknown key", suggest(key, _DEFAULTS)) for key in unknown]
    for key, (section, model) in _DEFAULTS.items():
        entries, shared = raw.get(section), defaults.get(key, {})
        if not isinstance(shared, dict):
            findings.append(Finding(("defaults", key), f"expected a mapping, got {shown(shared)}", "indent its keys below it"))
        elif isinstance(entries, dict):
            stand_ins = {name: value for name, value in _STAND_INS.items() if name in hints(model)}
            for error in _errors(model, stand_ins | shared):
                findings.append(_explain(error, ("defaults", key, *error.loc), model))
                broken.update((section, name, *error.loc) for name in entries)
                _repair(shared, error, stand_in=False)
            raw[section] = {name: _merged(shared, own) if isinstance(own, dict) else own for name, own in entries.items()}


def _merged(shared: Raw, own: Raw) -> Raw:
    merged = shared | own
    for key, value in own.items():
        under = shared.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            merged[key] = under | value
    return merged


def _validated(raw: Raw, findings: list[Finding], broken: set[Loc]) -> Config | None:
    errors = _errors(Config, raw)
    for error in sorted(errors, key=lambda error: KEY not in error.loc):  # what has no name needs no further words
        loc = tuple(key for key in error.loc if key != KEY)
        if broken.isdisjoint(_prefixes(loc)):
            findings.append(_explain(error, loc, Config))
            broken.add(loc)
    for _ in range(3):  # a section that is gone altogether needs its own keys stood in for, in the next round
        for error in errors:
            _repair(raw, error, stand_in=True)
        errors = _errors(Config, raw)
    return None if errors else Config.model_validate(raw)


def _errors(model: type[Section], raw: Raw) -> list[Mistake]:
    try:
        model.model_validate(raw)
    except Mistakes as exc:
        return exc.found
    return []


def _repair(raw: Raw, error: Mistake, *, stand_in: bool) -> None:
    """Take what is wrong out of `raw`: the whole list if it is an item of one."""
    keys = [key for key in error.loc if isinstance(key, str) and key != KEY]
    parent = raw
    for key in keys[:-1]:
        child = parent.get(key)
        if not isinstance(child, dict):
            return
        parent = child
    stand_in = stand_in and error.kind != "unknown" and KEY not in error.loc
    if stand_in and len(keys) == 2 and keys[0] in {"gateways", "clusters"}:
        parent[keys[1]] = {}
    elif stand_in and keys[-1] in _STAND_INS:
        parent[keys[-1]] = _STAND_INS[keys[-1]]
    else:
        parent.pop(keys[-1], None)


def _explain(error: Mistake, loc: Loc, model: type[Section]) -> Finding:
    """A mistake as a sentence and a remedy, at `loc`."""
    got, detail = shown(error.got), error.detail
    last = next((key for key in reversed(error.loc) if isinstance(key, str)), "")
    example = f"for example {_EXAMPLES.get(last, f'{last}: /etc/kubemux/{last}')}"
    match error.kind:
        case "missing":
            return Finding(loc, "is missing", example.replace("for example", "add"))
        case "unknown":
            return Finding(loc, "unknown key", suggest(last, _keys(model, error.loc[:-1])))
        case "value":
            return Finding(loc, detail, example)
        case "choice" if last == "version":
            return Finding(loc, f"expected {detail}, got {got}", "this kubemux reads version 1")
        case "choice":
            return Finding(loc, f"expected {detail}, got {got}", "choose one of these")
        case "text":
            return Finding(loc, f"expected text, got {got}", "put it in quotes")
        case "switch":
            return Finding(loc, f"expected true or false, got {got}", "write true or false, without quotes")
        case "whole" | "number":
            return Finding(loc, f"expected a whole number, got {got}", "write digits, without quotes")
        case "list":
            return Finding(loc, f"expected a list, got {got}", f"put it in brackets: {last}: [...]")
        case "empty":
            return Finding(loc, "the list is empty", example)
        case "small":
            return Finding(loc, f"{got} is too small", f"at least {detail}")
        case "large":
            return Finding(loc, f"{got} is too large", f"at most {detail}")
        case "mapping":
            return Finding(loc, f"expected a mapping, got {got}", "indent its keys below it, one per line")


def _keys(model: type[Section], loc: Loc) -> list[str]:
    """The keys that the mapping at `loc` below `model` may have."""
    steps = iter(loc)
    for step in steps:
        annotation = hints(model)[str(step)]
        if get_origin(annotation) is dict:
            next(steps)  # the entry's name
            annotation = get_args(annotation)[1]
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return []
        model = annotation
    return [*hints(model), *(["defaults"] if model is Config else [])]


def _prefixes(loc: Loc) -> set[Loc]:
    """`loc` and everything above it."""
    return {loc[:length] for length in range(len(loc) + 1)}


def _problems(document: Document, findings: list[Finding]) -> list[Problem]:
    """By line, each once: what a default does to ten clusters is one problem, at the default."""
    problems = []
    for loc, message, hint in findings:
        place = _origin(document, loc)
        problems.append(Problem(document.line(place), _dotted(place), message, hint))
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.key))


def _origin(document: Document, loc: Loc) -> Loc:
    for key, (section, _) in _DEFAULTS.items():
        default = ("defaults", key, *loc[2:])
        if loc[:1] == (section,) and len(loc) > 2 and not document.has(loc) and document.has(default):
            return default
    return loc


def _dotted(loc: Loc) -> str:
    """`clusters.prod.api_servers[0]`."""
    text = ""
    for key in loc:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if key and key.isprintable() else repr(key))
    return text
