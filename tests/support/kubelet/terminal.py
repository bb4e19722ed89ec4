"""The command in the container: a shell with the commands `exit` and `size`, or `cat` without a terminal."""

from __future__ import annotations

import json


class Terminal:
    """Turns the client's input into the command's output. `code` is the exit code, None while it runs.

    kubectl sends the window's size and the user's keys independently of each other. So the shell shows its
    first prompt only when it has `sizes` sizes.
    """

    def __init__(self, *, is_tty: bool, sizes: int) -> None:
        self._is_tty = is_tty
        self._missing = sizes
        self._line = b""
        self._size = (0, 0)
        self.code: int | None = None

    def resize(self, message: bytes) -> bytes:
        """Store the new size of the client's window. Returns the output: the first prompt, if it is due.

        Until that arrives, the client's own terminal may echo the user's input.
        """
        size = json.loads(message)
        self._size = size["Height"], size["Width"]
        self._missing -= 1
        return b"" if self._missing else b"$ "

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
