"""The shipped units under a real systemd: start, reload, stop, watchdog, bad configuration, socket
activation.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_metrics
from ruamel.yaml import YAML

from tests.support import pages
from tests.support.ends import bad_ends
from tests.support.ssh_keys import new_key, public
from tests.systemd.bastion import API_SERVER, HOST, Bastion
from tests.systemd.machine import CHECKOUT, Machine

pytestmark = pytest.mark.systemd

# The gateway does not answer, because READY and STATUS must not depend on it.
GATEWAY = {
    "host": "127.0.0.1",
    "user": "tunnel",
    "identity_files": ["${CREDENTIALS_DIRECTORY}/eu-edge"],
    "known_hosts": ["/etc/kubemux/known_hosts"],
}
CLUSTERS = {
    "prod-eu": {"gateway": "eu-edge", "listen": "127.0.0.1:16444", "api_servers": ["10.0.0.10:6443"]},
    "local": {"gateway": "direct", "listen": "127.0.0.1:16443", "api_servers": ["127.0.0.1:6443"]},
}

# The API server of `local` and its client, which run inside the network namespace. A probe sends TLS, the
# client does not.
CLIENT = """
import socket
socket.setdefaulttimeout(60)
server = socket.create_server(("127.0.0.1", 6443))
client = socket.create_connection(("127.0.0.1", 16443))
client.sendall(b"ping")
while True:
    peer, _ = server.accept()
    if peer.recv(4) == b"ping":
        break
    peer.close()
peer.sendall(b"pong")
print(client.recv(4).decode())
"""

# Runs clients one after another until the end of the input; prints how many were served, and the failures.
CLIENTS = """
import json, socket, sys, threading
server = socket.create_server(("127.0.0.1", 6443))
def echo(peer):
    with peer:
        if peer.recv(4) == b"ping":
            peer.sendall(b"pong")
def serve():
    while True:
        threading.Thread(target=echo, args=[server.accept()[0]], daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
served, failed = 0, {}
while not over.is_set():
    try:
        with socket.create_connection(("127.0.0.1", 16443), timeout=60) as client:
            client.sendall(b"ping")
            if client.recv(4) != b"pong":
                raise EOFError
        served += 1
    except (OSError, EOFError) as exc:
        failed[type(exc).__name__] = failed.get(type(exc).__name__, 0) + 1
    if served == 1:
        print("served", flush=True)
        served += 1
print(json.dumps([served, failed]))
"""
# The same by name, alternating between these sockets.
CLIENTS_BY_NAME = CLIENTS.replace(
    """with socket.create_connection(("127.0.0.1", 16443), timeout=60) as client:
            client.sendall(b"ping")
            if client.recv(4) != b"pong":
                raise EOFError
""",
    r"""for path in sys.argv[1:]:
            with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answer:
                client.settimeout(60)
                client.connect(path)
                client.sendall(b"CONNECT local:443 HTTP/1.1\r\n\r\nping")
                status = answer.readline()
                answer.readline()
                if answer.read(4) != b"pong":
                    raise EOFError(status)
""",
).replace("type(exc).__name__", "repr(exc)")
# A connection that stays open until the other side ends it.
HOLDER = """
import socket
server = socket.create_server(("127.0.0.1", 6443))
client = socket.create_connection(("127.0.0.1", 16443))
client.sendall(b"ping")
while True:
    peer, _ = server.accept()
    if peer.recv(4) == b"ping":
        break
    peer.close()
print("relayed", flush=True)
client.recv(1)
"""


def configure(machine: Machine, *, limits: Mapping[str, object] | None = None, **sections: object) -> None:
    """Write the configuration file. kubemux never closes the port of a cluster whose gateway does not
    answer, as it would after `hold_timeout`. Clients at that port are held, so a stop waits for them until
    `drain_timeout`.
    """
    admin = {"listen": "127.0.0.1:9464", "socket": "/run/kubemux/admin.sock"}
    content = {
        "version": 1,
        "admin": admin,
        "gateways": {"eu-edge": GATEWAY},
        "clusters": CLUSTERS,
        "limits": {"hold_timeout": "1h", "drain_timeout": "1s", **(limits or {})},
    } | sections
    machine.config.write_text(json.dumps(content))


def is_bound(machine: Machine, port: int) -> bool:
    # If no cluster can serve it, a client may be reset at once; it is refused only if no process listens.
    script = (
        f"import errno, socket; print(socket.socket().connect_ex(('127.0.0.1', {port})) != "
        "errno.ECONNREFUSED)"
    )
    return machine.run("python3", "-c", script).stdout == "True\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A booted machine, kubemux installed as install.md says and not yet started."""
    machine = Machine(tmp_path)
    keys = machine.config.parent / "keys"
    keys.mkdir(mode=0o700)
    key = new_key(keys / "eu-edge")
    (machine.config.parent / "known_hosts").write_text(f"127.0.0.1 {public(key)}\n")
    example = CHECKOUT / "systemd/kubemux.service.d/credentials.conf.example"
    machine.drop_in("credentials", example.read_text())
    configure(machine)
    with machine:
        yield machine
    assert "PRIVATE KEY" not in machine.log.read_text()


def make_user(machine: Machine) -> None:
    machine.run("systemd-sysusers", str(CHECKOUT / "systemd/kubemux.sysusers.conf"))


def lead_to(bastion: Bastion, machine: Machine, **gateway: object) -> None:
    """A configuration with one cluster, behind a bastion that answers."""
    etc = machine.config.parent
    shutil.copy(bastion.key, etc / "keys/eu-edge")
    shutil.copy(bastion.ca, etc / "ca.crt")
    (etc / "known_hosts").write_text(bastion.known_hosts)
    cluster = {
        "gateway": "eu-edge",
        "listen": "127.0.0.1:16443",
        "api_servers": [API_SERVER],
        "tls": {"ca_file": "/etc/kubemux/ca.crt"},
        "probe": {"interval": "200ms"},
    }
    configure(
        machine, gateways={"eu-edge": GATEWAY | {"host": HOST} | gateway}, clusters={"prod-eu": cluster}
    )


@pytest.mark.sshd
@pytest.mark.parametrize("has_user", [True, False], ids=["sysusers.d", "made up"])
def test_the_service_dials_where_its_uid_has_no_name(has_user: bool, machine: Machine) -> None:
    """Debian's systemd does not need libnss-systemd. Without it, the uid of DynamicUser= has no name and no
    home.
    """
    bastion = Bastion(machine)
    lead_to(bastion, machine)
    if has_user:
        make_user(machine)
    with bastion.serving():
        machine.systemctl("start", "kubemux.service")
        uid = machine.run("stat", "-c", "%u", "/run/kubemux").stdout.strip()
        named = machine.run("python3", "-c", f"import pwd; print(pwd.getpwuid({uid}).pw_dir)", check=False)
        assert (named.returncode == 0) is has_user
        machine.wait(
            lambda: "1/1 clusters up" in machine.show("StatusText")["StatusText"], "the cluster to be up"
        )


@pytest.mark.sshd
def test_the_service_dials_as_ssh_config_says(machine: Machine) -> None:
    bastion = Bastion(machine)
    (machine.config.parent / "ssh_config").write_text(f"Host edge\n  HostName {HOST}\n")
    lead_to(bastion, machine, host="edge", ssh_config="/etc/kubemux/ssh_config")
    make_user(machine)
    with bastion.serving():
        machine.systemctl("start", "kubemux.service")
        machine.wait(
            lambda: "1/1 clusters up" in machine.show("StatusText")["StatusText"], "the cluster to be up"
        )


def keep_a_journal(machine: Machine) -> None:
    """Run systemd's journal without kernel messages and audit, which belong to the host."""
    for unit in ("systemd-journald.service", "systemd-journald.socket"):
        shutil.copy(Path("/lib/systemd/system") / unit, machine.units)
    (machine.root / "etc/systemd/journald.conf").write_text(
        "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n"
    )
    machine.drop_in("log", "")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "systemd-journald.service")


def journal(machine: Machine, priority: str) -> list[str]:
    """The entries of kubemux in the journal with that priority or range of priorities."""
    words = ("--quiet", "--output=cat", "_SYSTEMD_UNIT=kubemux.service", f"--priority={priority}")
    return machine.run("journalctl", *words).stdout.splitlines()


def test_log_levels_are_priorities_of_the_journal(machine: Machine) -> None:
    keep_a_journal(machine)
    machine.systemctl("start", "kubemux.service")  # the gateway refuses: no process listens
    machine.wait(
        lambda: (
            "gateway dial failed" in str(journal(machine, "warning"))
            and '"started"' in str(journal(machine, "info..info"))
        ),
        "the warning and the start in the journal",
    )
    levels = {"info": "info..info", "warning": "warning..warning", "error": "emerg..err"}
    found = {
        level: {json.loads(line)["level"] for line in journal(machine, which)}
        for level, which in levels.items()
    }
    assert found == {"info": {"info"}, "warning": {"warning"}, "error": set()}
    assert "started" in {json.loads(line)["event"] for line in journal(machine, "info..info")}

    machine.systemctl("stop", "kubemux.service")
    configure(machine, clutsers={})
    machine.systemctl("start", "kubemux.service", check=False)
    machine.wait(
        lambda: "clutsers: unknown key" in str(journal(machine, "err")), "the refusal in the journal"
    )


def test_the_service_has_a_private_folder_and_one_for_others(machine: Machine) -> None:
    """Other users can open sockets in /run/kubemux-entries. The folder stays during a restart, because
    containers may have mounted it.
    """
    make_user(machine)
    configure(machine, admin={"socket": "/run/kubemux-entries/some.sock"})
    machine.systemctl("start", "kubemux.service")
    look = ("stat", "-c", "%n %a %U %F")
    assert machine.run(*look, "/run/kubemux", "/run/kubemux-entries").stdout.splitlines() == [
        "/run/kubemux 700 kubemux directory",
        "/run/kubemux-entries 755 kubemux directory",
    ]
    as_other = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    assert machine.run(*as_other, "ls", "/run/kubemux-entries").stdout == "some.sock\n"
    assert machine.run(*as_other, "ls", "/run/kubemux", check=False).returncode != 0
    inode = machine.run("stat", "-c", "%i", "/run/kubemux-entries").stdout
    # Systemd makes the folders again for ExecReload=, too.
    machine.systemctl("reload", "kubemux.service", check=False)
    machine.systemctl("restart", "kubemux.service")
    assert machine.run("stat", "-c", "%i %a", "/run/kubemux-entries").stdout == f"{inode.strip()} 755\n"


def test_the_unit_can_see_the_uids_of_other_users(machine: Machine) -> None:
    """In a user namespace, every client would have uid 65534. And the unit allows netlink, which shows the
    owner of a TCP connection.
    """
    machine.systemctl("start", "kubemux.service")
    pid = machine.show("MainPID")["MainPID"]
    assert machine.run("cat", f"/proc/{pid}/uid_map").stdout.split() == ["0", "0", str(2**32 - 1)]
    families = machine.show("RestrictAddressFamilies")["RestrictAddressFamilies"].split()
    assert sorted(families) == ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"]


def test_a_configuration_that_the_service_may_not_read_is_not_tried_again(machine: Machine) -> None:
    """After an installation under umask 077, systemd must not restart kubemux every two seconds."""
    machine.config.chmod(0o600)
    assert machine.systemctl("start", "kubemux.service", check=False).returncode == 1
    ended = {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    assert machine.show(*ended) == ended
    assert "may not be read by this user" in machine.log.read_text()


@pytest.mark.parametrize(
    ("key", "known_hosts", "remedy"),
    [
        (
            "/etc/kubemux/keys/eu-edge",
            "/etc/kubemux/known_hosts",
            "LoadCredential=eu-edge:/etc/kubemux/keys/eu-edge",
        ),
        (
            "${CREDENTIALS_DIRECTORY}/eu-edge",
            "/root/known_hosts",
            "install -m 644 /root/known_hosts /etc/kubemux/known_hosts",
        ),
    ],
    ids=["key", "home"],
)
def test_a_file_the_service_may_not_read_has_a_working_remedy(
    machine: Machine, key: str, known_hosts: str, remedy: str
) -> None:
    machine.run("cp", "/etc/kubemux/known_hosts", "/root/known_hosts")
    configure(
        machine, gateways={"eu-edge": GATEWAY | {"identity_files": [key], "known_hosts": [known_hosts]}}
    )
    machine.systemctl("start", "kubemux.service", check=False)
    machine.wait(lambda: remedy in machine.log.read_text(), "the remedy")
    assert "chmod" not in machine.log.read_text()


def test_the_service_starts_reloads_and_stops(machine: Machine) -> None:
    machine.systemctl("start", "kubemux.service")
    started = machine.show("ActiveState", "StatusText", "MainPID")
    assert started["ActiveState"] == "active"
    assert "/2 clusters up" in started["StatusText"]
    assert is_bound(machine, 16443)
    assert is_bound(machine, 16444)
    # The unit hides /proc/stat (ProcSubset=pid).
    script = (
        "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9464/metrics', "
        "timeout=20).read().decode())"
    )
    metrics = {family.name: family for family in parse_metrics(machine.run("python3", "-c", script).stdout)}
    assert metrics["process_resident_memory_bytes"].samples[0].value > 1e7
    assert abs(metrics["process_start_time_seconds"].samples[0].value - time.time()) < 120

    configure(machine, clusters={"local": CLUSTERS["local"]})
    machine.systemctl("reload", "kubemux.service")
    machine.wait(
        lambda: "/1 clusters up" in machine.show("StatusText")["StatusText"], "STATUS to follow the reload"
    )
    machine.until(ActiveState="active", MainPID=started["MainPID"])

    machine.systemctl("stop", "kubemux.service")
    stopped = {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainCode": "1",
        "ExecMainStatus": "0",
        "NRestarts": "0",
    }
    assert machine.show(*stopped) == stopped  # ExecMainCode 1 is CLD_EXITED: no signal has killed it


def test_a_reload_of_a_bad_file_fails_and_changes_nothing(machine: Machine) -> None:
    machine.systemctl("start", "kubemux.service")
    before = machine.show("MainPID", "ActiveState")
    configure(machine, clutsers={})
    assert machine.systemctl("reload", "kubemux.service", check=False).returncode == 1
    machine.until(SubState="running")
    assert machine.show("MainPID", "ActiveState") == before
    assert "clutsers" in machine.log.read_text()


def test_the_service_runs_confined(machine: Machine) -> None:
    machine.systemctl("start", "kubemux.service")
    pid = machine.show("MainPID")["MainPID"]
    lines = machine.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    status = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
    assert "0" not in status["Uid"]
    assert status["CapEff"] == ["0000000000000000"]
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    assert machine.run("stat", "-c", "%a", "/run/kubemux/admin.sock").stdout == "600\n"


def test_a_loop_that_hangs_is_restarted(machine: Machine) -> None:
    machine.drop_in("watchdog", "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "kubemux.service")
    before = machine.show("MainPID")["MainPID"]
    machine.systemctl("kill", "--signal=STOP", "--kill-who=main", "kubemux.service")
    machine.wait(lambda: machine.show("MainPID")["MainPID"] not in {"0", before}, "another process")
    machine.until(ActiveState="active")
    # systemd's signal is SIGABRT, and PYTHONFAULTHANDLER reports where the loop hung.
    assert "Fatal Python error: Aborted" in machine.log.read_text()


def test_a_crash_is_restarted(machine: Machine) -> None:
    machine.systemctl("start", "kubemux.service")
    machine.systemctl("kill", "--signal=KILL", "--kill-who=main", "kubemux.service")
    machine.until(ActiveState="active", NRestarts="1")


def test_a_bad_configuration_is_not_tried_again(machine: Machine) -> None:
    configure(machine, clutsers={})
    assert machine.systemctl("start", "kubemux.service", check=False).returncode == 1
    # `failed` is final; a service that waits for its restart is `activating`.
    ended = {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    assert machine.show(*ended) == ended
    assert "clutsers" in machine.log.read_text()
    assert "Traceback" not in machine.log.read_text()


def test_no_client_is_refused_during_a_restart(machine: Machine) -> None:
    configure(machine, limits={"drain_timeout": "30s"})
    machine.drop_in("soon", "[Service]\nRestartSec=100ms\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "kubemux.service")
    assert machine.show("NFileDescriptorStore") == {
        "NFileDescriptorStore": "3"
    }  # two clusters and admin.listen

    def under_load(act: Callable[[], None]) -> dict[str, int]:
        """The failures of clients during `act`."""
        clients = machine.start("python3", "-c", CLIENTS)
        assert clients.stdout is not None
        clients.stdout.readline()
        act()
        machine.until(ActiveState="active", NFileDescriptorStore="3")
        served, failed = json.loads(clients.communicate("", timeout=120)[0])
        assert served > 1
        return cast("dict[str, int]", failed)

    def restart() -> None:
        for _ in range(3):
            machine.systemctl("restart", "kubemux.service")

    def crash() -> None:
        machine.systemctl("kill", "--signal=KILL", "--kill-who=main", "kubemux.service")
        machine.until(NRestarts="1")

    assert under_load(restart) == {}, bad_ends(machine.log)
    failed = under_load(crash)  # a crash only ends the one connection that is open at that moment
    assert "ConnectionRefusedError" not in failed
    assert sum(failed.values()) <= 1, f"{failed}\n{bad_ends(machine.log)}"

    machine.systemctl("stop", "kubemux.service")
    machine.until(ActiveState="inactive", NFileDescriptorStore="0")
    assert not is_bound(machine, 16443)


def test_a_group_has_a_socket_that_outlives_restarts(machine: Machine) -> None:
    """egress.md has this for kube-apiserver. A socket for all users survives, too, and needs no socket unit.

    The service itself can give no file to a group.
    """
    page = "docs/egress.md"
    sections = YAML(typ="safe").load(pages.block(page, "One gateway for the cluster's network", "yaml"))
    commands = pages.shell(page, "The socket")
    same = pages.shell("docs/install.md", "Unix sockets (optional)")
    assert commands.split() == same.replace("sre", "kube").split()
    etc = machine.root / "etc"
    for name, text in (("passwd", "alice:*:1002:1002::/:/bin/sh\n"), ("group", "kube:x:27:alice\n")):
        with (etc / name).open("a") as file:
            file.write(text)
    group, everybody, own = (f"/run/kubemux-entries/{name}.sock" for name in ("kube", "everybody", "own"))
    entries = {
        **sections["entries"],
        "everybody": {"listen": f"unix:{everybody}", "mode": "0666"},
        "own": {"listen": f"unix:{own}", "mode": "0660", "group": "kube"},
    }
    configure(machine, limits={"drain_timeout": "30s"}, entries=entries)
    machine.run("sh", "-euc", f"cd {CHECKOUT}\n{commands}")
    look = ("stat", "-c", "%a %G", group, everybody)
    assert machine.run(*look).stdout.splitlines()[0] == "660 kube"
    assert machine.run(*look).stdout.splitlines()[1].startswith("666 ")
    assert machine.run("test", "-e", own, check=False).returncode == 1
    assert f"cannot listen on unix:{own}: kubemux may not give it to group 27" in machine.log.read_text()
    assert "use a socket unit with SocketGroup=" in machine.log.read_text()

    as_alice = ("setpriv", "--reuid=1002", "--regid=1002", "--init-groups", "python3", "-c")
    as_other = ("setpriv", "--reuid=1000", "--regid=1000", "--init-groups", "python3", "-c")
    knock = f"import socket; socket.socket(socket.AF_UNIX).connect({group!r})"
    assert "PermissionError" in machine.run(*as_other, knock, check=False).stderr

    clients = machine.start(*as_alice, CLIENTS_BY_NAME, group, everybody)
    assert clients.stdout is not None
    assert clients.stdout.readline() == "served\n"
    for _ in range(2):
        machine.systemctl("restart", "kubemux.service")
    machine.until(ActiveState="active")
    served, failed = json.loads(clients.communicate("", timeout=120)[0])
    assert served > 1
    assert failed == {}, bad_ends(machine.log)
    assert machine.run(*look).stdout.splitlines()[0] == "660 kube"

    machine.systemctl("stop", "kubemux-entry@kube.socket", "kubemux.service")
    assert machine.run("test", "-e", group, check=False).returncode == 1


def test_a_long_drain_is_waited_for(machine: Machine) -> None:
    """limits.drain_timeout may be longer than TimeoutStopSec=."""
    machine.drop_in("hurry", "[Service]\nTimeoutStopSec=4s\n")
    configure(machine, limits={"drain_timeout": "5s"})
    machine.systemctl("start", "kubemux.service")
    client = machine.start("python3", "-c", HOLDER)
    assert client.stdout is not None
    assert client.stdout.readline() == "relayed\n"
    machine.systemctl("stop", "kubemux.service")
    ended = {"Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0"}
    assert machine.show(*ended) == ended
    client.communicate("", timeout=60)


def test_a_client_starts_the_service_through_the_socket(machine: Machine) -> None:
    machine.systemctl("start", "kubemux.socket")
    assert machine.show("ActiveState")["ActiveState"] == "inactive"
    assert machine.run("python3", "-c", CLIENT).stdout == "pong\n"
    machine.until(ActiveState="active")  # systemd may read READY=1 after the client has its answer
    # admin.listen is inherited as well. prod-eu's address is not in the socket unit, and was bound as usual.
    assert is_bound(machine, 9464)
    assert is_bound(machine, 16444)
    # If systemd also kept them in its store, the next process would get each socket twice.
    machine.systemctl("restart", "kubemux.service")
    assert machine.run("python3", "-c", CLIENT).stdout == "pong\n"
    assert machine.show("NFileDescriptorStore") == {"NFileDescriptorStore": "3"}
    # Between a crash and the restart no process accepts, but no client is refused.
    before = machine.show("MainPID")
    machine.systemctl("kill", "--signal=KILL", "--kill-who=main", "kubemux.service")
    machine.wait(lambda: machine.show("MainPID") != before, "the crash")
    assert machine.run("python3", "-c", CLIENT).stdout == "pong\n"


def test_a_waiting_client_does_not_restart_a_bad_configuration_for_ever(machine: Machine) -> None:
    configure(machine, clutsers={})
    machine.systemctl("start", "kubemux.socket")
    machine.run(
        "python3",
        "-c",
        "import socket; socket.create_connection(('127.0.0.1', 16443), timeout=5).recv(1)",
        check=False,
    )
    machine.until(unit="kubemux.socket", Result="trigger-limit-hit")
    machine.until(ActiveState="failed", ExecMainStatus="78")
