# SPDX-License-Identifier: MIT
"""The process that ends what the runner leaves."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import termios

import pytest

from pytest_nsisolate.process import watchdog
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfds are Linux's")

#: A runner that ends before its child, which would stay for a minute.
RUNNER = """
import os, signal, sys
from pytest_nsisolate.process import watchdog

told = int(sys.argv[1])
for fd in (3, 4):
    os.dup2(told, fd)
for fd in map(int, sys.argv[2:]):
    os.close(fd)
found = watchdog.spawn(os.pidfd_open(os.getpid()))
if found is None:
    os._exit(3)
reading, writing = os.pipe()
if os.fork() == 0:
    signal.alarm(60)
    watchdog.report_to(found.socket, os.pidfd_open(os.getpid()))
    os.write(told, b"reported")
    os.close(writing)
    signal.pause()
os.close(writing)
os.read(reading, 1)
os._exit(0)
"""


@pytest.mark.parametrize("free", [(), ("3", "4"), ("0", "1", "2", "3", "4")], ids=len)
def test_whatever_numbers_are_free_it_starts_and_ends_the_child(free: tuple[str, ...]) -> None:
    """What it is given may have the very numbers to which its own two descriptors come."""
    reading, low = os.pipe()
    writing = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(low)
    try:
        command = [sys.executable, "-c", RUNNER, str(writing), *free]
        ended = subprocess.run(command, pass_fds=(writing,), timeout=60, check=False)
    finally:
        os.close(writing)
    said = b""
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    while poller.poll(30_000) and (more := os.read(reading, 100)):
        said += more
    gone = bool(poller.poll(0))
    os.close(reading)

    assert ended.returncode == 0
    assert (said, gone) == (b"reported", True)


def test_the_dead_are_forgotten() -> None:
    """Not at once, but never more of them are held than children lived at a time."""
    runner = os.pidfd_open(os.getpid())
    found = watchdog.spawn(runner)
    assert found is not None

    def held() -> int:
        """Pidfds of children; the one of the runner is not counted."""
        folder = f"/proc/{found.pid}/fd"
        return sum("pidfd" in os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)) - 1

    def unread() -> int:
        return int.from_bytes(fcntl.ioctl(found.socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0)
            pidfd = os.pidfd_open(child)
            watchdog.report_to(found.socket, pidfd)
            os.close(pidfd)
            os.waitpid(child, 0)
        assert eventually(lambda: not unread() and held() == 1, 30), (
            "the last one, as long as no other reports"
        )
    finally:
        found.dismiss()
        os.close(runner)
