"""The documentation has every key, as the model has it."""

from __future__ import annotations

from pathlib import Path

from proxy.config.keys import keys
from proxy.config.manual import tables
from proxy.config.model import GatewayConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_has_the_generated_tables() -> None:
    """If not: put what `kubemux schema --markdown` prints between its two comments."""
    text = DOCUMENT.read_text()
    _, _, after = text.partition("a test compares it. -->\n\n")
    printed, _, _ = after.partition("\n<!-- Here ends what is printed. -->")
    assert printed == tables()


def test_a_row_has_all_columns() -> None:
    rows: dict[str, str] = {}
    for line in tables().splitlines():
        if line.startswith("| `"):
            rows.setdefault(line.split("`")[1], line)
    assert set(keys(GatewayConfig)) - {"keepalive"} <= rows.keys()
    assert rows["connections"].startswith("| `connections` | `2` | SSH connections")
    assert rows["connections"].endswith(" From 1 to 16. | `2` |")
    assert "| from `ssh_config`, else 22 | The port of the SSH server." in rows["port"]
    assert "One of debug, info, warning and error." in rows["level"]


def test_an_unset_limit_is_documented() -> None:
    cells = {
        line.split(" | ")[0]: line.split(" | ")[1] for line in tables().splitlines() if line.startswith("| `")
    }
    assert cells["| `max_link_age`"] == "none (no link is replaced because of its age)"
    assert cells["| `max_connections`"] == "none (only `limits.max_connections` limits it)"
    assert cells["| `idle_timeout`"].startswith("none (")
