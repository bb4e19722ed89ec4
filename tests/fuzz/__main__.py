"""`python -m tests.fuzz TARGET SECONDS`: let atheris search for an input that breaks a rule of the target.

atheris stores the inputs that reach new code in `.fuzz/TARGET`. A run starts with those, and with
`corpus/TARGET` in this folder, the inputs of earlier runs.

If atheris finds a failure, it ends with an error, and writes the input to `.fuzz/TARGET-crash-...`,
`-timeout-...` or `-oom-...`. Move that file to `findings/TARGET/`, which the tests read, before you fix the
bug.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

TARGETS = ("heads", "keys", "tls", "packets", "parsers", "link", "sites")
LONGEST_BYTES = 2048
HANG_SECONDS = 10
MEMORY_MB = 1024
FOLDER = Path(".fuzz")
CORPUS = Path(__file__).parent / "corpus"


def main(target: str, seconds: str) -> None:
    """Run until a rule is broken, or for that many seconds."""
    if target not in TARGETS:
        raise SystemExit(f"python -m tests.fuzz {'|'.join(TARGETS)} SECONDS")
    with atheris.instrument_imports(
        include=[
            "proxy.entries",
            "proxy.ssh.native.wire",
            "proxy.ssh.native",
            "proxy.ssh.metered",
            "proxy.ssh.sites",
        ]
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
