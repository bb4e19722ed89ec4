"""The gates: lint, format and types; who may import whom; how big a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    ("proxy.kubeconfig",),
    ("proxy.ssh",),
    ("proxy.relay",),
    ("proxy.metrics",),
    ("proxy.snapshots",),
    ("proxy.config",),
    ("proxy.openssh",),
    ("proxy.errors",),
    ("proxy.runtime",),
)
"""The wings, from the top down: a module imports its own wing and those below it."""

PURE = (
    "proxy.ssh.native.wire",
    "proxy.config.diff",
    "proxy.relay.idle",
    "proxy.ssh.governor",
    "proxy.ssh.supervision.links",
    "proxy.admin.status",
)
"""These take values and a clock: no I/O."""
IO = {"asyncio", "socket", "asyncssh", "uvloop", "subprocess", "threading"}

CONFINED = {
    "asyncssh": ("proxy.ssh", "proxy.demo"),
    "h11": ("proxy.admin.http", "proxy.health"),
    "httpx2": ("proxy.admin.asking",),
    "starlette": ("proxy.admin", "proxy.demo"),
    "uvicorn": ("proxy.admin.http",),
    "pydantic": ("proxy.config",),
    "pydantic_core": ("proxy.config",),
    "uvloop": ("proxy.cli",),
}
"""Library -> the only ones that import it: its types and its surprises stay there."""


def within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer(module: str) -> int:
    if module == "proxy":  # the version: anyone may ask
        return len(LAYERS)
    found = [index for index, names in enumerate(LAYERS) if within(module, names)]
    assert found, f"{module} has no place in LAYERS"
    return found[0]


def imports(module: str) -> set[str]:
    """Every module that `module` names in an import: late ones too, and what only a type checker reads."""
    found = set()
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
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
    return found


@pytest.mark.parametrize("command", CLEAN, ids=["lint", "format", "types"])
def test_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, *CODE], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def test_the_tree_tells_the_story() -> None:
    """Wings, and a module of the words that all of them use."""
    top = [path for path in (ROOT / "proxy").iterdir() if path.name != "__pycache__"]
    assert len([path for path in top if path.is_dir()]) <= 16
    assert {path.name for path in top if path.is_file()} == {"__init__.py", "__main__.py", "snapshots.py"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    upward = {name for name in imports(module) if name in MODULES and layer(name) < layer(module)}
    assert not upward, f"{module} imports what stands above it: {sorted(upward)}"


def test_no_import_cycles() -> None:
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
    assert not {name.partition(".")[0] for name in imports(module)} & IO


@pytest.mark.parametrize("module", MODULES)
def test_says_what_it_is_and_is_no_longer_than_a_few_screens(module: str) -> None:
    text = MODULES[module].read_text()
    assert ast.get_docstring(ast.parse(text)), f"{module} has no docstring"
    assert len(text.splitlines()) <= 410, f"{module} wants splitting, by direction or phase"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "proxy.runtime.tasks"])
def test_every_task_has_an_owner(module: str) -> None:
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)]
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
def test_nobody_uses_threads_that_everybody_shares(module: str) -> None:
    """The loop's default executor, and libuv's pool behind uvloop's `getaddrinfo`: one that hangs takes them
    from all.
    """
    shared = {"to_thread", "run_in_executor", "getaddrinfo", "getnameinfo"}
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)]
    used = {
        call.lineno: call.func.attr
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in shared
        # One that is an address already is not looked up.
        and not {"AI_NUMERICHOST", "NI_NUMERICHOST"}
        & {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
    }
    assert not used, f"{module}: {used}: use proxy.runtime.blocking.Place, proxy.runtime.names.resolve"
