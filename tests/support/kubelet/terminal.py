"""The command in the container: a shell with the commands `exit` and `size`, or `cat` without a terminal."""

from __future__ import annotations

import json


class Terminal:
    """Turns the client's input into the command's output. `code` is the exit code, None while it runs."""

    def __init__(self, *, is_tty: bool) -> None:
        self._is_tty = is_tty
        self._line = b""
        self._size = (0, 0)
        self.code: int | None = None

    @property
    def prompt(self) -> bytes:
        """The first output. Until it arrives, the client's own terminal may echo the user's input."""
        return b"$ " if self._is_tty else b""

    def resize(self, message: bytes) -> None:
        """Store the new size of the client's window."""
        size = json.loads(message)
        self._size = size["Height"], size["Width"]

    def typed(self, data: bytes) -> bytes:
        """The output for this input. Empty input means the end of the input."""
        if not self._is_tty:
            self.code = None if data else 0
            return data
        return b"".join(self._key(bytes((byte,))) for byte in data)

    def _key(self, key: bytes) -> bytes:
        if key == b"\x04":  # ^D
            self.code = 0
            return b""
        if key != b"\r":
            self._line += key
            return key
        line, self._line = self._line.split(), b""
        match line:
            case [b"exit", code]:
                self.code = int(code)
            case [b"size"]:
                rows, columns = self._size
                return f"\r\n{rows} {columns}\r\n$ ".encode()
        return b"\r\n$ "
