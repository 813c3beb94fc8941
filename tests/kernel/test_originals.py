# SPDX-License-Identifier: MIT
"""What a suite puts in the place of the standard library's functions does not reach the plugin.

Each name is replaced for a whole module, in the runner and in the children; the tests in it are
reported as in plain pytest.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import (
    SIDES,
    THREADED,
    Side,
    assert_nothing_alive,
    run_batch,
    start,
    suite_folder,
)
from tests.support import INNER, NEEDS_NAMESPACES, TOOLS, Result, run_source, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

#: Replaced by a Mock, which gives Mocks.
NAMES: Final = """
os.fork os.read os.write os.pipe os.open os.close os.dup os.urandom os.waitpid os.waitid
os.pidfd_open os.getpid os.getppid os.kill os.killpg os.memfd_create os.listdir os.scandir
os.lstat os.stat os.readlink os.getcwd os.path.exists os.path.realpath os.path.isdir
os.path.isfile os.makedirs os.mkdir os.chdir os.setsid os.setpgid os.getpgrp os.tcgetpgrp
os.isatty os._exit os.eventfd os.eventfd_read os.eventfd_write os.set_blocking os.fstat os.pread
os.geteuid os.getuid os.access os.uname os.posix_spawn os.register_at_fork os.sysconf os.strerror
os.waitstatus_to_exitcode os.umask os.ctermid select.poll select.select select.epoll signal.signal
signal.getsignal signal.pidfd_send_signal signal.pthread_sigmask signal.raise_signal
signal.set_wakeup_fd signal.valid_signals signal.alarm json.loads json.dumps pickle.dumps
struct.pack binascii.crc32 copy.copy re.compile threading.active_count threading.current_thread
threading.enumerate threading.Lock threading.RLock threading.Thread threading.get_ident
threading.get_native_id builtins.open builtins.print io.open random.getstate random.setstate
random.seed gc.collect gc.freeze gc.disable gc.isenabled gc.get_count faulthandler.enable
faulthandler.register faulthandler.cancel_dump_traceback_later time.time time.monotonic time.sleep
time.clock_gettime time.perf_counter socket.socket socket.socketpair subprocess.Popen
subprocess.run tempfile.mkdtemp traceback.format_exception warnings.warn resource.setrlimit
resource.getrlimit fcntl.ioctl fcntl.fcntl logging.getLogger shutil.rmtree shutil.which
platform.system importlib.import_module atexit.register ctypes.CDLL ctypes.PyDLL ctypes.get_errno
contextlib.suppress dataclasses.replace prctl.set_pdeathsig prctl.set_name
""".split()  # noqa: SIM905 (a line each would be a page)

#: Replaced by what a suite would give there; the first two are how daemons are tested.
ANSWERS: Final = (
    ("os.fork", "return_value=0"),
    ("os.fork", "return_value=os.getppid()"),
    ("os.getpid", "return_value=1"),
    ("os.waitpid", "return_value=(0, 0)"),
    ("os.read", "return_value=b''"),
    ("os.kill", "side_effect=ProcessLookupError"),
    ("os.open", "side_effect=PermissionError"),
    ("os.stat", "side_effect=FileNotFoundError"),
    ("os.path.exists", "return_value=True"),
    ("os.path.exists", "return_value=False"),
    ("os.listdir", "return_value=[]"),
    ("os.geteuid", "return_value=0"),
    ("os.geteuid", "return_value=1000"),
    ("os.urandom", "return_value=bytes(8)"),
    ("os.environ", "new={}"),
    ("sys.platform", "new='win32'"),
    ("builtins.open", "new=mock.mock_open(read_data='x')"),
    ("select.poll", "side_effect=OSError(38, 'no')"),
    ("signal.getsignal", "return_value=None"),
    ("threading.active_count", "return_value=1"),
    ("time.time", "return_value=0.0"),
    ("time.monotonic", "return_value=0.0"),
)

MODULE: Final = """
import {module}
import os
from unittest import mock

import pytest

pytestmark = pytest.mark.isolated

@pytest.fixture(scope="module", autouse=True)
def stand_in():
    with mock.patch({name!r}{answer}):
        yield

def test_passes():
    print("said")

def test_fails():
    assert [] == [1]
"""

CASES: Final = [*((name, "") for name in NAMES), *ANSWERS]
SUITE: Final = {
    f"test_{number:03}.py": MODULE.format(
        module=name.partition(".")[0], name=name, answer=f", {answer}" if answer else ""
    )
    for number, (name, answer) in enumerate(CASES)
}

AS_EVER: Final = {
    "test_passes": ["setup passed", "call passed", "teardown passed"],
    "test_fails": ["setup passed", "call failed", "teardown passed"],
}

WAYS: Final = (
    pytest.param("root", "", marks=SIDES[0].marks, id="root-short"),
    pytest.param("user", THREADED, id="user-long"),
)


def otherwise(result: Result) -> Iterator[tuple[str, str, str, list[str]]]:
    """The tests that are not reported as they should be: name, stand-in, test, phases."""
    phases: dict[tuple[str, str], list[str]] = {}
    for report in result.reports:
        file, _, test = report["nodeid"].partition("::")
        phases.setdefault((file, test), []).append(f"{report['when']} {report['outcome']}")
    for file, (name, answer) in zip(SUITE, CASES, strict=True):
        for test, expected in AS_EVER.items():
            found = phases.get((file, test), [])
            if found != expected:
                yield name, answer, test, found


def test_plain_pytest_takes_them(tmp_path: Path) -> None:
    """The negative control: what is expected below is what these tests are without isolation."""
    result = run_suite(write_files(tmp_path, SUITE), "--nsisolate=none", "--nsisolate-unsafe")

    assert list(otherwise(result)) == [], result.text
    assert result.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(("side", "conftest"), WAYS)
def test_a_stand_in_changes_no_outcome(side: Side, conftest: str) -> None:
    """Whatever it stands for, for a whole module, on both ways into the namespaces."""
    result = run_batch({"conftest.py": conftest, **SUITE}, side)

    assert list(otherwise(result)) == [], result.text
    assert result.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("name", ["os.stat", "os.fork", "builtins.open", "dataclasses.fields"])
def test_one_that_is_there_before_the_first_test_is_isolated(name: str, tmp_path: Path) -> None:
    """What is looked up once a run is looked up in time."""
    source = MODULE.format(module=name.partition(".")[0], name=name, answer="")

    result = run_source(tmp_path, source)

    assert {test: result.phases(test) for test in AS_EVER} == AS_EVER, result.text


IN_A_TEST: Final = """
import os
from unittest import mock

def add(one, other):
    return one + other

def call(isolate):
    with isolate.using(net=True).open() as box:
        return isolate(add, 1, 2), box.run(add, 2, 3)

def test_it(isolate):
    found = {{}}
    for name, answer in {cases}:
        with mock.patch(name, **eval(f"dict({{answer}})")):
            try:
                found[name, answer] = call(isolate)
            except Exception as error:
                found[name, answer] = error
    assert {{case: result for case, result in found.items() if result != (3, 5)}} == {{}}
"""


@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_a_test_that_replaces_something_may_call_isolate(conftest: str, tmp_path: Path) -> None:
    """The test itself is not isolated, and its stand-ins are there while it waits."""
    files = {"conftest.py": conftest, "test_it.py": IN_A_TEST.format(cases=CASES)}

    result = run_suite(write_files(tmp_path, files))

    assert result.summary == "1 passed", result.text


AN_EXCEPTION: Final = """
from unittest import mock

import pytest

def fails():
    raise ValueError("of the function")

@pytest.mark.parametrize("name", ["os.stat", "linecache.getline", "functools.partial"])
def test_it(isolate, name):
    with mock.patch(name, side_effect=RuntimeError("of the suite")):
        with pytest.raises(ValueError, match="of the function") as caught:
            isolate(fails)
    assert 'raise ValueError("of the function")' in caught.value.__notes__[0]
"""


def test_a_stand_in_does_not_reach_a_traceback(tmp_path: Path) -> None:
    """It is made beside the stand-in, and has the lines of the source."""
    result = run_source(tmp_path, AN_EXCEPTION)

    assert result.summary == "3 passed", result.text


#: What the standard library's ``subprocess`` calls, or is.
OF_PROGRAMS: Final = """
os.waitpid os.waitid os.kill os.pipe os.read os.write os.close os.open os.dup os.fsencode os.fspath
os.get_exec_path os.path.dirname os.path.exists os.posix_spawn os.waitstatus_to_exitcode os.environ
io.open io.TextIOWrapper builtins.open errno.errorcode signal.signal signal.Signals time.monotonic
threading.Lock threading.Thread selectors.PollSelector select.poll warnings.warn gc.isenabled
contextlib.contextmanager contextlib.ExitStack stat.S_ISDIR subprocess.Popen subprocess._cleanup
subprocess.CompletedProcess
subprocess._fork_exec subprocess.Popen.__init__ subprocess.Popen._execute_child
subprocess.Popen._try_wait subprocess.Popen.wait subprocess.Popen.poll subprocess.Popen.communicate
subprocess.Popen.kill subprocess.Popen.send_signal socket.socket socket.socketpair
""".split()  # noqa: SIM905 (a line each would be a page)

PROGRAMS: Final = """
import subprocess
from unittest import mock

import pytest

pytestmark = pytest.mark.isolated

def otherwise(run, each):
    found = {{}}
    for name in each:
        for failing in (False, True):
            with mock.patch(name) as stand_in:
                if failing and callable(stand_in):
                    stand_in.side_effect = RuntimeError("of the suite")
                try:
                    said = run()
                except Exception as error:
                    said = error
            if said != 3:
                found[name, failing] = said
    return found

def test_in_a_box(isolate):
    with isolate.open() as box:
        def run():
            return box.command(["sh", "-c", "exit 3"], timeout=60).returncode
        assert otherwise(run, {names}) == {{}}

def test_on_a_host(testbed):
    host = testbed.host("one", testbed.network("10.0.0.0/24"))
    def run():
        with host.start(["sh", "-c", "exit 3"]) as program:
            return program.wait()
    assert otherwise(run, {names}) == {{}}

@pytest.mark.parametrize("name", ["socket.socket", "random.Random", "os.read", "pickle.dumps"])
def test_on_a_wire(testbed, name):
    wire = testbed.host("one", testbed.network("10.0.0.0/24")).wire
    def run():
        wire.impair(delay=0.001)
        return 3
    assert otherwise(run, [name]) == {{}}

def test_in_a_terminal(terminal):
    def run():
        terminal.start(["sh", "-c", "read line; exit $line"])
        terminal.type("3\\n")
        status = terminal.wait()
        terminal.close()
        return status
    assert otherwise(run, {names}) == {{}}

def test_control():
    def run():
        return subprocess.call(["sh", "-c", "exit 3"])
    assert len(otherwise(run, {control})) == 2 * len({control})
"""


@pytest.mark.parametrize("side", SIDES)
def test_a_stand_in_does_not_reach_a_program(side: Side) -> None:
    """The control: the suite's own ``subprocess`` does something else with these."""
    control = ["os.waitpid", "subprocess.Popen", "subprocess.Popen.wait"]

    result = run_batch({"test_it.py": PROGRAMS.format(names=OF_PROGRAMS, control=control)}, side)

    assert result.summary == "8 passed", result.text


COOPERATIVE: Final = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}

EVERY_WAY: Final = """
import subprocess

import pytest

@pytest.mark.isolated
def test_passes():
    assert subprocess.check_output(["echo", "said"]) == b"said\\n"

@pytest.mark.isolated(time=1000.0)
def test_by_way_of_a_supervisor():
    pass

@pytest.mark.isolated
def test_fails():
    assert [] == [1]

@pytest.mark.isolated(timeout=0.5)
def test_is_late():
    while True:
        pass

def add(one, other):
    return one + other

def test_calls(isolate):
    assert isolate(add, 1, 2) == 3
"""


@pytest.mark.parametrize("first", [True, False], ids=["before the plugin", "in a conftest"])
@pytest.mark.parametrize("library", COOPERATIVE)
def test_cooperative_waiting(library: str, first: bool, tmp_path: Path) -> None:
    """gevent and eventlet replace every call that waits."""
    patch = COOPERATIVE[library]
    files = {"test_it.py": EVERY_WAY, "patching.py": patch, "conftest.py": "" if first else patch}
    early = ("-p", "patching") if first else ()

    result = run_suite(
        write_files(tmp_path, files),
        *("-W", "ignore"),
        plugins=(*early, *INNER),
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(TOOLS)])},
    )

    assert result.summary == "2 failed, 3 passed", result.text
    assert "timed out after 0.5 s" in result.failure("test_is_late")


@pytest.mark.parametrize("library", COOPERATIVE)
def test_nothing_outlives_a_runner_that_waits_cooperatively(library: str) -> None:
    """Killed by SIGKILL while a test is at work."""
    source = """
import time, pytest
@pytest.mark.isolated(time=1000.0)
def test_it():
    open("there", "w").close()
    time.sleep(60)
"""
    files = {"conftest.py": COOPERATIVE[library], "test_it.py": source}
    with suite_folder(files, "root") as folder, start(folder, "root") as running:
        running.wait_for("there")
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(timeout=20)
        assert_nothing_alive(folder)


def test_a_fork_that_lies_never_ends_the_run_with_success(tmp_path: Path) -> None:
    """The last line of defence: the runner knows that it is no copy of itself."""
    lying = "from pytest_nsisolate.kernel import originals; originals.posix.fork = lambda: 0"
    source = """
import pytest
@pytest.mark.isolated(time=1000.0)
def test_it(): pass
def test_other(): pass
"""
    files = {"test_it.py": source, "conftest.py": lying}

    result = run_suite(write_files(tmp_path, files))

    assert result.summary == "1 passed, 1 error", result.text
    assert "this is still the runner" in result.failure("test_it")
