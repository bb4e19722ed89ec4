"""Commands print texts from other people's files to a real terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kubemux import PROGRAM, Forked

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202egpj\u2028x"


def on_a_terminal(*words: str | Path, env: dict[str, str]) -> str:
    """Everything that a command writes to a pseudo-terminal as its standard output and error."""
    ours, its = pty.openpty()
    try:
        command = [*PROGRAM, *words]
        with Forked(command, stdin=its, stdout=its, stderr=its, env=os.environ | env) as process:
            os.close(its)
            said = b""
            while True:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # EIO: the command has ended
                    break
                said += piece
            process.wait(60)
    finally:
        os.close(ours)
    return said.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def kubeconfig(folder: Path, context: str) -> Path:
    """A kubeconfig in JSON, which is YAML and can escape every character."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "proxy-url": f"http://{HOSTILE}"}}
        ],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": {"command": "aws", "args": [HOSTILE], "env": None}}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("context", ["prod", HOSTILE])
def test_a_kubeconfig_cannot_control_the_terminal(tmp_path: Path, context: str) -> None:
    path = kubeconfig(tmp_path, context)
    config = tmp_path / "config.yaml"
    config.write_text("version: 1\n")
    env = {"KUBECONFIG": str(path)}
    told = [
        on_a_terminal(
            "kubeconfig",
            "import",
            "--context",
            name,
            "--gateway",
            "direct",
            "--config",
            config,
            *more,
            env=env,
        )
        for name in (context, f"{context}?")
        for more in (["--output", "-"], [])
    ]
    if context == "prod":
        told.append(on_a_terminal("kubeconfig", "export", "--config", config, env=env))
        assert "aws" in told[-1]
    for text in told:
        assert text.strip()
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)


def test_a_locale_without_the_letter_shows_a_question_mark(tmp_path: Path) -> None:
    config = tmp_path / "Zürich ●.yaml"
    config.write_text("version: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", config],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith(b"Z\xfcrich ?.yaml: ok, 0 gateways, 0 clusters\n")


def test_output_to_a_file_is_not_filtered(tmp_path: Path) -> None:
    """Only output to a terminal is filtered: a file must get the data unchanged."""
    path = kubeconfig(tmp_path, "prod")
    config = tmp_path / "config.yaml"
    config.write_text(
        "version: 1\nclusters: {prod: {gateway: direct, listen: '127.0.0.1:16443', api_servers: "
        "['10.0.0.1:6443']}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "kubeconfig", "export", "--config", config],
        capture_output=True,
        env=os.environ | {"KUBECONFIG": str(path)},
        timeout=60,
        check=True,
    )
    assert b"\xef\xbf\xbd" not in done.stdout
    assert b"apiVersion: v1" in done.stdout
