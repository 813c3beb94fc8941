# SPDX-License-Identifier: MIT
"""Looks at the processes of a test: how often, and what of a process that ends meanwhile.

What they find of real tests is in test_trace.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_nsisolate.runner import sightings
from pytest_nsisolate.runner.sightings import PERIOD, Sightings
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: Starts what is named, tells its number, and waits.
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
"""


@pytest.fixture
def started() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that stands for a test, and the number of one that it has started."""
    command = [sys.executable, "-c", PARENT, "sleep", "600"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())


def child_of(pid: int) -> Any:
    """As much of a :class:`ChildProcess` as a look needs."""
    end = SimpleNamespace(pid1=pid, forked=pid, is_born=True, keeper=None)
    return SimpleNamespace(end=end, outcome=None, init=False, watched=lambda: ())


def look_until_seen(seen: Sightings, nodeid: str) -> None:
    """Wait as the runner does, until a process of that name is there."""

    def there() -> bool:
        seen.look()
        (one,) = seen._of[nodeid]
        return any(found is not None and found.name == "sleep" for found in one.seen.values())

    assert eventually(there, 30)


def test_a_process_is_seen_from_its_start_to_its_end(
    started: tuple[subprocess.Popen[bytes], int],
) -> None:
    """By its own number and arguments; a start is the kernel's, not that of the first look."""
    parent, pid = started
    seen = Sightings()
    seen.watch("a", child_of(parent.pid))
    look_until_seen(seen, "a")
    os.kill(pid, 9)
    (one,) = seen._of["a"]

    def gone() -> bool:
        seen.look()
        return pid not in one.alive

    assert eventually(gone, 30)
    before = time.time()
    seen.look()
    (found,) = seen.take("a")
    assert (found.name, found.command) == ("sleep", "sleep 600")
    assert found.pid == pid
    assert found.start <= found.last <= before
    assert not seen.take("a")


def test_the_start_is_that_of_the_process(started: tuple[subprocess.Popen[bytes], int]) -> None:
    """However late the first look is."""
    parent, pid = started
    first = time.time()
    assert eventually(lambda: time.time() - first > 0.3)
    seen = Sightings()
    seen.watch("a", child_of(parent.pid))
    look_until_seen(seen, "a")
    (found,) = (s for s in seen.take("a") if s.pid == pid)
    assert found.start <= first + 2 * PERIOD
    assert found.last >= first + 0.3


def test_nothing_is_looked_at_before_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is shorter pays for no look, and one that has ended neither."""
    looked: list[object] = []
    monkeypatch.setattr(sightings, "_look_at", looked.append)
    monkeypatch.setattr(sightings, "PERIOD", 600.0)
    seen, child = Sightings(), child_of(os.getpid())
    seen.watch("a", child)
    assert 0 < seen.look() <= 600
    assert not looked
    monkeypatch.setattr(sightings, "PERIOD", 0.0)
    seen = Sightings()
    seen.watch("a", child)
    seen.look()
    assert len(looked) == 1
    child.outcome = "ended"
    seen.look()
    assert len(looked) == 1


def test_a_look_that_takes_long_is_followed_by_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its processor time: that the machine is busy is no reason to look less."""

    def burn(_: object) -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass

    monkeypatch.setattr(sightings, "_look_at", burn)
    monkeypatch.setattr(sightings, "PERIOD", 0.0)
    seen = Sightings()
    seen.watch("a", child_of(os.getpid()))
    began = time.monotonic()
    left = seen.look()
    assert left + time.monotonic() - began >= 0.05 * 20


def test_a_wait_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And looks round meanwhile."""
    looked: list[object] = []
    monkeypatch.setattr(sightings, "_look_at", looked.append)
    monkeypatch.setattr(sightings, "PERIOD", 0.0)
    seen, child = Sightings(), child_of(os.getpid())
    seen.watch("a", child)
    began = time.monotonic()
    seen.wait_with(child, 0.2)
    assert time.monotonic() - began >= 0.2
    assert looked


def test_a_wait_ends_with_an_answer() -> None:
    """However long it was to take."""
    ours, theirs = os.pipe()
    try:
        child = child_of(os.getpid())
        child.watched = lambda: (ours,)
        os.write(theirs, b"x")
        Sightings().wait_with(child, None)
    finally:
        os.close(ours)
        os.close(theirs)
