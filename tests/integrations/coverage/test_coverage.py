# SPDX-License-Identifier: MIT
"""Coverage of isolated tests: equal to that of the same run un-isolated, whoever measures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.coverage_helpers import PLAIN, PYTEST_COV, Data, Measured, differences, run_measured
from tests.hosts import NEEDS_HOSTS
from tests.support import NEEDS_NAMESPACES, write_files

pytestmark = NEEDS_NAMESPACES

STRICT: Final = ("-W", "error")

_BRANCHES = """
def {name}(n):
    if n:
        result = 1
    else:
        result = 2
    return result

"""

_NAMES = (
    *(f"deed{n}" for n in range(15)),
    "in_setup",
    "in_teardown",
    "in_thread",
    "before_exit",
    "before_own_exit",
    "in_runner",
)

#: Twenty functions, each of which is run by one isolated test; and one by a fixture of the runner.
SUITE: Final = {
    "deeds.py": "".join(_BRANCHES.format(name=name) for name in _NAMES),
    "test_deeds.py": """
        import os, sys, threading
        import pytest
        import deeds

        pytestmark = pytest.mark.isolated

        def both(name):
            for n in (0, 1):
                getattr(deeds, name)(n)

        @pytest.fixture(scope="module", autouse=True)
        def shared():
            yield
            both("in_runner")  # in the context of the last test's teardown

        @pytest.fixture
        def sets_up():
            both("in_setup")

        @pytest.fixture
        def tears_down():
            yield
            both("in_teardown")

        @pytest.mark.parametrize("n", range(15))
        def test_deed(n):
            both(f"deed{n}")

        def test_setup(sets_up):
            pass

        def test_teardown(tears_down):
            pass

        def test_thread():
            thread = threading.Thread(target=both, args=["in_thread"])
            thread.start()
            thread.join()

        def test_exit():
            with pytest.raises(SystemExit):
                both("before_exit")
                sys.exit(0)

        @pytest.mark.xfail(reason="ends the process")
        def test_own_exit():
            both("before_own_exit")
            if os.environ.get("OWN_EXIT"):
                os._exit(0)
            pytest.fail("as if")

        def test_last():
            pass
        """,
    # Puts the merge out of action.
    "unmerged.py": """
        from pytest_nsisolate.integrations import coverage

        coverage.Measurement.merge = lambda self, data: None
        """,
    # Un-isolated this patch saves the data of every process that leaves by os._exit; of a copy of
    # the runner, over the runner's own.
    "exit.ini": """
        [run]
        branch = true
        patch = _exit
        include = */deeds.py
        """,
    # Fails unless the runner is PID 1.
    "first.py": """
        import os

        def pytest_sessionstart(session):
            assert os.getpid() == 1
        """,
    # A coverage whose inside nobody knows.
    "strange.py": """
        from pytest_nsisolate.integrations.coverage import insides

        insides.is_known = lambda cov: False
        """,
}

OWN_EXIT: Final = {"OWN_EXIT": "1"}
SUMMARY: Final = "20 passed, 1 xfailed"
COV: Final = (*PYTEST_COV, "--cov=deeds", "--cov-branch", "--cov-fail-under=100")
RUN: Final = ("--include=*/deeds.py",)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("deeds"), SUITE)


@pytest.fixture(scope="module")
def plain(suite: Path) -> Measured:
    """The run that the others are compared with: branches, and a context for each phase."""
    measured = run_measured(suite, *COV, "--cov-context=test", *STRICT, *PLAIN)
    assert SUMMARY in measured.result.stdout, measured.result.text
    assert len(measured.lines("deeds.py")) == 6 * len(_NAMES) - len(_NAMES)
    return measured


def is_whole(measured: Measured) -> None:
    """The run passed, said nothing of its own, and left one data file."""
    assert measured.result.returncode == 0, measured.result.text
    assert SUMMARY in measured.result.stdout, measured.result.text
    assert "CoverageWarning" not in measured.result.text, measured.result.text
    assert measured.left == [".coverage"]


def of_children(data: Data) -> Data:
    """Without the function that the runner runs: which test's teardown that is in may differ."""
    last = 8 * len(_NAMES) - 6  # the line of its ``def``
    found = {}
    for key, numbers in data.items():
        pairs = {number: (number,) if isinstance(number, int) else number for number in numbers}
        own = frozenset(n for n, pair in pairs.items() if -last not in pair and max(pair) <= last)
        if own:
            found[key] = own
    return found


def test_contexts(suite: Path, plain: Measured) -> None:
    """Under pytest-cov arcs and contexts are those of the un-isolated run, 100 % of them."""
    measured = run_measured(suite, *COV, "--cov-context=test", *STRICT, env=OWN_EXIT)
    is_whole(measured)
    assert differences(plain.data, measured.data) == []
    assert ("deeds.py", "test_deeds.py::test_teardown|teardown") in measured.data


def test_workers(suite: Path, plain: Measured) -> None:
    """Under pytest-xdist each worker's isolated tests count."""
    xdist = ("-p", "xdist", "-n", "4")
    measured = run_measured(suite, *COV, "--cov-context=test", *xdist, *STRICT, env=OWN_EXIT)
    is_whole(measured)
    assert differences(of_children(plain.data), of_children(measured.data)) == []


def test_coverage_run(suite: Path, plain: Measured) -> None:
    """Under ``coverage run`` in development mode nothing is lost, and nothing said.

    Nor is anything by ``patch = _exit``, which is known to destroy the data of forked tests.
    """
    env = {**OWN_EXIT, "PYTHONDEVMODE": "1"}
    measured = run_measured(suite, *STRICT, run=("--rcfile=exit.ini",), env=env)
    is_whole(measured)
    assert measured.result.stderr == ""
    assert differences(plain.without_contexts(), measured.data) == []


SYSMON = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with 3.12")


@SYSMON
def test_monitoring_core(suite: Path, plain: Measured) -> None:
    """Lines are the same with the core that sees each of them once."""
    measured = run_measured(suite, *STRICT, run=RUN, core="sysmon", env=OWN_EXIT)
    is_whole(measured)
    assert measured.data["deeds.py", ""] == plain.lines("deeds.py")


def test_python_core(suite: Path, plain: Measured) -> None:
    """The Python core has another form for arcs."""
    measured = run_measured(suite, *STRICT, run=("--branch", *RUN), core="pytrace", env=OWN_EXIT)
    is_whole(measured)
    assert differences(plain.without_contexts(), measured.data) == []


@NEEDS_HOSTS
def test_the_runner_is_pid1(suite: Path, plain: Measured) -> None:
    """In a container runner and children have the same number, and nobody's data is taken."""
    prefix = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")
    options = ("-p", "first", *STRICT)
    run = ("--branch", *RUN)
    measured = run_measured(suite, *options, run=run, prefix=prefix, env=OWN_EXIT)
    is_whole(measured)
    assert differences(plain.without_contexts(), measured.data) == []


def test_unknown_coverage_run(suite: Path, plain: Measured) -> None:
    """With a coverage that is built otherwise a measurement of the child's own does the same."""
    options = ("-p", "strange", *STRICT)
    measured = run_measured(suite, *options, run=("--rcfile=exit.ini",), env=OWN_EXIT)
    is_whole(measured)
    assert differences(plain.without_contexts(), measured.data) == []


def test_unknown_coverage_contexts(suite: Path, plain: Measured) -> None:
    """So does it under pytest-cov: lines, and their contexts but for the runner's own teardown."""
    options = (*PYTEST_COV, "--cov=deeds", "--cov-context=test", "-p", "strange", *STRICT)
    measured = run_measured(suite, *options, env=OWN_EXIT)
    is_whole(measured)
    assert differences(of_children(plain.as_lines()), of_children(measured.data)) == []


def test_without_the_merge(suite: Path, plain: Measured) -> None:
    """Negative control: without the merge the same run has what the runner has run, no more."""
    measured = run_measured(suite, *COV, "-p", "unmerged", env=OWN_EXIT)
    assert measured.result.returncode == 1
    assert "Coverage failure: total of 18 is less" in measured.result.stdout, measured.result.text
    assert len(measured.lines("deeds.py")) == len(_NAMES) + 4
