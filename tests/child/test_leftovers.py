# SPDX-License-Identifier: MIT
"""Nothing outlives its test; see ``inner/leaving.py`` for the tests themselves."""

from __future__ import annotations

import pytest

from tests.inner import leaving
from tests.inner_runs import (
    SIDES,
    THREADED,
    Side,
    assert_expected,
    cases,
    said,
    shared_batch,
    verdict,
)
from tests.support import NEEDS_NAMESPACES, ONE_JOB, Result

pytestmark = NEEDS_NAMESPACES

PAIRS = [name for name in vars(leaving) if name.startswith("Test")]


def assert_gone(result: Result, pair: str) -> None:
    left, gone = f"{pair}::test_leaves", f"{pair}::test_gone"
    if verdict(result, left) == "setup skipped":
        return
    assert verdict(result, left) == getattr(leaving, pair).left, said(result, left)
    assert verdict(result, gone) == "passed", said(result, gone)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("pair", PAIRS)
def test_daemon_is_gone(tmp_path_factory: pytest.TempPathFactory, side: Side, pair: str) -> None:
    """A daemon that ignores all signals and holds every descriptor is gone with its test.

    Nor does it hold anything up: it would live for ten minutes, and the run may take two.
    """
    assert_gone(shared_batch(tmp_path_factory, "leaving", side), pair)


@pytest.mark.parametrize("side", SIDES)
def test_daemons_of_the_long_way(tmp_path_factory: pytest.TempPathFactory, side: Side) -> None:
    """So are those of tests that a supervisor made, beside other threads of the runner."""
    result = shared_batch(tmp_path_factory, "leaving", side, conftest=THREADED)
    for pair in PAIRS:
        assert_gone(result, pair)


@cases("leaving")
def test_copies_and_descriptors(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and the run goes on."""
    result = shared_batch(tmp_path_factory, "leaving", side, ONE_JOB)
    assert_expected(result, name, expected)
    assert "INTERNALERROR" not in result.stdout + result.stderr
