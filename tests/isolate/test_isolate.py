# SPDX-License-Identifier: MIT
"""The fixture ``isolate``; the tests themselves are ``inner/isolating.py``."""

from __future__ import annotations

import pytest

from tests.inner_runs import Side, assert_expected, cases, shared_batch
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("isolating")
def test_isolate(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    assert_expected(shared_batch(tmp_path_factory, "isolating", side), name, expected)
