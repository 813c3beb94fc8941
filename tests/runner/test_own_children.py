# SPDX-License-Identifier: MIT
"""While code of the suite runs in the runner, whom it could wait for is its own.

``os.wait()`` would block on a process of the plugin's, and reap a child that the plugin waits for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import NEEDS_NAMESPACES, run_source

pytestmark = NEEDS_NAMESPACES

SUITE = """
import os
import pytest
from journal import note

def look(where):
    try:
        note((where, os.waitpid(-1, os.WNOHANG)))
    except ChildProcessError:
        note((where, None))

@pytest.fixture(scope="module", autouse=True)
def module():
    look("module up")
    yield
    look("module down")

@pytest.fixture(scope="module", params=[1, 2])
def number(request):
    look(f"number {request.param} up")
    yield
    look(f"number {request.param} down")

@pytest.mark.isolated
@pytest.mark.parametrize("n", range(3))
def test_isolated(n): pass

def test_plain(): look("plain")

@pytest.mark.isolated
@pytest.mark.parametrize("n", range(3))
def test_each(n, number): pass

@pytest.mark.isolated
def test_inside():
    with pytest.raises(ChildProcessError):
        os.wait()
"""


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_runner_has_no_child_when_it_runs_code_of_the_suite(tmp_path: Path, jobs: int) -> None:
    """Neither in a test that is not isolated, nor in set-up or tear-down of a wider fixture."""
    result = run_source(tmp_path, SUITE, f"--nsisolate-jobs={jobs}")
    assert result.returncode == 0, result.text
    seen = [line for line in result.journal if "None" not in line]
    assert (len(result.journal), seen) == (7, [])
