# SPDX-License-Identifier: MIT
"""Tests that share the world of their module: run by tests/runner/test_worlds.py."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_nsisolate import Isolate, Pid1View

pytestmark = pytest.mark.isolated(
    share="module", inside=["server", "broken", "picky", "numbers"], timeout=60
)

expect = pytest.mark.expect


def note(text: str) -> None:
    from journal import note  # type: ignore[import-not-found]  # of the inner run

    note(text)


NAMESPACES = ("pid", "net", "mnt", "ipc", "uts")


def world() -> list[str]:
    return [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]


@pytest.fixture(scope="session")
def early() -> int:
    """The runner's; the first test of the world does not use it."""
    note("early up")
    return os.getpid()


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[bytes]]:
    note("server up")
    sys.stdout.write("said by the server's set-up\n")
    logging.getLogger().warning("logged by the server's set-up")
    warnings.warn("warned by the server's set-up", stacklevel=1)
    Path("/dev/shm/of-server").write_text(str(world()), encoding="utf-8")
    server = subprocess.Popen(["sleep", "3600"])
    # A daemon of the server's: the init's child, and there before the tests.
    subprocess.run(["sh", "-c", "sleep 3600 >&- 2>&- &"], check=True)
    yield server
    server.kill()
    assert server.wait() == -signal.SIGKILL
    note("server down")
    sys.stdout.write("said by the server's tear-down\n")
    warnings.warn("warned by the server's tear-down", stacklevel=1)


@pytest.fixture(scope="module")
def broken() -> NoReturn:
    note("broken up")
    raise LookupError("broken for everybody")


@pytest.fixture(scope="module")
def picky() -> NoReturn:
    pytest.skip("not here")


@pytest.fixture(scope="module", params=[1, 2])
def numbers(request: pytest.FixtureRequest) -> Iterator[int]:
    note(f"number {request.param} up")
    yield request.param
    note(f"number {request.param} down")


@pytest.fixture(scope="class")
def of_class() -> Iterator[str]:
    note("class up")
    yield os.readlink("/proc/self/ns/pid")
    note("class down")


@expect(
    "passed",
    "said by the server's set-up",
    "logged by the server's set-up",
    "!said by the server's tear-down",
)
def test_first(server: subprocess.Popen[bytes], pid1: Pid1View) -> None:
    assert os.getpid() > 2
    assert os.getppid() == 2
    assert pid1.processes[0].pid == 1
    os.kill(server.pid, 0)
    pid1.assert_hostname(pid1.hostname)
    assert pid1.leftovers == ()
    assert eval(Path("/dev/shm/of-server").read_text(encoding="utf-8")) == world()
    os.environ["SAID"] = "by the first test"
    Path("/dev/shm/of-first").write_text(str(random.random()), encoding="utf-8")


@expect("passed", "!said by the server's set-up")
def test_second(server: subprocess.Popen[bytes]) -> None:
    """The same world, and another process: memory is each test's own."""
    os.kill(server.pid, 0)
    assert eval(Path("/dev/shm/of-server").read_text(encoding="utf-8")) == world()
    assert Path("/dev/shm/of-first").exists()
    assert "SAID" not in os.environ


@pytest.mark.isolated(leftovers="fail")
@expect("passed")
def test_fixtures_leave_nothing(server: subprocess.Popen[bytes]) -> None:
    """What the world's fixtures have running is not this test's."""


@expect("call failed", ">       assert os.getpid() == 2", "said by a failing test")
def test_failing(server: subprocess.Popen[bytes]) -> None:
    sys.stdout.write("said by a failing test")
    assert os.getpid() == 2


@expect("call failed", "crashed in call: killed by SIGSEGV", "said before the crash")
def test_crashing(server: subprocess.Popen[bytes]) -> None:
    sys.stdout.write("said before the crash")
    sys.stdout.flush()
    ctypes.string_at(0)


@expect("call failed", "killed by SIGKILL")
def test_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.isolated(timeout=1)
@expect("call failed", "timed out after 1 s in call", "in test_hanging")
def test_hanging(server: subprocess.Popen[bytes]) -> None:
    subprocess.Popen(["sleep", "3601"], start_new_session=True)
    time.sleep(3600)


@expect("call failed", "ended in call: exit status 7")
def test_leaving() -> None:
    os._exit(7)


@pytest.mark.isolated(leftovers="fail")
@expect("teardown failed", "1 process alive after the test: sleep\n")
def test_leaving_processes(server: subprocess.Popen[bytes]) -> None:
    subprocess.run(["sh", "-c", "setsid sleep 3601 >&- 2>&- &"], check=True)


@expect("passed")
def test_nothing_of_other_tests(server: subprocess.Popen[bytes], pid1: Pid1View) -> None:
    """What the hanging test and the last one have left is gone; the server is not."""
    commands = [process.command for process in pid1.processes]
    assert commands.count("sleep 3600") == 2
    assert "sleep 3601" not in commands


@expect("setup failed", "LookupError: broken for everybody")
def test_broken(broken: None) -> None: ...


@expect("setup failed", "LookupError: broken for everybody")
def test_broken_again(broken: None) -> None: ...


@expect("setup skipped", "not here")
def test_skipped(picky: None) -> None: ...


@pytest.mark.xfail(strict=True)
@expect("call xfailed")
def test_xfail() -> None:
    raise AssertionError


@expect("passed")
def test_of_the_runner(early: int) -> None:
    """A session fixture of the runner's is set up before the world begins, and once."""
    assert early != os.getpid()


@expect("passed")
def test_ports_are_of_the_world() -> None:
    socket.create_server(("127.0.0.1", 80)).close()


@expect("passed")
def test_calls_from_inside(isolate: Isolate) -> None:
    assert isolate(os.getpid) == 1


@expect("passed")
def test_faults(pid1: Pid1View) -> None:
    with pid1.fail("mkdir", "ENOSPC"), pytest.raises(OSError, match="No space"):
        os.mkdir("/dev/shm/never")


class TestClass:
    def test_one(self, of_class: str) -> None:
        assert of_class == os.readlink("/proc/self/ns/pid")

    def test_two(self, of_class: str) -> None:
        pass


@pytest.mark.parametrize("place", range(2))
def test_numbers(numbers: int, place: int) -> None:
    assert numbers in (1, 2)


@expect("passed", "!said by the server's set-up")
def test_last(server: subprocess.Popen[bytes]) -> None: ...
