# SPDX-License-Identifier: MIT
"""``--nsisolate-stress``: again and again until it fails, and what is said then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.runner.stress import Stress
from tests.support import NEEDS_NAMESPACES, run_source

pytestmark = NEEDS_NAMESPACES

FAILS_SOMETIME: Final = """
import random

import journal
import pytest

@pytest.fixture(scope="module")
def server():
    journal.note("server up")
    yield
    journal.note("server down")

@pytest.mark.isolated
def test_it(server, record_property):
    number = random.randrange(4)
    record_property("number", number)
    print("number", number)
    journal.note(f"number {number}")
    assert number != 0

def test_other():
    print("other")
"""


def test_until_it_fails_and_again_with_its_seed(tmp_path: Path) -> None:
    """The report is that of the last round alone; wider fixtures stay; the seed gives it back."""
    result = run_source(tmp_path, FAILS_SOMETIME, "--nsisolate-stress=1000")
    assert result.returncode == 1, result.text
    rounds = len([line for line in result.journal if "number" in line])
    servers = [line for line in result.journal if "server" in line]
    assert servers == ["runner server up", "runner server down"]
    found = re.search(
        r"stress: failed in round (\d+); the same seed: --nsisolate-stress=1@(\d+) (\S+)",
        result.stdout,
    )
    assert found is not None, result.text
    assert int(found[1]) == rounds
    assert found[3] == "test_it.py::test_it"
    last = [report for report in result.of("test_it") if report["outcome"] == "failed"]
    assert len(last) == 1
    assert result.stdout.count("number 0\n") == 1
    assert "number 1\n" not in result.stdout
    assert len(result.of("test_other")) == 3 * (rounds - 1)

    again = run_source(tmp_path, FAILS_SOMETIME, f"--nsisolate-stress=1@{found[2]}", found[3])
    assert again.returncode == 1, again.text
    assert "failed in round 1;" in again.stdout


def test_so_many_rounds(tmp_path: Path) -> None:
    """All pass: the count is told."""
    source = "import pytest\n@pytest.mark.isolated\ndef test_it():\n    pass\n"
    result = run_source(tmp_path, source, "--nsisolate-stress=7")
    assert result.returncode == 0, result.text
    assert re.search(r"nsisolate: stress: no failure in 7 rounds, \d+\.\d s", result.stdout)
    assert result.summary == "7 passed"


def test_so_long(tmp_path: Path) -> None:
    """A round that has begun is finished."""
    source = "def test_one():\n    pass\ndef test_two():\n    pass\n"
    result = run_source(tmp_path, source, "--nsisolate-stress=0.3s")
    assert result.returncode == 0, result.text
    assert len(result.of("test_one")) == len(result.of("test_two")) >= 3


def test_a_crash_ends_it(tmp_path: Path) -> None:
    """As every failure does."""
    source = "import os, pytest\n@pytest.mark.isolated\ndef test_it():\n    os.abort()\n"
    result = run_source(tmp_path, source, "--nsisolate-stress=5")
    assert result.summary == "1 failed"
    assert "failed in round 1; " in result.stdout


def test_x_and_an_interrupt_end_it(tmp_path: Path) -> None:
    """``session.shouldstop`` is obeyed as in pytest's own loop."""
    source = "def test_it(request):\n    request.session.shouldstop = 'enough'\n"
    result = run_source(tmp_path, source, "--nsisolate-stress=5")
    assert result.returncode == 2, result.text
    assert "enough" in result.text
    assert len(result.of("test_it")) == 3


@pytest.mark.parametrize("value", ["0", "", "ten", "10x", "-1", "0s", "5@", "5@x", "1.5"])
def test_usage_errors(tmp_path: Path, value: str) -> None:
    """Before anything is collected."""
    result = run_source(tmp_path, "def test_it(): pass", f"--nsisolate-stress={value}")
    assert result.returncode == 4
    assert f"ERROR: --nsisolate-stress: {value!r} is no number of rounds and no time" in result.text


def test_not_with_workers(tmp_path: Path) -> None:
    """pytest-xdist has a loop of its own."""
    options = ("--nsisolate-stress=5", "-n", "2", "-p", "xdist")
    result = run_source(tmp_path, "def test_it(): pass", *options)
    assert result.returncode == 4
    assert "--nsisolate-stress has a loop of its own" in result.text


def test_what_a_value_means() -> None:
    """Rounds or a time, and a seed."""
    assert Stress.parse("12@5") == Stress(12, None, 5)
    assert Stress.parse("1.5m@5") == Stress(None, 90, 5)
    assert Stress.parse("2h@0") == Stress(None, 7200, 0)
    assert Stress.parse("3").seed != Stress.parse("3").seed
