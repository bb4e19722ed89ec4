"""A client that runs a command in a pod as newer kubectls do: by WebSocket, through the API server."""

from __future__ import annotations

import json
import socket
import ssl
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

from proxy.runtime.endpoint import Endpoint
from tests.support.kubelet.streams import CHANNELS, PROTOCOL
from tests.support.kubelet.websocket import BINARY, CLOSE, Decoder, Frame, accept_key, encode

SECONDS: Final = 30.0
_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # any 16 bytes in base64: it is no secret


class ExecByWebSocket:
    """A shell with a terminal in the pod. `shown` is what has come on each stream so far."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, *, name: str, pod: str) -> None:
        """`name` is that of the API server's certificate."""
        self._tls = context.wrap_socket(
            socket.create_connection(endpoint, timeout=SECONDS), server_hostname=name
        )
        self._decoder = Decoder()
        self._path = f"/api/v1/namespaces/default/pods/{pod}/exec"
        self.shown = dict.fromkeys(CHANNELS, b"")

    def __enter__(self) -> Self:
        query = urlencode({"command": "sh", "stdin": "true", "stdout": "true", "tty": "true"})
        lines = [
            f"GET {self._path}?{query} HTTP/1.1",
            "Host: kubernetes",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {_KEY}",
            f"Sec-WebSocket-Protocol: {PROTOCOL}",
        ]
        self._tls.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._more()
        head, _, early = head.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert f"Sec-WebSocket-Accept: {accept_key(_KEY)}".encode() in head, head
        self._take(early)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._tls.close()

    def send(self, stream: str, data: bytes) -> None:
        message = bytes((CHANNELS.index(stream),)) + data
        self._tls.sendall(encode(Frame(BINARY, message), masked=True))

    def expect(self, text: bytes) -> None:
        """Read until that is shown. Raises OSError, EOFError."""
        while text not in self.shown["stdout"]:
            self._take(self._more())

    def end(self) -> dict[str, object]:
        """Read until the command's end; returns its status. Raises OSError, EOFError."""
        while not self._take(self._more()):
            pass
        status: dict[str, object] = json.loads(self.shown["error"])
        return status

    def _more(self) -> bytes:
        if not (data := self._tls.recv(1 << 16)):
            raise EOFError(f"the connection has ended after {self.shown}")
        return data

    def _take(self, data: bytes) -> bool:
        """Put what has come where it belongs; whether the server says that it is all."""
        frames = list(self._decoder.feed(data))
        for frame in frames:
            if frame.kind == BINARY:
                self.shown[CHANNELS[frame.payload[0]]] += frame.payload[1:]
        return any(frame.kind == CLOSE for frame in frames)
