"""Examples for remedies: a line of YAML that shows the user how to write a key."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Final

from proxy.config.file_paths import has_home, is_for_system_service
from proxy.config.keys import Key, Kind

NAME: Final = "prod-eu"
"""An example of the name of a gateway or cluster."""

_PLAIN: Final = re.compile(r"(?!(?:true|false|null)$)(?:[a-z/]|~/|\d+[smhdKMG])[\w./~-]*", re.ASCII)
"""Text that needs no quotes in YAML."""


def example(name: str, key: Key) -> str:
    """The key as a line of the file: `listen: "127.0.0.1:16443"`, `gateway: eu-edge, or gateway: direct`.

    It fits the reader: the system service gets its secrets as systemd credentials, and a person has files in
    the home directory.
    """
    examples = key.examples
    if is_for_system_service():
        # `kubemux ssh-server keygen` makes host keys where they stay.
        is_credential = key.file is not None and key.file.is_secret and key.file is not Kind.HOST_KEY
        examples = tuple(map(_credential, examples)) if is_credential else examples
    elif key.at_home is not None and has_home():
        examples = (key.at_home,)
    return ", or ".join(f"{name}: {flow(one)}" for one in examples)


def _credential(value: object) -> object:
    if isinstance(value, list):
        return [_credential(item) for item in value]
    return f"${{CREDENTIALS_DIRECTORY}}/{PurePath(str(value)).name}"


def flow(value: object) -> str:
    """`value` as YAML, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
