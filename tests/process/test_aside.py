# SPDX-License-Identifier: MIT
"""A step of the kernel's that a copy of this process takes."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from pytest_nsisolate.process.aside import Aside
from pytest_nsisolate.process.launch import has_one_task
from tests.support import NEEDS_NAMESPACES, eventually

#: Wait for a child that ends without a signal, too (wait(2)).
WALL = 0x40000000

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


def begun(step: Callable[[], object]) -> tuple[Aside, int]:
    """A step under way, and the number of its copy."""
    under_way = Aside(step)
    under_way.begin()
    assert under_way.pid is not None
    return under_way, under_way.pid


def test_a_copy_takes_it(pipe: tuple[int, int]) -> None:
    """While this process goes on, and what it changes in the kernel is there for both."""
    go_read, go_write = os.pipe()

    def step() -> None:
        os.read(go_read, 1)
        os.write(pipe[1], str(os.getpid()).encode())

    under_way, copy = begun(step)
    os.write(go_write, b"x")
    under_way.finish()
    assert int(os.read(pipe[0], 20)) == copy != os.getpid()
    assert under_way.pid is None
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
        under_way, copy = begun(lambda: None)
        os.waitid(os.P_PID, copy, os.WEXITED | os.WNOWAIT | WALL)
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

    under_way, _ = begun(step)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            under_way.finish()
        assert caught.value.errno == errno.ENOBUFS
    assert os.read(pipe[0], 20) == b"xx"


@pytest.mark.parametrize("lost", ["killed", "reaped"])
def test_a_copy_that_is_lost(pipe: tuple[int, int], lost: str) -> None:
    """Nobody knows how far it came: the step is taken again."""
    own = os.getpid()

    def step() -> None:
        if os.getpid() != own:
            signal.pause()
        os.write(pipe[1], b"x")

    under_way, copy = begun(step)
    os.kill(copy, signal.SIGKILL)
    if lost == "reaped":
        os.waitpid(copy, WALL)
    under_way.finish()
    assert os.read(pipe[0], 20) == b"x"


def test_an_exception_in_the_wait() -> None:
    """By a signal's handler: the copy is still known, and is reaped."""

    class Interruption(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    under_way, copy = begun(signal.pause)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interruption):
            under_way.finish()
        assert under_way.pid == copy
    finally:
        signal.signal(signal.SIGALRM, before)
        os.kill(copy, signal.SIGKILL)
    under_way.close()
    with pytest.raises(ProcessLookupError):
        os.kill(copy, 0)


def test_beside_a_thread(pipe: tuple[int, int]) -> None:
    """No copy: the step is taken when it is asked for."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        under_way = Aside(lambda: os.write(pipe[1], str(os.getpid()).encode()))
        under_way.begin()
        assert under_way.pid is None
        under_way.finish()
    finally:
        end.set()
        thread.join()
    assert int(os.read(pipe[0], 20)) == os.getpid()


def test_nobody_needs_it() -> None:
    """The copy is gone, and what it would have said is not heard."""

    def fail() -> None:
        raise OSError(errno.ENOMEM, "")

    under_way, copy = begun(fail)
    under_way.close()
    with pytest.raises(ProcessLookupError):
        os.kill(copy, 0)
    under_way.finish()
