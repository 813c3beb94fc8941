# SPDX-License-Identifier: MIT
"""Whoever repeats a test gets a new child: pytest-rerunfailures, flaky, pytest-retry."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    ONE_JOB,
    Result,
    differences,
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


@needs("pytest-rerunfailures")
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


@needs("pytest-rerunfailures", "pytest-xdist")
def test_its_server_for_workers_is_no_news(tmp_path: Path) -> None:
    """Beside pytest-xdist it listens in a thread of every runner, and no test misses it."""
    source = """
        import threading
        RUNNING = [thread.name for thread in threading.enumerate()]
        def test_it(): assert RUNNING == ["MainThread", "Thread-1 (run_server)"]
    """
    options = ("-p", "xdist", "-p", "rerunfailures", "--nsisolate=all")
    result = run_source(tmp_path, source, *options)
    assert result.returncode == 0, result.text
    assert "threads of the runner" not in result.stdout


@needs("pytest-rerunfailures")
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


@needs("pytest-rerunfailures", "pytest-xdist")
def test_reruns_in_workers(tmp_path: Path) -> None:
    """Each attempt is shown once; a crash takes neither the worker nor the rerun along."""
    result = run_source(
        tmp_path, FLAKY, *("-p", "xdist", "-p", "rerunfailures", "-n", "2", "--reruns=2", "-rR")
    )
    assert result.summary == "2 failed, 5 passed, 7 rerun", result.text
    assert "node down" not in result.text


# flaky -------------------------------------------------------------------------------------------

BOXED = """
import os, pytest
from pathlib import Path
from flaky import flaky
from journal import note
ATTEMPTS = Path(__file__).with_name("attempts")
memory = []

def attempt(name):
    memory.append(name)
    note((name, len(memory)))
    with open(ATTEMPTS, "a") as file: file.write(f"{name}\\n")
    return ATTEMPTS.read_text().split().count(name)

@flaky(max_runs=3)
def test_third(): assert attempt("third") == 3
@flaky(max_runs=3, min_passes=2)
def test_twice(): assert attempt("twice") != 2
@pytest.mark.flaky(max_runs=2)
def test_never(): assert attempt("never") == 0
@flaky
def test_setup(shaky): pass
@pytest.fixture
def shaky():
    if attempt("shaky") == 1: raise RuntimeError("in set-up")
def test_fails(): assert attempt("fails") == 0
def test_fine(): attempt("fine")
@pytest.mark.skip
def test_skip(): pass
"""


@needs("flaky")
def test_flaky_sees_each_failure(tmp_path: Path) -> None:
    """It decides after the report is made; what it takes for a success would be lost."""
    write_files(tmp_path, {"test_it.py": BOXED})
    plain = run_suite(tmp_path, "-p", "flaky.flaky_pytest_plugin")
    (tmp_path / "attempts").unlink()
    flaky = ("-p", "flaky.flaky_pytest_plugin", "--nsisolate=all")
    isolated = run_suite(tmp_path, *flaky, ONE_JOB)
    assert plain.summary.startswith("2 failed, 4 passed, 1 skipped"), plain.text
    assert differences(plain, isolated) == []
    assert isolated.summary == plain.summary

    def told(result: Result) -> list[str]:
        return [line for line in result.stdout.splitlines() if "times. " in line or "runs" in line]

    assert told(isolated) == told(plain) != []
    # As often as in a plain run, and each time in a new process.
    names = [line.partition(" ")[2].partition(",")[0] for line in plain.journal]
    assert isolated.journal == [f"child {name}, 1)" for name in names]


@needs("flaky")
def test_flaky_and_a_crash(tmp_path: Path) -> None:
    """A test that dies is repeated like one that fails."""
    result = run_source(
        tmp_path,
        """
        import os, pytest
        from pathlib import Path
        from flaky import flaky
        SEEN = Path(__file__).with_name("seen")
        pytestmark = pytest.mark.isolated
        @flaky
        def test_once():
            if not SEEN.exists():
                SEEN.touch()
                os._exit(3)
        @flaky
        def test_always(): os._exit(4)
        """,
        *("-p", "flaky.flaky_pytest_plugin"),
    )
    assert result.summary == "1 failed, 1 passed", result.text
    assert "exit status 4" in result.failure("test_always")


# pytest-retry ------------------------------------------------------------------------------------


@needs("pytest-retry", "pytest-xdist")
def test_pytest_retry_is_refused_where_it_would_repeat(tmp_path: Path) -> None:
    """It repeats the phases from within a report hook; one sentence says what to use instead."""
    source = """
        import pytest
        @pytest.mark.isolated
        def test_isolated(): pass
        @pytest.mark.flaky(retries=2)
        def test_plain(request):
            request.config.tries = getattr(request.config, "tries", 0) + 1
            assert request.config.tries == 2
    """
    write_files(tmp_path, {"test_it.py": source})
    retry = ("-p", "pytest_retry.retry_plugin")
    # Tests that are not isolated are repeated as ever.
    assert run_suite(tmp_path, *retry).summary == "2 passed, 1 retried"
    for more in ((), ("-p", "xdist", "-n", "1")):
        result = run_suite(tmp_path, *retry, "--retries=1", *more)
        assert result.returncode == pytest.ExitCode.USAGE_ERROR, result.text
        assert result.stderr.count("pytest-retry repeats a test from within") == 1
        assert "INTERNALERROR" not in result.text
