# SPDX-License-Identifier: MIT
"""Tests that fail in worlds of all kinds; ``tests/view/postmortem/`` reads their reports."""

from __future__ import annotations

import builtins
import os
import resource
import signal
import socket
import subprocess
import unittest
from collections.abc import Iterator
from typing import NoReturn

import pytest

pytestmark = pytest.mark.isolated(leftovers="ignore")


def sleeper() -> int:
    """A process that waits for its end."""
    if (pid := os.fork()) == 0:
        signal.pause()
    return pid


def zombie() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_first() -> NoReturn:
    """In it the mounts are looked at for all others."""
    raise AssertionError("nothing was mounted")


def test_limited() -> NoReturn:
    """In a group of its own where there are cgroups; the first of all had none."""
    raise AssertionError("nothing was mounted")


test_limited.pytestmark = [pytest.mark.isolated(limits={"processes": 400})]  # type: ignore[attr-defined]


def test_world() -> None:
    pid = sleeper()
    zombie()
    subprocess.run(["mount", "-t", "tmpfs", "new", "/mnt"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "again", "/dev/shm"], check=True)
    subprocess.run(["ip", "address", "add", "203.0.113.7/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "route", "add", "198.51.100.0/24", "dev", "lo"], check=True)
    server = socket.create_server(("203.0.113.7", 80))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0the abstract one")
    abstract.listen()
    assert not (pid, server, abstract)


def test_shares_the_network(request: pytest.FixtureRequest) -> NoReturn:
    raise AssertionError


test_shares_the_network.pytestmark = [pytest.mark.isolated(net=False)]  # type: ignore[attr-defined]


@pytest.fixture
def broken() -> NoReturn:
    sleeper()
    raise OSError("set-up")


@pytest.fixture
def broken_later() -> Iterator[None]:
    yield
    raise OSError("tear-down")


def test_setup_fails(broken: None) -> None: ...
def test_teardown_fails(broken_later: None) -> None: ...
def test_knows_no_fixture(nothing_of_this_name: None) -> None: ...
def test_passes() -> None: ...


def test_skips() -> None:
    pytest.skip("not here")


@pytest.mark.xfail
def test_xfails() -> NoReturn:
    raise AssertionError


def test_crashes() -> None:
    os._exit(3)


def test_many() -> None:
    for _ in range(100):
        sleeper()
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(500)]
    assert not servers


def test_long_names() -> None:
    subprocess.Popen(["sleep", "60"], executable="/bin/sh")
    process = subprocess.Popen(["/bin/sh", "-c", f"kill -STOP $$ # {'x' * 9000}\n\x1b[31m"])
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    raise AssertionError


def open_files() -> None:
    files = []
    while True:
        files.append(os.open("/dev/null", os.O_RDONLY))


def test_open_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
    open_files()


def test_open_files_to_the_hard_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    open_files()


def test_mocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError("this is a mock")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    raise AssertionError


def test_no_proc() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
    raise AssertionError


def test_other_root(tmp_path: object) -> None:
    os.chroot("/proc")
    raise AssertionError


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError

    def __getattribute__(self, name: str) -> object:
        if name in ("errno", "reason", "exceptions"):
            raise ValueError
        return super().__getattribute__(name)


def test_unspeakable() -> NoReturn:
    raise UnspeakableError


class TestSubtests(unittest.TestCase):
    def test_two_fail(self) -> None:
        for number in range(3):
            with self.subTest(number=number):
                assert not number


def test_too_large_a_file() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with open("too_large", "wb", buffering=0) as file:
        file.write(b"x" * 4096)
        file.write(b"x")
