# SPDX-License-Identifier: MIT
"""Ends that come from outside: kills, Ctrl-C, the death of the runner or of its helpers.

The tests of ``inner/signalled.py`` say by a file when they are ready; nothing here waits for a
time. That everything is dead is proved by a lock that all processes of a run hold together.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts import NEEDS_ROOT
from tests.inner_runs import (
    THREADED,
    Running,
    Side,
    assert_clean,
    assert_nothing_alive,
    is_locked,
    run_batch,
    said,
    source,
    start,
    suite_folder,
    verdict,
)
from tests.support import NEEDS_NAMESPACES, Result, eventually

pytestmark = NEEDS_NAMESPACES

#: How PID 1 is made: by the runner, or beside other threads by a supervisor.
WAYS = pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])

#: Everything as root, one of each as somebody else.
AS_ROOT = pytest.param("root", marks=NEEDS_ROOT)

#: Stalls a step of the way in until the file ``go`` is there, in the test that is to be killed.
STALLING = """
import importlib, os, time
from pathlib import Path

HERE = Path(__file__).parent
armed = False

def stall(*arguments, **keywords):
    if armed and not (HERE / "go").exists():
        (HERE / "ready").touch()
        while not (HERE / "go").exists():
            time.sleep(0.005)
    return original(*arguments, **keywords)

module, _, name = os.environ["STALL"].rpartition(".")
module = importlib.import_module("pytest_nsisolate." + module)
original = getattr(module, name)
setattr(module, name, stall)

def pytest_nsisolate_configure(item):
    global armed
    armed = item.name == "test_waits"
"""


@contextmanager
def running(conftest: str, side: Side, *which: str, **env: str) -> Iterator[Running]:
    """The suite under way, only with these tests."""
    files = {**source("signalled"), "conftest.py": conftest}
    tests = (f"test_signalled.py::{name}" for name in which)
    with suite_folder(files, side) as folder, start(folder, side, *tests, **env) as run:
        yield run
        assert_nothing_alive(folder)


def finished(run: Running) -> Result:
    result = run.finish()
    assert_clean(run.folder, result)
    return result


def notes(run: Running) -> list[str]:
    return (run.folder / "notes").read_text(encoding="ascii").splitlines()


# Somebody of the three is killed -----------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("side", [AS_ROOT, "user"])
def test_pid1_is_killed(conftest: str, side: Side) -> None:
    """A SIGKILL from outside fails the test that it hits, and the run goes on."""
    with running(conftest, side, "test_waits", "test_next") as run:
        run.wait_for("ready")
        os.kill(run.pid1(), signal.SIGKILL)
        result = finished(run)
        assert verdict(result, "test_waits") == "call failed"
        assert "crashed in call: killed by SIGKILL" in result.failure("test_waits")
        assert verdict(result, "test_next") == "passed"
        assert notes(run) == ["module setup", "module teardown"]


@pytest.mark.parametrize("which", ["test_waits", "test_hard"])
def test_supervisor_is_killed(which: str) -> None:
    """Without its supervisor a test dies, whatever ids it has, is failed, and the run goes on."""
    with running(THREADED, "user", which, "test_next") as run:
        run.wait_for("ready")
        supervisor = run.supervisor()
        assert supervisor is not None
        os.kill(supervisor, signal.SIGKILL)
        result = finished(run)
        assert verdict(result, which) == "call failed"
        assert "supervisor was killed" in result.failure(which)
        assert verdict(result, "test_next") == "passed"


def test_watchdog_is_killed() -> None:
    """A watchdog that dies is replaced before the next clone, and nobody notices."""
    with running("", "user", "test_waits", "test_next") as run:
        run.wait_for("ready")
        watchdog = run.watchdog()
        assert watchdog is not None
        os.kill(watchdog, signal.SIGKILL)
        assert eventually(lambda: " Z " in Path(f"/proc/{watchdog}/stat").read_text())
        os.kill(run.pid1(), signal.SIGKILL)
        result = finished(run)
        assert verdict(result, "test_waits") == "call failed"
        assert verdict(result, "test_next") == "passed"


#: The kernel refuses the poll of every reaping; once, a signal handler of the suite raises in it.
REFUSED_POLL = """
import errno, os, signal
from unittest import mock
import pytest
from pytest_nsisolate.process import child_process, inbox, reaping

reap = child_process.ChildProcess.reap
forked_ended = inbox.Inbox._forked_ended
armed = []  # not for the host check, which is before the first test

def unseen(self):
    # On the short way the end of the first test's process may come before its last word has been
    # read: here it is always reaped later.
    if armed or not self._end.direct:
        forked_ended(self)

inbox.Inbox._forked_ended = unseen

def pytest_runtest_logstart(nodeid):
    if nodeid.endswith("test_crash"):
        armed.append(nodeid)

class Poll:
    def register(self, *arguments):
        pass

    def poll(self, *arguments):
        if armed and os.environ["RAISES"] == "1":
            os.environ["RAISES"] = "0"
            raise RuntimeError("a handler of the suite")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

def refused(self):
    with mock.patch.object(reaping.select, "poll", Poll):
        reap(self)

child_process.ChildProcess.reap = refused
"""

CRASHING = """
import os, signal

def test_alone():
    pass

def test_crash():
    os.kill(os.getpid(), signal.SIGABRT)

def test_next():
    pass
"""


@pytest.mark.parametrize("raises", ["0", "1"], ids=["refused", "raised"])
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_reaping_without_poll(conftest: str, raises: str) -> None:
    """A child that cannot be waited for, or has been reaped already, leaves no descriptor."""
    files = {"conftest.py": REFUSED_POLL + conftest, "test_it.py": CRASHING}
    result = run_batch(files, "user", "--nsisolate=all", env={"RAISES": raises})
    expected = "a handler of the suite" if raises == "1" else "killed by SIGABRT"
    assert expected in said(result, "test_crash")
    assert verdict(result, "test_next") == "passed"


#: A supervisor that may not end what a test has left, as without CAP_KILL.
POWERLESS = """
from pytest_nsisolate.process import supervisor

def refused():
    raise PermissionError(1, "Operation not permitted")

supervisor.kill_descendants = refused
"""

CRASHES_WITHOUT_PID = """
import os, pytest

@pytest.mark.isolated(pid=False, net=False, missing="skip")
def test_crash():
    os.abort()
"""


def test_a_refusal_after_the_beginning_is_no_skip() -> None:
    """A test that has begun may have failed: no policy leaves it out."""
    files = {"conftest.py": POWERLESS, "test_it.py": CRASHES_WITHOUT_PID}
    result = run_batch(files, "user", env={"NSISOLATE_MUST_WORK": "0"})
    assert result.returncode == 1, result.text
    assert "end what the test left" in said(result, "test_crash")


#: A watchdog of the suite's own, for everything after the call.
ALARM = """
import signal, pytest

def alarm(*_):
    raise TimeoutError("the suite's own watchdog")

@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.when == "call":
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    if report.when == "teardown":
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
"""

SLOW_TEARDOWN = """
import time, pytest

@pytest.fixture
def slow(request):
    yield
    while request.param:
        time.sleep(1000)

@pytest.fixture(scope="module", autouse=True)
def module():
    yield

@pytest.mark.isolated
@pytest.mark.parametrize("slow", [1, 0, 1, 0], indirect=True, ids="abcd")
def test_it(slow):
    pass
"""


@WAYS
def test_an_alarm_in_tear_down_fails_its_own_test_only(conftest: str) -> None:
    """The child is gone, and the next test finds everything torn down."""
    files = {"conftest.py": ALARM + conftest, "test_it.py": SLOW_TEARDOWN}
    result = run_batch(files, "user")
    found = [verdict(result, f"test_it[{n}]") for n in "abcd"]
    assert found == ["teardown failed", "passed", "teardown failed", "passed"], result.text


# The runner is killed ----------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("side", "which"),
    [
        pytest.param("root", "test_hard", marks=NEEDS_ROOT),
        pytest.param("root", "test_hard_in_setup", marks=NEEDS_ROOT),
        pytest.param("root", "test_hard_in_teardown", marks=NEEDS_ROOT),
        pytest.param("root", "test_hard_under_init", marks=NEEDS_ROOT),
        pytest.param("root", "test_hard_without_pid_namespace", marks=NEEDS_ROOT),
        ("user", "test_hard"),
        ("user", "test_hard_without_pid_namespace"),
    ],
)
def test_runner_is_killed(conftest: str, side: Side, which: str) -> None:
    """Everything dies with the runner: a test of other ids, deaf to signals, and its daemon."""
    with running(conftest, side, which) as run:
        run.wait_for("ready")
        assert is_locked(run.folder / "daemon.lock")
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        assert_nothing_alive(run.folder)
        assert eventually(lambda: not is_locked(run.folder / "daemon.lock"))


@WAYS
@pytest.mark.parametrize(
    ("side", "step"),
    [
        pytest.param("root", "kernel.process.die_with_parent", marks=NEEDS_ROOT),
        pytest.param("root", "kernel.mounts.apply", marks=NEEDS_ROOT),
        pytest.param("root", "kernel.network.bring_loopback_up", marks=NEEDS_ROOT),
        ("user", "kernel.process.die_with_parent"),
        ("user", "kernel.network.bring_loopback_up"),
    ],
)
def test_runner_is_killed_on_the_way_in(conftest: str, side: Side, step: str) -> None:
    """A child that is still on its way in when the runner dies does not get there."""
    both = conftest + STALLING
    with running(both, side, "test_first", "test_waits", STALL=step) as run:
        run.wait_for("ready")
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        (run.folder / "go").touch()
        assert_nothing_alive(run.folder)


@pytest.mark.parametrize("side", [AS_ROOT, "user"])
def test_runner_is_killed_beside_a_new_supervisor(side: Side) -> None:
    """A supervisor that has not made PID 1 yet when the runner dies makes none that stays."""
    with running(
        THREADED + STALLING,
        side,
        "test_first",
        "test_waits",
        STALL="kernel.namespaces.enter",
    ) as run:
        run.wait_for("ready")
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        (run.folder / "go").touch()
        assert_nothing_alive(run.folder)


# Ctrl-C ------------------------------------------------------------------------------------------


def assert_interrupted(run: Running) -> Result:
    result = run.finish()
    assert result.returncode == 2, result.text
    assert len(re.findall(r"!! KeyboardInterrupt !!", result.stdout)) == 1, result.text
    assert "INTERNALERROR" not in result.stdout
    assert not result.of("test_next")
    assert_clean(run.folder, result)
    return result


@WAYS
@pytest.mark.parametrize(
    ("side", "which"), [("user", "test_waits"), ("user", "test_waits_under_init")]
)
def test_ctrl_c(conftest: str, side: Side, which: str) -> None:
    """Ctrl-C ends the run once: the child tears down its fixtures, the runner its own, once."""
    with running(conftest, side, which, "test_next") as run:
        run.wait_for("ready")
        run.signal(signal.SIGINT)
        assert_interrupted(run)
        assert notes(run) == ["module setup", "function teardown", "module teardown"]


#: A Ctrl-C for a runner that is busy with the report of the set-up, while its child runs on.
BUSY = """
import time
from pathlib import Path

def pytest_runtest_logreport(report):
    while not Path(__file__).with_name("ready").exists():
        time.sleep(0.005)
    if report.when == "setup":
        raise KeyboardInterrupt
"""


@WAYS
def test_ctrl_c_while_nobody_waits(conftest: str) -> None:
    """A Ctrl-C that comes while the runner does something else reaches the child all the same."""
    with running(conftest + BUSY, "user", "test_waits", "test_next") as run:
        assert_interrupted(run)
        assert notes(run) == ["module setup", "function teardown", "module teardown"]


@WAYS
def test_second_ctrl_c(conftest: str) -> None:
    """A second Ctrl-C does not wait for the child's teardown; here it might take ten minutes."""
    patient = "import pytest_nsisolate.process.job_control as s\ns.INTERRUPT_GRACE = 600.0\n"
    with running(conftest + patient, "user", "test_stubborn", "test_next") as run:
        run.wait_for("ready")
        run.signal(signal.SIGINT)
        run.wait_for("in-teardown")
        run.signal(signal.SIGINT)
        assert_interrupted(run)
        assert notes(run) == ["module setup", "module teardown"]


@WAYS
def test_ctrl_c_and_a_deaf_child(conftest: str) -> None:
    """A child that ignores SIGINT is killed after a while, with its daemon."""
    with running(conftest, "user", "test_deaf", "test_next") as run:
        run.wait_for("ready")
        run.signal(signal.SIGINT)
        assert_interrupted(run)
        assert notes(run) == ["module setup", "module teardown"]


# The test asks for the end -----------------------------------------------------------------------

EXITING = """
import os, pytest
from pathlib import Path

pytestmark = pytest.mark.isolated
HERE = Path(__file__).parent

def end():
    {end}

@pytest.fixture(scope="module")
def module():
    yield
    with open(HERE / "notes", "a") as file:
        file.write("module teardown\\n")

@pytest.fixture
def setup(module):
    if "setup" in {when!r}:
        end()
    yield
    with open(HERE / "notes", "a") as file:
        file.write("function teardown\\n")
    if "teardown" in {when!r}:
        end()

def test_it(setup):
    if "call" in {when!r}:
        end()

def test_next(module):
    pass

def test_notes():
    pass
"""

KEEPING = """
from pathlib import Path

def pytest_unconfigure():
    print("NOTES " + " ".join(Path(__file__).with_name("notes").read_text().splitlines()))
"""


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
@pytest.mark.parametrize(
    ("end", "status", "text"),
    [
        ("pytest.exit('enough', 42)", 42, "_pytest.outcomes.Exit: enough"),
        ("raise KeyboardInterrupt", 2, "KeyboardInterrupt"),
    ],
    ids=["exit", "interrupt"],
)
def test_asked_for(when: str, end: str, status: int, text: str) -> None:
    """``pytest.exit`` and a KeyboardInterrupt in the child end the session, with its status."""
    files = {"test_it.py": EXITING.format(end=end, when=when), "conftest.py": KEEPING}
    result = run_batch(files, "user", clean=False)
    assert result.returncode == status, result.text
    assert text in result.stdout
    assert "INTERNALERROR" not in result.stdout
    assert not result.of("test_next")
    torn_down = "" if when == "setup" else "function teardown "
    assert f"NOTES {torn_down}module teardown\n" in result.stdout, said(result, "test_it")
