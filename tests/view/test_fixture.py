# SPDX-License-Identifier: MIT
"""The ``pid1`` fixture: who gets it, what it costs those who do not ask, and how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

import pytest_nsisolate
from pytest_nsisolate import Pid1View, view
from tests.support import NEEDS_NAMESPACES, Result, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

#: Says on which side something is imported, and what was imported late.
CONFTEST = """
import sys
from journal import note

HEAVY = ("psutil", "pyroute2", "pytest_nsisolate.view.pid1")

def loaded():
    return [name for name in HEAVY if name in sys.modules]

def pytest_sessionfinish():
    note(f"loaded {loaded()}")
"""

USES_EVERYTHING = """
import socket, subprocess, sys
import pytest
from journal import note

# What any test may import by itself; the view must not need more.
import os, ipaddress, signal

@pytest.mark.isolated(root="overlay", writable=os.environ["JOURNAL"])
def test_everything(pid1):
    before = set(sys.modules)
    for name in dir(type(pid1)):
        if not name.startswith("_"):
            getattr(pid1, name)
    open("/etc/changed", "w").close()
    pid1.files.diff("/etc/changed")
    child = subprocess.Popen(["sleep", "60"])
    snapshot = pid1.snapshot()
    str(pid1.snapshot() - snapshot)
    pid1.capabilities_of(child.pid), pid1.environment_of(child.pid)
    pid1.assert_no_route_to("192.0.2.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        pid1.assert_listening(server.getsockname()[1])
    for fails in (
        lambda: pid1.assert_listening(1, within=0.01), lambda: pid1.assert_alone(),
        lambda: pid1.assert_route("default"), lambda: pid1.assert_daemon("sleep"),
        lambda: pid1.assert_dies(1, within=0.01), lambda: pid1.assert_mounted("/none"),
        lambda: pid1.assert_isolated("time"), lambda: pid1.assert_no_capability(),
        lambda: pid1.assert_files(created="/etc/x"), lambda: pid1.assert_unchanged("/etc"),
    ):
        with pytest.raises(AssertionError):
            fails()
    pid1.assert_dies(child)
    child.wait()
    note(f"imported {sorted(set(sys.modules) - before)}")
"""

#: Nobody here asks for the fixture in a way that is known before.
QUIET = """
import pytest
@pytest.mark.isolated(pid=True)
def test_isolated(): pass
@pytest.mark.isolated
def test_late(request):
    request.getfixturevalue("pid1").assert_interfaces({"lo"})
def test_plain(pid1): pass
@pytest.mark.isolated(False)
def test_left_out(pid1): pass
"""

READY = """
def pytest_nsisolate_ready(item, pid1):
    if item.name == "test_isolated":
        note(f"{type(pid1).__name__} {pid1.pid} {sorted(pid1.isolated)} {len(pid1.processes)}")
"""


def run(folder: Path, source: str, *arguments: str, **options: dict[str, str]) -> Result:
    write_files(folder, {"conftest.py": CONFTEST, "test_it.py": source})
    return run_suite(folder, "-W", "error", *arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["", "1"])
def test_nothing_is_imported_in_a_child(tmp_path: Path, mode: str) -> None:
    """All of it is there before the clone, and leaves no warning in Python's development mode.

    That mode itself imports some codecs.
    """
    result = run(tmp_path, USES_EVERYTHING, env={"PYTHONDEVMODE": mode})
    assert result.passed() == {"test_everything"}, result.text
    assert result.journal[0] == "child imported []"
    assert "psutil" in result.journal[-1]
    assert (result.warnings, result.stderr) == ([], "")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run in which no isolated test is known to ask."""
    files = {"conftest.py": CONFTEST + READY, "test_it.py": QUIET}
    return run_suite(write_files(tmp_path_factory.mktemp("quiet"), files), "-W", "error")


def test_nobody_else_pays(quiet: Result) -> None:
    """The runner loads neither the view nor its libraries."""
    assert quiet.journal[-1] == "runner loaded []", quiet.text


def test_asked_for_late_it_works_too(quiet: Result) -> None:
    """By getfixturevalue: then the child imports."""
    assert "test_late" in quiet.passed(), quiet.text


def test_the_ready_hook_gets_the_same_view(quiet: Result) -> None:
    """With what only the runner knows."""
    assert quiet.journal[0] == "child Pid1View 1 ['mount', 'pid', 'user'] 1", quiet.text


@pytest.mark.parametrize("name", ["test_plain", "test_left_out"])
def test_without_isolation_it_is_an_error_that_names_the_marker(quiet: Result, name: str) -> None:
    """In a plain test, and in one that is left out."""
    assert quiet.phases(name) == ["setup failed", "teardown passed"]
    assert quiet.failure(name).strip() == (
        "the pid1 fixture shows an isolated test its own world, "
        f"and {name} is not isolated: mark it with @pytest.mark.isolated"
    )


def test_under_all_every_test_has_it(tmp_path: Path) -> None:
    """An unmarked test is isolated there, behind an init."""
    source = "def test_it(pid1):\n    pid1.assert_alone()\n    assert pid1.pid == 2\n"
    result = run(tmp_path, source, "--nsisolate=all")
    assert result.passed() == {"test_it"}, result.text


def test_in_unsafe_runs_it_says_why(tmp_path: Path) -> None:
    """The marker is there, but the option sends the test to the host."""
    source = "import pytest\n@pytest.mark.isolated\ndef test_it(pid1): pass\n"
    result = run(tmp_path, source, "--nsisolate=none", "--nsisolate-unsafe")
    assert "because of --nsisolate=none --nsisolate-unsafe" in result.failure("test_it")


def test_its_types_can_be_named() -> None:
    """For annotations, from the package; and everything else from its view."""
    assert pytest_nsisolate.Pid1View is view.Pid1View is Pid1View
    assert {"Pid1View", "Snapshot", "Difference"} <= set(pytest_nsisolate.__all__)
    assert all(hasattr(view, name) for name in view.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Pid2View'"):
        pytest_nsisolate.Pid2View  # noqa: B018
