# SPDX-License-Identifier: MIT
"""``init=True``: signals are what they are anywhere, and children and orphans too."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nsisolate.kernel.signals import hold_signal, release_signal

pytestmark = pytest.mark.isolated(init=True)

expect = pytest.mark.expect

#: Signals that end a process which does not care about them (signal(7)).
FATAL = [
    number
    for number in signal.valid_signals()
    if number
    not in (
        *(signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT),
        *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    )
]


@expect("passed")
def test_pid() -> None:
    assert os.getpid() != 1
    assert os.getppid() == 1


@pytest.mark.parametrize("number", FATAL, ids=lambda number: str(int(number)))
def test_signal(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@expect("call failed", "killed by SIGABRT", "Fatal Python error: Aborted", "!as PID 1")
def test_abort() -> None:
    os.abort()


@expect("call failed", "exit status 5 before it was finished")
def test_exit() -> None:
    os._exit(5)


@expect("call failed", "killed by SIGKILL")
def test_kill_all() -> None:
    subprocess.run(["sh", "-c", "kill -9 -1"])


@expect("passed")
def test_statuses_of_children_are_not_eaten() -> None:
    for status in (*range(32), 255):
        command = f"import os; os._exit({status})"
        if status % 8 == 0:
            assert subprocess.run([sys.executable, "-ISc", command]).returncode == status
        pid = os.fork()
        if pid == 0:
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def double_fork() -> int:
    """A process whose parent is gone: its number. It ends at once."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            while os.getppid() != 1:
                select.select([], [], [], 0.001)
            os.write(writer, str(os.getpid()).encode())
        os._exit(0)
    os.wait()
    number = int(os.read(reader, 32))
    os.close(reader)
    os.close(writer)
    return number


@expect("passed")
def test_orphans_are_reaped() -> None:
    orphan = double_fork()
    try:
        descriptor = os.pidfd_open(orphan)
    except ProcessLookupError:
        return
    select.select([descriptor], [], [])
    os.close(descriptor)
    while Path(f"/proc/{orphan}").exists():
        select.select([], [], [], 0.001)


@expect("passed")
@pytest.mark.isolated(init=False)
def test_without_init_orphans_stay() -> None:
    orphan = double_fork()
    select.select([os.pidfd_open(orphan)], [], [])
    assert "\nState:\tZ" in Path(f"/proc/{orphan}/status").read_text()


@expect("passed")
def test_signals_of_the_runner_are_plain_ones_from_inside() -> None:
    """Those by which it holds a test and lets it go on, sent by the test itself."""
    heard: list[int] = []
    for number in (hold_signal(), release_signal()):
        signal.signal(number, lambda number, frame: heard.append(number))
        os.kill(1, number)
        while number not in heard:
            select.select([], [], [], 0.001)


@expect("passed")
def test_signals_to_pid1_reach_the_test() -> None:
    received: list[int] = []
    wakeup, writer = os.pipe()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN):
        signal.signal(number, lambda number, frame: received.append(number))
        subprocess.run(["sh", "-c", f"kill -{int(number)} 1"], check=True)
        while number not in received:
            select.select([wakeup], [], [], 0.001)
    os.close(wakeup)
    os.close(writer)


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.isolated(init=False)
def test_multiprocessing_below_pid1(method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]


@expect("passed")
def test_handlers_and_masks_are_the_runners() -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert blocked == set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("SigBlk"))
    assert int(line.split()[1], 16) == 0
