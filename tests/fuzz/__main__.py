"""`python -m tests.fuzz TARGET SECONDS`: let atheris look for an input that breaks a law.

What it learns is kept in `.fuzz/TARGET`.
It begins with that, and with `corpus/TARGET` beside this file: the inputs that earlier runs have learnt.

If it finds one it ends with an error and leaves the input beside that folder (`.fuzz/TARGET-crash-...`,
`-timeout-...`, `-oom-...`).
Move it to `findings/TARGET/`, where the tests take it from, before you mend what it shows.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

TARGETS = ("heads", "packets", "parsers", "link")
LONGEST_BYTES = 2048
HANG_SECONDS = 10
MEMORY_MB = 1024
FOLDER = Path(".fuzz")
CORPUS = Path(__file__).parent / "corpus"


def main(target: str, seconds: str) -> None:
    """Run until a law is broken, or for so many seconds."""
    if target not in TARGETS:
        raise SystemExit(f"python -m tests.fuzz {'|'.join(TARGETS)} SECONDS")
    with atheris.instrument_imports(
        include=["proxy.entries.heads", "proxy.ssh.native.wire", "proxy.ssh.native", "proxy.ssh.metered"]
    ):
        run = importlib.import_module(f"tests.fuzz.{target}").run
    learnt = FOLDER / target
    learnt.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={int(seconds)}",
        f"-max_len={LONGEST_BYTES}",
        f"-timeout={HANG_SECONDS}",
        "-len_control=0",
    ]
    options += [
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={learnt}-",
        "-print_final_stats=1",
        str(learnt),
    ]
    if (CORPUS / target).is_dir():
        options.append(str(CORPUS / target))
    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
