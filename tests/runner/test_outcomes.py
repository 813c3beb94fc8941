# SPDX-License-Identifier: MIT
"""Every way to end, as the runner reports it; the tests themselves are ``inner/outcomes.py``."""

from __future__ import annotations

import pytest

from tests.inner_runs import SIDES, Side, assert_expected, cases, shared_batch
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("outcomes")
def test_outcome(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says."""
    assert_expected(shared_batch(tmp_path_factory, "outcomes", side), name, expected)


@pytest.mark.parametrize("side", SIDES)
def test_each_phase_has_one_report(tmp_path_factory: pytest.TempPathFactory, side: Side) -> None:
    """Whatever happens to a child, each test is reported once per phase, and the run goes on."""
    result = shared_batch(tmp_path_factory, "outcomes", side)
    reported = [(report["nodeid"], report["when"]) for report in result.reports]
    assert len(reported) == len(set(reported))
    assert result.reports[-1]["nodeid"].endswith("::test_the_runner_is_well")
    assert result.returncode == 1
    assert "INTERNALERROR" not in result.stdout + result.stderr
