# SPDX-License-Identifier: MIT
"""Runners that are hard to fork from: threads, thieves, limits, PID 1 itself.

Each is made by a ``conftest.py`` in the runner of an inner run, and every run is checked for what
it leaves behind (``tests.inner_runs.assert_clean``).
"""

from __future__ import annotations

import os

import pytest

from tests.hosts import NEEDS_ROOT
from tests.inner import outcomes
from tests.inner_runs import SIDES, THREADED, Side, run_batch, said, shared_batch, source, verdict
from tests.support import NEEDS_NAMESPACES, Result

pytestmark = NEEDS_NAMESPACES

#: A few of every kind.
MIXED = """
import ctypes, os, signal, subprocess, sys
import pytest

pytestmark = pytest.mark.isolated

def test_pass():
    assert os.getpid() == 1

def test_fail():
    assert False, "on purpose"

def test_crash():
    ctypes.string_at(0)

def test_exit():
    os._exit(3)

@pytest.mark.isolated(timeout=0.3)
def test_timeout():
    signal.pause()

@pytest.mark.isolated(init=True)
def test_init():
    assert os.getppid() == 1
    assert subprocess.run(["false"]).returncode == 1

@pytest.mark.isolated(init=True)
def test_crash_under_init():
    os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.isolated(pid=False)
def test_no_pid():
    assert os.getpid() != 1

@pytest.mark.isolated(pid=False)
def test_exit_no_pid():
    os._exit(4)

@pytest.mark.isolated(time=1000.0)
def test_time():
    pass

@pytest.mark.isolated(leftovers="ignore")
def test_daemon():
    if os.fork() == 0:
        os.setsid()
        signal.pause()

def test_children():
    assert subprocess.run([sys.executable, "-c", "raise SystemExit(5)"]).returncode == 5
"""

LATER = {
    "test_pass": "passed",
    "test_fail": "call failed",
    "test_crash": "call failed",
    "test_exit": "call failed",
    "test_timeout": "call failed",
    "test_init": "passed",
    "test_crash_under_init": "call failed",
    "test_no_pid": "passed",
    "test_exit_no_pid": "call failed",
    "test_time": "passed",
    "test_daemon": "passed",
    "test_children": "passed",
}


def verdicts(result: Result) -> dict[str, str]:
    return {name: verdict(result, name) for name in LATER}


def everything(result: Result) -> str:
    return "\n".join(said(result, name) for name in LATER) + result.text


@pytest.mark.parametrize("side", SIDES)
def test_the_long_way(tmp_path_factory: pytest.TempPathFactory, side: Side) -> None:
    """Made by a supervisor, every test of the outcomes' suite ends as it does on the short way."""
    short = shared_batch(tmp_path_factory, "outcomes", side)
    long = run_batch({**source("outcomes"), "conftest.py": THREADED}, side, timeout=120)
    names = [name for name in vars(outcomes) if name.startswith("test_")]
    assert len(names) > 45
    expected = {name: verdict(short, name) for name in names}
    assert {name: verdict(long, name) for name in names} == expected


#: They wait for children of their own: what the runner does to SIGCHLD, they inherit, and without
#: isolation they could not know either how a child ended.
WAITING = ("test_init", "test_children")


def assert_verdicts(result: Result, but: tuple[str, ...] = ()) -> None:
    found = verdicts(result)
    for name in but:
        assert found.pop(name) in ("passed", "call failed")
    assert found == {name: LATER[name] for name in found}, everything(result)


# Who else waits for children ---------------------------------------------------------------------

IGNORING = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"

#: A handler that reaps whatever there is, as some supervisors install.
REAPING = """
import os, signal

def reap(number, frame):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

signal.signal(signal.SIGCHLD, reap)
"""

THIEF = """
import os, threading

_stop = threading.Event()

def steal():
    while not _stop.wait(0.0005):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

_thread = threading.Thread(target=steal, daemon=True)
_thread.start()
"""


@pytest.mark.parametrize("conftest", [IGNORING, IGNORING + THREADED], ids=["short", "long"])
@pytest.mark.parametrize("side", SIDES)
def test_sigchld_ignored(side: Side, conftest: str) -> None:
    """A runner that ignores SIGCHLD, so that its children leave no status, gets every outcome."""
    result = run_batch({"test_it.py": MIXED, "conftest.py": conftest}, side)
    assert_verdicts(result, but=WAITING)
    assert "killed by SIGSEGV" in result.failure("test_crash")
    assert "exit status 3" in result.failure("test_exit")
    assert "killed by SIGKILL" in result.failure("test_crash_under_init")


@pytest.mark.parametrize("conftest", [THIEF, REAPING], ids=["thread", "handler"])
@pytest.mark.parametrize("side", SIDES)
def test_thief(side: Side, conftest: str) -> None:
    """Where somebody in the runner waits for every child, each test still gets its verdict."""
    files = {"test_it.py": MIXED, "conftest.py": conftest}
    result = run_batch(files, side, "-p", "no:faulthandler")
    assert_verdicts(result, but=WAITING if conftest is REAPING else ())


# Limits ------------------------------------------------------------------------------------------

FEW_DESCRIPTORS = """
import os, resource
import pytest

def free(count):
    '''The limit at which so many numbers are left.'''
    taken = {int(fd) for fd in os.listdir("/proc/self/fd")}
    number = 0
    while count:
        count -= number not in taken
        number += 1
    return max(number, 3)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    callspec = getattr(item, "callspec", None)
    if callspec is None or "left" not in callspec.params:
        return (yield)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free(callspec.params["left"]), hard))
    try:
        return (yield)
    finally:
        if os.getpid() != 1:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
"""

FEW_DESCRIPTORS_TESTS = """
import os
import pytest

@pytest.mark.isolated
@pytest.mark.parametrize("left", range({first}, 24))
def test_few(left):
    assert os.getpid() == 1

@pytest.mark.isolated
def test_many():
    assert os.getpid() == 1
"""


@pytest.mark.parametrize("first", [0, 6])
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_descriptors_run_out(first: int, conftest: str) -> None:
    """Wherever the runner runs out of descriptors, that test is an error that says so."""
    files = {
        "test_it.py": FEW_DESCRIPTORS_TESTS.format(first=first),
        "conftest.py": FEW_DESCRIPTORS + conftest,
    }
    result = run_batch(files, "user")
    for left in range(first, 24):
        name = f"test_few[{left}]"
        assert verdict(result, name) in ("passed", "setup failed"), said(result, name)
        if verdict(result, name) == "setup failed":
            assert "EMFILE" in said(result, name), said(result, name)
            assert "isolation refused" in said(result, name), said(result, name)
    assert verdict(result, "test_few[23]") == "passed", said(result, "test_few[23]")
    assert verdict(result, "test_many") == "passed", said(result, "test_many")
    assert "INTERNALERROR" not in result.text


FEW_PROCESSES = """
import os, resource
import pytest

def processes():
    '''Threads of this user, which the kernel counts.'''
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            pass
    return count

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return (yield)
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (processes() + callspec.params["left"], hard))
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
"""

FEW_PROCESSES_TESTS = """
import os
import pytest

@pytest.mark.isolated
def test_first():
    pass

@pytest.mark.isolated
@pytest.mark.parametrize("left", range(5))
def test_few(left):
    assert os.getpid() == 1

@pytest.mark.isolated(init=True)
@pytest.mark.parametrize("left", range(5))
def test_few_init(left):
    assert os.getppid() == 1

@pytest.mark.isolated(pid=False)
@pytest.mark.parametrize("left", range(5))
def test_few_no_pid(left):
    pass

@pytest.mark.isolated
def test_many():
    assert os.getpid() == 1
"""


@NEEDS_ROOT  # a user of its own is needed, whose processes nobody else's are counted with
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_processes_run_out(conftest: str) -> None:
    """Where a fork is refused, in the runner or on the way in, the test is an error and says so."""
    files = {"test_it.py": FEW_PROCESSES_TESTS, "conftest.py": FEW_PROCESSES + conftest}
    result = run_batch(files, "user", uid=60000 + os.getpid() % 5000)
    refused = 0
    for kind in ("test_few", "test_few_init", "test_few_no_pid"):
        for left in range(5):
            name = f"{kind}[{left}]"
            assert verdict(result, name) in ("passed", "setup failed"), said(result, name)
            if verdict(result, name) == "setup failed":
                refused += 1
                assert "EAGAIN" in said(result, name), said(result, name)
                assert "isolation refused: fork" in said(result, name), said(result, name)
        assert verdict(result, f"{kind}[4]") == "passed", said(result, f"{kind}[4]")
    assert refused >= 3
    assert verdict(result, "test_first") == verdict(result, "test_many") == "passed"


# PID 1, and threads ------------------------------------------------------------------------------

TWINS = """
import os, random, ssl, tempfile
import pytest

RUNNER = {"ssl": ssl.RAND_bytes(16), "name": next(tempfile._get_candidate_names())}

def test_the_runner_is_pid_1():
    assert os.getpid() == 1

@pytest.mark.isolated
@pytest.mark.parametrize("n", range(3))
def test_draws(n):
    assert os.getpid() == 1
    print("DRAWN", ssl.RAND_bytes(16).hex(), next(tempfile._get_candidate_names()))
    assert 0

def test_the_runner_draws():
    print("DRAWN", ssl.RAND_bytes(16).hex(), next(tempfile._get_candidate_names()))
    assert 0
"""


@NEEDS_ROOT
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_runner_is_pid1(conftest: str) -> None:
    """A runner that is PID 1 itself, as in a container, gets every outcome; no twins are made."""
    before = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    files = {"test_it.py": MIXED, "test_twins.py": TWINS, "conftest.py": conftest}
    result = run_batch(files, "root", before=before, clean=False)
    assert verdicts(result) == LATER, everything(result)
    assert verdict(result, "test_the_runner_is_pid_1") == "passed"
    names = [*(f"test_draws[{n}]" for n in range(3)), "test_the_runner_draws"]
    drawn = [dict(result.of(name)[1]["sections"])["Captured stdout call"].split() for name in names]
    assert len({ssl for _, ssl, _ in drawn}) == len({name for _, _, name in drawn}) == 4


HAMMERING = """
import ctypes, os, threading

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.free.argtypes = [ctypes.c_void_p]
_stop = False

def hammer():
    while not _stop:
        blocks = [_libc.malloc(size) for size in range(16, 4096, 64)]
        for block in blocks:
            _libc.free(block)
        _libc.fflush(None)

for _ in range(2):
    threading.Thread(target=hammer, daemon=True).start()

def pytest_unconfigure():
    global _stop
    _stop = True
"""

MANY = """
import ctypes, os
import pytest

@pytest.mark.isolated
@pytest.mark.parametrize("n", range(60))
def test_it(n):
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    assert all(libc.malloc(size) for size in range(16, 4096, 64))
    assert os.getpid() == 1
"""


def test_threads_that_hold_locks() -> None:
    """Beside threads that are always inside malloc and stdio, no child inherits a held lock."""
    result = run_batch({"test_it.py": MANY, "conftest.py": HAMMERING}, "user", timeout=120)
    assert result.returncode == 0, result.text
    assert result.summary == "60 passed"


THREAD_AT_FORK = """
import os, threading

def start():
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()

os.register_at_fork(after_in_child=start)
"""


@pytest.mark.parametrize("runner", ["", THREADED], ids=["short", "long"])
@pytest.mark.parametrize("side", SIDES)
def test_hook_starts_a_thread_in_every_fork(side: Side, runner: str) -> None:
    """An at-fork hook that starts a thread in the supervisor does not keep tests from isolation."""
    files = {"test_it.py": MIXED, "conftest.py": THREAD_AT_FORK + runner}
    result = run_batch(files, side)
    expected = {**LATER}
    if side == "user":
        # Offsets want to be written by one who has been born in its user namespace: refused.
        expected["test_time"] = "setup failed"
        assert "unshare(CLONE_NEWTIME)" in result.failure("test_time")
    assert verdicts(result) == expected, everything(result)


def test_hooks_warning_free() -> None:
    """Forking beside threads warns nobody (Python 3.12), under ``-W error`` neither."""
    files = {"test_it.py": MIXED, "conftest.py": THREADED}
    result = run_batch(files, "user", "-W", "error")
    assert verdicts(result) == LATER, everything(result)
    assert not result.warnings


#: No descriptor is left when a child has been born that joins a box; the test itself is PID 1.
NOT_TAKEN_ON = """
import errno, os, time
from unittest import mock
import pytest
from pytest_nsisolate import IsolatedRefusal
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.process import launch

@pytest.mark.isolated
def test_it(isolate):
    def refused(pid, *rest):
        # A child's own session: it is on its way in, and has PDEATHSIG.
        while not any(os.getsid(child) == child for child in proc.children_of(pid)):
            time.sleep(0.001)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with isolate.using(net=True).open() as box:
        with mock.patch.object(launch, "RunnerEnd", refused):
            with pytest.raises(IsolatedRefusal, match="take on the child: EMFILE"):
                box.run(os.getpid)
    assert [name for name in os.listdir("/proc") if name.isdigit()] == ["1"]
"""


@pytest.mark.parametrize("side", SIDES)
def test_a_child_that_is_not_taken_on_is_reaped_by_pid_1(side: Side) -> None:
    """As a zombie it would keep the PID namespace that it has joined from ending."""
    result = run_batch({"test_it.py": NOT_TAKEN_ON}, side)
    assert result.passed() == {"test_it"}, result.text
