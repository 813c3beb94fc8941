# SPDX-License-Identifier: MIT
"""The process that answers a test's system calls: its birth, its end, and what nothing survives."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from pytest_nsisolate.errors import FaultRefusal, StepError
from pytest_nsisolate.kernel import seccomp
from pytest_nsisolate.process import helpers
from pytest_nsisolate.wire.frames import Kind
from tests.inner_runs import SIDES, THREADED, Side, run_batch
from tests.support import NEEDS_NAMESPACES, needs

pytestmark = [
    NEEDS_NAMESPACES,
    needs(seccomp.refusal() is None, "this kernel or this machine takes no such filter"),
]

#: What every suite here begins with; ``answering`` is the supervisor's number, for the tests that
#: see the host's processes.
HEAD = """
import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.isolated

def parent_of(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])

def answering():
    own, pid = {os.getpid()}, os.getpid()
    while pid := parent_of(pid):
        own.add(pid)
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"process/fault_supervisor" in path.read_bytes():
                if parent_of(path.parent.name) in own:
                    return int(path.parent.name)
        except OSError:
            pass
"""

SUITE = (
    HEAD
    + """
@pytest.mark.parametrize("number", range(3))
def test_fails(pid1, tmp_path, number):
    with pid1.fail("openat", errno.ENOSPC, path=f"{tmp_path}/*"):
        with pytest.raises(OSError):
            open(tmp_path / "file", "w")
        assert subprocess.run(["touch", tmp_path / "file"], capture_output=True).returncode

def test_never_happens(pid1):
    with pid1.fail("creat", errno.ENOSPC):
        pass

def test_leaves_one_in_force(pid1, tmp_path):
    pid1.fail("openat", errno.ENOSPC, path=f"{tmp_path}/*").__enter__()

def test_leaves_a_daemon(pid1, tmp_path):
    with pid1.delay("openat", 3600, path=f"{tmp_path}/*", unused="ok"):
        subprocess.Popen(["touch", tmp_path / "file"])

@pytest.mark.isolated(timeout=1)
def test_is_held_for_ever(pid1, tmp_path):
    with pid1.delay(("mkdir", "mkdirat"), 3600):
        os.mkdir(tmp_path / "x")

def test_crashes(pid1):
    with pid1.fail("creat", errno.ENOSPC):
        os.kill(os.getpid(), signal.SIGSEGV)
        os.abort()

@pytest.mark.isolated(False)
def test_none_is_left():
    assert answering() is None
"""
)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("head", ["", THREADED], ids=["short", "long"])
@pytest.mark.parametrize("options", [(), ("-n", "2", "-p", "xdist")], ids=["here", "workers"])
def test_every_end_of_a_test(side: Side, head: str, options: tuple[str, ...]) -> None:
    """Whatever becomes of it: the outcome is its own, and no process and no descriptor is left."""
    result = run_batch({"test_it.py": head + SUITE}, side, *options, clean=not options)
    passed = {f"test_fails[{n}]" for n in range(3)} | {"test_leaves_one_in_force"}
    passed |= {"test_leaves_a_daemon"} | (set() if options else {"test_none_is_left"})
    assert passed <= result.passed(), result.text
    assert "<Fault creat with ENOSPC> never happened" in result.failure("test_never_happens")
    assert "timed out after 1 s in call" in result.failure("test_is_held_for_ever")
    assert "killed by SIG" in result.failure("test_crashes")


KILLED = (
    HEAD
    + """
@pytest.mark.isolated(pid=False)
def test_is_lost(pid1):
    with pid1.fail("creat", errno.ENOSPC):
        child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        os.kill(answering(), signal.SIGKILL)
        time.sleep(60)

def test_next(pid1):
    with pid1.fail("creat", errno.ENOSPC, unused="ok"):
        pass
"""
)


@pytest.mark.parametrize("side", SIDES)
def test_when_it_is_killed_the_test_is_ended_and_says_why(side: Side) -> None:
    """Its calls would fail for no reason that the test gave; the next test has another one."""
    result = run_batch({"test_it.py": KILLED}, side)
    assert result.failure("test_is_lost").startswith(
        "isolated test lost in call: its fault supervisor has ended"
    ), result.text
    assert result.passed() == {"test_next"}


NOT_STARTED = (
    """
import os
import pytest_nsisolate.process.helper_program as helper

def refuse(*args):
    raise OSError(11, os.strerror(11))

helper.spawn = refuse
"""
    + HEAD
    + """
def test_it(pid1):
    with pid1.fail("creat", errno.ENOSPC):
        pass
"""
)


def test_one_that_cannot_be_started() -> None:
    """EAGAIN, say: the step is named."""
    result = run_batch({"test_it.py": NOT_STARTED}, "user")
    said = result.failure("test_it")
    assert "fault supervisor refused: start the fault supervisor: EAGAIN" in said
    assert "remedy: " in said


def test_a_wish_that_is_not_true() -> None:
    """The child is not trusted: numbers that are none, a descriptor that it does not have."""
    own = os.getpid()
    for wish in ({}, {"descriptor": "3", "inode": 1}, {"descriptor": 1 << 20, "inode": 1}):
        with pytest.raises(StepError, match="find the test: ESRCH"):
            helpers.start(Kind.FAULTS, own, wish)
    reading, writing = os.pipe()
    try:
        wish = {"descriptor": reading, "inode": os.fstat(reading).st_ino}
        with pytest.raises(StepError, match="its socket is another one"):
            helpers.start(Kind.FAULTS, own, wish)
    finally:
        os.close(reading)
        os.close(writing)


REFUSED = """
import errno
import os
import sys

sys.path.insert(0, {checkout!r})
import pytest
import pytest_nsisolate
from tests.seccomp import deny

@pytest.mark.isolated
def test_it(pid1):
    deny("seccomp", errno.EPERM)
    with pid1.fail("creat", errno.ENOSPC):
        raise AssertionError("the block has begun")

@pytest.mark.isolated
def test_twice(pid1):
    # As a container's runtime that answers calls itself.
    from pytest_nsisolate.kernel import seccomp
    listener = seccomp.install(seccomp.handing_over(range(450)))
    with pytest.raises(pytest_nsisolate.FaultRefusal), pid1.fail("creat", errno.ENOSPC):
        raise AssertionError("the block has begun")
    with pid1.fail("creat", errno.ENOSPC):
        raise AssertionError("the block has begun")
"""


def test_refusals_name_step_errno_cause_and_remedy(pytestconfig: pytest.Config) -> None:
    """seccomp(2) is refused by a filter, or there is another one that is answered."""
    source = REFUSED.format(checkout=str(pytestconfig.rootpath))
    result = run_batch({"test_it.py": source}, "root" if os.geteuid() == 0 else "user")
    said = result.failure("test_it")
    assert "faults refused: answer system calls: EPERM" in said
    assert "cause: a filter around the runner refuses it" in said
    assert "seccomp=unconfined" in said
    said = result.failure("test_twice")
    assert "faults refused: answer system calls: EBUSY" in said
    assert "cause: a filter whose calls somebody answers is on this process already" in said


def test_a_refusal_survives_pickle() -> None:
    """It may cross from a child."""
    import pickle

    error = FaultRefusal(StepError("seccomp", None, errno.EBUSY), "because", "do that")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.step.errno, again.cause, again.remedy) == (errno.EBUSY, "because", "do that")


def test_it_does_not_outlive_the_runner() -> None:
    """SIGKILL to what has started it."""
    program = (
        "import os, socket, time, sys;"
        "from pytest_nsisolate.process import helpers as f;"
        "from pytest_nsisolate.wire.frames import Kind;"
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "w = {'descriptor': b.fileno(), 'inode': os.fstat(b.fileno()).st_ino};"
        "s = f.start(Kind.FAULTS, os.getpid(), w);"
        "a.recv(100); print(s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        pidfd = os.pidfd_open(int(runner.stdout.readline()))
        try:
            runner.kill()
            import select

            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            assert poller.poll(10_000), "it is alive"
        finally:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(pidfd)
