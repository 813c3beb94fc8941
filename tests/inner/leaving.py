# SPDX-License-Identifier: MIT
"""Tests that leave processes behind which do not want to go, and tests that look for them."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

expect = pytest.mark.expect

#: Longer than any test here may take.
FOR_EVER = 600


def daemonize(lock: Path) -> None:
    """Leave a process that has a session of its own, holds what we hold, and ignores signals."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    file = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.write(tell, b"!")
    until = time.monotonic() + FOR_EVER
    while time.monotonic() < until:
        time.sleep(1)
    os._exit(0)


def is_locked(lock: Path) -> bool:
    with open(lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Pair:
    """The first test leaves a daemon and sees it; the second finds it gone."""

    lock: Path
    left = "passed"

    def leave(self) -> None:
        daemonize(self.lock)
        assert is_locked(self.lock)

    def test_leaves(self) -> None:
        self.leave()

    @pytest.mark.isolated(False)
    def test_gone(self) -> None:
        assert not is_locked(self.lock)


@pytest.mark.isolated
class TestAsPid1(Pair):
    lock = Path("lock-pid1")


@pytest.mark.isolated(init=True)
class TestUnderInit(Pair):
    lock = Path("lock-init")


@pytest.mark.isolated(pid=False)
class TestWithoutPidNamespace(Pair):
    lock = Path("lock-no-pid")


@pytest.mark.isolated(pid=False, init=True)
class TestInitWithoutPidNamespace(Pair):
    lock = Path("lock-init-no-pid")


@pytest.mark.isolated(pid=False)
class TestManyWithoutPidNamespace(Pair):
    """They go on forking while they are being killed."""

    lock = Path("lock-many")

    def leave(self) -> None:
        daemonize(self.lock)
        for _ in range(5):
            if os.fork() == 0:
                os.setsid()
                while True:
                    if os.fork():
                        os._exit(0)
                    os.setsid()
        assert is_locked(self.lock)


@pytest.mark.isolated
class TestAfterACrash(Pair):
    lock = Path("lock-crash")

    left = "call failed"

    def leave(self) -> None:
        daemonize(self.lock)
        os._exit(0)


@pytest.mark.isolated(pid=False)
class TestAfterACrashWithoutPidNamespace(Pair):
    lock = Path("lock-crash-no-pid")

    left = "call failed"

    def leave(self) -> None:
        daemonize(self.lock)
        os._exit(0)


@pytest.mark.isolated(pid=False, timeout=0.5)
class TestAfterATimeoutWithoutPidNamespace(Pair):
    lock = Path("lock-timeout")

    left = "call failed"

    def leave(self) -> None:
        daemonize(self.lock)
        while True:
            signal.pause()


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its ids")
@pytest.mark.isolated
class TestOtherIds(Pair):
    lock = Path("lock-ids")

    def leave(self) -> None:
        os.umask(0)
        os.close(os.open(self.lock, os.O_CREAT | os.O_RDWR, 0o666))
        os.chmod(".", 0o777)
        os.setresgid(4321, 4321, 4321)
        os.setresuid(4321, 4321, 4321)
        daemonize(self.lock)
        assert is_locked(self.lock)


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its ids")
@pytest.mark.isolated(pid=False)
class TestOtherIdsWithoutPidNamespace(TestOtherIds):
    lock = Path("lock-ids-no-pid")


# Copies of the test, and descriptors -------------------------------------------------------------


@expect("passed")
@pytest.mark.isolated
def test_a_copy_returns_from_the_body() -> None:
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 98


@expect("call failed", "assert 98 == 0", "a process forked by")
@pytest.mark.isolated
def test_a_copy_raises() -> None:
    pid = os.fork()
    if pid == 0:
        raise RuntimeError("in the copy")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@expect("passed")
@pytest.mark.isolated
def test_a_copy_returns_while_the_test_goes_on() -> None:
    for _ in range(3):
        if os.fork() == 0:
            return


@expect("call failed")
@pytest.mark.isolated
def test_closes_every_descriptor() -> None:
    os.closerange(0, 4096)


@expect("call failed", "its stream is broken")
@pytest.mark.isolated
def test_writes_garbage_everywhere() -> None:
    for fd in range(3, 64):
        try:
            os.write(fd, b"garbage " * 100)
        except OSError:
            pass


@expect("passed")
@pytest.mark.isolated
def test_a_copy_writes_garbage_everywhere() -> None:
    pid = os.fork()
    if pid == 0:
        for fd in range(3, 64):
            try:
                os.write(fd, b"garbage " * 100)
            except OSError:
                pass
        os._exit(0)
    os.waitpid(pid, 0)


@expect("call failed", "its stream is broken")
@pytest.mark.isolated
def test_truncated_frame() -> None:
    for fd in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                os.write(fd, b"nsi1")
        except OSError:
            pass


@expect("passed")
@pytest.mark.isolated(False)
def test_the_runner_is_well() -> None:
    assert os.getppid()
