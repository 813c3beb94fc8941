# SPDX-License-Identifier: MIT
"""The borders inside the package: who may import what, and that importing works anywhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pytest_nsisolate
from pytest_nsisolate.kernel import originals

PACKAGE = Path(pytest_nsisolate.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The top-level names of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (
                str(a.value).partition(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant)
            )


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("_pytest", "integrations/pytest/private.py"),
        ("prctl", "kernel/process.py"),
        ("_prctl", "kernel/process.py"),
        ("coverage", "integrations/coverage/__init__.py"),
        ("pytest_cov", "integrations/coverage/__init__.py"),
        ("pyfakefs", "integrations/plugins/fake_files.py"),
        ("pytest_bdd", "integrations/plugins/bdd.py"),
        ("pytest_benchmark", "integrations/plugins/benchmark.py"),
        ("syrupy", "integrations/plugins/syrupy.py"),
    ],
)
def test_one_module_knows_each_dependency_that_moves(module: str, allowed: str) -> None:
    """pytest's privates, python-prctl and coverage are each behind one file."""
    assert SOURCES
    importing = {str(path.relative_to(PACKAGE)) for path in SOURCES if module in imports(path)}
    assert importing <= {allowed}
    if module in ("_pytest", "prctl"):
        assert importing == {allowed}  # the search finds what is there


#: What may be imported whole and called by its name: what is looked at as it is, because the suite
#: or pytest has changed it on purpose, or what no test of system code replaces.
LIVE: Final = {"_socket", "array", "asyncio", "importlib", "logging", "pytest", "sys", "warnings"}
#: Programs of their own, in which no suite runs.
PROGRAMS: Final = {
    *("__main__.py", "forwarder_program.py", "terminal_reader_program.py", "watchdog_program.py")
}


def named_at_call_time(path: Path) -> Iterator[str]:
    """``module.function`` for each call, in a function, that looks up a name in a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {
        alias.asname or alias.name.partition(".")[0]: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    code: list[ast.AST] = [part for function in functions for part in function.body]
    code += [node.body for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    for node in (below for part in code for below in ast.walk(part)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
                if module in modules:
                    yield f"{modules[module]}.{name}"
            case ast.Call(func=ast.Name(id="open")) if "open" not in _bound(tree):
                yield "builtins.open"


def _bound(tree: ast.Module) -> set[str]:
    imported = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imported for alias in node.names}


def test_no_stand_in_of_a_suite_reaches_the_machinery() -> None:
    """What it calls is bound when it is imported, or comes from ``kernel/originals``.

    A suite that replaces ``os.fork`` must not decide which process the runner is.
    """
    replaceable = set(originals.__all__)
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        name = str(path.relative_to(PACKAGE))
        program = path.name in PROGRAMS or path.parent.name == "fault_supervisor"
        if not program and name != "kernel/originals.py":
            taken = {module for module in imports(path) if module in replaceable}
            called = {
                call
                for call in named_at_call_time(path)
                if call.partition(".")[0] in sys.stdlib_module_names - LIVE
            }
            found[name] = taken | called

    assert {name: names for name, names in found.items() if names} == {}


def test_the_search_for_stand_ins_finds_what_is_there() -> None:
    """A program of its own names everything at call time."""
    (program,) = (path for path in SOURCES if path.name == "watchdog_program.py")

    assert "os" in set(imports(program))
    assert {"select.poll", "os.close", "contextlib.suppress"} <= set(named_at_call_time(program))


def test_every_source_says_its_licence() -> None:
    """The SPDX line is the first of each file."""
    for path in SOURCES:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first == "# SPDX-License-Identifier: MIT", path


IMPORT_ALL = """
import importlib, pkgutil, sys
{before}
import pytest_nsisolate
for module in pkgutil.walk_packages(pytest_nsisolate.__path__, "pytest_nsisolate."):
    # An adapter is loaded beside the plugin that it is for, and only there; so is pyte's.
    late = ".integrations.plugins." in module.name or module.name.endswith(".emulator")
    if not late and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
{after}
"""

ANOTHER_PLATFORM = """
import ctypes, ctypes.util, os, signal, _pytest, pytest, coverage, pluggy, sqlite3, multiprocessing
import subprocess, socket, select, resource, pwd, tempfile, uuid, platform, asyncio, mmap
import posix, _signal
def refuse(*args, **kwargs): raise OSError("no libc here")
ctypes.CDLL = ctypes.PyDLL = refuse
ctypes.util.find_library = lambda name: None
sys.modules["prctl"] = sys.modules["_prctl"] = None
for name in (
    "unshare", "setns", "pidfd_open", "memfd_create", "MFD_CLOEXEC", "fork", "sched_getaffinity",
    "register_at_fork", "geteuid", "getuid", "getgid", "getegid", "setsid", "waitid", "P_PIDFD",
    "O_CLOEXEC", "CLONE_NEWUSER", "eventfd", "pipe2", "WIFSIGNALED", "WTERMSIG",
):
    for module in (os, posix):
        if hasattr(module, name): delattr(module, name)
for name in ("pidfd_send_signal", "SIGRTMAX", "SIGRTMIN", "pthread_sigmask", "SIGKILL", "SIGCHLD"):
    for module in (signal, _signal):
        if hasattr(module, name): delattr(module, name)
from pytest_nsisolate.kernel import originals
del select.poll, originals.select.poll
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_the_package_can_be_imported_anywhere(platform: str) -> None:
    """Without libc, without Linux's system calls, without python-prctl, on any platform."""
    before = f"{ANOTHER_PLATFORM}\nsys.platform = {platform!r}"
    done = run_python(IMPORT_ALL.format(before=before, after="print('imported')"))
    assert done.stdout == "imported\n", done.stderr


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    """What a run without isolated tests never needs is not loaded."""
    # sys.modules is compared, because site may have loaded some of them already.
    code = """
import sys
import pytest, _pytest.config, pluggy
before = set(sys.modules)
import pytest_nsisolate.plugin
new = set(sys.modules) - before
print(sorted(new & {"prctl", "_prctl", "coverage", "psutil", "pyroute2", "asyncio", "sqlite3"}))
"""
    done = run_python(code)
    assert done.stdout == "[]\n", done.stderr
