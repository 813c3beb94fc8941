# SPDX-License-Identifier: MIT
"""A step of the kernel's that a copy of this process takes."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_nsisolate.process.aside import Aside
from pytest_nsisolate.process.launch import has_one_task
from tests.support import NEEDS_NAMESPACES, eventually

pytestmark = [NEEDS_NAMESPACES, pytest.mark.isolated(pid=True)]


@pytest.fixture(autouse=True)
def _alone() -> None:
    """A copy is made only where no other thread can hold a lock; ``faulthandler`` has one."""
    faulthandler.cancel_dump_traceback_later()
    assert eventually(has_one_task)  # the kernel counts a thread that is about to end


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its end to read, and its end to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_copy_takes_it(pipe: tuple[int, int]) -> None:
    """While this process goes on, and what it changes in the kernel is there for both."""
    go_read, go_write = os.pipe()

    def step() -> None:
        os.read(go_read, 1)
        os.write(pipe[1], str(os.getpid()).encode())

    under_way = Aside(step)
    (copy,) = under_way.pids
    os.write(go_write, b"x")
    under_way.finish()
    assert int(os.read(pipe[0], 20)) == copy != os.getpid()
    assert under_way.pids == frozenset()
    under_way.finish()  # once is enough
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 20)
    os.close(go_read)
    os.close(go_write)


def test_nobody_waits_for_it_by_accident() -> None:
    """Code that waits for any child, or counts the signals of their ends."""
    came: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: came.append(number))
    try:
        under_way = Aside(lambda: None)
        (copy,) = under_way.pids
        os.waitid(os.P_PID, copy, os.WEXITED | os.WNOWAIT | 0x40000000)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        under_way.finish()
        assert came == []
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_it_may_fail(pipe: tuple[int, int]) -> None:
    """The error is the step's, and the next try is this process's own."""

    def step() -> None:
        os.write(pipe[1], b"x")
        raise OSError(errno.ENOBUFS, "")

    under_way = Aside(step)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            under_way.finish()
        assert caught.value.errno == errno.ENOBUFS
    assert os.read(pipe[0], 20) == b"xx"


def test_a_copy_that_is_killed() -> None:
    """Nobody knows how far it came."""
    under_way = Aside(lambda: time.sleep(1000))
    (copy,) = under_way.pids
    os.kill(copy, signal.SIGKILL)
    with pytest.raises(OSError) as caught:
        under_way.finish()
    assert caught.value.errno == errno.EINTR


def test_beside_a_thread(pipe: tuple[int, int]) -> None:
    """No copy: the step is taken when it is asked for."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        under_way = Aside(lambda: os.write(pipe[1], str(os.getpid()).encode()))
        assert under_way.pids == frozenset()
        under_way.finish()
    finally:
        end.set()
        thread.join()
    assert int(os.read(pipe[0], 20)) == os.getpid()


def test_nobody_needs_it() -> None:
    """The copy is gone, and what it would have said is not heard."""

    def fail() -> None:
        raise OSError(errno.ENOMEM, "")

    under_way = Aside(fail)
    (copy,) = under_way.pids
    under_way.close()
    with pytest.raises(ProcessLookupError):
        os.kill(copy, 0)
    under_way.finish()
