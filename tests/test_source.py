"""The gates: lint, format and types; which module may import which; the size of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from vulture import Vulture

ROOT = Path(__file__).parents[1]
CODE = [folder for folder in ("proxy", "tests", "bench") if (ROOT / folder).is_dir()]
CLEAN = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--no-error-summary"])
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "proxy").rglob("*.py"))
}

LAYERS = (
    ("proxy.__main__",),
    ("proxy.cli",),
    ("proxy.demo",),
    ("proxy.daemon",),
    ("proxy.admin",),
    ("proxy.health",),
    ("proxy.entries",),
    ("proxy.routing",),
    ("proxy.kubeconfig",),
    ("proxy.ssh",),
    ("proxy.relay",),
    ("proxy.metrics",),
    ("proxy.snapshots",),
    ("proxy.config",),
    ("proxy.connect",),
    ("proxy.openssh",),
    ("proxy.errors",),
    ("proxy.runtime",),
)
"""The wings, from the top down: a module may import its own wing and those below it."""

PURE = (
    "proxy.admin.condition",
    "proxy.admin.status",
    "proxy.cli.sites.far_side",
    "proxy.config.diff",
    "proxy.config.discovering",
    "proxy.config.hosts",
    "proxy.config.htpasswd",
    "proxy.config.key_table",
    "proxy.config.permit_warnings",
    "proxy.config.references",
    "proxy.config.rules",
    "proxy.config.ssh_rules",
    "proxy.daemon.discovery.pods",
    "proxy.entries.admission",
    "proxy.entries.client_certificates",
    "proxy.entries.heads",
    "proxy.errors",
    "proxy.health.chain",
    "proxy.health.hysteresis",
    "proxy.health.result",
    "proxy.metrics.records",
    "proxy.openssh.authorized_keys",
    "proxy.openssh.certificates",
    "proxy.openssh.tokens",
    "proxy.relay.budget",
    "proxy.relay.idle",
    "proxy.routing",
    "proxy.snapshots",
    "proxy.ssh.governor",
    "proxy.ssh.native.wire",
    "proxy.ssh.pace",
    "proxy.ssh.server.login",
    "proxy.ssh.server.penalties",
    "proxy.ssh.server.startups",
    "proxy.ssh.sites.permit",
    "proxy.ssh.supervision.demand",
    "proxy.ssh.supervision.links",
)
"""Pure modules: neither they nor the modules that they import do I/O."""
IO = {"asyncio", "socket", "asyncssh", "uvloop", "subprocess", "threading"}

CONFINED = {
    "asyncssh": ("proxy.ssh", "proxy.demo"),
    "bcrypt": ("proxy.entries.users",),
    "h11": ("proxy.admin.http", "proxy.daemon.discovery.api", "proxy.health"),
    "httpx2": ("proxy.admin.asking",),
    "starlette": ("proxy.admin", "proxy.demo"),
    "uvicorn": ("proxy.admin.http",),
    "pydantic": ("proxy.config",),
    "pydantic_core": ("proxy.config",),
    "uvloop": ("proxy.cli",),
}
"""By library: the only modules that may import it, so that its types stay there."""


CALLED_BY_OTHERS = {
    "asyncssh calls it": """auth_completed auth_succeeded begin_auth connection_requested
        kbdint_auth_requested kbdint_challenge_received log_received_packet public_key_auth_supported
        reload_config server_requested session_requested session_started unix_connection_requested
        validate_public_key _process_cancel_tcpip_forward_global_request
        _process_cancel_streamlocal_forward_at_openssh_dot_com_global_request
        _process_streamlocal_forward_at_openssh_dot_com_global_request
        _process_tcpip_forward_global_request""",
    "asyncssh has a decipher of these methods": "decrypt_header decrypt_packet",
    "asyncssh reads it": """protocol_factory server_host_key_algs _auth _auth_final _auth_was_trivial
        _ignore_first_kex _init_recv_window _recv_blocksize _recv_macsize _send_blocksize
        _next_service _send_enchdrlen _server_host_keys _server_sig_algs""",
    "click calls it": "demo format_commands get_command show",
    "dataclasses make one of each subclass": "__init_subclass__",
    "enum reads it": "_value_",
    "http.server calls it": "do_GET do_PUT log_message",
    "hypothesis calls it, or its test runner": """grants_keep_within_the_limit uncharge used_is_what_is_out
        the_peer_never_has_more_than_the_window a_user_who_takes_everything_never_stalls_the_peer TestGrants
        TestPeer TestLife""",
    "OpenSSL reads it": "num_tickets",
    "paramiko calls it": "check_auth_publickey check_channel_direct_tcpip_request get_allowed_auths",
    "paramiko reads it": "REKEY_BYTES",
    "prometheus-client calls it": "_boot_time",
    "pydantic calls it": "default_schema field_title_should_be_set nullable_schema",
    "pytest calls it": """pytest_asyncio_loop_factories pytest_collection_modifyitems pytest_configure
        pytest_generate_tests pytest_itemcollected pytest_make_collect_report pytest_runtest_logreport
        pytest_runtest_setup pytest_runtest_teardown pytest_terminal_summary pytest_xdist_make_scheduler""",
    "pytest reads it": "pytest_plugins pytestmark",
    "pytest-xdist calls it": "_split_scope",
    "ruamel.yaml reads it": """Scanner ignore_aliases implicit max_depth preserve_quotes
        warn_double_anchors""",
    "socketserver reads it": "block_on_close daemon_threads request_queue_size",
    "subprocess reads it": "_child_created",
    "starlette reads it": "redirect_slashes",
    "the interpreter reads it": "dont_write_bytecode",
    "unittest.mock returns it": "return_value",
    "uvicorn calls it": "send_400_response",
    "uvicorn reads it": "access_log default_headers keep_alive timeout_keep_alive_task",
    "warnings calls it": "showwarning",
    "a Protocol's parameter": "encoding",
    "the context manager's third argument": "trace",
    "named in a string: a cast, a marker, a parameter of a test": "BinaryIO _Inner not_yet_valid",
    "changed in place: `|=`": "unsupported",
    "a message that only tests send": "EXTENDED_DATA",
    "a member of an enum that a test looks for": "BLUE",
    "a key of a TypedDict": "starts_session",
}
"""By reason: names that nothing in the tree uses, separated by spaces."""


def within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer(module: str) -> int:
    if module == "proxy":  # the version: anyone may ask
        return len(LAYERS)
    found = [index for index, names in enumerate(LAYERS) if within(module, names)]
    assert found, f"{module} has no place in LAYERS"
    return found[0]


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    """Every node of the module's syntax tree."""
    return tuple(ast.walk(ast.parse(MODULES[module].read_text())))


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that `module` imports, also inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: write the import in full"
            source = node.module or ""
            # `from proxy.config import loader` names a module, `from proxy.errors import ProxyError` does
            # not.
            found |= {
                name if (name := f"{source}.{alias.name}") in MODULES else source for alias in node.names
            }
    return frozenset(found)


@pytest.mark.parametrize("command", CLEAN, ids=["lint", "format", "types"])
def test_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, *CODE], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def test_the_top_level_has_only_the_wings() -> None:
    """The top level of `proxy` has only the wings, and the loose modules that all of them use."""
    top = [path for path in (ROOT / "proxy").iterdir() if path.name != "__pycache__"]
    assert len([path for path in top if path.is_dir()]) <= 16
    assert {path.name for path in top if path.is_file()} == {"__init__.py", "__main__.py", "snapshots.py"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    upward = {name for name in imports(module) if name in MODULES and layer(name) < layer(module)}
    assert not upward, f"{module} imports what stands above it: {sorted(upward)}"


def test_there_are_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(imports(module) & MODULES.keys()):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    users = {module for module in MODULES if any(within(name, (library,)) for name in imports(module))}
    assert all(within(module, CONFINED[library]) for module in users), sorted(users)


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, PURE)])
def test_pure_modules_do_no_io(module: str) -> None:
    """The modules that they import, directly or indirectly, do no I/O either."""
    waiting: list[tuple[str, ...]] = [(module,)]
    seen = {module}
    while waiting:
        path = waiting.pop()
        for name in imports(path[-1]):
            assert name.partition(".")[0] not in IO, " -> ".join((*path, name))
            if name in MODULES and name not in seen:
                seen.add(name)
                waiting.append((*path, name))


def test_nothing_is_unused() -> None:
    """The program uses every name of its own (use by tests does not count), and so do the helpers of tests
    and benches.
    """
    excused = {name for names in CALLED_BY_OTHERS.values() for name in names.split()}
    found = set()
    vulture = Vulture(ignore_decorators=["@pytest.fixture*", "@pytest_asyncio.fixture*"])
    for folders in (["proxy"], [folder for folder in CODE if folder != "proxy"]):
        vulture.scavenge([ROOT / folder for folder in folders])
        unused = vulture.get_unused_code(min_confidence=60)
        found |= {item.name for item in unused}
        left = [item.get_report() for item in unused if item.name not in excused]
        assert not left, "\n".join(["remove it, or say in CALLED_BY_OTHERS who calls it:", *left])
    assert excused <= found, f"CALLED_BY_OTHERS: to be removed: {sorted(excused - found)}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_docstring_and_at_most_400_lines(module: str) -> None:
    text = MODULES[module].read_text()
    tree = nodes(module)[0]
    assert isinstance(tree, ast.Module)
    assert ast.get_docstring(tree), f"{module} has no docstring"
    assert len(text.splitlines()) <= 400, f"{module} wants splitting, by direction or phase"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "proxy.runtime.tasks"])
def test_every_task_has_an_owner(module: str) -> None:
    calls = [node for node in nodes(module) if isinstance(node, ast.Call)]
    raw = [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("create_task", "ensure_future")
        # A task group owns its tasks.
        and not (isinstance(call.func.value, ast.Name) and call.func.value.id == "group")
    ]
    assert not raw, f"{module} lines {raw}: use proxy.runtime.tasks.Tasks.spawn"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "proxy.runtime.names"])
def test_no_code_uses_the_shared_default_executor(module: str) -> None:
    """Neither the loop's default executor nor libuv's thread pool (uvloop's `getaddrinfo`): calls that hang
    there use up the threads of the whole process.
    """
    shared = {"to_thread", "run_in_executor", "getaddrinfo", "getnameinfo"}
    calls = [node for node in nodes(module) if isinstance(node, ast.Call)]
    used = {
        call.lineno: call.func.attr
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in shared
        # An address is not looked up.
        and not {"AI_NUMERICHOST", "NI_NUMERICHOST"}
        & {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
    }
    assert not used, f"{module}: {used}: use proxy.runtime.blocking.Place, proxy.runtime.names.resolve"
