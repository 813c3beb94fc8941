# SPDX-License-Identifier: MIT
"""Coverage of attempts that end early, and of children that lie about theirs."""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.integrations.coverage.parts import MAX_PART, Form, Part, decode
from tests.coverage_helpers import PYTEST_COV, run_measured
from tests.support import NEEDS_NAMESPACES, write_files

MISSING: Final = "is missing: it ended without handing it over"

_LOST = {
    "rc.ini": """
        [run]
        include = */acts.py
        dynamic_context = test_function
        """,
    "acts.py": """
        def hanging():
            return 1

        def unreachable():
            return 2

        def crashing():
            return 3

        def exiting():
            return 4

        def leaving():
            return 5

        def set_up():
            return 6

        def tear_down():
            return 7
        """,
    "test_acts.py": """
        import ctypes, itertools, os, posix, time
        import pytest, acts

        pytestmark = pytest.mark.isolated

        @pytest.fixture
        def ready():
            acts.set_up()

        @pytest.fixture(scope="module", autouse=True)
        def wide():
            yield
            acts.tear_down()

        @pytest.mark.isolated(timeout=0.5)
        def test_hanging():
            acts.hanging()
            time.sleep(60)

        @pytest.mark.isolated(timeout=0.5)
        def test_unreachable():
            acts.unreachable()
            sum(itertools.repeat(0))  # in C, where no handler runs

        def test_crashing(ready):
            acts.crashing()
            ctypes.string_at(0)

        def test_leaving():
            acts.leaving()
            posix._exit(3)

        def test_exiting():
            acts.exiting()
            os._exit(3)
        """,
}


@NEEDS_NAMESPACES
def test_lost_tails(tmp_path: Path) -> None:
    """What a late or leaving test has run counts; where it cannot, the report says so."""
    folder = write_files(tmp_path, _LOST)
    measured = run_measured(folder, run=("--rcfile=rc.ini",))
    _, *failures = re.split(r"^_+ test_(\w+) _+$", measured.result.stdout, flags=re.MULTILINE)
    told = {name: MISSING in text for name, text in zip(*[iter(failures)] * 2, strict=True)}
    assert told == {
        "hanging": False,
        "unreachable": True,
        "crashing": True,
        "exiting": False,
        "leaving": True,
    }, measured.result.text
    names = re.findall(r"def (\w+)", _LOST["acts.py"])
    bodies = {3 * number: name for number, name in enumerate(names, 1)}
    contexts = {
        bodies[line]: context.rpartition("_")[2]
        for (_, context), lines in measured.data.items()
        for line in lines
        if line in bodies
    }
    assert contexts == {
        "hanging": "hanging",
        "exiting": "exiting",
        "set_up": "",
        "tear_down": "",  # in the runner, which had followed the last test into its context
    }
    assert "ran after its setup phase is missing" in measured.result.stdout


@NEEDS_NAMESPACES
def test_without_coverage_nobody_speaks_of_it(tmp_path: Path) -> None:
    """Negative control: without a measurement a crash says nothing about one."""
    folder = write_files(tmp_path, _LOST)
    measured = run_measured(folder, "-k", "crashing")
    assert "1 failed" in measured.result.stdout
    assert MISSING not in measured.result.stdout


@NEEDS_NAMESPACES
def test_a_test_that_saves(tmp_path: Path) -> None:
    """What a test does to the runner's measurement writes no file, and loses nothing."""
    folder = write_files(
        tmp_path,
        {
            "acts.py": "def one():\n    return 1\n\n\ndef two():\n    return 2\n",
            "test_acts.py": """
                import glob
                import coverage, pytest, acts

                @pytest.mark.isolated
                def test_saving():
                    measurement = coverage.Coverage.current()
                    acts.one()
                    measurement.save()
                    assert not measurement.get_data().measured_files()
                    measurement.stop()
                    measurement.save()
                    measurement.start()
                    acts.two()
                    assert glob.glob(".coverage*") == []
                """,
        },
    )
    measured = run_measured(folder, run=("--include=*/acts.py",))
    assert measured.result.returncode == 0, measured.result.text
    assert measured.left == [".coverage"]
    assert measured.lines("acts.py") == {1, 2, 5, 6}


@NEEDS_NAMESPACES
def test_interrupt(tmp_path: Path) -> None:
    """A Ctrl-C ends the run, and what the child had run until then counts."""
    folder = write_files(
        tmp_path,
        {
            "acts.py": "def acting():\n    return 1\n\n\ndef tidying():\n    return 2\n",
            "test_acts.py": """
                import os, signal, time
                import pytest, acts

                RUNNER = os.getpid()

                @pytest.fixture
                def tidy():
                    yield
                    acts.tidying()

                @pytest.mark.isolated(uts=True)
                def test_acting(tidy):
                    acts.acting()
                    os.kill(RUNNER, signal.SIGINT)
                    time.sleep(60)
                """,
        },
    )
    measured = run_measured(folder, run=("--include=*/acts.py",))
    assert "KeyboardInterrupt" in measured.result.stdout, measured.result.text
    assert measured.lines("acts.py") == {1, 2, 5, 6}, measured.result.text


@NEEDS_NAMESPACES
def test_a_child_that_lies(tmp_path: Path) -> None:
    """Coverage that no measurement gives fails the one test that sent it."""
    folder = write_files(
        tmp_path,
        {
            "acts.py": "x = 1\n",
            "test_acts.py": """
                import pytest, acts
                from pytest_nsisolate.runner.run import RUN
                from pytest_nsisolate.wire.frames import Kind

                pytestmark = pytest.mark.isolated

                @pytest.mark.parametrize("data", [
                    {"files": {"acts.py": b"1"}},
                    {"files": {}, "tracers": {"acts.py": "nobody"}},
                    {"files": {"\\udc80": bytes(8)}},
                ])
                def test_lie(request, data):
                    request.config.stash[RUN].in_child.outgoing.send(Kind.COVERAGE, data)

                def test_honest():
                    pass
                """,
        },
    )
    measured = run_measured(folder, *PYTEST_COV, "--cov=acts")
    assert "3 failed, 1 passed" in measured.result.stdout, measured.result.text
    assert measured.result.stdout.count("its stream is broken: coverage ") >= 3
    assert measured.files == {"acts.py": ""}


@NEEDS_NAMESPACES
def test_a_child_that_names_a_folder_of_others(tmp_path: Path) -> None:
    """Its files do not count as those of the package, and coverage says that one is missing."""
    folder = write_files(
        tmp_path,
        {
            "others/acts/other.py": "x = 1\n",
            "test_acts.py": """
                import pytest
                from pytest_nsisolate.runner.run import RUN
                from pytest_nsisolate.wire.frames import Kind

                @pytest.mark.isolated
                @pytest.mark.parametrize("name", ["others/acts", "others", "."])
                def test_lie(request, name):
                    packages = {"acts": str(request.path.parent / name)}
                    data = {"files": {}, "packages": packages}
                    request.config.stash[RUN].in_child.outgoing.send(Kind.COVERAGE, data)
                """,
        },
    )
    measured = run_measured(folder, *PYTEST_COV, "--cov=acts")
    assert "3 passed" in measured.result.stdout, measured.result.text
    assert "Module acts was never imported" in measured.result.stderr, measured.result.text
    assert measured.files == {}


# What crosses -----------------------------------------------------------------------------------


def test_a_part_round_trips() -> None:
    """A part is the same after it has crossed, in one frame."""
    part = Part("a|b", {"/x.py": array("q", [3, 1])}, {"/x.html": "plugin"}, {"pkg": "/pkg"})
    (data,) = part.encoded()
    assert decode(data, "line") == part


def test_a_huge_part_is_sent_in_pieces() -> None:
    """No frame carries much more than the limit, and nothing is lost between them."""
    numbers = array("q", range(MAX_PART // 16))
    part = Part(None, {f"/{n}.py": numbers for n in range(5)}, {"/x.html": "plugin"})
    parts = [decode(data, "line") for data in part.encoded()]
    assert len(parts) == 2
    assert all(found.context is None for found in parts)
    assert parts[0].files | parts[1].files == part.files
    assert parts[1].tracers == part.tracers


@pytest.mark.parametrize(
    ("data", "form"),
    [
        ({}, "line"),
        ({"files": []}, "line"),
        ({"context": 1, "files": {}}, "line"),
        ({"context": "\0", "files": {}}, "line"),
        ({"files": {1: bytes(8)}}, "line"),
        ({"files": {"\ud800": bytes(8)}}, "line"),
        ({"files": {"x" * (1024**2 + 1): bytes(8)}}, "line"),
        ({"files": {"x": b""}}, "line"),
        ({"files": {"x": bytes(7)}}, "line"),
        ({"files": {"x": bytes(8)}}, "pair"),
        ({"files": {"x": [1]}}, "line"),
        ({"files": {"x": array("q", [-1]).tobytes()}}, "line"),
        ({"files": {"x": array("q", [1 << 24]).tobytes()}}, "line"),
        ({"files": {"x": array("q", [1 << 58]).tobytes()}}, "packed"),
        ({"files": {"x": array("q", [1, 1 << 28]).tobytes()}}, "pair"),
        ({"files": {}, "tracers": []}, "line"),
        ({"files": {}, "tracers": {"x": 1}}, "line"),
        ({"files": {}, "packages": {"x": None}}, "line"),
    ],
)
def test_what_no_measurement_gives_is_refused(data: dict[str, object], form: Form) -> None:
    """Each wrong shape, name or number is a breach of the protocol."""
    with pytest.raises(BrokenStream, match="coverage"):
        decode(data, form)
