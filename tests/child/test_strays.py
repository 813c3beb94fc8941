# SPDX-License-Identifier: MIT
"""A copy that a test or a wider fixture has forked, and that comes back, ends there."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.process.outcome import EXIT_STRAY
from tests.inner_runs import SIDES, THREADED, Side, run_batch, source
from tests.support import NEEDS_NAMESPACES, run_source, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

#: A hook of each phase, in whose first half one test's copy comes back; its second half is noted.
HOOKS: Final = """
import pytest
from journal import note

def straying(phase):
    @pytest.hookimpl(wrapper=True)
    def hook(item):
        from test_straying import stray
        if item.name == f"test_{phase}_hook" and stray("returns"):
            return
        try:
            return (yield)
        finally:
            note(f"second half of {phase}")
    return hook

pytest_runtest_setup = straying("set_up")
pytest_runtest_call = straying("call")
pytest_runtest_teardown = straying("tear_down")
"""


@pytest.mark.parametrize("threads", ["", THREADED], ids=["short", "long"])
@pytest.mark.parametrize("side", SIDES)
def test_a_copy_tears_nothing_down_and_never_ends_with_0(side: Side, threads: str) -> None:
    """Wherever it comes back to, by whichever way; the test itself goes on, and passes."""
    files = {**source("straying"), "conftest.py": HOOKS + threads}
    result = run_batch(files, side, "-p", "no:randomly")
    assert {r["outcome"] for r in result.reports} == {"passed"}, result.text
    ran = [r["nodeid"].partition("::")[2] for r in result.reports if r["when"] == "call"]
    found = Counter(line.partition(" ")[2] for line in result.journal)
    statuses = {name: n for name, n in found.items() if name.startswith("status")}
    in_coroutine = sys.version_info < (3, 14)
    expected = 8 + 1 + 1 + in_coroutine + 8 + 8 + 8 + 5 + 3 + 8
    assert statuses == {f"status {EXIT_STRAY}": expected}, result.text
    # Set-up has two second halves, one on each side of the clone.
    halves = [found[f"second half of {phase}"] for phase in ("set_up", "call", "tear_down")]
    assert halves == [2 * len(ran), len(ran), len(ran)], result.journal
    cases = [name for name in ran if "unittest" in name.lower()]
    assert found["tearDown"] == found["cleanup"] == len(cases) == 5
    with_both = [name for name in ran if name.startswith(_WITH_BOTH)]
    assert found["finalizer second"] == found["finalizer first"] == len(with_both)
    assert found["finalizer added"] == len(with_both)
    assert found["finalizer of the same"] == found["set up behind"] == 8
    assert found["finalizer behind"] == found["finalizer comes_back"] == 8


GENERATORS: Final = """
import os, pytest
from journal import note

@pytest.fixture(scope="module")
def wide():
    try: yield
    finally: note("closed wide")

@pytest.fixture
def narrow(wide):
    try: yield
    finally: note("closed narrow")

@pytest.mark.isolated
def test_it(narrow):
    if (pid := os.fork()) == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_copy_closes_no_generator(tmp_path: Path) -> None:
    """What a fixture does in its ``finally`` is done once, and not by a copy that just ends."""
    result = run_source(tmp_path, GENERATORS)
    assert result.summary == "1 passed", result.text
    assert Counter(line.partition(" ")[2] for line in result.journal) == {
        "closed narrow": 1,
        "closed wide": 1,
    }


_WITH_BOTH: Final = (
    *("test_call[", "test_copy_of", "test_interrupted", "test_worker", "test_coroutine"),
    *("test_set_up[", "test_tear_down[", "TestUnittest", "test_nested"),
)


#: Wider fixtures that fork in the runner; what is noted behind them is not the copy's to run.
WIDER: Final = """
import os
import pytest
from journal import note
from test_straying import stray

WAY, PLACE = os.environ["WAY"], os.environ["PLACE"]

@pytest.fixture(scope="session")
def session():
    yield
    note("finalizer session")

@pytest.fixture(scope="module")
def module(session, request):
    request.addfinalizer(lambda: note("finalizer added"))
    if PLACE == "set-up" and stray(WAY):
        return
    yield
    note("finalizer module")
    if PLACE == "tear-down" and stray(WAY):
        return

@pytest.fixture(scope="module")
def behind(module):
    note("set up behind")
    yield
    note("finalizer behind")

@pytest.mark.isolated
def test_isolated(behind): note("test")
"""

ONE_SESSION: Final = """
from journal import note

def pytest_sessionfinish(): note("session finished")
"""


@pytest.mark.parametrize("place", ["set-up", "tear-down"])
@pytest.mark.parametrize("way", ["returns", "exception", "interrupt", "sys.exit", "pytest.exit"])
def test_a_copy_of_the_runner_does_not_come_to_an_isolated_test(place: str, way: str) -> None:
    """It goes through no other fixture, no test and no end of a session."""
    files = {**source("straying"), "test_wider.py": WIDER, "conftest.py": ONE_SESSION}
    env = {"WAY": way, "PLACE": place}
    result = run_batch(files, "root" if os.geteuid() == 0 else "user", "test_wider.py", env=env)
    found = Counter(line.partition(" ")[2] for line in result.journal)
    status = {f"status {EXIT_STRAY}": 1}
    once = ("set up behind", "test", "session finished", "finalizer added")
    assert found == status | dict.fromkeys((*once, *_FINALIZERS), 1), result.text
    assert [r["outcome"] for r in result.reports] == ["passed"] * 3, result.text


_FINALIZERS: Final = ("finalizer session", "finalizer module", "finalizer behind")


def test_a_copy_that_a_plain_test_lets_go_on_ends_at_the_next_isolated_one(tmp_path: Path) -> None:
    """Until there it is a second session, as without this plugin."""
    files = {
        "test_it.py": """
            import os, pytest
            from journal import note
            def test_plain():
                if pid := os.fork():
                    note(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            def test_second(): note("second")
            @pytest.mark.isolated
            def test_isolated(): note("isolated")
        """,
    }
    result = run_suite(write_files(tmp_path, files), "-p", "no:randomly")
    found = Counter(line.partition(" ")[2] for line in result.journal)
    assert found == {f"status {EXIT_STRAY}": 1, "second": 2, "isolated": 1}, result.text


def test_it_says_whose_it_was_and_where_it_came_from(tmp_path: Path) -> None:
    """In the output of its test: the exception, with the lines of the suite and no others."""
    source = """
        import os, pytest
        def helper(): raise RuntimeError("in the copy")
        @pytest.mark.isolated
        def test_it():
            pid = os.fork()
            if pid == 0: helper()
            assert os.waitpid(pid, 0)[1] == 0
    """
    result = run_source(tmp_path, source)
    (report,) = (r for r in result.of("test_it") if r["outcome"] == "failed")
    shown = dict(report["sections"])["Captured stderr call"].splitlines()
    assert shown[0].endswith("forked by test_it.py::test_it left it by RuntimeError"), shown
    assert shown[-1] == "RuntimeError: in the copy"
    assert [line for line in shown if line.startswith("  File ")] == [
        f'  File "{tmp_path}/test_it.py", line 7, in test_it',
        f'  File "{tmp_path}/test_it.py", line 3, in helper',
    ]
