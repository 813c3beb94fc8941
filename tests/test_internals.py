# SPDX-License-Identifier: MIT
"""The borders inside the package: who may import what, and that importing works anywhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_nsisolate

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
        ("_pytest", "pytest_internals/private.py"),
        ("prctl", "kernel/process.py"),
        ("_prctl", "kernel/process.py"),
        ("coverage", "coverage/__init__.py"),
        ("pytest_cov", "coverage/__init__.py"),
        ("pyfakefs", "adapters/fake_files.py"),
        ("pytest_bdd", "adapters/bdd.py"),
        ("pytest_benchmark", "adapters/benchmark.py"),
        ("syrupy", "adapters/syrupy.py"),
    ],
)
def test_one_module_knows_each_dependency_that_moves(module: str, allowed: str) -> None:
    """pytest's privates, python-prctl and coverage are each behind one file."""
    assert SOURCES
    importing = {str(path.relative_to(PACKAGE)) for path in SOURCES if module in imports(path)}
    assert importing <= {allowed}
    if module in ("_pytest", "prctl"):
        assert importing == {allowed}  # the search finds what is there


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
    # An adapter is loaded beside the plugin that it is for, and only there.
    if not module.name.endswith("__main__") and ".adapters." not in module.name:
        importlib.import_module(module.name)
{after}
"""

ANOTHER_PLATFORM = """
import ctypes, ctypes.util, os, signal, _pytest, pytest, coverage, pluggy, sqlite3, multiprocessing
import subprocess, socket, select, resource, pwd, tempfile, uuid, platform, asyncio, mmap
def refuse(*args, **kwargs): raise OSError("no libc here")
ctypes.CDLL = ctypes.PyDLL = refuse
ctypes.util.find_library = lambda name: None
sys.modules["prctl"] = sys.modules["_prctl"] = None
for name in (
    "unshare", "setns", "pidfd_open", "memfd_create", "MFD_CLOEXEC", "fork", "sched_getaffinity",
    "register_at_fork", "geteuid", "getuid", "getgid", "getegid", "setsid", "waitid", "P_PIDFD",
    "O_CLOEXEC", "CLONE_NEWUSER", "eventfd", "pipe2", "WIFSIGNALED", "WTERMSIG",
):
    if hasattr(os, name): delattr(os, name)
for name in ("pidfd_send_signal", "SIGRTMAX", "SIGRTMIN", "pthread_sigmask", "SIGKILL", "SIGCHLD"):
    if hasattr(signal, name): delattr(signal, name)
del select.poll
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
