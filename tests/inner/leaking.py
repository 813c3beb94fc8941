# SPDX-License-Identifier: MIT
"""Tests that leave processes behind, and tests that only look as if they did."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest

expect = pytest.mark.expect

#: Objects whose finalizers would end, or complain about, what they stand for.
KEPT: list[object] = []

#: Starts a daemon and returns when its parent has ended.
DAEMON = "setsid sh -c 'sleep 600 & exec true'"

#: A program whose first thread ends before another one does.
SECOND_THREAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""

ONE = "1 process alive after the test: sleep\n"


def start(*command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command)
    KEPT.append(process)
    return process


def until(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.01)


def share_memory() -> None:
    """What starts the resource tracker, and leaves it."""
    memory = shared_memory.SharedMemory(create=True, size=8)
    memory.close()
    memory.unlink()


def work_in_a_fork_server(work: Callable[..., object], *arguments: object) -> Any:
    process: Any = multiprocessing.get_context("forkserver").Process(target=work, args=arguments)
    process.start()
    KEPT.append(process)
    return process


def leave_a_daemon() -> None:
    subprocess.run(DAEMON, shell=True, check=True)
    until(is_somebody_asleep)


def is_somebody_asleep() -> bool:
    """Whether a shell's child has become the program that it is to run."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text() == "sleep\n":
                return True
    return False


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.isolated(leftovers="fail")
class TestNothing:
    """Whoever leaves nothing alive hears nothing."""

    @expect("passed", "!alive after")
    def test_nothing(self) -> None:
        pass

    @expect("passed", "!alive after")
    def test_thread(self) -> None:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

    @expect("passed", "!alive after")
    def test_zombie(self) -> None:
        os.waitid(os.P_PID, start("true").pid, os.WEXITED | os.WNOWAIT)

    @expect("passed", "!alive after")
    def test_told_to_end(self) -> None:
        for _ in range(5):
            start("sleep", "600").kill()

    @expect("passed", "!alive after")
    def test_resource_tracker(self) -> None:
        share_memory()

    @expect("passed", "!alive after")
    def test_fork_server(self) -> None:
        process = work_in_a_fork_server(os.getpid)
        process.join()
        assert process.exitcode == 0

    @expect("passed", "!alive after")
    def test_calls(self, isolate: Any) -> None:
        assert isolate(os.getpid) == 1
        with isolate.using(pid=True).open() as box:
            box.command(["sh", "-c", "sleep 600 &"])

    @expect("passed", "!alive after")
    @pytest.mark.isolated(init=True)
    def test_under_init(self) -> None:
        pass

    @expect("passed", "!alive after")
    @pytest.mark.isolated(pid=False)
    def test_without_pid_namespace(self) -> None:
        share_memory()

    @expect("passed", "!alive after")
    @pytest.mark.isolated(pid=False, init=True)
    def test_without_pid_namespace_under_init(self) -> None:
        os.waitid(os.P_PID, start("true").pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.isolated(leftovers="fail")
class TestSomething:
    """Whoever leaves something gets an error that says what."""

    @expect(
        "teardown failed",
        f"{ONE}    PID    PPID S       AGE  COMMAND\n      2       1 S ",
        " s  sleep 600\nleftovers='fail': end what a test starts in the test",
    )
    def test_child(self) -> None:
        start("sleep", "600")

    @expect("teardown failed", ONE)
    def test_daemon(self) -> None:
        leave_a_daemon()

    @expect("teardown failed", ONE, " sleep 601\n")
    def test_grandchild(self) -> None:
        with subprocess.Popen(["sh", "-c", "sleep 601 & echo; wait"], stdout=-1) as shell:
            assert shell.stdout is not None
            shell.stdout.read(1)
            until(is_somebody_asleep)
            shell.kill()

    @expect("teardown failed", ONE, " 1 T ")
    def test_stopped(self) -> None:
        process = start("sleep", "600")
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    @expect("teardown failed", "1 process alive after the test: python")
    def test_worker_of_the_fork_server(self) -> None:
        work_in_a_fork_server(time.sleep, 600)

    @expect("teardown failed", "1 process alive after the test: python")
    def test_first_thread_has_ended(self) -> None:
        """Its leader is a zombie for the kernel, and yet it is alive."""
        process = start(sys.executable, "-c", SECOND_THREAD)
        until(lambda: state_of(process.pid) == "Z")

    @expect(
        "teardown failed", "2 processes alive after the test: 2 sh\n", " sh -c read x a\\n\\x1bb\n"
    )
    def test_several_with_odd_arguments(self) -> None:
        for _ in range(2):
            reading, writing = os.pipe()
            KEPT.append(subprocess.Popen(["sh", "-c", "read x", "a\n\x1bb"], stdin=reading))
            KEPT.append(writing)

    @expect(
        "teardown failed",
        "1 process alive after the test: a\\n\\x1b[31mb\n",
        "!a\n",
        "!\x1b[31mb",
    )
    def test_odd_name(self) -> None:
        name = Path(tempfile.mkdtemp(), "a\n\x1b[31mb")
        name.symlink_to(shutil.which("sleep") or "sleep")
        start(str(name), "600")

    @expect("teardown failed", ONE, " 1 S ")
    @pytest.mark.isolated(init=True)
    def test_under_init(self) -> None:
        leave_a_daemon()

    @expect("teardown failed", ONE)
    @pytest.mark.isolated(pid=False)
    def test_without_pid_namespace(self) -> None:
        leave_a_daemon()

    @expect("teardown failed", ONE)
    @pytest.mark.isolated(pid=False, init=True)
    def test_without_pid_namespace_under_init(self) -> None:
        start("sleep", "600")

    @expect("teardown failed", "the test's /proc does not show it any more", "!PPID S")
    def test_proc_covered(self) -> None:
        start("sleep", "600")
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)

    @expect("teardown failed", "the test's /proc does not show it any more", "!PPID S")
    def test_proc_of_somebody_else(self) -> None:
        start("sleep", "600")
        subprocess.run(["umount", "-l", "/proc"], check=True)


# What becomes of the report -----------------------------------------------------------------------


@pytest.fixture
def forgotten() -> None:
    start("sleep", "600")


@pytest.fixture
def broken() -> Iterator[None]:
    yield
    raise ValueError("the fixture's own error")


@pytest.fixture
def breaks() -> None:
    raise ValueError("the fixture's own error")


@pytest.fixture
def skips() -> Iterator[None]:
    yield
    pytest.skip("in tear-down")


@pytest.mark.isolated(leftovers="fail")
class TestReport:
    @expect("teardown failed", "the fixture's own error", f"alive after teardown ---\n{ONE}")
    def test_an_error_stays(self, broken: None) -> None:
        start("sleep", "600")

    @expect("teardown failed", ONE)
    def test_a_skip_does_not(self, skips: None) -> None:
        start("sleep", "600")

    @expect("call failed", "the test's own error", f"alive after teardown ---\n{ONE}")
    def test_after_a_failure(self) -> None:
        start("sleep", "600")
        raise ValueError("the test's own error")

    @expect("setup failed", "the fixture's own error", f"alive after teardown ---\n{ONE}")
    def test_after_a_failed_setup(self, forgotten: None, breaks: None) -> None:
        pass

    @expect("call failed", "the test's own error", f"alive after teardown ---\n{ONE}")
    @pytest.mark.isolated(leftovers="warn")
    def test_nor_a_warning(self) -> None:
        start("sleep", "600")
        raise ValueError("the test's own error")

    @expect("call xfailed, teardown xfailed", ONE)
    @pytest.mark.xfail(strict=True)
    def test_expected(self) -> None:
        start("sleep", "600")
        raise ValueError

    @expect("call xfailed, teardown failed", ONE)
    @pytest.mark.xfail(raises=ValueError)
    def test_expected_was_another_one(self) -> None:
        start("sleep", "600")
        raise ValueError


# Whose it is --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.isolated(leftovers="fail")
class TestFixtures:
    @expect("passed", "!alive after")
    @pytest.mark.isolated(inside="service")
    def test_inside(self, service: int) -> None:
        assert state_of(service) in "RSD"

    @expect("passed", "!alive after")
    @pytest.mark.isolated(pid=False)
    def test_of_the_runner(self, service: int) -> None:
        """Alive, and no child of the test's."""
        assert state_of(service) in "RSD"

    @expect("teardown failed", ONE)
    def test_forgotten(self, forgotten: None) -> None:
        pass


@pytest.mark.isolated(leftovers="fail")
class TestUnit(unittest.TestCase):
    @expect("passed", "!alive after")
    def test_cleaned_up(self) -> None:
        self.addCleanup(start("sleep", "600").kill)

    @expect("teardown failed", ONE)
    def test_left(self) -> None:
        start("sleep", "600")


# What the markers say -----------------------------------------------------------------------------


@expect("passed", "!alive after")
@pytest.mark.isolated(leftovers="ignore")
def test_ignored() -> None:
    start("sleep", "600")


@expect("passed", "!alive after")
@pytest.mark.isolated
def test_warned_by_default() -> None:
    start("sleep", "600")


@pytest.mark.isolated(leftovers="fail")
class TestMerged:
    @expect("teardown failed", ONE)
    @pytest.mark.isolated(net=False)
    def test_farther_marker_stands(self) -> None:
        start("sleep", "600")

    @expect("passed", "!alive after")
    @pytest.mark.isolated(leftovers="ignore")
    def test_closer_marker_wins(self) -> None:
        start("sleep", "600")
