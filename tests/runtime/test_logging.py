from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.logging import REDACTED, configure, dropped_entries, redact

log = structlog.get_logger("kubemux.test")


class Capture:
    """A text stream like sys.stderr, and what was written to it."""

    def __init__(self) -> None:
        self.raw = io.BytesIO()
        self.stream: TextIO = io.TextIOWrapper(self.raw, encoding="utf-8")

    def text(self) -> str:
        return self.raw.getvalue().decode()

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text().splitlines()]


def raised(text: str) -> ValueError:
    """An exception with a traceback."""
    try:
        raise ValueError(text)  # noqa: TRY301 - for the traceback
    except ValueError as error:
        return error


@pytest.fixture
def capture() -> Capture:
    return Capture()


def test_json_entry_is_one_line_with_a_utc_timestamp(capture: Capture) -> None:
    configure("json", "info", capture.stream)
    log.info(
        "connection closed",
        cluster="prod-eu",
        client=Endpoint("127.0.0.1", 40000),
        to_cluster=12,
        seconds=0.5,
        reason="eof",
    )
    assert capture.text().count("\n") == 1
    (entry,) = capture.entries()
    assert list(entry)[:4] == ["timestamp", "level", "logger", "event"]
    moment = datetime.fromisoformat(str(entry.pop("timestamp")))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert entry == {
        "level": "info",
        "logger": "kubemux.test",
        "event": "connection closed",
        "cluster": "prod-eu",
        "client": "127.0.0.1:40000",
        "to_cluster": 12,
        "seconds": 0.5,
        "reason": "eof",
    }


def test_level_filters_and_can_be_changed_by_calling_again(capture: Capture) -> None:
    configure("json", "warning", capture.stream)
    log.info("hidden")
    log.warning("shown")
    configure("json", "debug", capture.stream)
    log.debug("shown now")
    assert [entry["event"] for entry in capture.entries()] == ["shown", "shown now"]


def test_configuring_twice_does_not_log_twice(capture: Capture) -> None:
    configure("json", "info", capture.stream)
    configure("json", "info", capture.stream)
    logging.getLogger("asyncssh").warning("once")
    assert len(capture.entries()) == 1


def test_warnings_and_errors_of_other_libraries_are_logged(capture: Capture) -> None:
    configure("json", "debug", capture.stream)
    logging.getLogger("asyncssh").info("not this")
    logging.getLogger("asyncssh").warning("[conn=%d] %s", 3, "odd packet")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    logging.getLogger("odd").log(37, "a level between two")
    assert [(e["logger"], e["level"], e["event"]) for e in capture.entries()] == [
        ("asyncssh", "warning", "[conn=3] odd packet"),
        ("asyncio", "error", "Task exception was never retrieved"),
        ("odd", "warning", "a level between two"),
    ]


@pytest.mark.parametrize("logger", [log, logging.getLogger("asyncio")])
def test_traceback_is_a_field_of_the_same_line(capture: Capture, logger: logging.Logger) -> None:
    configure("json", "info", capture.stream)
    logger.error("failed", exc_info=raised("Authorization: Bearer s3cret-t0ken"))
    (entry,) = capture.entries()
    assert capture.text().count("\n") == 1
    assert str(entry["exception"]).startswith("Traceback (most recent call last):\n")
    assert f"ValueError: Authorization: Bearer {REDACTED}" in str(entry["exception"])
    assert "s3cret" not in capture.text()


def test_a_warning_of_python_is_an_entry_like_any_other() -> None:
    configured = "import warnings; from proxy.runtime.logging import configure; configure('json', 'info')"
    code = f"{configured}; warnings.warn('odd\\nserial number')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    (line,) = done.stderr.splitlines()
    entry = json.loads(line)
    told = (
        entry["logger"],
        entry["level"],
        entry["event"],
        entry["category"],
        entry["message"],
        entry["where"],
    )
    assert told == ("python", "warning", "python warning", "UserWarning", "odd\nserial number", "<string>:1")


def test_console_is_plain_text_where_there_is_no_terminal(capture: Capture) -> None:
    configure("console", "info", capture.stream)
    log.error("gateway down", gateway="eu-edge", reason="unreachable", exc_info=raised("broken"))
    text = capture.text()
    assert "gateway down" in text
    assert "gateway=eu-edge" in text
    assert "ValueError: broken" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_console_colours_only_a_terminal_that_wants_them(
    no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = os.openpty()
    with open(theirs, "w", buffering=1) as terminal, open(ours, "rb", buffering=0) as screen:  # noqa: PTH123 - descriptors
        configure("console", "info", terminal)
        log.info("hello")
        assert (b"\x1b[" in screen.read(4096)) is coloured


def test_console_escapes_control_characters_in_text_from_outside(capture: Capture) -> None:
    configure("console", "info", capture.stream)
    log.info("banner\n2026-01-01 forged", banner="\x1b[2Jgone\x9b1m\u202e\u2028")
    assert capture.text().count("\n") == 1
    assert "\x1b" not in capture.text()
    assert "\\x1b[2Jgone\\x9b1m\\u202e\\u2028" in capture.text()


def test_redacts_by_key_at_any_depth(capture: Capture) -> None:
    configure("json", "info", capture.stream)
    log.info(
        "auth",
        token="abc",  # noqa: S106 - the case
        gateway={"passphrase": "hunter2", "user": "tunnel", "passphrase_file": "/etc/kubemux/passphrase"},
        headers=[{"Authorization": "Basic aGk6aGk="}, {"Accept": "*/*"}],
        db_password="hunter2",  # noqa: S106 - the case
    )
    entry = capture.entries()[0]
    assert entry["token"] == entry["db_password"] == REDACTED
    assert entry["gateway"] == {
        "passphrase": REDACTED,
        "user": "tunnel",
        "passphrase_file": "/etc/kubemux/passphrase",
    }
    assert entry["headers"] == [{"Authorization": REDACTED}, {"Accept": "*/*"}]


@pytest.mark.parametrize("format", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_redacts_private_keys_wherever_they_are(format: PrivateFormat) -> None:  # noqa: A002 - cryptography's word
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, format, NoEncryption()).decode()
    body = pem.splitlines()[1]
    for value in (
        pem,
        pem[: len(pem) // 2],
        pem.encode(),
        ValueError(f"cannot load {pem}"),
        [{"deep": (pem,)}],
    ):
        shown = str(redact(None, "info", {"event": "x", "value": value}))
        assert body[:20] not in shown
        assert REDACTED in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {REDACTED}"),
        ("{'authorization': 'Basic aGk6aGk='}", f"{{'authorization': 'Basic {REDACTED}'}}"),
        ("sent bearer 0123456789abcdef0123", f"sent bearer {REDACTED}"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln is bad", f"{REDACTED} is bad"),
        ("https://me:pa55@proxy:3128/", f"https://me:{REDACTED}@proxy:3128/"),
        ("GET /?token=abc&x=1", f"GET /?token={REDACTED}&x=1"),
        ("bearer authentication refused", "bearer authentication refused"),
        ("unexpected token ':'", "unexpected token ':'"),
        (
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        ),
    ],
)
def test_redacts_credentials_in_text_and_nothing_else(text: str, shown: str) -> None:
    assert redact(None, "info", {"event": text})["event"] == shown


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    )
)
def test_every_value_becomes_one_json_line(values: dict[str, object]) -> None:
    capture = Capture()
    configure("json", "info", capture.stream)
    values.pop("event", None)
    log.bind(**values).info("anything")
    assert capture.text().count("\n") == 1
    assert len(capture.entries()) == 1
    assert dropped_entries() == 0


_LETTERS = st.text('ab %"\\\n\x00\x85\u00e9\u202e\U0001f600\ud800')


@given(
    st.dictionaries(
        _LETTERS, st.none() | st.booleans() | st.integers() | st.floats() | _LETTERS | st.sampled_from(Reason)
    )
)
def test_an_entry_of_plain_values_is_what_json_dumps_returns(values: dict[str, object]) -> None:
    capture = Capture()
    configure("json", "info", capture.stream)
    log.bind(**values).info("anything")
    fields = json.dumps(values, separators=(",", ":"))[1:-1]
    assert capture.text().rstrip("\n").endswith(f',"event":"anything"{fields and ","}{fields}}}')


def test_full_disk_is_counted_not_raised() -> None:
    with Path("/dev/full").open("w") as full:
        configure("json", "info", full)
        log.info("lost")
        logging.getLogger("asyncssh").warning("lost too")
        assert dropped_entries() == 2


def test_closed_stream_is_counted_not_raised(capture: Capture) -> None:
    configure("json", "info", capture.stream)
    capture.stream.close()
    log.info("lost")
    assert dropped_entries() == 1


def test_a_process_whose_log_nobody_reads_ends_as_usual() -> None:
    """If the reader of the log ends, or there is no standard error, the work and the exit code do
    not change.
    """
    program = (
        "import sys, structlog; from proxy.runtime.logging import configure, dropped_entries; "
        "configure('json', 'info')\n"
        "sys.stdin.readline(); structlog.get_logger().info('x' * 100_000); print(dropped_entries())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        out, _ = process.communicate("\n", timeout=30)
    assert (out, process.returncode) == ("1\n", 0)
    none = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program],
        input="\n",
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (none.stdout, none.returncode) == ("1\n", 0)


PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}


@pytest.mark.parametrize("format", ["json", "console"])
def test_every_line_for_the_journal_has_its_priority(
    format: Literal["json", "console"],  # noqa: A002 - the file's key
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure(format, "debug", stream)
        for level in PRIORITIES:
            log.log(getattr(logging, level.upper()), "said")
        logging.getLogger("asyncssh").error("theirs", exc_info=raised("broken"))
        lines = (tmp_path / "journal").read_text().splitlines()
    ours, theirs = lines[: len(PRIORITIES)], lines[len(PRIORITIES) :]
    assert [line[:3] for line in ours] == list(PRIORITIES.values())
    assert {line[:3] for line in theirs} == {"<3>"}
    # A traceback in console format has several lines, and all have the same priority.
    assert len(theirs) > 3 or format == "json"
    if format == "json":
        assert [json.loads(line[3:])["level"] for line in lines] == [*PRIORITIES, "error"]


def test_a_stream_that_the_journal_does_not_read_has_no_priorities(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with StandardError=append:FILE, or in a child: $JOURNAL_STREAM is set, but is about
    another stream.
    """
    monkeypatch.setenv("JOURNAL_STREAM", "8:4711")
    configure("json", "info", capture.stream)
    log.warning("no descriptor at all")
    assert capture.text().startswith("{")
    with (tmp_path / "file").open("w") as stream:
        configure("json", "info", stream)
        log.warning("another one")
    assert (tmp_path / "file").read_text().startswith("{")


def test_an_error_of_a_command_has_a_priority_in_the_journal(tmp_path: Path) -> None:
    """Otherwise `journalctl -p err` would not show why the exit code is 78."""
    bad = tmp_path / "config.yaml"
    bad.write_text("clutsers: {}")
    program = (
        "import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'\n"
        "from proxy.cli import main; main(['run', '--config', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, bad], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 78
    assert "clutsers: unknown key" in done.stderr
    assert {line[:3] for line in done.stderr.splitlines()} == {"<3>"}


def test_entry_with_a_reason_is_searched_for_secrets_once(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searching each part took 10 of an entry's 24 us, and each connection has an entry."""
    searched: list[str] = []
    monkeypatch.setattr("proxy.runtime.logging._may_have_secrets", searched.append)
    configure("json", "info", capture.stream)
    log.info("connection closed", reason=Reason.CLIENT_CLOSED, to_cluster=12, seconds=0.5)
    assert capture.entries()[0]["reason"] == "client_closed"
    assert searched == [capture.text().rstrip("\n")]
