"""The servers of the bench: sshd with and without TCP_NODELAY, nginx, iperf3, an echo server."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from bench.waiting import ended, wait_listening
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.sshd import Sshd

CIPHER = "aes128-gcm@openssh.com"
BODY = b"ok\n"
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "ok\\n"; }}
        location /answers/ {{ root {folder}; }}
    }}
}}
"""


@contextmanager
def ssh_server(folder: Path, *, nodelay: bool = False) -> Iterator[Sshd]:
    """An sshd with only one cipher, and without a practical limit on handshakes at a time."""
    before = os.environ.get("LD_PRELOAD")
    if nodelay:
        os.environ["LD_PRELOAD"] = str(_nodelay(folder.parent))  # sshd starts with our environment
    try:
        sshd = Sshd(folder, config={"Ciphers": CIPHER, "MaxStartups": "1000"})
        sshd.start()
    finally:
        if before is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = before
    try:
        yield sshd
    finally:
        sshd.stop()


def _nodelay(folder: Path) -> Path:
    library = folder / "nodelay.so"
    source = Path(__file__).with_name("nodelay.c")
    subprocess.run(
        [find("gcc") or "gcc", "-shared", "-fPIC", "-nostdlib", "-o", library, source],
        check=True,
        timeout=60,
    )
    return library


def is_nodelay(sshd: Sshd) -> bool:
    """Whether the processes of sshd's connections have the preloaded library."""
    return all("nodelay.so" in Path(f"/proc/{pid}/maps").read_text() for pid in sshd.sessions())


@contextmanager
def nginx(folder: Path, *, answers: tuple[int, ...] = ()) -> Iterator[int]:
    """nginx, which keeps connections. It answers `/answers/N` with N bytes, and other paths with three bytes.
    Yields its port.
    """
    (folder / "answers").mkdir(parents=True)
    for size in answers:
        (folder / "answers" / str(size)).write_bytes(bytes(size))
    port = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port))
    with ended(
        subprocess.Popen(
            [find("nginx") or "nginx", "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
        )
    ) as process:
        wait_listening([port], [process])
        yield port


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        sock: socket.socket = self.request
        while data := sock.recv(1 << 16):
            sock.sendall(data)


class _Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def echo() -> Iterator[int]:
    """An echo server. Yields its port."""
    with _Threads(("127.0.0.1", 0), _Echo) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="echo")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def iperf3(port: int) -> Iterator[None]:
    """Serve one test. iperf3 counts every connection as its test, also a probe of kubemux, so it is started
    for each test.
    """
    command = [
        find("iperf3") or "iperf3",
        "--server",
        "--one-off",
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with ended(subprocess.Popen(command, stdout=subprocess.DEVNULL)) as process:
        wait_listening([port], [process])
        yield
        process.wait(timeout=60)  # the client has its result before the server ends
