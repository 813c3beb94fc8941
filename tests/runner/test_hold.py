# SPDX-License-Identifier: MIT
"""``--nsisolate-pause``: what is held open, when, and what ends it."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.pseudo_terminals import CTRL_C, PROMPT, Step, converse, interrupt
from tests.support import INNER, NEEDS_NAMESPACES, run_source, write_files

if TYPE_CHECKING:
    import pexpect

pytestmark = NEEDS_NAMESPACES

PAUSE: Final = "--nsisolate-pause"

#: The end of the line that says where to look.
HELD: Final = r"is held open as (\d+); look inside: \S+ -m pytest_nsisolate enter \1 .*to go on\)"

PHASES: Final = """
import pytest
from journal import note

pytestmark = pytest.mark.isolated

@pytest.fixture
def torn_down():
    yield
    note("torn down")

@pytest.fixture
def no_setup(torn_down):
    raise ValueError("in set-up")

@pytest.fixture
def no_teardown():
    yield
    raise ValueError("in tear-down")

@pytest.mark.isolated(timeout=1)
def test_call(torn_down):
    assert "in" == "call"

def test_passes(torn_down): pass
def test_skips(): pytest.skip("no")
@pytest.mark.xfail
def test_fails_as_expected(): raise ValueError

@pytest.mark.xfail(strict=True)
def test_passes_unexpectedly(): pass

def test_setup(no_setup): pass

@pytest.mark.isolated(init=True)
def test_teardown(torn_down, no_teardown): pass

@pytest.mark.isolated(False)
def test_in_the_runner(): raise ValueError

def test_last(): note("last")
"""


def test_each_failing_phase(tmp_path: Path) -> None:
    """Before tear-down, or at its end; the budget rests; each Ctrl-C goes on; reports as ever."""
    held_first: list[list[str]] = []

    def look(child: pexpect.spawn[str]) -> None:
        """Nothing is torn down; longer than the budget of this test."""
        held_first.append((tmp_path / ".journal").read_text("utf-8").splitlines())
        time.sleep(1.1)
        child.send(CTRL_C)

    goes_on = r"goes on \(Ctrl-C\)"
    steps: list[Step] = [(rf"test_it.py::test_call {HELD}", look), (goes_on, "")]
    for name, how in (
        ("passes_unexpectedly", CTRL_C),
        ("setup", interrupt),
        ("teardown", CTRL_C),
    ):
        steps += [(rf"test_it.py::test_{name} {HELD}", how), (goes_on, "")]
    write_files(tmp_path, {"test_it.py": PHASES})
    seen = converse(tmp_path, steps, PAUSE, "-rA", "--color=no")
    assert held_first == [[]]
    journal = (tmp_path / ".journal").read_text("utf-8").splitlines()
    assert journal == ["child torn down"] * 4 + ["child last"]
    assert seen.status == 1
    assert "3 failed, 3 passed, 1 skipped, 1 xfailed, 2 errors" in seen.text
    assert len(re.findall(HELD, seen.text)) == 4
    failed = "test_it.py::test_call failed in call: AssertionError: assert 'in' == 'call'"
    assert f"\ntest_it.py F\nnsisolate: {failed}\n" in seen.text
    assert "timed out" not in seen.text


def test_beside_the_debugger(tmp_path: Path) -> None:
    """``--pdb`` comes first; with ``-s`` the lines stay apart; ``-x`` ends the run afterwards."""
    source = """
        import pytest
        @pytest.fixture
        def fixture():
            yield
            print("TORN DOWN")
        def test_it(fixture):
            x = 7
            print("half a line", end="")
            assert x == 8
        def test_next(): pass
    """
    write_files(tmp_path, {"test_it.py": source.replace("\n        ", "\n")})
    steps: list[Step] = [
        (PROMPT, "p x\n"),
        (r"\n7", "c\n"),
        (HELD, CTRL_C),
        (r"goes on \(Ctrl-C\)", ""),
        ("TORN DOWN", ""),
        ("1 failed", ""),
    ]
    options = (PAUSE, "--pdb", "-x", "-v", "-s", "--nsisolate=all", "--color=no")
    seen = converse(tmp_path, steps, *options)
    assert "test_next" not in seen.text.partition("collected")[2]


def test_a_held_test_that_is_killed(tmp_path: Path) -> None:
    """Its end is the end of the pause, and reported as a crash; the next test runs."""
    source = """
        import pytest
        @pytest.mark.isolated
        def test_it(): assert 0
        @pytest.mark.isolated
        def test_next(): pass
    """

    def kill(child: pexpect.spawn[str]) -> None:
        assert isinstance(child.match, re.Match)
        os.kill(int(child.match[1]), signal.SIGKILL)

    write_files(tmp_path, {"test_it.py": source.replace("\n        ", "\n")})
    steps: list[Step] = [(HELD, kill), (r"goes on \(its process has ended\)", "")]
    seen = converse(tmp_path, steps, PAUSE, "--color=no")
    assert "isolated test crashed in teardown: killed by SIGKILL" in seen.text
    assert "1 failed, 1 passed, 1 error" in seen.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "needs a terminal, at which you can end the pause; standard input is none"),
        (("-p", "xdist", "-n", "2"), "pytest-xdist's workers have not: run without -n"),
    ],
    ids=["no-terminal", "workers"],
)
def test_nobody_could_end_it(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    """A usage error, instead of a run that hangs."""
    source = "import pytest\n@pytest.mark.isolated\ndef test_it(): assert 0\n"
    result = run_source(tmp_path, source, PAUSE, *options, plugins=INNER)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr
    assert result.reports == []
