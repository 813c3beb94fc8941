# SPDX-License-Identifier: MIT
"""``raw_clone``: a Python that works in the child, beside threads that want the GIL."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.kernel import clone, libc, namespaces, syscalls
from pytest_nsisolate.kernel.clone import raw_clone

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

CLONES = 100
SECONDS = 5
WORK = 0.005


@contextmanager
def busy_threads() -> Iterator[None]:
    """Two threads that ask for the GIL all the time, also while the clone is made."""
    stop = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    threads = [threading.Thread(target=spin, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


def status_of(pid: int) -> int | None:
    """The exit status, or None for a child that had to be killed."""
    pidfd = os.pidfd_open(pid)
    try:
        hangs = not select.select([pidfd], [], [], SECONDS)[0]
        if hangs:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return None if hangs else os.waitstatus_to_exitcode(status)


def work() -> None:
    """Enough bytecode for the interpreter to think of handing over the GIL, however busy it is."""
    until = time.thread_time() + WORK
    while time.thread_time() < until:
        pass


def test_the_child_works_beside_busy_threads(in_child: InChild) -> None:
    def body() -> Any:
        statuses = []
        with busy_threads():
            for _ in range(CLONES):
                pid = raw_clone(0)
                if pid == 0:
                    work()
                    os._exit(7)
                statuses.append(status_of(pid))
        return statuses

    assert in_child(body) == [7] * CLONES


def test_without_the_chain_of_c_functions_it_would_hang(in_child: InChild) -> None:
    """Negative control: the same calls, one Python statement each, hang sooner or later."""

    def naive_clone() -> int:
        syscall = libc.libc()["syscall"]
        arguments = clone._arguments(signal.SIGCHLD)
        ctypes.pythonapi["PyOS_BeforeFork"]()
        pid: int = syscall(*arguments)
        ctypes.pythonapi[f"PyOS_AfterFork_{'Parent' if pid else 'Child'}"]()
        return pid

    def body() -> bool:
        with busy_threads():
            for _ in range(30 * CLONES):
                pid = naive_clone()
                if pid == 0:
                    os._exit(7)
                pidfd = os.pidfd_open(pid)
                hangs = not select.select([pidfd], [], [], 0.5)[0]
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(pidfd)
                if hangs:
                    return True
        return False

    assert in_child(body) is True


def test_hooks_run_on_both_sides(in_child: InChild) -> None:
    def body() -> Any:
        calls: list[str] = []
        os.register_at_fork(
            before=lambda: calls.append("before"),
            after_in_parent=lambda: calls.append("parent"),
            after_in_child=lambda: calls.append("child"),
        )
        pid = raw_clone(0)
        if pid == 0:
            os._exit(7 if calls == ["before", "child"] else 1)
        return status_of(pid), calls

    assert in_child(body) == (7, ["before", "parent"])


def test_a_child_knows_its_own_thread_id(in_child: InChild) -> None:
    """glibc's copy is repaired by the kernel: pthread functions take it for the thread's id."""

    def body() -> Any:
        pid = raw_clone(0)
        if pid == 0:
            # The clock of the calling thread, found by that copy.
            before = time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident()))
            work()
            after = time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident()))
            right = threading.get_native_id() == os.getpid() and after - before > WORK / 2
            os._exit(7 if right else 1)
        return status_of(pid)

    assert in_child(body) == 7


def test_a_clone_of_a_clone(in_child: InChild) -> None:
    def body() -> Any:
        pid = raw_clone(0)
        if pid == 0:
            inner = raw_clone(0)
            if inner == 0:
                work()
                os._exit(3)
            os._exit(status_of(inner) or 0)
        return status_of(pid)

    assert in_child(body) == 3


def test_threads_and_forks_work_in_the_child(in_child: InChild) -> None:
    def body() -> Any:
        pid = raw_clone(0)
        if pid == 0:
            seen: list[int] = []
            thread = threading.Thread(target=lambda: seen.append(1))
            thread.start()
            thread.join()
            inner = os.fork()
            if inner == 0:
                os._exit(7)
            os._exit((status_of(inner) or 0) if seen == [1] else 1)
        return status_of(pid)

    assert in_child(body) == 7


def test_born_into_namespaces_beside_a_thread(user_world: World) -> None:
    """The reason for all this: unshare(CLONE_NEWUSER) is EINVAL in a process with threads."""

    def body() -> Any:
        before = namespaces.identities()
        read, write = os.pipe()
        with busy_threads():
            pid = raw_clone(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWUTS)
            if pid == 0:
                os.write(write, repr(namespaces.identities()).encode())
                os._exit(0)
            assert status_of(pid) == 0
        after = eval(os.read(read, 1000))
        return sorted(name for name in before if before[name] != after[name])

    assert user_world.run(body) == ["user", "uts"]


@pytest.mark.parametrize("machine", [os.uname().machine, "a machine nobody knows"])
def test_a_refused_clone_is_an_error_in_the_parent(
    in_child: InChild, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    numbers = {os.uname().machine: clone._NUMBERS[os.uname().machine]}
    if machine not in numbers:
        numbers = {}
    monkeypatch.setattr(clone, "_NUMBERS", numbers)

    def body() -> Any:
        try:
            pid = raw_clone(0x00010000)  # CLONE_THREAD, alone: EINVAL
        except OSError as error:
            return error.errno
        if pid == 0:
            os._exit(1)
        return os.waitpid(pid, 0)

    assert in_child(body) == (errno.EINVAL if numbers else errno.ENOSYS)
