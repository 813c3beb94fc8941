# SPDX-License-Identifier: MIT
"""Tests at the same time that need more than a function and a process: ends, copies, files, faults.

Each of these asks something of the runner while others are at work, or leaves it something.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from pytest_nsisolate.process.outcome import EXIT_STRAY
from tests.inner_runs import SIDES, THREADED, Side, run_batch
from tests.runner.test_jobs import suite
from tests.support import NEEDS_NAMESPACES, differences, run_suite, terminal, write_files

pytestmark = NEEDS_NAMESPACES


# The end of a process ----------------------------------------------------------------------------

ENDING: Final = """
    import atexit, sys, threading
    pytestmark = pytest.mark.isolated(uts=True)
    @pytest.mark.parametrize("number", range(3))
    def test_leaves(number):
        assert meet("here", COUNT)
        atexit.register(print, "last words of", number)
        threading.Thread(target=lambda: note("end of the thread")).start()
    def test_leaves_nothing(): pass
"""


def test_what_tests_leave_for_their_exit_is_done_and_shown_in_order(tmp_path: Path) -> None:
    """Each in its own process, whose turn in the runner may come much later."""
    results = []
    for jobs in (1, 3):
        folder = write_files(tmp_path, suite(ENDING.replace("COUNT", str(jobs))))
        for met in folder.glob("here.*"):
            met.unlink()
        results.append(run_suite(folder, f"--nsisolate-jobs={jobs}"))
    one, three = results
    assert "4 passed" in three.stdout, three.text
    assert not differences(one, three)
    assert one.journal == three.journal == ["child end of the thread"] * 3
    for result in results:
        said = [line for line in result.text.splitlines() if "last words of" in line]
        assert said == [f"last words of {number}" for number in range(3)], result.text


def test_an_exit_that_hangs_is_that_of_one_test(tmp_path: Path) -> None:
    """The others' ends, and their turns, go on."""
    source = """
        import atexit, os, signal
        pytestmark = pytest.mark.isolated(uts=True)
        def test_dies_at_exit():
            assert meet("here", 2)
            atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
        def test_good():
            assert meet("here", 2)
            atexit.register(note, "good end")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=2")
    assert "2 passed, 1 error" in result.stdout, result.text
    assert "SIGSEGV" in result.text
    assert result.journal == ["child good end"]


# Copies that come back ---------------------------------------------------------------------------

STRAYING: Final = """
    from conftest import stray
    pytestmark = pytest.mark.isolated(uts=True)
    @pytest.fixture
    def behind():
        yield
        note("finalizer")
    @pytest.mark.parametrize("number", range(3))
    def test_call(behind, number):
        assert meet("here", 3)
        if stray(): return
        note("end")
    @pytest.mark.parametrize("number", range(3))
    def test_set_up_hook(behind, number): note("end")
"""

STRAYING_HOOKS: Final = """
    import os, pytest, warnings
    from journal import note
    def stray():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside a thread
            pid = os.fork()
        if pid == 0:
            return True
        note(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
        return False
    def pytest_runtest_setup(item):
        if item.name.startswith("test_set_up_hook"):
            stray()
"""


@pytest.mark.parametrize("threads", ["", THREADED], ids=["short", "long"])
@pytest.mark.parametrize("side", SIDES)
def test_a_copy_does_not_come_back(side: Side, threads: str) -> None:
    """Neither from a test that was launched ahead, nor from a hook, which runs on both sides.

    One that came back in the runner would take the others' frames.
    """
    files = {**suite(STRAYING), "conftest.py": dedent(STRAYING_HOOKS) + threads}
    result = run_batch(files, side, "--nsisolate-jobs=3")
    assert result.summary == "6 passed", result.text
    found = Counter(line.partition(" ")[2] for line in result.journal)
    assert found["end"] == found["finalizer"] == 6, result.journal
    statuses = {name: n for name, n in found.items() if name.startswith("status")}
    assert statuses == {f"status {EXIT_STRAY}": 3 + 2 * 3}, result.text


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_each_root_is_a_tests_own(side: Side) -> None:
    """They share the ownership layer, which goes from one to the next while all are at work."""
    source = """
        import pathlib
        pytestmark = pytest.mark.isolated(root="overlay", writable=[str(HERE)])
        @pytest.mark.parametrize("number", range(4))
        def test_writes(number):
            path = pathlib.Path("/etc/nsi-mine")
            assert not path.exists()
            path.write_text(str(number))
            assert meet("here", 4)
            assert path.read_text() == str(number)
        @pytest.mark.isolated(files={"/etc/hostname": "private"})
        def test_other_files(): assert pathlib.Path("/etc/hostname").read_text() == "private"
    """
    result = run_batch(suite(source), side, "--nsisolate-jobs=4")
    assert result.summary == "5 passed", result.text
    assert not Path("/etc/nsi-mine").exists()


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_test_holds_another_ones_files(tmp_path: Path, jobs: int) -> None:
    """What the runner has got back from a test's root is covered in the next one."""
    source = """
        @pytest.mark.isolated(root="overlay", writable=[str(HERE)])
        @pytest.mark.parametrize("number", range(3))
        def test_writes(number): assert seen("here", 0)
        @pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(2))
        def test_looks(number):
            directories = []
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    if os.path.isdir(f"/proc/self/fd/{fd}"):
                        directories.append(os.readlink(f"/proc/self/fd/{fd}"))
                except OSError:
                    pass
            assert [path for path in directories if not path.startswith("/proc")] == []
    """
    folder = write_files(tmp_path, suite(source))
    result = run_suite(folder, f"--nsisolate-jobs={jobs}")
    assert result.summary == "5 passed", result.text


# Faults, and several hosts -----------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_each_test_has_faults_of_its_own(side: Side) -> None:
    """The runner starts a fault supervisor for each while the others are at work."""
    source = """
        import errno
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
        def test_fails(pid1, tmp_path, name):
            with open(tmp_path / "file", "w") as file, pid1.fail("fsync", name):
                assert meet("here", 3)
                with pytest.raises(OSError) as caught:
                    os.fsync(file.fileno())
                assert caught.value.errno == getattr(errno, name)
                assert meet("there", 3)
            os.sync()
        @pytest.mark.parametrize("number", range(3))
        def test_other(number):
            with open(os.devnull, "w") as file:
                pass
    """
    result = run_batch(suite(source), side, "--nsisolate-jobs=3")
    assert result.summary == "6 passed", result.text


@pytest.mark.parametrize("side", SIDES)
def test_testbeds_side_by_side(side: Side) -> None:
    """The same names and addresses, at the same time."""
    source = """
        import socket
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("number", range(3))
        def test_talks(testbed, number):
            lan = testbed.network("10.0.0.0/24")
            a, b = testbed.host("a", lan), testbed.host("b", lan)
            assert meet("here", 3)
            assert a.call(socket.gethostname) == "a"
            assert b.call(socket.gethostbyname, "a") == "10.0.0.1"
            assert meet("there", 3)
    """
    result = run_batch(suite(source), side, "--nsisolate-jobs=3")
    assert result.summary == "3 passed", result.text


# Debuggers, and hooks that run on both sides -----------------------------------------------------

#: What :mod:`pytest_nsisolate.integrations.debuggers` looks at, with nobody who listens.
DEBUGGED: Final = """
    import sys, types
    constants = types.ModuleType("_pydevd_bundle.pydevd_constants")
    constants.GlobalDebuggerHolder = type("Holder", (), {"global_dbg": object()})
    sys.modules[constants.__name__] = constants
"""


@pytest.mark.parametrize("late", [False, True], ids=["from the start", "attached later"])
def test_what_is_debugged_is_one_test_at_a_time(tmp_path: Path, late: bool) -> None:
    """The header says so; of one that is attached later it cannot know."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.isolated(False)
        def test_first(): LATE
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            note("begin")
            assert not meet("here", 4, 0.1)
            note("end")
    """
    attach = "exec(DEBUGGED)" if late else "pass"
    files = suite(source.replace("LATE", attach))
    files["test_it.py"] += f"\nimport textwrap\nDEBUGGED = textwrap.dedent({DEBUGGED!r})\n"
    files["conftest.py"] = "" if late else DEBUGGED
    result = run_suite(write_files(tmp_path, files), "--nsisolate-jobs=3")
    assert result.summary.startswith("4 passed"), result.text
    assert ("; one job, because of a debugger" in result.stdout) is not late, result.text
    assert result.journal == ["child begin", "child end"] * 3


def test_what_a_hook_adds_on_both_sides_is_there_once(tmp_path: Path) -> None:
    """Sections, properties of the test and of the suite."""
    conftest = """
        import pytest
        @pytest.fixture(scope="session", autouse=True)
        def properties(record_testsuite_property, request):
            request.config.record = record_testsuite_property
        def pytest_runtest_setup(item):
            item.add_report_section("setup", "stdout", f"hook of {item.name}\\n")
            item.user_properties.append(("hook", item.name))
            if hasattr(item.config, "record"):
                item.config.record("hook", item.name)
    """
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(4))
        def test_it(number):
            print("in the test")
            assert number != 3
    """
    folder = write_files(tmp_path, {**suite(source), "conftest.py": conftest})
    results, files = [], []
    for jobs in (1, 3):
        result = run_suite(
            folder, f"--nsisolate-jobs={jobs}", "-rA", "--junitxml=junit.xml",
            "--nsisolate-postmortem=none",
        )  # fmt: skip
        results.append(result)
        files.append((folder / "junit.xml").read_text(encoding="utf-8"))
    one, three = results
    assert three.summary == "1 failed, 3 passed", three.text
    assert not differences(one, three)
    assert terminal(one) == terminal(three)
    assert [text.count('name="hook"') for text in files] == [7, 7], files[1]


def test_each_round_has_its_seed(tmp_path: Path) -> None:
    """``--nsisolate-stress``: no test of the next round is launched with the seed of this one."""
    source = """
        import random
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(3))
        def test_it(number): note(f"{number} {random.random()}")
    """
    folder = write_files(tmp_path, suite(source))
    one, three = (
        run_suite(folder, f"--nsisolate-jobs={jobs}", "--nsisolate-stress=3@7") for jobs in (1, 3)
    )
    assert one.returncode == three.returncode == 0, three.text
    assert sorted(one.journal) == sorted(three.journal)
    assert len(set(one.journal)) == 9, one.journal
