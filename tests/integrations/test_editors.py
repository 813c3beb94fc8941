# SPDX-License-Identifier: MIT
"""What plugins of editors hear of isolated tests: a result for each, however it has ended."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import NEEDS_NAMESPACES, Result, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

SUITE: Final = """
import os, signal, pytest

@pytest.fixture
def raises(): raise ValueError("in set-up")

@pytest.fixture
def dies(): os._exit(3)

@pytest.fixture
def hangs():
    while True: signal.pause()

@pytest.fixture
def raises_afterwards():
    yield
    raise ValueError("in tear-down")

@pytest.fixture(scope="session")
def wide(): raise ValueError("in the runner")

isolated = pytest.mark.isolated

@isolated
def test_set_up_raises(raises): pass
@isolated
def test_set_up_dies(dies): pass
@isolated(timeout=0.5)
def test_set_up_hangs(hangs): pass
@isolated
def test_wider_set_up(wide): pass
@isolated
def test_refused(): pass
@isolated
def test_passes(): pass
@isolated
def test_fails(): assert 0, "in call"
@isolated
def test_raises(): raise ValueError("in call")
@isolated
def test_dies(): os._exit(3)
@isolated
def test_tear_down_raises(raises_afterwards): pass
@isolated
@pytest.mark.skip
def test_skipped(): pass
@isolated
@pytest.mark.xfail
def test_expected(): os._exit(3)
def test_plain(): assert 0
"""

#: One test is refused, as by a host; whoever listens to exceptions notes what is heard.
CONFTEST: Final = """
import os
from journal import note
from pytest_nsisolate.process import launch
from pytest_nsisolate.errors import StepError

original = launch.launch

def refuse_one(*arguments):
    if "test_refused" in os.environ["PYTEST_CURRENT_TEST"]:
        raise StepError("fork", None, 11)
    return original(*arguments)

launch.launch = refuse_one

def pytest_exception_interact(node, call, report):
    note(f"{node.name} {report.when} {call.excinfo.typename}")
"""

OUTCOMES: Final = {
    "test_set_up_raises": "error",
    "test_set_up_dies": "error",
    "test_set_up_hangs": "error",
    "test_wider_set_up": "error",
    "test_refused": "error",
    "test_passes": "success",
    "test_fails": "failure",
    "test_raises": "failure",
    "test_dies": "failure",
    "test_tear_down_raises": "success",
    "test_skipped": "skipped",
    "test_expected": "skipped",
    "test_plain": "failure",
}

HEARD: Final = [
    "child test_set_up_raises setup ValueError",
    "runner test_set_up_dies setup IsolatedCrash",
    "runner test_set_up_hangs setup IsolatedCrash",
    "runner test_wider_set_up setup ValueError",
    "runner test_refused setup IsolatedCrash",
    "child test_fails call AssertionError",
    "child test_raises call ValueError",
    "runner test_dies call IsolatedCrash",
    "child test_tear_down_raises teardown ValueError",
    "runner test_plain call AssertionError",
]


class Explorer:
    """The reading end of the pipe: for it the run is over when nobody writes any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        os.mkfifo(path)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with open(self.path, encoding="utf-8") as pipe:
            self.lines += map(json.loads, pipe)

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def explorer(tmp_path: Path) -> Iterator[Explorer]:
    made = Explorer(tmp_path / "pipe")
    yield made
    # Whoever was never written to waits for a writer.
    os.close(os.open(made.path, os.O_RDWR | os.O_NONBLOCK))


def run(folder: Path, explorer: Explorer, *arguments: str) -> Result:
    write_files(folder, {"test_it.py": SUITE, "conftest.py": CONFTEST})
    options = ("-p", "vscode_pytest", "-p", "no:randomly", *arguments)
    return run_suite(folder, *options, env={"TEST_RUN_PIPE": str(explorer.path)})


def test_the_test_explorer_of_vs_code_has_a_result_for_each_test(
    tmp_path: Path, explorer: Explorer
) -> None:
    """From the runner alone, once each, and with the text of the failure."""
    result = run(tmp_path, explorer)
    explorer.join()
    told = {line["test"].partition("::")[2]: line for line in explorer.lines}
    assert {name: line["outcome"] for name, line in told.items()} == OUTCOMES, result.text
    assert len(explorer.lines) == len(OUTCOMES)
    assert len({line["pid"] for line in explorer.lines}) == 1
    assert "in set-up" in told["test_set_up_raises"]["message"]
    assert "ended in setup: exit status 3" in told["test_set_up_dies"]["message"]
    assert "timed out after 0.5 s in setup" in told["test_set_up_hangs"]["message"]
    assert "isolation refused: fork: EAGAIN" in told["test_refused"]["message"]


def test_an_exception_is_heard_once(tmp_path: Path, explorer: Explorer) -> None:
    """In the child, where it is; in the runner, if no child could raise it."""
    result = run(tmp_path, explorer)
    assert result.journal == HEARD, result.text


def test_no_debugger_opens_for_what_the_runner_has_to_tell(
    tmp_path: Path, explorer: Explorer
) -> None:
    """There is nothing to look at; the others that listen are told all the same."""
    result = run(tmp_path, explorer, "--pdb", "-k", "refused or dies or hangs")
    assert "PDB" not in result.stdout, result.stdout
    assert result.journal == [line for line in HEARD if "IsolatedCrash" in line]
    explorer.join()
    assert len(explorer.lines) == 4


def test_in_a_worker_the_same(tmp_path: Path, explorer: Explorer) -> None:
    """pytest-xdist: exceptions are heard there; reports are the controller's."""
    result = run(tmp_path, explorer, "-p", "xdist", "-n", "1")
    assert result.journal == HEARD, result.text
    explorer.join()
    told = {line["test"].partition("::")[2]: line["outcome"] for line in explorer.lines}
    assert told == OUTCOMES, result.text
