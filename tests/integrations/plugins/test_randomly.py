# SPDX-License-Identifier: MIT
"""pytest-randomly: its seed means the same in a child."""

from __future__ import annotations

from pathlib import Path

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    differences,
    run_parity,
    run_suite,
    write_files,
)

pytestmark = [NEEDS_NAMESPACES, needs("pytest-randomly")]

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
