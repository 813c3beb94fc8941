# SPDX-License-Identifier: MIT
"""One isolated test for each case of ``tests/faults.py``, and one after it that must run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_nsisolate.kernel import cgroups
from tests import faults

CASES = faults.read_cases()
KINDS = [json.loads(kind) for kind in dict.fromkeys(json.dumps(case.marker) for case in CASES)]


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


@pytest.mark.isolated(False)
def test_no_group_is_left() -> None:
    """Before the end of the run, which would remove it."""
    folders = {place.folder for name in cgroups.CONTROLLERS for place in cgroups.places(name)}
    groups = {path for folder in folders for path in Path(folder).glob("nsisolate-*")}
    assert not [path for path in groups if path.name.split("-")[2] == str(os.getpid())]
