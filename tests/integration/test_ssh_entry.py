"""Users of the SSH server: SSH clients reach clusters and hosts by name through it, and nothing else. On both
data planes.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from proxy.ssh.server.user import NO_FORWARD
from tests.integration.jumping import BLOCK, SITE, Jumping, jumping, wait_for_port
from tests.support import pages, parts
from tests.support.ports import free_port

pytestmark = [pytest.mark.sshd, pytest.mark.ssh_clients, pytest.mark.proxy_clients]

SECONDS: Final = 60.0
MUCH: Final = 16 << 20
HELLO: Final = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture(scope="module", params=["native", "asyncssh"])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jumping]:
    """One daemon for all tests, on each data plane."""
    for part in ("sshd", "ssh_clients", "proxy_clients"):
        parts.need(part)
    with jumping(tmp_path_factory.mktemp("jumping"), plane=request.param) as one:
        yield one


# ------------------------------------------------------------------------------------------ OpenSSH's client


def test_proxyjump_reaches_a_host_by_name(bed: Jumping) -> None:
    said = bed.desk.said("ssh -J bastion node-jump 'echo $SSH_CONNECTION'")
    assert said.split()[2:] == ["127.0.0.1", str(bed.sshd.port)]

    def told() -> list[dict[str, object]]:
        return [one for one in bed.daemon.events("connection closed") if one.get("asked") == "node-jump:22"]

    bed.daemon.wait_for("its end in the log", lambda: bool(told()))
    line = told()[-1]
    assert (line["entry"], line["caller"], line["route"]) == ("ssh", "ssh-user:ops", "nodes")
    assert line["target"] == f"127.0.0.1:{bed.sshd.port}"


def test_a_cluster_that_has_no_port_is_reached_by_its_name(bed: Jumping) -> None:
    """The upload ends with an end of file, and the answer arrives after it (half-close)."""
    assert bed.desk.said("printf hello | ssh -W PROD-EU:6443 bastion") == f"{HELLO}\n"


def test_bulk_arrives_in_both_directions_during_rekeying(bed: Jumping) -> None:
    jump = "ssh -o RekeyLimit=4M -W prod-eu:443 bastion"
    expected = hashlib.sha256(BLOCK * (MUCH // len(BLOCK))).hexdigest()
    assert (
        bed.desk.said(f"printf 'GET /{MUCH} HTTP/1.1\r\n\r\n' | {jump} | tail -c {MUCH} | sha256sum").split()[
            0
        ]
        == expected
    )
    assert (
        bed.desk.said(f"head -c {MUCH} /dev/zero | {jump}").strip() == hashlib.sha256(bytes(MUCH)).hexdigest()
    )


def test_a_local_port_of_the_client_leads_to_a_cluster(bed: Jumping) -> None:
    port = free_port()
    with bed.desk.started("ssh", "-N", "-L", f"127.0.0.1:{port}:prod-eu:443", "bastion"):
        wait_for_port(port)
        assert bed.desk.said(f"curl -sS http://127.0.0.1:{port}/70000 | wc -c").strip() == "70000"


def test_many_connections_at_once_pass_a_socks_server_of_the_client(bed: Jumping) -> None:
    half = 50 if bed.plane == "asyncssh" else 250  # one after another, they take 20 ms each there
    port = free_port()
    curl = (
        f"curl -sS -Z --parallel-immediate --parallel-max {half} --socks5-hostname 127.0.0.1:{port} "
        "-o /dev/null -w '%{http_code} %{size_download}\\n'"
    )
    with bed.desk.started("ssh", "-N", "-D", f"127.0.0.1:{port}", "bastion"):
        wait_for_port(port)
        said = bed.desk.said(
            f"{curl} 'http://a[1-{half}].sums:80/1000' > one & other=$!\n"
            f"{curl} 'http://b[1-{half}].sums:80/1000' > two; wait $other; sort one two | uniq -c"
        )
    assert said.split() == [str(2 * half), "200", "1000"]


def test_clients_share_the_connection_of_a_control_master(bed: Jumping) -> None:
    """Several ssh clients share one connection."""
    logins = len(bed.daemon.events("logged in"))
    said = bed.desk.said(
        "ssh -M -S m -f -N bastion 2>/dev/null\n"
        "for i in 1 2 3; do printf hello | ssh -S m -W prod-eu:443 bastion; done\n"
        "ssh -S m -o ProxyCommand='ssh -S m -W %h:%p bastion' -S none node-a echo there\n"
        "ssh -S m -O exit bastion 2>/dev/null"
    )
    assert said.split() == [HELLO] * 3 + ["there"]
    assert len(bed.daemon.events("logged in")) == logins + 1


def test_vs_code_can_connect(bed: Jumping) -> None:
    """Remote-SSH pipes a script into this command, and connects to its server through the `-D` port."""
    port = free_port()
    command = bed.desk.words(
        "ssh", "-T", "-D", str(port), "-o", "ConnectTimeout=15", "-J", "bastion", "node-a", "bash"
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=bed.desk.environment
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"echo started\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"started\n"
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
            client.sendall(b"\5\1\0" + b"\5\1\0\1\x7f\0\0\1" + bed.sshd.port.to_bytes(2, "big"))
            with client.makefile("rb") as answer:
                assert answer.read(2 + 10) == b"\5\0" + b"\5\0\0\1" + bytes(6)
                assert answer.read(4) == b"SSH-"
        process.stdin.close()
        assert process.wait(SECONDS) == 0


def test_the_examples_of_the_page_work(bed: Jumping) -> None:
    """The ssh_config and the commands of jump.md, with the addresses and keys of this test."""
    page, files = pages.read("docs/jump.md"), bed.files
    commands = {
        "ssh node-a": b"echo $((6 * 7))",
        "ssh -J bastion.example.com:2222 node-a": b"echo $((6 * 7))",
        "ssh -W prod-eu:6443 bastion": b"hello",
    }
    answers = ["42", "42", HELLO]
    block = pages.block("docs/jump.md", "On a laptop", "sshconfig")
    block = block.replace("bastion.example.com", "127.0.0.1").replace("2222", str(files.listen.port))
    keys = f" IdentityFile {files.key('ops')}\n UserKnownHostsFile {files.known_hosts}\n"
    rest = (bed.desk.home.parent / "ssh_config").read_text()
    (bed.desk.home / "of_the_page").write_text(f"{block}Host 127.0.0.1\n{keys}{rest}")
    said = []
    for command, stdin in commands.items():
        assert f"`{command}`" in page
        here = command.replace("bastion.example.com:2222", f"127.0.0.1:{files.listen.port}")
        done = bed.desk.typed(here.replace("ssh ", "ssh -F of_the_page -T ", 1), stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        said.append(done.stdout.decode().strip())
    assert said == answers


# ------------------------------------------------------------------------------------------- other clients


@pytest.fixture(scope="module")
def others(bed: Jumping) -> dict[str, list[str]]:
    """The commands of dropbear's and PuTTY's client, up to the host's name."""
    desk, files = bed.desk, bed.files
    known = files.known_hosts.read_text().split(maxsplit=1)[1]
    (desk.home / ".ssh").mkdir()
    (desk.home / ".ssh" / "known_hosts").write_text(f"127.0.0.1 {known}")
    key = files.key("ops")
    desk.said(f"dropbearconvert openssh dropbear {key} dropbear-key; puttygen {key} -O private -o putty-key")
    fingerprint = desk.said(f"ssh-keygen -lf {files.host_key}.pub").split()[1]
    port = str(files.listen.port)
    return {
        "dbclient": ["dbclient", "-p", port, "-i", "dropbear-key"],
        "plink": ["plink", "-batch", "-P", port, "-i", "putty-key", "-hostkey", fingerprint],
    }


@pytest.mark.parametrize(("client", "netcat"), [("dbclient", "-B"), ("plink", "-nc")])
def test_dropbear_and_putty_reach_a_cluster_and_get_no_shell(
    bed: Jumping, others: dict[str, list[str]], client: str, netcat: str
) -> None:
    words = others[client]
    ask = [*words, netcat, "prod-eu:443", "ops@127.0.0.1"]
    assert bed.desk.said(f"printf hello | {' '.join(ask)}").strip() == HELLO
    port = free_port()
    with subprocess.Popen(
        [*words, "-N", "-L", f"127.0.0.1:{port}:prod-eu:443", "ops@127.0.0.1"],
        stdin=subprocess.DEVNULL,
        cwd=bed.desk.home,
        env=bed.desk.environment,
    ) as process:
        try:
            wait_for_port(port)
            assert bed.desk.said(f"curl -sS http://127.0.0.1:{port}/70000 | wc -c").strip() == "70000"
        finally:
            process.kill()
    assert bed.desk.typed(" ".join([*words, "ops@127.0.0.1", "id"])).stdout == b""


# ------------------------------------------------------------------------------------------------ refusals

ONLY: Final = "kubemux only forwards: use ssh -J, -W, -L or -D (with -N), and -R at a site"


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        ("ssh -T bastion", "administratively prohibited", ONLY),
        ("ssh -A -X bastion id", "administratively prohibited", ONLY),
        ("ssh -s bastion sftp", "administratively prohibited", ONLY),
        (
            "ssh -W closed:443 bastion",
            "administratively prohibited",
            "closed: denied (ssh-user:ops is not in allow)",
        ),
        (
            "ssh -W shared:443 bastion",
            "administratively prohibited",
            "shared: denied (ssh-user:ops is not in allow)",
        ),
        (
            "ssh -W prod-eo:443 bastion",
            "administratively prohibited",
            "prod-eo: unknown_name (nearest: prod-eu)",
        ),
        (
            "ssh -W a.local:80 bastion",
            "administratively prohibited",
            "a.local: unknown_name (no cluster and no route leads there)",
        ),
        (
            "ssh -W 'a b:80' bastion",
            "connect failed",
            "bad_request ('a b' is neither a host name nor an IP address)",
        ),
        (
            f"ssh -W {'a' * 300}:80 bastion",
            "connect failed",
            "bad_request (a name of 300 bytes: 255 are the most)",
        ),
        (
            "ssh -W node-b:22 narrow",
            "administratively prohibited",
            "node-b: denied (permitopen of the key of ssh-user:narrow does not have node-b:22)",
        ),
        (
            "ssh -W closed:443 narrow",
            "administratively prohibited",
            "closed: denied (permitopen of the key of ssh-user:narrow does not have closed:443)",
        ),
        (
            "ssh -W node-a:22 shut",
            "administratively prohibited",
            "node-a: denied (the key of ssh-user:shut may open nothing: "
            "it has restrict or no-port-forwarding)",
        ),
        (
            f"ssh -W prod-eu:443 {SITE}",
            "administratively prohibited",
            f"prod-eu: denied (site:{SITE} is not in allow)",
        ),
        (
            f"ssh -W nothing:443 {SITE}",
            "administratively prohibited",
            f"nothing: denied (site:{SITE} is not in allow)",
        ),
    ],
)
def test_each_refusal_has_a_sentence(bed: Jumping, command: str, kind: str, says: str) -> None:
    done = bed.desk.typed(command)
    assert done.returncode == 255
    sentence = says if says == ONLY else f"kubemux: {says}"
    assert f"channel 0: open failed: {kind}: {sentence}" in done.stderr.decode().splitlines()


def test_a_refused_target_is_reported_with_the_reason(bed: Jumping) -> None:
    done = bed.desk.typed("ssh -W refused:443 bastion")
    assert "open failed: connect failed: kubemux: refused: channel_refused (" in done.stderr.decode()


def test_remote_forwards_are_for_sites(bed: Jumping) -> None:
    """A refusal has no text. kubemux sends and logs a debug message before it, which `ssh -v` prints."""
    done = bed.desk.typed("ssh -v -N -o ExitOnForwardFailure=yes -R 4000 bastion")
    assert done.returncode == 255
    assert f"debug1: Remote: kubemux: {NO_FORWARD}" in done.stderr.decode().splitlines()

    def logged() -> list[dict[str, object]]:
        return [one for one in bed.daemon.events("forward refused") if one["forward"] == "localhost:4000"]

    bed.daemon.wait_for("the refusal in the log", lambda: bool(logged()))
    assert (logged()[0]["caller"], logged()[0]["message"]) == ("ssh-user:ops", NO_FORWARD)


def test_a_forward_that_was_refused_can_be_cancelled(bed: Jumping) -> None:
    """OpenSSH also cancels a forward that was refused. The connection stays, as with sshd."""
    said = bed.desk.said(
        "ssh -M -S master -N -f -R 1234:localhost:1 bastion\n"
        "ssh -S master -O cancel -R 1234:localhost:1 bastion\n"
        "printf hello | ssh -S master -W prod-eu:6443 bastion\n"
        "ssh -S master -O exit bastion"
    )
    assert said == f"{HELLO}\n"


@pytest.mark.parametrize("user", ["gone", "elsewhere"])
def test_an_expired_key_or_another_source_is_refused(bed: Jumping, user: str) -> None:
    done = bed.desk.typed(f"ssh -W prod-eu:443 {user}")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr.decode()


def test_permitopen_allows_the_named_targets(bed: Jumping) -> None:
    assert bed.desk.said("ssh -W node-a:22 narrow </dev/null | head -c 8") == "SSH-2.0-"


def test_a_site_reaches_targets_whose_allow_names_it(bed: Jumping) -> None:
    assert bed.desk.said(f"printf hello | ssh -W shared:443 {SITE}") == f"{HELLO}\n"


# ----------------------------------------------------------------------------------------------- operators


def test_metrics_and_status_have_the_ssh_server_as_an_entry(bed: Jumping) -> None:
    daemon = bed.daemon

    def counted() -> tuple[float, float]:
        return (
            daemon.metric("kubemux_denied_total", entry="ssh", reason="denied"),
            daemon.metric("kubemux_entry_connections_total", entry="ssh", result="client_closed"),
        )

    def is_quiet() -> bool:
        return daemon.metric("kubemux_entry_connections_active", entry="ssh") == 0

    daemon.wait_for("the end of all connections", is_quiet)
    denied, closed = counted()
    bed.desk.typed("ssh -W closed:443 bastion; ssh -W node-a:22 shut")
    bed.desk.typed("ssh -W node-a:22 shut")
    bed.desk.said("printf hello | ssh -W prod-eu:443 bastion")
    daemon.wait_for("the counts", lambda: is_quiet() and counted() == (denied + 2, closed + 1))
    (entry,) = [one for one in json.loads(daemon.get("/status")[1])["entries"] if one["name"] == "ssh"]
    assert entry["listen"] == str(bed.files.listen)
    assert (entry["listening"], entry["reason"], entry["connections"]) == (True, "", 0)
    assert entry["connections_total"] >= 3


def test_the_log_has_everybody_who_was_denied_with_one_reason(bed: Jumping) -> None:
    """Denied by `allow`, and by the key's options."""
    bed.desk.typed("ssh -W closed:443 bastion")
    bed.desk.typed("ssh -W node-a:22 shut")

    def told() -> set[tuple[object, ...]]:
        events = "connection closed", "connection refused"
        lines = [one for event in events for one in bed.daemon.events(event) if one["reason"] == "denied"]
        return {(one["event"], one["entry"], one["caller"], one["asked"]) for one in lines}

    wanted = {
        ("connection closed", "ssh", "ssh-user:ops", "closed:443"),
        ("connection refused", "ssh", "ssh-user:shut", "node-a:22"),
    }
    bed.daemon.wait_for("both log entries", lambda: wanted <= told())
