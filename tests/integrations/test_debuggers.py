# SPDX-License-Identifier: MIT
"""Debuggers of editors stop in isolated tests, as they do elsewhere; and nothing ever hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import SIDES, Side, assert_nothing_alive, prefix, suite_folder
from tests.integrations.dap import Editor, PyCharm
from tests.integrations.plugins.installed import needs
from tests.support import NEEDS_NAMESPACES, write_files

pytestmark = NEEDS_NAMESPACES

SUITE: Final = """
import multiprocessing, os, subprocess, sys, pytest

@pytest.fixture(scope="module")
def wide():
    return 1  # stop

@pytest.fixture
def narrow():
    a = os.getpid()  # stop
    yield a
    a = 0  # stop

def test_plain():
    assert 1  # stop

@pytest.mark.isolated(timeout=0.5)
def test_isolated(wide, narrow):
    assert narrow == os.getpid() == 1  # stop

def copied():
    return 7  # stop

@pytest.mark.isolated
def test_starts_processes():
    if (pid := os.fork()) == 0:
        copied()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    worker = multiprocessing.get_context("fork").Process(target=copied)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True).stdout == b"5\\n"

def called():
    return os.getpid()  # stop

def test_call(isolate):
    assert isolate(called) == 1

@pytest.mark.isolated
def test_nested(isolate):
    assert isolate(called) == 1

@pytest.mark.isolated(init=True)
def test_under_init():
    assert os.getpid() == 2  # stop

@pytest.mark.isolated
def test_fails():
    assert 0
"""

STOPS: Final = [
    "main test_plain",
    "main wide",
    "isolated narrow",
    "isolated test_isolated",
    "isolated narrow",
    "isolated called",
    "isolated test_under_init",
]

ALL: Final = "1 failed, 6 passed"


@needs("debugpy")
@pytest.mark.parametrize("side", SIDES)
def test_vs_code_stops_in_an_isolated_test(side: Side) -> None:
    """Attached: in fixtures, the test, its tear-down and in calls; no budget runs meanwhile."""
    with suite_folder({"test_it.py": SUITE}, side) as folder:
        editor = Editor(folder / "test_it.py")
        status = editor.attach(prefix=prefix(side))
    assert editor.stops == STOPS, editor.output
    assert status == 1
    assert ALL in editor.output, editor.output
    assert "nsisolate:" not in editor.output.partition("FAILURES")[2], editor.output


@needs("debugpy")
def test_vs_code_launches_and_debugs_a_test(tmp_path: Path) -> None:
    """As a click on "Debug Test" does."""
    editor = Editor(write_files(tmp_path, {"test_it.py": SUITE}) / "test_it.py")
    assert editor.launch() == 1
    assert editor.stops == STOPS, editor.output
    assert ALL in editor.output, editor.output


@needs("pydevd")
def test_pycharm_stops_in_an_isolated_test(tmp_path: Path) -> None:
    """By the protocol of pydevd itself, where the editor listens."""
    editor = PyCharm(write_files(tmp_path, {"test_it.py": SUITE}) / "test_it.py")
    status, output = editor.run()
    assert editor.stops == STOPS, output
    assert status == 1
    assert ALL in output


IMPATIENT: Final = """
from pytest_nsisolate.integrations import debuggers
debuggers.PATIENCE = 1
"""

TOLD: Final = "nsisolate: the debugger did not stop in isolated tests (--pdb does;"


@needs("debugpy")
def test_an_editor_that_does_not_follow_forks_holds_nothing_up(tmp_path: Path) -> None:
    """The first test waits for it a while, no other does, and one line says so."""
    files = {"test_it.py": SUITE, "conftest.py": IMPATIENT}
    editor = Editor(write_files(tmp_path, files) / "test_it.py", follows=False)
    assert editor.attach() == 1
    assert editor.stops == ["main test_plain", "main wide"]
    assert ALL in editor.output, editor.output
    assert editor.output.count(TOLD) == 1
    assert "no editor took it on within 1 s (5 tests, first: test_it.py::test_is" in editor.output


UNREACHABLE: Final = """
import pytest

@pytest.fixture(scope="module", autouse=True)
def nobody_listens():
    import pydevd
    def refuse(*_): raise ConnectionRefusedError(111, "Connection refused")
    pydevd.start_client = refuse
"""


@needs("debugpy")
def test_an_editor_that_cannot_be_reached_holds_nothing_up(tmp_path: Path) -> None:
    """Nothing of the debugger is left in the tests then, and one line says why."""
    files = {"test_it.py": SUITE, "conftest.py": UNREACHABLE}
    editor = Editor(write_files(tmp_path, files) / "test_it.py")
    assert editor.attach() == 1
    assert editor.stops == ["main test_plain", "main wide"]
    assert ALL in editor.output, editor.output
    assert editor.output.count(TOLD) == 1
    assert "ConnectionRefusedError: [Errno 111]" in editor.output


@needs("debugpy")
def test_without_an_editor_the_run_is_as_ever(tmp_path: Path) -> None:
    """debugpy listens, and nobody comes."""
    editor = Editor(write_files(tmp_path, {"test_it.py": SUITE}) / "test_it.py")
    assert editor.attach(waits=False) == 1
    assert "timed out after 0.5 s" not in editor.output
    assert ALL in editor.output, editor.output


@needs("debugpy")
@pytest.mark.parametrize("where", ["test_isolated", "called"])
def test_a_run_that_is_stopped_there_leaves_nothing(where: str) -> None:
    """The click on "stop" while a breakpoint in an isolated test is being looked at."""
    with suite_folder({"test_it.py": SUITE}, "root") as folder:
        editor = Editor(folder / "test_it.py", leaves_at=where)
        editor.launch("-p", "watching", ALIVE=str(folder / ".alive"), TAG=str(folder))
        assert editor.stops[-1] == f"isolated {where}", editor.output
        assert_nothing_alive(folder)
