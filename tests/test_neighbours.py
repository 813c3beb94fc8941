# SPDX-License-Identifier: MIT
"""Other plugins beside this one: they see an ordinary test."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9,
    Result,
    differences,
    eventually,
    run_parity,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

# pytest-rerunfailures ----------------------------------------------------------------------------

FLAKY = """
import os, pytest
from pathlib import Path
from journal import note
pytestmark = pytest.mark.isolated
ATTEMPTS = Path(__file__).with_name("attempts")
memory = []

def attempt(name):
    memory.append(name)
    assert memory == [name], "a fresh child each time"
    with open(ATTEMPTS, "a") as file: file.write(f"{name}\\n")
    return ATTEMPTS.read_text().split().count(name)

@pytest.fixture(scope="module", autouse=True)
def module():
    note("+module")
    yield
    note("-module")

@pytest.fixture
def function():
    note("+function")
    yield
    note("-function")

def test_third_time(function):
    print("this is attempt", attempt("third"))
    assert ATTEMPTS.read_text().split().count("third") == 3
@pytest.mark.flaky(reruns=1)
def test_marked():
    if attempt("marked") == 1: os._exit(9)
@pytest.mark.flaky(reruns=1)
def test_never(): assert attempt("never") == 0
@pytest.mark.flaky(reruns=2, only_rerun=["ValueError"])
def test_only(): raise (KeyError if attempt("only") == 2 else ValueError)("x")
@pytest.mark.isolated(timeout=0.5)
@pytest.mark.flaky(reruns=1)
def test_slow():
    import time
    if attempt("slow") == 1: time.sleep(60)
@pytest.fixture
def shaky():
    if attempt("shaky") == 1: raise RuntimeError("in set-up")
@pytest.mark.flaky(reruns=1)
def test_setup(shaky): pass
def test_fine(): attempt("fine")
"""


def test_each_rerun_is_a_fresh_child_and_wider_fixtures_live_on(tmp_path: Path) -> None:
    """--reruns and the flaky mark; after failures, errors, crashes and timeouts."""
    result = run_source(tmp_path, FLAKY, "-p", "rerunfailures", "--reruns=2", "-rR")
    assert result.returncode == 1, result.text
    assert result.summary == "2 failed, 5 passed, 7 rerun", result.text
    attempts = Counter((tmp_path / "attempts").read_text(encoding="utf-8").split())
    twice = dict.fromkeys(("marked", "never", "only", "slow", "shaky"), 2)
    assert attempts == {"third": 3, "fine": 1, **twice}
    assert result.journal == [
        "runner +module",
        *("child +function", "child -function") * 3,
        "runner -module",
    ]
    calls = [
        (r["outcome"], r["sections"]) for r in result.of("test_third_time") if r["when"] == "call"
    ]
    assert [outcome for outcome, _ in calls] == ["rerun", "rerun", "passed"]
    # Nothing of an earlier attempt is in a later report but what plain pytest leaves there.
    assert "this is attempt 1" in str(calls[0][1])
    assert "this is attempt 3" in str(calls[2][1])


def test_reruns_report_as_in_a_plain_run(tmp_path: Path) -> None:
    """The same reports, with and without the plugin's tests isolated."""
    write_files(
        tmp_path,
        {
            "test_it.py": """
                import pytest
                @pytest.fixture(scope="class")
                def wide():
                    print("wide up")
                    yield
                    print("wide down")
                class TestIt:
                    def test_fails(self, wide):
                        print("output")
                        assert 0
                    def test_passes(self, wide): pass
                    @pytest.mark.flaky(reruns=3, condition=False)
                    def test_no_reruns(self): assert 0
                    @pytest.mark.xfail
                    def test_xfail(self): assert 0
            """
        },
    )
    plain, isolated = run_parity(tmp_path, "-p", "rerunfailures", "--reruns=1", "-rA")
    assert differences(plain, isolated) == []
    assert isolated.summary == plain.summary


# pytest-xdist ------------------------------------------------------------------------------------

SPREAD = """
import os, pytest, sys, warnings
from journal import note
@pytest.mark.isolated
@pytest.mark.parametrize("n", range(6))
def test_many(n, record_property):
    record_property("n", n)
    print("output", n)
    assert os.getpid() == 1
    assert n != 3
@pytest.mark.isolated
def test_crash(): os._exit(7)
@pytest.mark.isolated
def test_segfault():
    import ctypes
    ctypes.string_at(0)
@pytest.mark.isolated
def test_warns(): warnings.warn("careful")
@pytest.mark.isolated
def test_writes_to_everything():
    # The plugin's own way back is among them; execnet's pipe to the controller must not be.
    for fd in range(3, 64):
        try: os.write(fd, b"x" * 1000)
        except OSError: pass
def test_plain(): assert os.getpid() != 1
"""


def spread(folder: Path, *arguments: str) -> Result:
    return run_source(folder, SPREAD, "-p", "xdist", *arguments)


@pytest.mark.parametrize("arguments", [("-n", "2"), ("-n", "1"), ("-n", "2", "--dist=loadfile")])
def test_isolated_tests_run_in_workers(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Every report once, a crash takes no worker along, the output is with its test."""
    result = spread(tmp_path, *arguments)
    assert result.returncode == 1
    assert result.summary == "4 failed, 7 passed, 1 warning", result.text
    for word in ("node down", "crashed while", "replacing", "INTERNALERROR"):
        assert word not in result.text
    reports = Counter((r["nodeid"], r["when"], r["type"]) for r in result.reports)
    assert set(reports.values()) == {1}
    assert len(reports) == 33
    assert result.of("test_many[2]")[1]["sections"] == [["Captured stdout call", "output 2\n"]]
    assert ["'n'", "2"] in result.of("test_many[2]")[1]["properties"]
    assert "exit status 7" in result.failure("test_crash")
    assert "SIGSEGV" in result.failure("test_segfault")
    assert "its stream is broken" in result.failure("test_writes_to_everything")


@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_subtests_under_xdist_are_reported_once(tmp_path: Path) -> None:
    """The child of a worker does not write to the controller itself."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated
        def test_it(subtests):
            for n in range(3):
                with subtests.test(n=n): assert n != 1
        """,
        *("-p", "xdist", "-n", "1"),
    )
    assert result.returncode == 1
    assert [r["type"] for r in result.reports].count("SubtestReport") == 3
    assert result.stdout.count("SUBFAILED") == 1, result.text


def test_a_usage_error_is_the_controller_s(tmp_path: Path) -> None:
    """A bad marker ends a distributed run with one clean message."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated(pidd=True)
        def test_it(): pass
        """,
        *("-p", "xdist", "-n", "2"),
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR, result.text
    assert result.reports == []
    assert result.stderr.count("test_it.py::test_it") == 1
    assert "unknown keyword 'pidd'" in result.stderr
    assert "INTERNALERROR" not in result.text


def test_refusals_and_left_out_tests_are_summed_over_workers(tmp_path: Path) -> None:
    """One summary line, by the controller."""
    result = spread(tmp_path, "-n", "2", "--nsisolate=none")
    assert result.stdout.count("nsisolate: 10 tests left out by --nsisolate=none") == 1, result.text


def test_the_whole_suite_isolated_under_xdist(tmp_path: Path) -> None:
    """--nsisolate=all reaches the workers; the results are those of plain workers."""
    parametrized = "@pytest.mark.parametrize('n', range(8))\ndef test_it(n): assert n % 3\n"
    write_files(tmp_path, {"test_it.py": f"import pytest\n{parametrized}"})
    plain, isolated = run_parity(tmp_path, "-p", "xdist", "-n", "2")

    def told(result: Result) -> set[tuple[str, ...]]:
        return {(r["nodeid"], r["when"], r["outcome"]) for r in result.reports}

    assert told(isolated) == told(plain)
    assert isolated.summary == plain.summary == "3 failed, 5 passed"


# pytest-timeout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_the_mark_of_pytest_timeout_is_the_budget(tmp_path: Path, method: str) -> None:
    """The test is killed from outside, the run goes on, and no process is left."""
    result = run_source(
        tmp_path,
        """
        import pytest, time, subprocess
        @pytest.mark.isolated
        @pytest.mark.timeout(1)
        def test_slow():
            daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
            time.sleep(60)
        @pytest.mark.isolated
        @pytest.mark.timeout(30)
        def test_fast(): pass
        @pytest.mark.isolated(timeout=1)
        @pytest.mark.timeout(50)
        def test_both(): time.sleep(60)
        def test_plain(): pass
        """,
        *("-p", "timeout", f"--timeout-method={method}"),
    )
    assert result.returncode == 1, result.text
    assert result.summary == "2 failed, 2 passed", result.text
    assert "INTERNALERROR" not in result.text
    for name in ("test_slow", "test_both"):
        assert "timed out after 1 s in call" in result.failure(name)
    assert "sleep 600" in result.failure("test_slow")

    def left() -> list[str]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(tmp_path):
                    found.append(pid)
            except OSError:
                pass
        return found

    assert eventually(lambda: not left())


def test_the_ini_of_pytest_timeout_is_the_budget_too(tmp_path: Path) -> None:
    """--timeout for the whole run counts for isolated tests, and for plain ones as ever."""
    result = run_source(
        tmp_path,
        """
        import pytest, time
        @pytest.mark.isolated
        def test_slow(): time.sleep(60)
        def test_plain(): time.sleep(60)
        """,
        *("-p", "timeout", "--timeout=1"),
    )
    assert result.summary == "2 failed", result.text
    assert "timed out after 1 s in call" in result.failure("test_slow")
    assert "Timeout" in result.failure("test_plain")


# pytest-randomly ---------------------------------------------------------------------------------

RANDOM = """
import random, pytest
from journal import note
@pytest.fixture(scope="module")
def wide(): return random.random()
@pytest.fixture
def narrow(): return random.random()
def test_one(wide, narrow): note(("one", wide, narrow, random.random()))
def test_two(wide): note(("two", wide, random.random(), random.randrange(10**9)))
def test_three(): note(("three", random.random()))
"""


def test_randomly_gives_the_same_numbers_and_order(tmp_path: Path) -> None:
    """The seed of a run means the same in a child as in the runner."""
    write_files(tmp_path, {"test_it.py": RANDOM})
    plain, isolated = run_parity(tmp_path, "-p", "randomly", "-p", "randomly", "--randomly-seed=7")
    assert isolated.returncode == 0, isolated.text
    assert differences(plain, isolated) == []
    assert [line.partition(" ")[2] for line in isolated.journal] == [
        line.partition(" ")[2] for line in plain.journal
    ]
    assert {line.partition(" ")[0] for line in isolated.journal} == {"child"}


def test_without_a_seed_two_children_have_different_numbers(tmp_path: Path) -> None:
    """Negative control: numbers go on as they would have in one process."""
    write_files(tmp_path, {"test_it.py": RANDOM})
    first, second = (run_suite(tmp_path, "--nsisolate=all") for _ in range(2))
    assert first.returncode == 0, first.text
    assert first.journal != second.journal


# pytest-cov, pytest-mock, pytest-asyncio ---------------------------------------------------------


def test_pytest_cov_present_and_idle_changes_nothing(tmp_path: Path) -> None:
    """Loaded, without --cov."""
    write_files(tmp_path, {"test_it.py": "def test_a(): pass\ndef test_b(): assert 0\n"})
    plain, isolated = run_parity(tmp_path, "-p", "pytest_cov")
    assert differences(plain, isolated) == []
    assert isolated.summary == "1 failed, 1 passed"


def test_mock_and_asyncio_work_inside(tmp_path: Path) -> None:
    """Fixtures of function scope of both; an event loop of the child's own."""
    result = run_source(
        tmp_path,
        """
        import asyncio, os, pytest, pytest_asyncio
        pytestmark = pytest.mark.isolated
        @pytest_asyncio.fixture
        async def number():
            await asyncio.sleep(0)
            yield 3
            await asyncio.sleep(0)
        @pytest.mark.asyncio
        async def test_async(number):
            await asyncio.sleep(0)
            assert (number, os.getpid()) == (3, 1)
        def test_mock(mocker):
            exit = mocker.patch("os._exit")
            os._exit(5)
            exit.assert_called_once_with(5)
        """,
        *(
            "-p",
            "pytest_mock",
            "-p",
            "asyncio",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
        ),
    )
    assert result.returncode == 0, result.text
    assert len(result.passed()) == 2
