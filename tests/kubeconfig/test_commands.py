"""`kubemux kubeconfig export` and `import` on real files, read back by a real kubectl."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.config import loader, yaml
from proxy.config.scrutiny import Scrutiny
from proxy.errors import ConfigError
from proxy.kubeconfig import importer, store
from proxy.kubeconfig.entries import fresh, load
from tests.kubeconfig.samples import ODD_NAMES, listening
from tests.support.parts import find
from tests.support.tls import Certificates

PRINTABLE = [name for name in ODD_NAMES if name.isprintable()]


class Desk:
    """A folder with a configuration and a user's kubeconfig, and the command to run in it."""

    def __init__(self, folder: Path, ca: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text('# ours\nversion: 1\nadmin: {listen: "127.0.0.1:16444"}\n')
        self.kubeconfig = folder / "admin.conf"
        self.contexts(*PRINTABLE, ca=ca)

    def contexts(self, *names: str, ca: Path) -> None:
        data = base64.b64encode(ca.read_bytes()).decode()
        numbered = list(enumerate(names))
        root = {
            "clusters": [
                {
                    "name": f"c{i}",
                    "cluster": {"server": f"https://10.0.0.{i}:6443", "certificate-authority-data": data},
                }
                for i, _ in numbered
            ],
            "users": [
                {"name": f"u{i}", "user": {"client-certificate": "a.crt", "token": f"secret{i}"}}
                for i, _ in numbered
            ],
            "contexts": [
                {"name": name, "context": {"cluster": f"c{i}", "user": f"u{i}"}} for i, name in numbered
            ],
        }
        self.kubeconfig.write_bytes(yaml.dump(fresh(root)))

    def run(self, command: str, *args: str | Path) -> Result:
        # An empty HOME, so that the default base is the test's, too.
        env = {"HOME": str(self.folder), "KUBECONFIG": "", "KUBEMUX_CONFIG": str(self.config)}
        return CliRunner().invoke(main, ["kubeconfig", command, *map(str, args)], env=env)

    def imported(self, *names: str) -> None:
        options = [option for name in names for option in ("--context", name)]
        result = self.run("import", "--kubeconfig", self.kubeconfig, "--gateway", "direct", *options)
        assert result.exit_code == 0, result.output

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk where no port seems to be in use: a developer's own kubemux may listen at 16443."""
    monkeypatch.setattr(store, "_is_free", lambda _: True)
    return Desk(tmp_path, certificates.ca)


def kubectl(path: Path, *args: str) -> str:
    program = find("kubectl")
    assert program
    done = subprocess.run(
        [program, "config", "--kubeconfig", path, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.kubectl
def test_kubectl_reads_an_imported_and_exported_context(desk: Desk, certificates: Certificates) -> None:
    desk.imported(*PRINTABLE)
    output = desk.folder / "out"
    result = desk.run("export", "--base", desk.kubeconfig, "--output", output)
    assert result.exit_code == 0, result.output
    view = json.loads(kubectl(output, "view", "--raw", "-o", "json"))
    contexts, clusters, users = (
        {entry["name"]: entry[kind] for entry in view[f"{kind}s"]} for kind in ("context", "cluster", "user")
    )
    assert set(contexts) == set(PRINTABLE)
    assert view["current-context"] == PRINTABLE[0]
    ports = set()
    for index, name in enumerate(PRINTABLE):
        cluster = clusters[contexts[name]["cluster"]]
        ports.add(cluster.pop("server").removeprefix("https://127.0.0.1:"))
        assert cluster == {
            "tls-server-name": f"10.0.0.{index}",
            "certificate-authority-data": base64.b64encode(certificates.ca.read_bytes()).decode(),
        }
        assert users[contexts[name]["user"]] == {
            "client-certificate": str(desk.folder / "a.crt"),
            "token": f"secret{index}",
        }
    assert ports == {str(port) for port in range(16443, 16443 + len(PRINTABLE) + 1) if port != 16444}


@pytest.mark.kubectl
def test_changes_that_kubectl_makes_between_two_exports_stay(desk: Desk) -> None:
    desk.imported("prod", "yes")
    output = desk.folder / "out"
    assert desk.run("export", "--cluster", "yes", "--output", output).exit_code == 0
    kubectl(output, "set-context", "mine", "--cluster=elsewhere", "--namespace=web")
    kubectl(output, "set", "contexts.yes.namespace", "kept")
    assert desk.run("export", "--output", output).exit_code == 0
    assert set(kubectl(output, "get-contexts", "-o", "name").split()) == {"yes", "prod", "mine"}
    assert kubectl(output, "current-context").strip() == "yes"
    found = load([output])
    assert found.contexts["mine"] == {"cluster": "elsewhere", "namespace": "web", "user": ""}
    assert found.contexts["yes"]["namespace"] == "kept"


def test_export_to_the_base_kubeconfig_keeps_a_backup(desk: Desk) -> None:
    desk.imported("prod")
    own = desk.folder / ".kube" / "config"
    own.parent.mkdir()
    own.write_bytes(desk.kubeconfig.read_bytes())
    own.chmod(0o644)
    original = own.read_bytes()
    result = desk.run("export", "--output", own)
    assert result.exit_code == 0
    assert f"led elsewhere before, now through kubemux: prod; the file as it was: {own}.bak" in result.stderr
    backup = own.with_name("config.bak")
    assert backup.read_bytes() == original
    assert [stat.S_IMODE(path.stat().st_mode) for path in (own, backup)] == [0o600, 0o600]
    assert load([own]).contexts["prod"] == {"cluster": "kubemux:prod", "user": f"u{PRINTABLE.index('prod')}"}
    assert own.read_bytes().startswith(original.partition(b"users:")[0].partition(b"contexts:")[0])

    before = own.stat().st_ino, desk.files()
    result = desk.run("export", "--output", own)
    assert result.stderr == f"{own}: up to date\n"
    assert (own.stat().st_ino, desk.files()) == before


@pytest.mark.parametrize("output", [[], ["--output", "-"]], ids=["without output", "to -"])
def test_export_without_an_output_file_prints_and_writes_nothing(
    desk: Desk, output: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.imported("prod", "PROD")
    monkeypatch.chdir(desk.folder)  # where a file `-` would be made
    before = desk.files()
    result = desk.run("export", "--cluster", "PROD", "--base", desk.kubeconfig, *output)
    assert result.exit_code == 0
    assert 'name: "kubemux:PROD"' in result.stdout
    assert "kubemux:prod" not in result.stdout
    assert (result.stderr, desk.files()) == ("", before)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--cluster", "pro", "--cluster", "x"], 2, "no cluster is called 'x'\n  hint: there are: 'prod'"),
        (["--base", "missing"], 78, "missing: the file does not exist"),
        (["--output", "."], 78, ".: the file is a directory"),
        (["--output", "/"], 78, "/: the file is a directory"),
        (["--nope"], 2, "No such option"),
        (["--proxy", "proxy"], 2, "no entry is called 'proxy'\n  hint: there are none"),
        (
            ["--proxy-scheme", "socks5"],
            2,
            "--proxy-scheme says how an entry is asked, and needs --proxy ENTRY.",
        ),
        (["--proxy", "proxy", "--proxy-scheme", "https"], 2, "'https' is not one of 'http', 'socks5'"),
    ],
)
def test_a_refused_export_writes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(desk.folder)
    desk.imported("prod")
    before = desk.files()
    result = desk.run("export", *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert desk.files() == before


def test_an_export_changes_a_context_to_by_name_and_back(desk: Desk) -> None:
    desk.imported("prod")
    desk.config.write_text(desk.config.read_text() + 'entries: {proxy: {listen: "127.0.0.1:3128"}}\n')
    output = desk.folder / "out"
    by_listener = load_cluster(desk, output)
    by_name = {**by_listener, "server": "https://prod:6443", "proxy-url": "http://127.0.0.1:3128"}
    assert load_cluster(desk, output, "--proxy", "proxy") == by_name
    socks = load_cluster(desk, output, "--proxy", "proxy", "--proxy-scheme", "socks5")
    assert socks == {**by_name, "proxy-url": "socks5://127.0.0.1:3128"}
    assert load_cluster(desk, output) == by_listener


def load_cluster(desk: Desk, output: Path, *options: str) -> Mapping[str, object]:
    """The cluster `prod` in a kubeconfig that was exported to `output`."""
    result = desk.run("export", "--output", output, *options)
    assert result.exit_code == 0, result.output
    return load([output]).clusters["kubemux:prod"]


def test_importing_again_does_not_restore_a_removed_listener(desk: Desk) -> None:
    desk.imported("prod")
    without = re.sub(r' +listen: "127.0.0.1:16443"\n', "", desk.config.read_text())
    desk.config.write_text(without + 'entries: {proxy: {listen: "127.0.0.1:3128"}}\n')
    assert loader.load(desk.config).clusters["prod"].listen is None
    args = ("--kubeconfig", desk.kubeconfig, "--gateway", "direct", "--context", "prod")
    assert desk.run("import", *args).stderr.startswith("prod: asked for by name, unchanged\n")


def test_a_file_of_comments_keeps_them(desk: Desk) -> None:
    desk.imported("prod")
    output = desk.folder / "out"
    output.write_text("# mine\n\n---\n# alone")
    assert desk.run("export", "--output", output).exit_code == 0
    assert output.read_text().startswith("# mine\n# alone\napiVersion: v1\n")
    assert set(load([output]).contexts) == {"prod"}


def test_folders_that_had_to_be_made_are_named(desk: Desk) -> None:
    desk.imported("prod")
    output = desk.folder / "new" / "deep" / "out"
    said = desk.run("export", "--output", output).stderr
    assert said.splitlines()[:2] == [f"{output.parents[1]}: folder made", f"{output.parent}: folder made"]
    assert f"{output}: written\n" in said
    assert "folder made" not in desk.run("export", "--output", output).stderr


def test_a_failed_export_leaves_the_old_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.imported("prod")
    output = desk.folder / "out"
    output.write_text("# mine\nusers: []\n")
    before = desk.files()
    monkeypatch.setattr(os, "fsync", _full)
    result = desk.run("export", "--output", output)
    assert result.exit_code == 1
    assert "out: cannot be written: No space left on device" in result.stderr
    assert "hint:" in result.stderr
    assert desk.files() == before


def test_export_and_import_need_no_key(desk: Desk) -> None:
    """An ordinary user may read the configuration, but not the keys, which only the daemon and
    root may read.
    """
    desk.config.write_text(f"""\
version: 1
gateways:
  edge: {{host: edge, identity_files: [{desk.folder}/not-for-us], known_hosts: [{desk.folder}/missing]}}
clusters:
  old: {{gateway: edge, listen: "127.0.0.1:16443", api_servers: ["10.0.0.9:6443"],
        probe: {{token_file: {desk.folder}/token}}}}
""")
    desk.imported("prod")
    result = desk.run("export", "--base", desk.kubeconfig)
    assert result.exit_code == 0, result.output
    assert "https://127.0.0.1:16444" in result.stdout
    stored = loader.load(desk.config, Scrutiny.CA).clusters["prod"].tls.ca_file
    assert stored
    stored.unlink()
    result = desk.run("export")
    assert result.exit_code == 78
    assert f"clusters.prod.tls.ca_file: {stored} does not exist" in result.stderr
    assert "not-for-us" not in result.stderr


def test_import_reports_the_result_of_each_context(desk: Desk) -> None:
    args = ("--kubeconfig", desk.kubeconfig, "--gateway", "direct", "--context", "prod")
    first = desk.run("import", *args)
    stored = loader.load(desk.config).clusters["prod"].tls.ca_file
    assert first.stderr.splitlines() == [
        "prod: https://127.0.0.1:16443, new",
        f"{stored}: written",
        f"{desk.config}: written; kubemux reload (or SIGHUP) makes a running daemon use it",
    ]
    again = desk.run("import", *args)
    assert again.stderr.splitlines() == [
        "prod: https://127.0.0.1:16443, unchanged",
        f"{desk.config}: up to date",
    ]
    desk.config.write_text(
        desk.config.read_text()
        .replace("10.0.0.3:6443", "10.9.9.9:6443")
        .replace(str(stored), str(desk.config))
    )
    with pytest.raises(ConfigError):
        loader.load(desk.config)
    desk.config.write_text(desk.config.read_text().replace(f", ca_file: {desk.config}", ""))
    changed = desk.run("import", *args)
    assert (
        changed.stderr.splitlines()[0] == "prod: https://127.0.0.1:16443, changed: api_servers, tls.ca_file"
    )


def test_import_of_an_exported_file_names_its_backup(desk: Desk) -> None:
    desk.imported("prod")
    output = desk.folder / "out"
    again = ("--kubeconfig", output, "--gateway", "direct", "--context", "prod")
    assert desk.run("export", "--output", output).exit_code == 0
    result = desk.run("import", *again)
    assert result.exit_code == 78
    assert (
        "contexts.prod: leads through kubemux already\n  hint: import it from its original kubeconfig\n"
        in result.stderr
    )

    output.write_bytes(desk.kubeconfig.read_bytes())
    assert desk.run("export", "--output", output).exit_code == 0
    assert f"original kubeconfig; exports kept: {output}.bak\n" in desk.run("import", *again).stderr


def test_an_import_that_is_only_printed_warns_too(desk: Desk) -> None:
    desk.config.write_text(
        f"version: 1\ngateways: {{edge: {{host: edge, agent: true, known_hosts: [{desk.config}]}}}}\n"
    )
    desk.kubeconfig.write_text(
        desk.kubeconfig.read_text().replace("https://10.0.0.3:6443", "https://localhost:6443")
    )
    args = ("--kubeconfig", desk.kubeconfig, "--context", "prod", "--gateway", "edge", "--output", "-")
    result = desk.run("import", *args)
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "WARNING: prod: localhost:6443 meant this machine and now means the gateway edge"
    )
    assert "server_name: kubernetes" in result.stdout


def test_a_site_is_a_gateway_for_import(desk: Desk) -> None:
    desk.config.write_text(
        'version: 1\nssh_server: {listen: "127.0.0.1:2222", host_keys: [/nowhere]}\n'
        'sites: {factory-7: {authorized_keys: [/nowhere], permit: ["127.0.0.1:6443"]}}\n'
    )
    desk.kubeconfig.write_text(
        desk.kubeconfig.read_text().replace("https://10.0.0.3:6443", "https://127.0.0.1:6443")
    )
    args = ("--kubeconfig", desk.kubeconfig, "--context", "prod", "--gateway", "factory-7")
    result = desk.run("import", *args)
    assert result.exit_code == 0, result.output
    assert "127.0.0.1:6443 meant this machine and now means the site factory-7" in result.stderr
    assert loader.load(desk.config, Scrutiny.CA).clusters["prod"].gateway == "factory-7"
    result = desk.run("import", *args[:-1], "factory-8")
    assert (result.exit_code, "did you mean 'factory-7'" in result.stderr) == (2, True), result.stderr


def test_help_is_not_cut(desk: Desk) -> None:
    shown = desk.run("--help").stdout
    assert "..." not in shown.partition("Commands:")[2]


def test_export_without_clusters_says_how_to_get_some(desk: Desk) -> None:
    result = desk.run("export")
    assert result.exit_code == 78
    assert "kubemux kubeconfig import" in result.stderr


def test_import_keeps_comments_mode_and_ports(desk: Desk, certificates: Certificates) -> None:
    desk.config.chmod(0o640)
    desk.imported("prod")
    desk.imported("yes", "prod")
    text = desk.config.read_text()
    assert text.startswith('# ours\nversion: 1\nadmin: {listen: "127.0.0.1:16444"}\nclusters:\n  prod:\n')
    assert stat.S_IMODE(desk.config.stat().st_mode) == 0o640
    clusters = loader.load(desk.config).clusters
    assert listening(loader.load(desk.config)) == {"prod": 16443, "yes": 16445}
    stored = clusters["prod"].tls.ca_file
    assert stored
    assert (stored.parent, stat.S_IMODE(stored.stat().st_mode)) == (desk.folder / "ca", 0o644)
    assert stored.read_bytes() == certificates.ca.read_bytes()

    before = desk.config.stat().st_ino
    desk.imported("prod", "yes")
    assert (desk.config.read_text(), desk.config.stat().st_ino) == (text, before)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--context", "prod", "--context", "Prod", "--gateway", "direct"], 2, "there is no context 'Prod'"),
        (["--context", "prod", "--gateway", "eu"], 2, "no gateway is called 'eu'"),
        (["--gateway", "direct"], 2, "no context is named"),
        (["--context", "prod"], 2, "Missing option '--gateway'"),
        (
            ["--context", "prod", "--gateway", "direct", "--port-base", "65535"],
            78,
            "choose another --port-base",
        ),
        (
            ["--context", "line\nbreak", "--gateway", "direct"],
            78,
            "contexts.'line\\nbreak': its name has characters",
        ),
    ],
)
def test_a_refused_import_writes_nothing(
    desk: Desk, certificates: Certificates, args: list[str], code: int, message: str
) -> None:
    desk.contexts("prod", "line\nbreak", ca=certificates.ca)
    before = desk.files()
    result = desk.run("import", "--kubeconfig", desk.kubeconfig, *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert desk.files() == before


def test_a_failed_import_removes_its_ca_files(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.files()

    def refuse(data: bytes, path: str, scrutiny: Scrutiny) -> None:
        assert scrutiny is Scrutiny.CA
        assert b"prod" in data
        assert list((desk.folder / "ca").iterdir()), "the check sees the new content"
        raise ConfigError(path, [])

    monkeypatch.setattr(loader, "parse", refuse)
    result = desk.run("import", "--kubeconfig", desk.kubeconfig, "--context", "prod", "--gateway", "direct")
    assert result.exit_code == 78
    assert desk.files() == before


def test_import_can_print_the_result_or_write_another_file(desk: Desk) -> None:
    before = desk.files()
    args = (
        "--kubeconfig",
        desk.kubeconfig,
        "--context",
        "prod",
        "--gateway",
        "direct",
        "--port-base",
        "17000",
    )
    result = desk.run("import", *args, "--output", "-")
    assert result.exit_code == 0
    assert 'listen: "127.0.0.1:17000"' in result.stdout
    assert desk.files() == before

    other = desk.folder / "new" / "config.yaml"
    assert desk.run("import", *args, "--output", other).exit_code == 0
    assert other.read_text() == result.stdout.replace(f"{desk.folder}/ca/", f"{desk.folder}/new/ca/")
    assert desk.config.read_bytes() == before[desk.config]


def test_import_uses_no_port_with_a_listener(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    # Else none would be given out where our two are.
    monkeypatch.setattr(store, "_ephemeral_start", lambda: 65536)
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("", 0)) as everywhere:
        for taken in (ours.getsockname()[1], everywhere.getsockname()[1]):
            args = (
                "--kubeconfig",
                desk.kubeconfig,
                "--context",
                "prod",
                "--gateway",
                "direct",
                "--output",
                "-",
            )
            result = desk.run("import", *args, "--port-base", str(taken))
            assert result.exit_code == 0, result.stderr
            *_, given = re.findall(r'listen: "127.0.0.1:([0-9]+)"', result.stdout)
            assert int(given) > taken


@pytest.mark.kubectl
def test_the_path_of_a_server_is_imported_and_exported(desk: Desk) -> None:
    desk.kubeconfig.write_text(
        desk.kubeconfig.read_text().replace(
            "https://10.0.0.3:6443", "https://rancher.example/k8s/clusters/c-1"
        )
    )
    result = desk.run("import", "--kubeconfig", desk.kubeconfig, "--context", "prod", "--gateway", "direct")
    assert result.exit_code == 0, result.output
    assert "prod: /k8s/clusters/c-1 of its server is kept as clusters.prod.base_path" in result.stderr
    output = desk.folder / "out"
    assert desk.run("export", "--base", desk.kubeconfig, "--output", output).exit_code == 0
    [cluster] = json.loads(kubectl(output, "view", "--raw", "-o", "json"))["clusters"]
    port = listening(loader.load(desk.config))["prod"]
    assert cluster["cluster"]["server"] == f"https://127.0.0.1:{port}/k8s/clusters/c-1"
    assert cluster["cluster"]["tls-server-name"] == "rancher.example"


def test_a_ca_that_the_service_cannot_see_is_copied(
    desk: Desk, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = desk.folder / "home"
    home.mkdir()
    (home / "ca.crt").write_bytes(certificates.ca.read_bytes())
    kubeconfig = home / "config"
    root = {
        "clusters": [
            {"name": "c", "cluster": {"server": "https://10.0.0.1", "certificate-authority": "ca.crt"}}
        ],
        "contexts": [{"name": "kind", "context": {"cluster": "c"}}],
    }
    kubeconfig.write_text(json.dumps(root))
    args = ("--kubeconfig", kubeconfig, "--context", "kind", "--gateway", "direct")
    assert desk.run("import", *args).exit_code == 0
    # The service cannot see /tmp, either, but the configuration is there, too.
    assert loader.load(desk.config).clusters["kind"].tls.ca_file == home / "ca.crt"

    monkeypatch.setattr(store, "_HIDDEN", (str(home),))
    result = desk.run("import", *args)
    assert (
        f"kind: its CA is copied, because the service cannot see the folder of {home / 'ca.crt'}"
        in result.stderr
    )
    stored = loader.load(desk.config).clusters["kind"].tls.ca_file
    assert stored
    assert stored.parent == desk.folder / "ca"
    assert stored.read_bytes() == certificates.ca.read_bytes()
    (home / "ca.crt").write_text("junk")
    result = desk.run("import", *args)
    assert result.exit_code == 78
    assert (
        f"clusters.kind: its certificate-authority {home / 'ca.crt'} holds no PEM certificate"
        in result.stderr
    )


def test_a_stored_ca_file_that_differs_is_replaced_by_an_import(
    desk: Desk, certificates: Certificates
) -> None:
    desk.imported("prod")
    stored = loader.load(desk.config).clusters["prod"].tls.ca_file
    assert stored
    stored.write_bytes(certificates.server.cert.read_bytes())
    desk.imported("prod")
    assert stored.read_bytes() == certificates.ca.read_bytes()


def test_in_cluster_is_imported_without_a_kubeconfig(
    desk: Desk, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = desk.folder / "serviceaccount"
    account.mkdir()
    (account / "ca.crt").write_bytes(certificates.ca.read_bytes())
    monkeypatch.setattr(importer.in_cluster, "__defaults__", (account,))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    result = desk.run("import", "--context", "in-cluster", "--gateway", "unused")
    assert result.exit_code == 0, result.output
    cluster = loader.load(desk.config).clusters["in-cluster"]
    assert (cluster.gateway, str(cluster.api_servers[0]), cluster.tls.ca_file) == (
        "direct",
        "10.96.0.1:443",
        account / "ca.crt",
    )


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")
