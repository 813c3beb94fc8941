# SPDX-License-Identifier: MIT
"""A daemon that nobody stops: it ends with the test that started it.

A lock is the proof. The daemon inherits it; the kernel releases it when the last process that
has it is dead, and not before. No process ids, which may mean somebody else by now.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: The classic: two forks (the shell, then ``&``), an own session, deaf to every polite signal.
DAEMONIZE = """trap '' HUP INT QUIT TERM; setsid "$@" &"""


def daemonize(*command: str, keep: list[int]) -> str:
    """Start a daemon that keeps these descriptors; returns the first line that it prints."""
    with subprocess.Popen(
        ["sh", "-c", DAEMONIZE, "sh", *command], pass_fds=keep, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        return shell.stdout.readline()


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def is_released(lock: Path) -> bool:
    """Whether the lock is free, now or within ten seconds."""
    deadline = time.monotonic() + 10
    while is_held(lock) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_held(lock)


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("daemon") / "lock"
    path.touch()
    yield path
    # Module scope belongs to the runner: this line runs there, in whatever order the tests ran.
    assert is_released(path)


@pytest.mark.isolated(pid=True, net=True, timeout=30, leftovers="ignore")
def test_leave_a_web_server_behind(lock: Path) -> None:
    """A real web server on port 80, daemonized and deaf to SIGTERM; and then the test is over."""
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        first_line = daemonize(
            sys.executable, "-u", "-m", "http.server", "80", keep=[file.fileno()]
        )
    os.kill(-1, signal.SIGTERM)  # to all that the test has started, in vain
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()

    assert first_line.startswith("Serving HTTP")
    assert status == 200
    assert is_held(lock)


@pytest.mark.isolated(False)
def test_the_web_server_is_gone(lock: Path) -> None:
    """Afterwards, seen from the runner, nobody holds the lock: the server is dead."""
    assert is_released(lock)


@pytest.mark.isolated(False)
def test_control_on_the_host_a_daemon_lives_on(tmp_path: Path) -> None:
    """The same daemonizing in the runner: whoever started it is gone, and it holds its lock."""
    path = tmp_path / "lock"
    reading, writing = os.pipe()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wait_for_the_end = f"print('ready', flush=True); open({reading}).read()"
        daemonize(sys.executable, "-c", wait_for_the_end, keep=[file.fileno(), reading])
    os.close(reading)

    assert is_held(path)
    os.close(writing)  # what it waits for: this one goes when it is asked to
    assert is_released(path)
