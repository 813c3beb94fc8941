# SPDX-License-Identifier: MIT
"""Budgets and what is seen when one runs out; see ``inner/hanging.py`` for the tests themselves."""

from __future__ import annotations

import pytest

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.process import diagnosis
from tests.batch import Side, assert_expected, cases, run_batch, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("hanging")
def test_budget(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is ended and reported as its ``expect`` mark says."""
    assert_expected(shared_batch(tmp_path_factory, "hanging", side), name, expected)


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
