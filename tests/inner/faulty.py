# SPDX-License-Identifier: MIT
"""One isolated test for each case of ``tests/faults.py``, and one after it that must run."""

from __future__ import annotations

import pytest

from tests import faults

CASES = faults.read_cases()
KINDS = [dict(kind) for kind in {tuple(sorted(case.marker.items())) for case in CASES}]


@pytest.mark.parametrize(
    (),
    [pytest.param(marks=pytest.mark.isolated(**kind), id=str(n)) for n, kind in enumerate(KINDS)],
)
def test_the_host_is_examined() -> None:
    pass


@pytest.mark.parametrize(
    (),
    [
        pytest.param(marks=pytest.mark.isolated(**case.marker), id=f"{n}{which}")
        for n, case in enumerate(CASES)
        for which in ("", "-next")
    ],
)
def test_fault() -> None:
    pass
