"""A file becomes a `Config`, or a ConfigError that holds everything wrong with it.

Four passes, each over what the one before left usable: the YAML, the types, the rules across sections, the
files referred to. What a pass refuses is replaced by a harmless stand-in, so that the next still sees the
rest; findings about the stand-ins themselves are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args, get_origin

from proxy.config import credentials, rules, yaml
from proxy.config.credentials import Look, Scrutiny
from proxy.config.model import DIRECT, ClusterConfig, Config, GatewayConfig
from proxy.config.rules import Finding
from proxy.config.typed import KEY, Loc, Mistake, Mistakes, Section, dotted, hints
from proxy.config.values import FilePath, has_home, is_for_system_service
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown, suggest

Raw = dict[str, object]

_NOWHERE: Final = Endpoint("127.0.0.1", 0)
_UNKNOWN_FILE: Final = Path("/")
_STAND_INS: Final[Raw] = {
    "version": 1,
    "host": "HOST",
    "gateway": DIRECT,
    "listen": _NOWHERE,
    "api_servers": [_NOWHERE],
    "agent": True,
}
"""For the keys that have no default, or one that would be found fault with."""

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
    "base_path": "base_path: /k8s/clusters/c-1",
    "server_name": "server_name: kubernetes",
    "jump": "jump: [hq]",
    "certificate_files": "certificate_files: [/etc/kubemux/eu-edge-cert.pub]",
    "identity_files": "identity_files: [/etc/kubemux/keys/eu-edge]",
    "known_hosts": "known_hosts: [/etc/kubemux/known_hosts]",
    "[key]": "prod-eu",
}

_OF_SERVICE: Final = {
    "identity_files": 'identity_files: ["${CREDENTIALS_DIRECTORY}/eu-edge"]',
    "passphrase_file": 'passphrase_file: "${CREDENTIALS_DIRECTORY}/passphrase"',
    "token_file": 'token_file: "${CREDENTIALS_DIRECTORY}/token"',
    "client_key": 'client_key: "${CREDENTIALS_DIRECTORY}/client.key"',
    "socket": "socket: /run/kubemux/admin.sock",
}
"""Instead, where the system service is meant: secrets come to it as credentials."""

_OF_PERSON: Final = {
    "identity_files": "identity_files: [~/.ssh/id_ed25519]",
    "known_hosts": "known_hosts: [~/.ssh/known_hosts]",
    "socket": "socket: ~/.config/kubemux/admin.sock",
}
"""Instead, for somebody with a home."""

_DEFAULTS: Final[dict[str, tuple[str, type[Section]]]] = {
    "gateway": ("gateways", GatewayConfig),
    "cluster": ("clusters", ClusterConfig),
}


def load(path: Path, scrutiny: Scrutiny = Scrutiny.FILES) -> Config:
    """The configuration in `path`, which is read once.

    Raises ConfigError, also for files that do not answer. Blocking.
    """
    return _strict(yaml.read(path), scrutiny)


def load_patiently(path: Path) -> tuple[Config, Look, list[Problem]]:
    """The same, what was found of the files, and which do not answer: those are no mistake here.

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
    """What the file holds, as it is there. Raises ConfigError if that is nothing, or no mapping."""
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
    # Without the section itself, every reference to it would look dangling.
    if config and ("gateways",) not in broken:
        found = credentials.look(config, scrutiny)
        later = (*rules.check(config), *found.findings)
        above = {prefix for loc in lost for prefix in _prefixes(loc)}
        findings += [f for f in later if f.loc not in above and broken.isdisjoint(_prefixes(f.loc))]
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
    return str(value) if isinstance(value, str) else value  # ruamel's subclasses remember quotes


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
    unknown = [key for key in defaults if key not in _DEFAULTS]
    findings += [Finding(("defaults", key), "unknown key", suggest(key, _DEFAULTS)) for key in unknown]
    for key, (section, model) in _DEFAULTS.items():
        entries, shared = raw.get(section), defaults.get(key, {})
        if not isinstance(shared, dict):
            findings.append(
                Finding(
                    ("defaults", key), f"expected a mapping, got {shown(shared)}", "indent its keys below it"
                )
            )
        elif isinstance(entries, dict):
            stand_ins = {name: value for name, value in _STAND_INS.items() if name in hints(model)}
            for error in _errors(model, stand_ins | shared):
                findings.append(_explain(error, ("defaults", key, *error.loc), model))
                heirs = {
                    (section, name, *error.loc) for name, own in entries.items() if not _says(own, error.loc)
                }
                broken |= heirs
                if not _repair(shared, error, model):
                    lost |= heirs
            raw[section] = {
                name: _merged(shared, own) if isinstance(own, dict) else own for name, own in entries.items()
            }


def _merged(shared: Raw, own: Raw) -> Raw:
    merged = shared | own
    for key, value in own.items():
        under = shared.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            merged[key] = under | value
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
    errors = _errors(Config, raw)
    for error in sorted(
        errors, key=lambda error: KEY not in error.loc
    ):  # what has no name needs no further words
        loc = tuple(key for key in error.loc if key != KEY)
        if broken.isdisjoint(_prefixes(loc)):
            findings.append(_explain(error, loc, Config))
            broken.add(loc)
    for _ in range(3):  # a section that is gone altogether needs its own keys stood in for, in the next round
        lost.update(error.loc for error in errors if not _repair(raw, error, Config))
        errors = _errors(Config, raw)
    return None if errors else Config.model_validate(raw)


def _errors(model: type[Section], raw: Raw) -> list[Mistake]:
    try:
        model.model_validate(raw)
    except Mistakes as exc:
        return exc.found
    return []


def _repair(raw: Raw, error: Mistake, model: type[Section]) -> bool:
    """Put a harmless value in the place of what is wrong.

    If there is none, take it out of `raw`, and return False.
    """
    *way, last = [key for key in error.loc if key != KEY]
    parent: object = raw
    for key in way:
        if isinstance(parent, dict):
            parent = parent.get(key)
        elif isinstance(parent, list) and isinstance(key, int):
            parent = parent[key]
    if isinstance(parent, list) and isinstance(last, int):
        parent[last] = _item(str(way[-1]))
        return True
    if not isinstance(parent, dict):
        return True  # what is above it has been replaced
    stand_in = None if error.kind == "unknown" or KEY in error.loc else _stand_in(error.loc, model)
    if stand_in is None:
        parent.pop(last, None)
        return False
    parent[last] = stand_in
    return True


def _stand_in(loc: Loc, model: type[Section]) -> object:
    key = str(loc[-1])
    if model is Config and len(loc) == 2 and loc[0] in {"gateways", "clusters"}:
        return {}
    if key in _STAND_INS:
        return _STAND_INS[key]
    kind = _annotation(model, loc)
    if get_origin(kind) is tuple:
        return [_item(key)]
    return _UNKNOWN_FILE if FilePath in get_args(kind) else None


def _item(key: str) -> object:
    """For one item of the list at `key`: all others are lists of files."""
    return {"api_servers": _NOWHERE, "jump": "unknown"}.get(key, _UNKNOWN_FILE)


def _explain(error: Mistake, loc: Loc, model: type[Section]) -> Finding:
    """A mistake as a sentence and a remedy, at `loc`."""
    got, detail = shown(error.got), error.detail
    last = next((key for key in reversed(error.loc) if isinstance(key, str)), "")
    example = f"for example {_example(last)}"
    match error.kind:
        case "missing":
            return Finding(loc, "is missing", example.replace("for example", "add"))
        case "unknown":
            return Finding(loc, "unknown key", suggest(last, _keys(model, error.loc[:-1])))
        case "value":
            return Finding(loc, detail, example)
        case "variable":
            return Finding(
                loc, detail, f"set it where kubemux is started, or write the path itself: {example}"
            )
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


def _example(key: str) -> str:
    instead = _OF_SERVICE if is_for_system_service() else _OF_PERSON if has_home() else {}
    return (_EXAMPLES | instead).get(key, f"{key}: /etc/kubemux/{key}")


def _keys(model: type[Section], loc: Loc) -> list[str]:
    """The keys that the mapping at `loc` below `model` may have."""
    kind = _annotation(model, loc)
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        return []
    return [*hints(kind), *(["defaults"] if kind is Config else [])]


def _annotation(model: type[Section], loc: Loc) -> object:
    """The type of the value at `loc` below `model`: of the section, the key or the item."""
    kind: object = model
    for step in loc:
        if get_origin(kind) in (dict, tuple):
            kind = get_args(kind)[-1 if get_origin(kind) is dict else 0]
        elif isinstance(kind, type) and issubclass(kind, Section):
            kind = hints(kind)[str(step)]
    return kind


def _prefixes(loc: Loc) -> set[Loc]:
    """`loc` and everything above it."""
    return {loc[:length] for length in range(len(loc) + 1)}


def _problems(document: Document, findings: Sequence[Finding]) -> list[Problem]:
    """By line, each once: what a default does to ten clusters is one problem, at the default."""
    problems = []
    for loc, message, hint in findings:
        place = _origin(document, loc)
        problems.append(Problem(document.line(place), dotted(place), message, hint))
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.key))


def _origin(document: Document, loc: Loc) -> Loc:
    for key, (section, _) in _DEFAULTS.items():
        default = ("defaults", key, *loc[2:])
        if loc[:1] == (section,) and len(loc) > 2 and not document.has(loc) and document.has(default):
            return default
    return loc
