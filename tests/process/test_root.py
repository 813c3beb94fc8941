# SPDX-License-Identifier: MIT
"""``root=``, ``writable=``, ``files=`` and ``hide=``: what a test does to files stays with it."""

from __future__ import annotations

import pytest

from tests.batch import Side, assert_expected, cases, shared_batch
from tests.support import NEEDS_NAMESPACES


@NEEDS_NAMESPACES
@cases("own_files")
def test_own_files(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "own_files", side, more={"given": "given"})
    assert_expected(result, name, expected)
