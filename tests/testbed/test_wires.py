# SPDX-License-Identifier: MIT
"""Impaired wires and partitions; the tests themselves are ``inner/wires.py``."""

from __future__ import annotations

import pytest

from tests.inner_runs import UNHURRIED, Side, assert_expected, cases, shared_batch
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("wires")
def test_wires(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "wires", side, conftest=UNHURRIED)
    assert_expected(result, name, expected)
