r"""Reads authorized_keys: keys, and what their options allow (sshd(8), AUTHORIZED_KEYS FILE FORMAT). Pure.

    # a comment
    ssh-ed25519 AAAAC3Nza... ops@laptop
    restrict,port-forwarding,permitopen="*:22",from="10.0.0.0/8,!10.9.0.0/16" ssh-ed25519 AAAAC3Nza...
    cert-authority,principals="ops,sre",expiry-time="20270101" ssh-ed25519 AAAAC3Nza...

A key with an option that we do not enforce is refused: the person who wrote the option relies on it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

from proxy.openssh import blobs
from proxy.openssh.permits import Permit
from proxy.openssh.sources import Sources


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed options of a line."""

    is_authority: bool = False
    """The key is a CA's: it signs certificates, and does not log in."""
    principals: tuple[str, ...] | None = None
    """A certificate must have one of these principals; None if the line has no such option."""
    sources: Sources | None = None
    """Addresses from which the key's owner may connect; None means all."""
    expires: float | None = None
    """When the key expires, in Unix time; None means never."""
    may_forward: bool = True
    opens: tuple[Permit, ...] | None = None
    """Targets to which the key's owner may open channels; None means all."""
    listens: tuple[Permit, ...] | None = None
    """Remote forwards that the key's owner may register; None means all."""
    needs_touch: bool = True
    """Whether the user must touch the security key (FIDO) that holds it."""


class Key(NamedTuple):
    """A line with a key."""

    number: int
    kind: str
    blob: bytes
    options: Options


class Bad(NamedTuple):
    """A line that is not used."""

    number: int
    message: str
    hint: str
    blob: bytes | None
    """Its key, if that can be read."""


def parse(data: bytes) -> tuple[tuple[Key, ...], tuple[Bad, ...]]:
    """The keys in `data`, and the lines that are not used. After MOST_JUNK lines without a key, it reads no
    further: the file has no keys.
    """
    keys: list[Key] = []
    bad: list[Bad] = []
    junk = 0
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            one = _line(number, text)
            if isinstance(one, Key):
                keys.append(one)
                continue
            bad.append(one)
            junk += one.blob is None
            if junk >= MOST_JUNK:
                break
    return tuple(keys), tuple(bad)


MOST_JUNK: Final = 1000

_HINT: Final = "a line reads: [OPTIONS] ssh-ed25519 BASE64 [COMMENT], as in the .pub file of ssh-keygen"


def _line(number: int, line: bytes) -> Key | Bad:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Bad(number, "is not UTF-8", "write the file in UTF-8", None)
    for begin, message, hint in _FOREIGN:
        if begin.match(text):
            return Bad(number, message, hint, None)
    written, kind, encoded = "", *_words(text)
    if not _is_kind(kind):
        try:
            written, rest = _split(text)
        except ValueError as exc:
            return Bad(number, str(exc), _HINT, None)
        kind, encoded = _words(rest)
    try:
        blob = blobs.from_text(kind, encoded) if _is_kind(kind) else b""
    except ValueError as exc:
        return Bad(number, f"has no key that can be read: {exc}", _HINT, None)
    if not blob:
        return Bad(number, "has no key", _HINT, None)
    try:
        blobs.check(blob)
    except ValueError as exc:
        hint = _NO_CERTIFICATE if kind.endswith(blobs.CERTIFICATE) else _WHOLE_LINE
        return Bad(number, f"has a key that is not used: {exc}", hint, blob)
    try:
        options = read_options(written)
    except ValueError as exc:
        return Bad(number, str(exc), "correct the option, or take the line out", blob)
    return Key(number, kind, blob, options)


_SECRET: Final = (
    "is a private key, which must not be here",
    "replace it by its .pub file; if others could read this file, make a new key: ssh-keygen -t ed25519",
)
_OTHER_FORMAT: Final = "is a public key in another format"
_FOREIGN: Final = (
    (re.compile("-----BEGIN [A-Z ]*PRIVATE KEY"), *_SECRET),
    (re.compile("PuTTY-User-Key-File"), *_SECRET),
    (re.compile("---- BEGIN SSH2 PUBLIC KEY"), _OTHER_FORMAT, "convert the file: ssh-keygen -i -f FILE"),
    (re.compile("-----BEGIN PUBLIC KEY"), _OTHER_FORMAT, "convert the file: ssh-keygen -i -m PKCS8 -f FILE"),
)
"""The first bytes of other formats, and the remedy for each."""
_WHOLE_LINE: Final = "copy the whole line of the .pub file, or make another key: ssh-keygen -t ed25519"
_NO_CERTIFICATE: Final = "list the key itself; or name the key of its CA in cert_authority"


def _words(text: str) -> tuple[str, str]:
    first, second, *_ = [*text.split(None, 2), "", ""]
    return first, second


def _is_kind(word: str) -> bool:
    return word in blobs.KINDS or word.endswith(blobs.CERTIFICATE) or word == "ssh-dss"


def _split(text: str) -> tuple[str, str]:
    """The options of a line, and what follows the first blank that is not in quotes. Raises ValueError."""
    match = _OPTIONS.match(text)
    if match is None:
        raise ValueError("has a quotation mark too many, or one too few")
    return match[0], text[match.end() :]


_QUOTED: Final = r'"(?:[^"\\]|\\"|\\(?!"))*"'
_OPTIONS: Final = re.compile(rf'(?>[^\s"]+|{_QUOTED})+(?=\s|$)')
_OPTION: Final = re.compile(rf'([A-Za-z0-9-]+)(?:=({_QUOTED}|[^,"]*))?(,(?!$)|$)')


# -------------------------------------------------------------------------------------------------- options


def read_options(text: str) -> Options:
    """The options in front of a key. Raises ValueError, which names the one that cannot be enforced."""
    options, at, seen = Options(), 0, set[str]()
    while at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            raise ValueError(f"has options that cannot be read, from {text[at : at + 20]!r} on")
        name, value = match[1].lower(), match[2]
        at = match.end()
        if name in _IGNORED and value is None:
            continue
        if name in seen and name not in _SEVERAL:
            raise ValueError(f"has the option {name} twice")
        seen.add(name)
        if name in _FLAGS and value is None:
            options = _FLAGS[name](options)
        elif name in _VALUES and value is not None:
            options = _VALUES[name](options, _unquoted(name, value))
        elif name in _FLAGS or name in _VALUES or name in _IGNORED:
            raise ValueError(f"has the option {name} {'without' if value is None else 'with'} a value")
        else:
            raise ValueError(f"has the option {name[:60]}, which kubemux does not enforce")
    if options.principals is not None and not options.is_authority:
        raise ValueError("has the option principals, which is for CAs alone (cert-authority)")
    return options


def _unquoted(name: str, value: str) -> str:
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        raise ValueError(f"has the option {name} with a value that is not in quotes")
    return value[1:-1].replace('\\"', '"')


_IGNORED: Final = frozenset(
    f"{no}{what}" for what in ("agent-forwarding", "pty", "user-rc", "x11-forwarding") for no in ("", "no-")
)
"""Options about features that kubemux does not have. They restrict nothing here."""

_FLAGS: Final[Mapping[str, Callable[[Options], Options]]] = {
    "restrict": lambda options: replace(options, may_forward=False),
    "port-forwarding": lambda options: replace(options, may_forward=True),
    "no-port-forwarding": lambda options: replace(options, may_forward=False),
    "cert-authority": lambda options: replace(options, is_authority=True),
    "no-touch-required": lambda options: replace(options, needs_touch=False),
}
"""The last of contradicting flags applies, as with sshd: `restrict,port-forwarding`."""

_SEVERAL: Final = frozenset({"permitopen", "permitlisten", "expiry-time", *_FLAGS})


def _opens(options: Options, value: str) -> Options:
    return replace(options, opens=(*(options.opens or ()), _permit("permitopen", value)))


def _listens(options: Options, value: str) -> Options:
    port_alone = f"*:{value}" if value.isdecimal() or value == "*" else value
    return replace(options, listens=(*(options.listens or ()), _permit("permitlisten", port_alone)))


def _permit(name: str, value: str) -> Permit:
    try:
        return Permit.parse(value)
    except ValueError as exc:
        raise ValueError(f"has the option {name}: {exc}") from exc


def _from(options: Options, value: str) -> Options:
    try:
        return replace(options, sources=Sources.parse(value))
    except ValueError as exc:
        raise ValueError(f"has the option from: {exc}") from exc


def _principals(options: Options, value: str) -> Options:
    names = tuple(name.strip() for name in value.split(","))
    if not all(names):
        raise ValueError("has the option principals with an empty name")
    return replace(options, principals=names)


def _expires(options: Options, value: str) -> Options:
    when = _time(value)
    return replace(options, expires=when if options.expires is None else min(when, options.expires))


_TIME: Final = re.compile(r"(\d{8})(\d{4}(?:\d\d)?)?(Z?)", re.ASCII)


def _time(text: str) -> float:
    """`YYYYMMDD[HHMM[SS]][Z]`: local time, or UTC after a Z. Raises ValueError."""
    match = _TIME.fullmatch(text)
    said = f"has the option expiry-time: {text[:60]!r} is not YYYYMMDD[HHMM[SS]][Z]"
    if match is None:
        raise ValueError(said)
    try:
        when = datetime.strptime(match[1] + (match[2] or "0000").ljust(6, "0"), "%Y%m%d%H%M%S")  # noqa: DTZ007 - local time, as sshd's
        return (when.replace(tzinfo=UTC) if match[3] else when).timestamp()
    except (ValueError, OverflowError) as exc:
        raise ValueError(said) from exc


_VALUES: Final[Mapping[str, Callable[[Options, str], Options]]] = {
    "permitopen": _opens,
    "permitlisten": _listens,
    "from": _from,
    "principals": _principals,
    "expiry-time": _expires,
}
