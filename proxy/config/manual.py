"""Makes the tables of all keys in `docs/configuration.md` from the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxy.config.hints import flow
from proxy.config.keys import Key, Section, keys, section_at
from proxy.config.model import Config
from proxy.config.schema import default_of, described

_ABOUT: Final = """\
What several entries share goes into `defaults`.
`defaults.gateway` takes the keys of `gateways.NAME`, and `defaults.cluster` those of `clusters.NAME`.
An entry's own keys win; `keepalive`, `tls` and `probe` are merged key by key."""


def tables() -> str:
    """Markdown with one table for each section of the file."""
    return "\n\n".join(_tables(Config, ())) + "\n"


def _tables(section: type[Section], place: tuple[str, ...]) -> Iterator[str]:
    rows = [_row(name, key) for name, key in keys(section).items() if key.examples]
    head = ["| key | default | meaning | example |", "| --- | --- | --- | --- |"]
    title, about = (f"`{'.'.join(place)}`", section.__doc__ or "") if place else ("The file", _ABOUT)
    yield "\n".join([f"### {title}", "", about, "", *head, *rows])
    for name in keys(section):
        for below, said in (
            ((name,), (name,)),
            ((name, "NAME"), (name, "NAME")),
            ((name, 0), (f"{name}[]",)),
        ):
            if inner := section_at(section, below):
                yield from _tables(inner, (*place, *said))


def _row(name: str, key: Key) -> str:
    default = default_of(key)
    usual = "required" if key.is_required else key.unset if default is None else f"`{flow(default)}`"
    examples = " or ".join(f"`{flow(example)}`" for example in key.examples)
    return f"| `{name}` | {usual} | {described(key, unset=False)} | {examples} |"
