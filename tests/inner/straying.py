# SPDX-License-Identifier: MIT
"""Tests that fork, and whose copy comes back, from every place and in every way.

Each waits for its copy where that has come back, and notes its exit status; each finalizer, and
each second half of a hook, notes that it has run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from journal import note  # type: ignore[import-not-found]  # of the inner run

WAYS: dict[str, Callable[[], object]] = {
    "returns": lambda: None,
    "exception": lambda: _raise(RuntimeError("in the copy")),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "sys.exit": lambda: _raise(SystemExit(0)),
    "pytest.exit": lambda: pytest.exit("from the copy", returncode=0),
    "skip": lambda: pytest.skip("from the copy"),
    "expected failure": lambda: pytest.xfail("from the copy"),
    "generator exit": lambda: _raise(GeneratorExit()),
}

ways = pytest.mark.parametrize("way", WAYS)


def _raise(error: BaseException) -> None:
    raise error


def stray(way: str) -> bool:
    """Fork; the copy comes back from its caller. True in the copy, if that is by a return."""
    pid = os.fork()
    if pid == 0:
        WAYS[way]()
        return True
    note(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
    return False


@pytest.fixture
def first() -> Iterator[None]:
    yield
    note("finalizer first")


@pytest.fixture
def second(first: None, request: pytest.FixtureRequest) -> Iterator[None]:
    request.addfinalizer(lambda: note("finalizer added"))  # noqa: PT021 (one fixture has two)
    yield
    note("finalizer second")


both = pytest.mark.usefixtures("second")


@both
@ways
@pytest.mark.isolated
def test_call(way: str) -> None:
    if stray(way):
        return
    note("end of the test")


@both
@pytest.mark.isolated
def test_copy_of_a_copy() -> None:
    pid = os.fork()
    if pid == 0:
        if stray("interrupt"):
            return
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def wait_for_signal() -> NoReturn:
    # A signal just before pause() would not end it.
    while True:
        time.sleep(0.01)


@both
@pytest.mark.isolated
def test_interrupted() -> None:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(tell, b"!")
        wait_for_signal()
    os.read(ready, 1)
    os.kill(pid, signal.SIGINT)
    note(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


@both
@pytest.mark.isolated
def test_worker_interrupted() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ready.set()
        wait_for_signal()

    worker = context.Process(target=work)
    worker.start()
    ready.wait()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    worker.join()
    assert worker.exitcode == 1


if sys.version_info < (3, 14):  # a copy's event loop waits for ever there, in any Python program

    @both
    @pytest.mark.isolated
    def test_coroutine() -> None:
        async def main() -> None:
            stray("sys.exit")

        asyncio.run(main())


@pytest.fixture
def comes_back_from_set_up(request: pytest.FixtureRequest, second: None) -> Iterator[None]:
    stray(request.getfixturevalue("way"))
    yield
    note("finalizer comes_back")


@pytest.fixture
def behind(comes_back_from_set_up: None) -> Iterator[None]:
    note("set up behind")
    yield
    note("finalizer behind")


@ways
@pytest.mark.isolated
def test_set_up(way: str, behind: None) -> None:
    pass


@pytest.fixture
def comes_back_from_tear_down(request: pytest.FixtureRequest, second: None) -> Iterator[None]:
    request.addfinalizer(lambda: note("finalizer of the same"))  # noqa: PT021 (it has two)
    yield
    stray(request.getfixturevalue("way"))


@ways
@pytest.mark.isolated
def test_tear_down(way: str, comes_back_from_tear_down: None) -> None:
    pass


@ways
@pytest.mark.isolated
def test_last_finalizer(way: str, request: pytest.FixtureRequest) -> None:
    request.node.addfinalizer(lambda: stray(way))


@both
@pytest.mark.isolated
class TestUnittest(unittest.TestCase):
    def setUp(self) -> None:
        if self._testMethodName == "test_set_up":
            stray("exception")

    def tearDown(self) -> None:
        note("tearDown")
        if self._testMethodName == "test_tear_down":
            stray("exception")

    def test_set_up(self) -> None:
        self.addCleanup(note, "cleanup")

    def test_it(self) -> None:
        self.addCleanup(note, "cleanup")
        stray("returns")

    def test_exit(self) -> None:
        self.addCleanup(note, "cleanup")
        stray("sys.exit")

    def test_interrupt(self) -> None:
        self.addCleanup(note, "cleanup")
        stray("interrupt")

    def test_tear_down(self) -> None:
        self.addCleanup(note, "cleanup")


@pytest.mark.isolated
def test_set_up_hook() -> None:
    pass


@pytest.mark.isolated
def test_call_hook() -> None:
    pass


@pytest.mark.isolated
def test_tear_down_hook() -> None:
    pass


@pytest.mark.isolated
def test_asks_for_fixtures_in_a_copy(request: pytest.FixtureRequest) -> None:
    """Which it may: it does not come back to what had forked it."""
    pid = os.fork()
    if pid == 0:
        request.getfixturevalue("second")
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@both
@pytest.mark.isolated
def test_nested_call(isolate: Any) -> None:
    assert isolate.using(pid=True)(_twice) == "done"


def _twice() -> str:
    for way in WAYS:
        if stray(way):
            return "from the copy"
    return "done"
