# SPDX-License-Identifier: MIT
"""Whatever ends a run, nothing of its testbeds is left; and testbeds do not meet."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import (
    SIDES,
    Running,
    Side,
    assert_nothing_alive,
    descendants,
    run_batch,
    start,
    suite_folder,
)
from tests.support import NEEDS_NAMESPACES, eventually

pytestmark = NEEDS_NAMESPACES

#: Two hosts and a relay at work, under load, and packets on their way over the test's own ``lo``.
#: It marks when it is there, and goes on.
UNDER_LOAD: Final = """
import pathlib, socket, sys, time
import pytest

FLOOD = '''
import socket
out = socket.socket(type=socket.SOCK_DGRAM)
while True:
    try:
        out.sendto(b"x" * 1000, ("10.0.0.2", 9))
    except OSError:
        pass
'''

@pytest.mark.isolated
def test_it(testbed, pid1):
    pid1.loopback.impair(delay=100, rate="10mbit")
    with socket.socket(type=socket.SOCK_DGRAM) as out:
        for _ in range(100):
            out.sendto(b"x" * 1000, ("127.0.0.1", 9))
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    b.wire.impair(delay=0.1, rate="10mbit")
    a.start([sys.executable, "-c", FLOOD])
    while not b.wire.counts.passed:
        pass
    pathlib.Path("up").touch()
    {then}
"""


def under_load(then: str) -> dict[str, str]:
    return {"test_load.py": UNDER_LOAD.format(then=then)}


@pytest.mark.parametrize("side", SIDES)
def test_the_end_of_a_test_under_load(side: Side) -> None:
    """Passed or failed: the relay and the flood end with it (the batch looks for that)."""
    result = run_batch(under_load("pass"), side, timeout=600)
    assert result.passed() == {"test_it"}, result.text
    result = run_batch(under_load("raise RuntimeError"), side, timeout=600)
    assert result.phases("test_it") == ["setup passed", "call failed", "teardown passed"]


@pytest.mark.parametrize("side", SIDES)
def test_a_crash(side: Side) -> None:
    """A test whose process is gone takes its hosts along."""
    result = run_batch(under_load("import os; os._exit(3)"), side, timeout=600)
    assert "exit status 3" in result.failure("test_it")


@pytest.mark.parametrize("side", SIDES)
def test_a_timeout(side: Side) -> None:
    """So does one that has no time left."""
    files = under_load("time.sleep(1000)")
    files["test_load.py"] = files["test_load.py"].replace("isolated\n", "isolated(timeout=8)\n")
    result = run_batch(files, side, timeout=600)
    assert "timed out after 8 s" in result.failure("test_it")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("side", SIDES)
def test_a_killed_runner(side: Side, number: int) -> None:
    """By the system, by Ctrl-C, by a time limit around it."""
    with suite_folder(under_load("time.sleep(1000)"), side) as folder:
        with start(folder, side) as run:
            run.wait_for("up")
            everybody = [*descendants(run.process.pid)]
            os.killpg(run.process.pid, number)
            run.process.wait(timeout=60)
            assert eventually(lambda: not [pid for pid in everybody if _lives(pid)], 30)
        assert_nothing_alive(folder)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("side", SIDES)
def test_the_same_addresses_at_the_same_time(side: Side) -> None:
    """Four runs; none sees a packet of another one."""
    then = "time.sleep(0.2); assert {p.wire for p in testbed.capture(b)} == {'b.eth0'}"
    runs: list[Running] = []
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            folder = stack.enter_context(suite_folder(under_load(then), side))
            runs.append(stack.enter_context(start(folder, side)))
        for run in runs:
            run.wait_for("up")
        for run in runs:
            assert run.finish().passed() == {"test_it"}, run.text()


#: No program of the system's is found: tc, ip, brctl, tcpdump.
WITHOUT_PROGRAMS: Final = 'import os; os.environ["PATH"] = ""'

MANY: Final = """
import socket, sys
import pytest

@pytest.mark.isolated
@pytest.mark.parametrize("number", range(16))
def test_it(testbed, number):
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    if number % 4 == 0:
        b.wire.impair(delay=0.001)
    assert a.call(socket.gethostbyname, "b") == "10.0.0.2"
    a.start([sys.executable, "-c", "import time; time.sleep(1000)"])
    with pytest.raises(FileNotFoundError):
        a.run("ip address")
"""


@pytest.mark.parametrize("side", SIDES)
def test_many_in_one_run(side: Side) -> None:
    """Eight at a time with the same addresses, and nothing to help: no link, no name of a
    namespace, no descriptor and no process is left. ``benchmarks/many_testbeds.py`` has 200."""
    before = _links_and_names()
    files = {"test_many.py": MANY, "conftest.py": WITHOUT_PROGRAMS}
    result = run_batch(files, side, "--nsisolate-jobs=8", timeout=600)
    assert len(result.passed()) == 16, result.text
    assert _links_and_names() == before


def _links_and_names() -> tuple[list[str], list[str]]:
    names = Path("/run/netns")
    return os.listdir("/sys/class/net"), os.listdir(names) if names.exists() else []
