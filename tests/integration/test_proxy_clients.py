"""Programs that people use with a proxy, at a real entry: that they work, and what they show of a refusal."""

from __future__ import annotations

import hashlib
import os
import shlex
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from ruamel.yaml import YAML

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import gateway
from tests.integration.prometheus import prometheus
from tests.integration.recipes import PAGE, Desk
from tests.support import pages, parts, ssh_keys
from tests.support.daemon import Daemon
from tests.support.echo import pattern
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

pytestmark = [pytest.mark.proxy_clients, pytest.mark.sshd]

MUCH: Final = 20 << 20
TOKEN: Final = "a-token"  # noqa: S105 - protects nothing
COMMANDS: Final = [
    pytest.param(command.strip("`"), seen.strip("`"), id=name)
    for name, command, seen in pages.rows(PAGE, "program")
]
CURLS: Final = pages.shell(PAGE, "curl").splitlines()


class Site(BaseHTTPRequestHandler):
    """Answers GET with as many bytes as the path says (or with metrics), and PUT with the checksum of the
    body.
    """

    def do_GET(self) -> None:
        wanted = self.path.removeprefix("/")
        if wanted == "metrics":
            self._answer(b"scraped %d\n" % (self.headers["Authorization"] == f"Bearer {TOKEN}"))
        else:
            self._answer(pattern(int(wanted)) if wanted.isdigit() else b"ok")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(hashlib.sha256(body).hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def site(certificates: Certificates) -> Iterator[Endpoint]:
    """An HTTPS server whose certificate is for `kubernetes`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Site) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Endpoint("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Desk]:
    """One daemon for all tests. Its entry leads to a site, to a host with sshd, and to what it refuses."""
    parts.need("proxy_clients")
    parts.need("sshd")
    folder, entry = tmp_path_factory.mktemp("clients"), Endpoint("127.0.0.1", free_port())
    with Sshd(folder / "sshd") as sshd, site(certificates) as https:
        section: dict[str, object] = {
            "gateway": "edge",
            "api_servers": [str(https)],
            "tls": {"server_name": certificates.server_name, "ca_file": str(certificates.ca)},
            "probe": {"interval": "1h", "threshold": 1, "timeout": "60s"},
        }
        clusters = {
            "prod-eu": section,
            "denied": section | {"allow": ["uid:65533"]},
            "refused": section | {"api_servers": [f"127.0.0.1:{free_port()}"]},
            "away": section | {"gateway": "away"},
        }
        host = f"{sshd.host}:{sshd.port}"
        routes = [{"name": "nodes", "match": ["node-*:22"], "gateway": "edge", "target": host}]
        sections = {
            "routes": routes,
            "entries": {"proxy": {"listen": str(entry)}},
            "limits": {"hold_timeout": "0s"},
        }
        gateways = {"edge": gateway(sshd), "away": gateway(sshd, port=free_port())}
        known_hosts, config = folder / "known_hosts", folder / "ssh_config"
        known_hosts.write_text(f"node-a {ssh_keys.public(sshd.host_key)}\n")
        config.write_text(
            f"User {sshd.user}\nIdentityFile {sshd.identity}\nUserKnownHostsFile {known_hosts}\n"
        )
        programs = {"ssh": f"{parts.find('ssh')} -F {config}", "nc": "nc.openbsd"}
        with Daemon(folder / "daemon", gateways=gateways, clusters=clusters, sections=sections) as daemon:
            # Wait for the site's last connection of a probe to close, before the first test looks for leaks.
            daemon.wait_up("prod-eu", "denied")
            daemon.wait_up("refused", "away", up=False)
            yield Desk(folder, entry, programs=programs)


@pytest.mark.parametrize(("command", "_seen"), COMMANDS)
def test_ssh_works_through_each_program(desk: Desk, command: str, _seen: str) -> None:
    sent = pattern(100_000)
    done = desk.typed(f"ssh -o {shlex.quote(f'ProxyCommand={command}')} node-a cat", stdin=sent)
    assert (done.returncode, done.stdout == sent) == (0, True), done.stderr.decode()


@pytest.mark.parametrize(("command", "seen"), COMMANDS)
def test_each_program_shows_the_reason_of_a_refusal(desk: Desk, command: str, seen: str) -> None:
    done = desk.typed(f"ssh -o {shlex.quote(f'ProxyCommand={command}')} nowhere true")
    assert done.returncode == 255
    assert seen in done.stderr.decode().splitlines()[0]


def test_the_recipe_for_ssh_works(desk: Desk) -> None:
    assert desk.said(f"{pages.shell(PAGE, 'nc, corkscrew, socat and others').strip()} echo here") == "here\n"


@pytest.fixture
def ca(desk: Desk, certificates: Certificates) -> str:
    """The CA file, in place of the page's."""
    return str(certificates.ca)


def curl(line: str, ca: str, *more: str) -> str:
    return shlex.join([*line.replace("/etc/kubemux/ca/prod-eu.crt", ca).split(), "--silent", *more])


@pytest.mark.parametrize("line", CURLS, ids=["HTTP", "SOCKS5"])
def test_curl_uploads_and_downloads(desk: Desk, ca: str, line: str) -> None:
    assert desk.said(curl(line, ca)) == "ok"
    (desk.home / "sent").write_bytes(pattern(MUCH))
    digest = hashlib.sha256(pattern(MUCH)).hexdigest()
    assert desk.said(curl(line, ca, "--upload-file", "sent")) == digest
    down = line.replace("/healthz", f"/{MUCH}")
    assert desk.said(f"{curl(down, ca)} | sha256sum").split()[0] == digest


@pytest.mark.parametrize(
    ("asked", "phrase", "reply"),
    [
        ("nowhere:443", "404 kubemux: nowhere: unknown_name (", 4),
        ("prod-ue:443", "404 kubemux: prod-ue: unknown_name (nearest: prod-eu)", 4),
        ("denied:443", f"403 kubemux: denied: denied (uid {os.getuid()} is not in allow)", 2),
        ("refused:443", "502 kubemux: refused: channel_refused (127.0.0.1:", 5),
        ("away:443", "503 kubemux: away: link_down (gateway away has no link", 3),
    ],
    ids=["unknown", "misspelt", "denied", "refused", "link down"],
)
def test_each_refusal_reaches_each_program(desk: Desk, asked: str, phrase: str, reply: int) -> None:
    host, _, port = asked.partition(":")
    done = desk.typed(f"nc -X connect -x 127.0.0.1:3128 {host} {port}")
    assert (done.returncode, f'"HTTP/1.1 {phrase}' in done.stderr.decode()) == (1, True), done.stderr
    by_http = desk.typed(f"curl -sS --proxy http://127.0.0.1:3128 https://{asked}/")
    assert (by_http.returncode, by_http.stdout) == (56, b"")
    assert f"response {phrase[:3]}" in by_http.stderr.decode()
    by_socks = desk.typed(f"curl -sS --proxy socks5h://127.0.0.1:3128 https://{asked}/")
    assert (by_socks.returncode, by_socks.stdout) == (97, b"")
    assert f"to {host}. ({reply})" in by_socks.stderr.decode()


def test_a_request_for_a_plain_url_gets_a_remedy(desk: Desk) -> None:
    said = desk.said(
        "curl -sS --proxy http://127.0.0.1:3128 --write-out '%{http_code}' http://prod-eu/healthz"
    )
    assert said.endswith("405")
    assert "CONNECT" in said
    assert "SOCKS5" in said


@pytest.mark.prometheus
def test_the_recipe_for_prometheus_works(desk: Desk, ca: str, tmp_path: Path) -> None:
    token = desk.home / "token"
    token.write_text(TOKEN)
    page = desk.here(pages.block(PAGE, "Prometheus", "yaml"))
    page = page.replace("/etc/kubemux/ca/prod-eu.crt", ca).replace(
        "/etc/prometheus/prod-eu.token", str(token)
    )
    config = {
        **YAML(typ="safe").load(page),
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
    }
    with prometheus(tmp_path / "prometheus", config) as seen:
        seen.wait_for('scraped{job="prod-eu"}', lambda value: value == {"": 1})
