# SPDX-License-Identifier: MIT
"""What a test has left for the end of its process is done; what the runner has, is the runner's."""

from __future__ import annotations

import gzip
import shelve
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import SIDES, THREADED, Side, prefix, source, suite_folder
from tests.support import (
    NEEDS_NAMESPACES,
    differences,
    run_parity,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: In this order: an exit waits for threads first.
NOTES: Final = ("threads", "thread", "pool", "atexit, first", "atexit, last", "finalizer")

RUNNERS: Final = ("runner: threads", "runner: finalizer", "runner: atexit")


@pytest.mark.parametrize("threads", ["", THREADED], ids=["short", "long"])
@pytest.mark.parametrize("side", SIDES)
def test_what_a_test_has_left_is_done(side: Side, threads: str) -> None:
    """Once, and nothing of the runner's; in a child of ``isolate`` too."""
    files = {**source("ending"), "conftest.py": threads}
    with suite_folder(files, side) as folder:
        switch = prefix(side)
        env = {"ALIVE": str(folder / ".alive"), "HOME": str(folder)}
        result = run_suite(folder, "-p", "no:randomly", prefix=switch, env=env)
        assert {r["outcome"] for r in result.reports} == {"passed"}, result.text
        assert "INTERNALERROR" not in result.text
        notes = (folder / "notes").read_text("ascii").splitlines()
        for name in ("everything", "thawed", "call"):
            own = [note for note in notes if note.startswith(f"{name}:")]
            assert sorted(own) == sorted(f"{name}: {what}" for what in NOTES), (notes, result.text)
            assert own[-3:] == [f"{name}: {what}" for what in NOTES[-3:]]
            assert_written(folder / name)
        assert sorted(note for note in notes if note.startswith("runner:")) == sorted(RUNNERS)
        assert (folder / "runner.log").read_text() == "once\n"
        assert (folder / "runner.txt").read_text() == "once"
        of_copy = ["copy: status 98", "copy: the other handler"]
        if sys.version_info >= (3, 14):
            # Python goes through a copy of its list, which nothing takes from the forked one.
            of_copy.insert(0, "copy: the other handler")
        assert [note for note in notes if note.startswith("copy:")] == of_copy


def assert_written(folder: Path) -> None:
    """Everything that was in a buffer; and what is temporary has gone."""
    names = {path.name.partition(".")[0] for path in folder.iterdir()}
    assert names == {"file-w", "file-wb", "file-w+b", "file", "shelf", "log"}
    assert (folder / "file-w").read_text() == "text"
    assert (folder / "file-wb").read_bytes() == b"bytes"
    assert (folder / "file-w+b").read_bytes() == b"both"
    assert gzip.decompress((folder / "file.gz").read_bytes()) == b"zipped"
    with zipfile.ZipFile(folder / "file.zip") as archive:
        assert archive.read("member") == b"text"
    with shelve.open(str(folder / "shelf"), "r") as shelf:
        assert shelf["key"] == "value"
    assert (folder / "log").read_text() == "buffered\n"


def test_a_test_may_call_all_exit_functions_itself(tmp_path: Path) -> None:
    """Those that it has inherited too, as un-isolated; what it registers then is for the end."""
    source = """
        import atexit, pytest
        from journal import note
        atexit.register(note, "of the module")
        @pytest.mark.isolated
        def test_it():
            atexit.register(note, "early")
            atexit._run_exitfuncs()
            note("goes on")
            atexit.register(note, "late")
    """
    result = run_source(tmp_path, source)
    assert result.returncode == 0, result.text
    expected = ["child early", "child of the module", "child goes on", "child late"]
    assert result.journal == [*expected, "runner of the module"]


TALKS: Final = """
import atexit, logging, sys, tempfile, threading
KEPT = []

def _fail(): raise ValueError("in a handler")

def test_writes():
    print("in the test")
    atexit.register(lambda: print("to stdout"))
    atexit.register(lambda: print("to stderr", file=sys.stderr))

def test_fails(): assert 0

def test_raises():
    atexit.register(_fail)
    atexit.register(lambda: sys.exit(3))

def test_forgets(tmp_path):
    KEPT.append(tempfile.TemporaryDirectory(dir=tmp_path))

def test_warns():
    import warnings
    atexit.register(lambda: warnings.warn("at the end"))
    atexit.register(lambda: warnings.warn("unseen", ResourceWarning))
"""


@pytest.mark.parametrize(
    "arguments",
    [("--capture=fd",), ("-s",), ("--capture=sys",), ("-W", "error"), ("-q", "-p", "no:warnings")],
    ids=" ".join,
)
def test_what_is_written_at_the_end_stands_behind_the_run(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Raw, on the same stream as un-isolated; what a handler raises is shown, and fails nothing."""
    write_files(tmp_path, {"test_it.py": TALKS})
    plain, isolated = run_parity(tmp_path, "-p", "no:randomly", *arguments)
    assert differences(plain, isolated) == []
    assert isolated.returncode == plain.returncode == 1
    ends = [run.stdout.rpartition(" in ")[2].partition("\n")[2] for run in (plain, isolated)]
    assert ends == ["to stdout\n"] * 2
    assert sorted(_lines(plain.stderr)) == sorted(_lines(isolated.stderr))
    assert "ValueError: in a handler" in isolated.stderr
    assert "UserWarning: at the end" in isolated.stderr
    assert "unseen" not in isolated.stderr


def _lines(text: str) -> list[str]:
    """Without the place in memory of a function."""
    return [line.partition(" at 0x")[0] for line in text.splitlines()]


LOST: Final = """
import atexit, ctypes, multiprocessing, os, pytest, threading
pytestmark = pytest.mark.isolated(leftovers="ignore")

def _exit(): os._exit(0)
def _crash(): ctypes.string_at(0)
def _hang():
    while True: threading.Event().wait()

def test_exit():
    atexit.register(_exit)
    print("in the test")

def test_crash():
    atexit.register(_crash)
    atexit.register(lambda: print("before it"))

@pytest.mark.isolated(timeout=60)
def test_hang():
    atexit.register(_hang)
    atexit.register(lambda: print("before it"))

def test_queue_that_nobody_reads():
    queue = multiprocessing.get_context("fork").Queue()
    queue.put(b"x" * 10_000_000)

@pytest.fixture
def fails():
    yield
    assert 0, "in tear-down"

def test_fails_and_crashes(fails):
    atexit.register(_crash)

@pytest.mark.isolated(timeout=0.5)
def test_times_out():
    atexit.register(lambda: print("at the end"))
    _hang()

def test_next(): pass
"""

SHORT: Final = """
from pytest_nsisolate.process import inbox
inbox.EXIT_SECONDS = 1
"""


def test_who_does_not_survive_its_end_fails_there(tmp_path: Path) -> None:
    """By a crash, an exit or a hang, which is bounded; with what it has written."""
    files = {"test_it.py": LOST, "conftest.py": SHORT}
    result = run_suite(write_files(tmp_path, files), "-p", "no:randomly")
    heads = {
        "test_exit": "isolated test ended at its exit: exit status 0 before it was finished",
        "test_crash": "isolated test crashed at its exit: killed by SIGSEGV",
        "test_hang": "isolated test timed out after 1 s at its exit",
        "test_queue_that_nobody_reads": "isolated test timed out after 1 s at its exit",
    }
    for name, head in heads.items():
        assert result.phases(name) == ["setup passed", "call passed", "teardown failed"]
        assert result.failure(name).startswith(head), result.failure(name)
    assert "in _hang" in result.failure("test_hang")
    for name in ("test_crash", "test_hang"):
        sections = dict(result.of(name)[-1]["sections"])
        assert sections["Captured stdout teardown"] == "before it\n"
    both = result.failure("test_fails_and_crashes")
    assert "AssertionError: in tear-down" in both
    assert "isolated test crashed at its exit: killed by SIGSEGV" in both
    assert "timed out after 0.5 s in call" in result.failure("test_times_out")
    assert result.phases("test_next") == ["setup passed", "call passed", "teardown passed"]
    assert "at the end" not in result.text  # after a timeout nothing of this runs


THREADS: Final = """
import pytest, threading
from pytest_nsisolate.child import ending
ending.THREAD_SECONDS = 0.3

def _stay(text):
    threading.Event().wait(0.1)
    print(text)
    threading.Event().wait()

@pytest.mark.isolated
def test_stays():
    for _ in range(2):
        threading.Thread(target=_stay, args=("from the thread",), name="stays").start()

@pytest.mark.isolated
def test_daemon(): threading.Thread(target=_stay, args=("",), daemon=True).start()

def test_call(isolate): isolate.using(pid=True)(test_stays)
"""


@pytest.mark.parametrize("policy", ["warn", "fail", "ignore"])
def test_threads_that_stay_are_leftovers(tmp_path: Path, policy: str) -> None:
    """They are waited for, as an exit does, but not for ever; daemons are not."""
    result = run_source(tmp_path, THREADS, "-rA", f"--nsisolate-leftovers={policy}")
    told = "2 threads still at work at the end: stays, stays"
    own = [w for w in result.warnings if w["nodeid"].endswith("test_stays")]
    if policy == "fail":
        assert result.failure("test_stays").startswith(told)
        sections = dict(result.of("test_stays")[-1]["sections"])
        assert sections["Captured stdout teardown"] == "from the thread\n" * 2
    elif policy == "warn":
        (warning,) = own
        assert warning["text"].startswith(told)
        assert "NsisolateLeftoversWarning" in warning["category"]
    else:
        assert own == []
    assert result.phases("test_daemon") == ["setup passed", "call passed", "teardown passed"]
    (of_call,) = (w for w in result.warnings if w["nodeid"].endswith("test_call"))
    assert of_call["text"].startswith(told)


def test_a_call_that_hangs_at_its_end_is_bounded(tmp_path: Path) -> None:
    """Its value is lost then, because its process never said that it was over."""
    source = """
        import atexit, pytest, threading, pytest_nsisolate
        from pytest_nsisolate.process import inbox
        inbox.EXIT_SECONDS = 0.5
        def function(): atexit.register(threading.Event().wait)
        def test_it(isolate):
            with pytest.raises(pytest_nsisolate.IsolatedTimeout, match="the exit of function"):
                isolate(function)
    """
    result = run_source(tmp_path, source)
    assert result.returncode == 0, result.text


def test_the_end_of_the_session_inside_is_an_end_too(tmp_path: Path) -> None:
    """``pytest.exit`` in a test: its own handlers run, and no other's."""
    source = """
        import atexit, pytest
        from journal import note
        @pytest.mark.isolated
        def test_it():
            atexit.register(note, "handler")
            pytest.exit("enough")
    """
    result = run_source(tmp_path, source)
    assert result.journal == ["child handler"], result.text
    assert result.returncode == 2


def test_in_a_worker_it_is_written_by_the_worker(tmp_path: Path) -> None:
    """To its own streams, when it ends; once."""
    write_files(tmp_path, {"test_it.py": TALKS})
    arguments = ("-p", "xdist", "-n", "1", "-p", "no:randomly")
    plain, isolated = run_parity(tmp_path, *arguments)
    assert differences(plain, isolated) == []
    assert sorted(_lines(plain.stderr)) == sorted(_lines(isolated.stderr))
    assert isolated.text.count("ValueError: in a handler") == 1


BROKEN: Final = """
import logging, os, pytest
KEPT = []

class Broken(logging.Handler):
    def flush(self): raise TypeError("a broken handler")

@pytest.mark.isolated
def test_it():
    KEPT.append(Broken())
    reader, writer = os.pipe()
    os.close(reader)
    KEPT.append(open(writer, "w"))
    KEPT[-1].write("nobody reads this")
"""


def test_what_goes_wrong_at_the_end_fails_nothing(tmp_path: Path) -> None:
    """As with any exit of Python; it is shown."""
    result = run_source(tmp_path, BROKEN)
    assert result.returncode == 0, result.text
    assert "TypeError: a broken handler" in result.stderr
    assert "BrokenPipeError" in result.stderr


LIES: Final = """
import pytest, time
from pytest_nsisolate.process import inbox
from pytest_nsisolate.runner.run import RUN
from pytest_nsisolate.wire.frames import Kind
inbox.EXIT_SECONDS = 1

@pytest.mark.isolated(timeout=30)
def test_it(request):
    while True:
        request.config.stash[RUN].in_child.outgoing.send(Kind.ENDING, {})
        time.sleep(0.05)
"""


def test_who_says_again_and_again_that_it_ends_has_no_more_time(tmp_path: Path) -> None:
    """A child is not trusted."""
    result = run_source(tmp_path, LIES)
    assert "timed out after 1 s" in result.failure("test_it")
