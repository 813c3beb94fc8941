# SPDX-License-Identifier: MIT
"""Budgets and what is seen when one runs out; see ``inner/hanging.py`` for the tests themselves."""

from __future__ import annotations

import pytest

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.process import diagnosis
from tests.inner_runs import Side, assert_expected, cases, run_batch, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


#: It hangs in the child only, not in the runner.
HOOK = """
import os, signal

def pytest_runtest_makereport(item, call):
    if (item.name, call.when, os.getpid()) == ("test_hook_hangs", "call", 1):
        while True:
            signal.pause()
"""


@cases("hanging")
def test_budget(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is ended and reported as its ``expect`` mark says."""
    assert_expected(shared_batch(tmp_path_factory, "hanging", side, conftest=HOOK), name, expected)


def test_budget_by_option() -> None:
    """``--nsisolate-timeout`` is the budget of every test that names none; a marker wins."""
    source = """
import signal, pytest

@pytest.mark.isolated
def test_given():
    signal.pause()

@pytest.mark.isolated(timeout=0.3)
def test_own():
    signal.pause()
"""
    result = run_batch({"test_it.py": source}, "user", "--nsisolate-timeout=0.4")
    assert verdict(result, "test_given") == verdict(result, "test_own") == "call failed"
    assert "timed out after 0.4 s" in result.failure("test_given")
    assert "timed out after 0.3 s" in result.failure("test_own")


def test_a_chain_of_processes_may_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the interpreter's stack; each stands behind its parent."""
    below = {pid: [pid + 1] for pid in range(1, 5000)} | {3: [4, 9000]}
    monkeypatch.setattr(proc, "children_of", lambda pid: below.get(pid, []))
    monkeypatch.setattr(diagnosis, "_look", lambda pid: diagnosis.Seen(pid, pid, 0, "S", "sh"))
    found = [seen.pid for seen in diagnosis._descendants(1)]
    assert found == [*range(2, 5001), 9000]


VFORK = """
import os, pytest

@pytest.mark.isolated(timeout=1, init=True)
def test_opens(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    actions = [(os.POSIX_SPAWN_OPEN, 0, str(tmp_path / "fifo"), os.O_RDONLY, 0)]
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)

@pytest.mark.isolated
def test_next():
    pass
"""


def test_a_test_that_hangs_in_vfork_leaves_nothing() -> None:
    """It cannot be stopped to be looked at, and is gone when the next one begins."""
    result = run_batch({"test_it.py": VFORK}, "user")
    assert "timed out after 1 s in call" in result.failure("test_opens")
    assert "state D" in result.failure("test_opens")
    assert verdict(result, "test_next") == "passed"


FROZEN = """
import time, pytest

@pytest.fixture(scope="module", autouse=True)
def frozen():
    before, time.monotonic = time.monotonic, lambda: 5.0
    yield
    time.monotonic = before

@pytest.mark.isolated(timeout=1)
def test_hangs():
    while True:
        time.sleep(1000)
"""


def test_a_clock_that_stands_still_stops_no_budget() -> None:
    """As freezegun's, in a fixture of the runner's."""
    result = run_batch({"test_it.py": FROZEN}, "user", timeout=60)
    assert "timed out after 1 s in call" in result.failure("test_hangs")


BUSY = """
import time

def pytest_runtest_logreport(report):
    if report.when == "setup":
        time.sleep(1)
"""

IN_TIME = """
import signal, pytest
pytestmark = pytest.mark.isolated(timeout=0.5)

def test_ended(): print("was there")

@pytest.fixture
def hangs():
    yield
    while True:
        signal.pause()

def test_hangs_afterwards(hangs):
    print("was there")
    assert 0
"""


def test_what_was_said_in_time_counts_if_the_runner_had_no_time_to_listen() -> None:
    """A hook there takes longer than the test's whole budget."""
    result = run_batch({"test_it.py": IN_TIME, "conftest.py": BUSY}, "user")
    assert verdict(result, "test_ended") == "passed", result.text
    assert verdict(result, "test_hangs_afterwards") == "call failed, teardown failed"
    (failed, late) = (r for r in result.of("test_hangs_afterwards") if r["outcome"] == "failed")
    assert "assert 0" in failed["text"]
    assert ["Captured stdout call", "was there\n"] in failed["sections"]
    assert "timed out after 0.5 s in teardown" in late["text"]


CALL = """
import ctypes, pytest, pytest_nsisolate

def waits_in_c():
    print("before")
    ctypes.CDLL(None).pause()
    print("after")

def test_it(isolate, capsys):
    with pytest.raises(pytest_nsisolate.IsolatedTimeout):
        isolate.using(timeout=0.5)(waits_in_c)
    assert capsys.readouterr().out == "before\\n"
"""


def test_a_call_s_output_is_that_of_its_time() -> None:
    """To a stream in memory, which is written when the call is over."""
    result = run_batch({"test_it.py": CALL}, "user")
    assert verdict(result, "test_it") == "passed", result.text
