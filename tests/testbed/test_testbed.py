# SPDX-License-Identifier: MIT
"""The fixture ``testbed``; the tests themselves are in ``inner/hosts.py`` and ``testbeds.py``."""

from __future__ import annotations

import pytest

from tests.inner_runs import UNHURRIED, Side, assert_expected, cases, shared_batch
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("hosts")
def test_hosts(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "hosts", side, conftest=UNHURRIED)
    assert_expected(result, name, expected)


@cases("testbeds")
def test_testbed(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "testbeds", side, conftest=UNHURRIED)
    assert_expected(result, name, expected)
