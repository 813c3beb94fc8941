# SPDX-License-Identifier: MIT
"""Tests during which somebody outside does something; each makes a file when it is ready."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.isolated

HERE = Path(__file__).parent


def mark(name: str) -> None:
    (HERE / name).touch()


def note(text: str) -> None:
    with open(HERE / "notes", "a", encoding="ascii") as file:
        file.write(text + "\n")


def wait() -> None:
    """Not by ``pause``: a signal that comes just before it would not be noticed."""
    while True:
        time.sleep(0.05)


def ignore_everything() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)


def leave_a_daemon() -> None:
    """It ignores every signal and waits for ever."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os.read(ready, 1)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    ignore_everything()
    file = os.open(HERE / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.write(tell, b"!")
    while True:
        signal.pause()


def be_hard_to_kill() -> None:
    """As hard as a test can be: a daemon, no signals, and another user, if that can be."""
    (HERE / "daemon.lock").touch()
    (HERE / "daemon.lock").chmod(0o666)
    HERE.chmod(0o777)
    if os.geteuid() == 0 and len(Path("/proc/self/uid_map").read_text().split()) == 3:
        try:
            os.setresgid(4321, 4321, 4321)
            os.setresuid(4321, 4321, 4321)
        except OSError:
            pass  # one id is all that this user namespace has
    leave_a_daemon()
    ignore_everything()


@pytest.fixture(scope="module")
def module() -> Iterator[None]:
    note("module setup")
    yield
    note("module teardown")


@pytest.fixture
def function(module: None) -> Iterator[None]:
    yield
    note("function teardown")


def test_first() -> None:
    """The host has been examined when this one is over."""


def test_waits(function: None) -> None:
    mark("ready")
    wait()


def test_hard(module: None) -> None:
    be_hard_to_kill()
    mark("ready")
    wait()


@pytest.mark.isolated(pid=False)
def test_hard_without_pid_namespace(module: None) -> None:
    test_hard(module)


@pytest.mark.isolated(init=True)
def test_hard_under_init(module: None) -> None:
    test_hard(module)


@pytest.mark.isolated(init=True)
def test_waits_under_init(function: None) -> None:
    test_waits(function)


@pytest.fixture
def hard_setup() -> None:
    be_hard_to_kill()
    mark("ready")
    wait()


def test_hard_in_setup(hard_setup: None) -> None:
    pass


@pytest.fixture
def hard_teardown() -> Iterator[None]:
    yield
    be_hard_to_kill()
    mark("ready")
    wait()


def test_hard_in_teardown(hard_teardown: None) -> None:
    pass


@pytest.fixture
def stubborn(module: None) -> Iterator[None]:
    yield
    mark("in-teardown")
    leave_a_daemon()
    wait_deaf()


def wait_deaf() -> None:
    ignore_everything()
    wait()


def test_stubborn(stubborn: None) -> None:
    mark("ready")
    wait()


def test_deaf(module: None) -> None:
    leave_a_daemon()
    ignore_everything()
    mark("ready")
    wait()


def test_next(module: None) -> None:
    pass
