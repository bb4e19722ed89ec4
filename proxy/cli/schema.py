"""`kubemux schema`: describes the configuration file, as JSON Schema for editors or as tables for people."""

from __future__ import annotations

import json

import click

from proxy.cli import write_document
from proxy.config.manual import tables
from proxy.config.schema import json_schema


@click.command()
@click.option("--markdown", is_flag=True, help="Print tables of all keys instead.")
def schema(*, markdown: bool) -> None:
    """Print the JSON Schema of the configuration file.

    An editor with a YAML language server completes and checks a file that begins with
    # yaml-language-server: $schema=PATH-OF-THE-SCHEMA
    """
    text = tables() if markdown else json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    write_document(text.encode())
