# SPDX-License-Identifier: MIT
"""``root=``, ``writable=``, ``files=`` and ``hide=``: what a test does to files stays with it."""

from __future__ import annotations

import pytest

from tests.inner_runs import SIDES, Side, assert_expected, cases, said, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES


@NEEDS_NAMESPACES
@cases("own_files")
def test_own_files(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "own_files", side, more={"given": "given"})
    assert_expected(result, name, expected)


@NEEDS_NAMESPACES
@cases("changing")
def test_what_was_changed(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """The record, the assertions, and the reports of tests that cannot tell any more."""
    assert_expected(shared_batch(tmp_path_factory, "changing", side), name, expected)


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
def test_a_report_tells_what_was_changed_and_no_more(
    tmp_path_factory: pytest.TempPathFactory, side: Side
) -> None:
    """Nothing where nothing was, and a bounded list of many."""
    result = shared_batch(tmp_path_factory, "changing", side)
    assert "files changed" not in said(result, "test_a_failure_without_a_change")
    assert said(result, "test_many_are_counted").count("created   /etc/nsi-") == 12 + 1


@NEEDS_NAMESPACES
@cases("installers")
def test_installers(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """Real ones install as on a host, as root and rootless; where this machine has them."""
    result = shared_batch(tmp_path_factory, "installers", side)
    if "skipped" in verdict(result, name):
        return  # this machine has no such program
    assert_expected(result, name, expected)
