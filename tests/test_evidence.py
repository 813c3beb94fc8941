# SPDX-License-Identifier: MIT
"""Budgets and what is seen when one runs out; see ``inner/hanging.py`` for the tests themselves."""

from __future__ import annotations

import pytest

from tests.batch import Side, assert_expected, cases, run_batch, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("hanging")
def test_budget(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is ended and reported as its ``expect`` mark says."""
    assert_expected(shared_batch(tmp_path_factory, "hanging", side), name, expected)


def test_budget_by_option() -> None:
    """``--nsisolate-timeout`` is the budget of every test that names none; a marker wins."""
    source = """
import signal, pytest

@pytest.mark.isolated
def test_given():
    signal.pause()

@pytest.mark.isolated(timeout=0.3)
def test_own():
    signal.pause()
"""
    result = run_batch({"test_it.py": source}, "user", "--nsisolate-timeout=0.4")
    assert verdict(result, "test_given") == verdict(result, "test_own") == "call failed"
    assert "timed out after 0.4 s" in result.failure("test_given")
    assert "timed out after 0.3 s" in result.failure("test_own")
