# SPDX-License-Identifier: MIT
"""``leftovers=``: what a test leaves alive is a warning, an error, or nobody's business.

See ``inner/leaking.py`` for the tests that leave something, or seem to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from pytest_nsisolate import NsisolateLeftoversWarning
from pytest_nsisolate.child import leftovers
from tests.inner import leaking
from tests.inner_runs import SIDES, Side, assert_expected, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES, run_source, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

#: What an unprivileged user sees is the kernel's doing, and no release of pytest changes it.
BOTH: Final = (SIDES[0], pytest.param("user", marks=pytest.mark.any_pytest))

WARNING: Final = "pytest_nsisolate.NsisolateLeftoversWarning"


def expectations(place: Any, prefix: str = "") -> Iterator[Any]:
    """One parameter set for each test of a module and of its classes."""
    for name, found in vars(place).items():
        if name.startswith("Test"):
            yield from expectations(found, f"{name}::")
        for mark in getattr(found, "pytestmark", ()) if name.startswith("test_") else ():
            if mark.name == "expect":
                yield pytest.param(f"{prefix}{name}", mark.args, id=f"{prefix}{name}")


@pytest.mark.parametrize("side", BOTH)
@pytest.mark.parametrize(("name", "expected"), [*expectations(leaking)])
def test_what_is_left(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite ends as its ``expect`` mark says, with nothing left on the host."""
    assert_expected(shared_batch(tmp_path_factory, "leaking", side), name, expected)


@pytest.mark.parametrize("side", BOTH)
def test_warning_of_a_marked_test(tmp_path_factory: pytest.TempPathFactory, side: Side) -> None:
    """It is one of the test's, at its first line, and nobody else has one."""
    result = shared_batch(tmp_path_factory, "leaking", side)
    (warning,) = result.warnings
    assert warning["nodeid"].endswith("::test_warned_by_default")
    assert warning["category"] == "NsisolateLeftoversWarning"
    assert warning["text"].startswith(leaking.ONE)
    assert "leftovers='warn': end what a test starts" in warning["text"]


def test_a_failed_test_shows_them_below_its_failure(tmp_path: Path) -> None:
    """Once, at the terminal, also from a worker; it is no warning, and no second failure."""
    source = """
        import subprocess, pytest
        kept = []
        @pytest.mark.isolated
        @pytest.mark.parametrize("policy", ["warn", "fail"])
        def test_it(policy):
            kept.append(subprocess.Popen(["sleep", "600"]))
            assert policy == "ignore"
        """
    for options in ((), ("-p", "xdist", "-n", "2"), ("--nsisolate-leftovers=fail",)):
        result = run_source(tmp_path, source, "-W", "error", *options)
        assert result.summary == "2 failed", result.text
        _, first, second = result.stdout.split("\n" + "_" * 20)
        for failure in (first, second):
            assert failure.count(f" {leftovers.SECTION} ---") == 1, result.text
            assert failure.count(leaking.ONE) == 1


# Filters, options, other plugins --------------------------------------------------------------


FILTERED: Final = f"""
import subprocess, pytest

kept = []

def leave():
    kept.append(subprocess.Popen(["sleep", "600"]))

@pytest.mark.isolated
def test_by_the_ini_key(): leave()

@pytest.mark.isolated(leftovers="warn")
def test_by_the_marker(): leave()

@pytest.mark.isolated(leftovers="warn")
@pytest.mark.filterwarnings("ignore::{WARNING}")
def test_filtered_out(): leave()

@pytest.mark.isolated(leftovers="warn")
@pytest.mark.filterwarnings("ignore:.* alive after the test. cat")
def test_filtered_out_by_another_name(): leave()

def test_not_isolated(): pass
"""


def test_error_among_the_filters(tmp_path: Path) -> None:
    """The warning is raised at the test's first line then, for the tear-down to fail."""
    options = ("-W", "error", "-o", "nsisolate_leftovers=ignore", "--junitxml", "junit.xml")
    result = run_source(tmp_path, FILTERED, *options)
    assert result.summary == "5 passed, 2 errors"
    assert result.warnings == []
    for name in ("test_by_the_marker", "test_filtered_out_by_another_name"):
        assert verdict(result, name) == "teardown failed"
        text = result.failure(name)
        assert f"E   {WARNING}: {leaking.ONE}" in text
        assert "\ntest_it.py:" in text
        assert "pytest_nsisolate/" not in text
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    errors = {case.get("name"): case.find("error") for case in root.iter("testcase")}
    message = errors["test_by_the_marker"]
    assert message is not None
    assert "1 process alive after the test: sleep" in (message.get("message") or "")
    assert sum(error is not None for error in errors.values()) == 2


def test_option_wins_over_the_ini_key(tmp_path: Path) -> None:
    """A marker wins over both; ``-x`` counts the error."""
    options = ("-o", "nsisolate_leftovers=ignore", "--nsisolate-leftovers=fail", "--maxfail=1")
    first = "-k", "not by_the_ini_key"
    result = run_source(tmp_path, FILTERED, *options, *first)
    assert result.summary == "4 passed, 1 deselected, 2 warnings"
    assert {warning["category"] for warning in result.warnings} == {"NsisolateLeftoversWarning"}
    result = run_source(tmp_path, FILTERED, *options)
    assert result.summary == "1 passed, 1 error"
    assert verdict(result, "test_by_the_ini_key") == "teardown failed"
    assert "ERROR test_it.py::test_by_the_ini_key - Failed: 1 process alive aft" in result.stdout
    assert "stopping after 1 failures" in result.stdout


OTHERS: Final = {
    "conftest.py": """
        import subprocess, pytest

        KEPT = []

        class Own(pytest.Item):
            def runtest(self):
                KEPT.append(subprocess.Popen(["sleep", "600"]))

        class File(pytest.File):
            def collect(self):
                yield Own.from_parent(self, name="own")

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".own":
                return File.from_parent(parent, path=file_path)
        """,
    "it.own": "",
    "test_asyncio.py": """
        import asyncio, pytest
        kept = []

        @pytest.mark.asyncio
        @pytest.mark.isolated(leftovers="fail")
        async def test_left():
            kept.append(await asyncio.create_subprocess_exec("sleep", "600"))

        @pytest.mark.asyncio
        @pytest.mark.isolated(leftovers="fail")
        async def test_awaited():
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()
        """,
    "test_documented.py": '''
        """
        >>> __import__("test_marked").leave()
        """
        ''',
    "test_marked.py": """
        import subprocess, pytest

        kept = []

        def leave():
            kept.append(subprocess.Popen(["sleep", "600"]))

        @pytest.mark.isolated
        @pytest.mark.parametrize("number", range(2))
        def test_warned(number):
            leave()

        def test_unmarked():
            leave()
        """,
}


def run_others(folder: Path, *arguments: str) -> Any:
    plugins = ("-p", "xdist", "-p", "pytest_asyncio.plugin", "--doctest-modules")
    asyncio = ("-o", "asyncio_default_fixture_loop_scope=function")
    folder = write_files(folder, OTHERS)
    return run_suite(folder, *plugins, *asyncio, "--nsisolate=all", *arguments)


def test_workers_and_unmarked_tests(tmp_path: Path) -> None:
    """Nothing is said of an unmarked test, and a warning reaches the controller with its test."""
    result = run_others(tmp_path, "-n", "2")
    assert result.summary == "7 passed, 2 warnings, 1 error", result.text
    assert verdict(result, "test_left") == "teardown failed"
    assert {(warning["nodeid"], warning["category"]) for warning in result.warnings} == {
        (f"test_marked.py::test_warned[{number}]", "NsisolateLeftoversWarning")
        for number in range(2)
    }


def test_option_for_unmarked_tests(tmp_path: Path) -> None:
    """Functions, doctests and items of one's own kind under ``--nsisolate=all``."""
    result = run_others(tmp_path, "--nsisolate-leftovers=fail")
    assert result.summary == "7 passed, 6 errors", result.text
    left = ("test_left", "own", "test_documented", "test_warned[0]", "test_warned[1]")
    for name in (*left, "test_unmarked"):
        assert verdict(result, name) == "teardown failed", result.text
        assert leaking.ONE in result.failure(name)


# Recognition ----------------------------------------------------------------------------------


def known(pid: int, ppid: int, *argv: str) -> leftovers.Left:
    return leftovers.Left(pid, ppid, "S", "anything", argv, 0.0)


#: As Python 3.11 starts it, and 3.14.
SERVER: Final = "from multiprocessing.forkserver import main; main(26, 28, ['__main__'], **{})"


@pytest.mark.parametrize("server", [SERVER, f"import sys; {SERVER}"])
def test_infrastructure_is_known_by_its_program(server: str) -> None:
    """Whatever its name is and whoever its parent; a worker of the fork server is none."""
    tracker = "from multiprocessing.resource_tracker import main;main(5)"
    spawned = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)"
    processes = [
        known(2, 1, "python", "-B", "-c", tracker),
        known(3, 1, "python", "-c", server),
        known(4, 3, "python", "-c", server),
        known(5, 4, "python", "-c", tracker),
        known(6, 1, "python", "-c", spawned, "--multiprocessing-fork"),
        known(7, 1, "sh", "-c", f"echo '{tracker}'"),
        known(8, 1),
    ]
    assert leftovers.infrastructure(processes) == {2, 3, 5}


def test_warning_is_public() -> None:
    """Filters find it by the package's name."""
    assert issubclass(NsisolateLeftoversWarning, pytest.PytestWarning)
    assert f"{NsisolateLeftoversWarning.__module__}.{NsisolateLeftoversWarning.__name__}" == WARNING
