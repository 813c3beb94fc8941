# SPDX-License-Identifier: MIT
"""A package executed anew: what the suite does to its own does not reach it."""

from __future__ import annotations

import os
import sys
from typing import Any
from unittest import mock

import psutil
import pytest

from pytest_nsisolate.kernel import originals, package_twin


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No twin has been made yet."""
    monkeypatch.setattr(package_twin, "_made", {})


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *(("builtins.open", {}), ("os.path.exists", {}), ("os.listdir", {"return_value": []})),
        *(("importlib.import_module", {}), ("os.environ", {"new": {}})),
        *(("sys.platform", {"new": "win32"}), ("psutil.pids", {"return_value": []})),
        ("psutil.PROCFS_PATH", {"new": "/nonexistent"}),
    ],
)
def test_one_that_is_made_beside_stand_ins(name: str, answer: dict[str, Any]) -> None:
    """They may be there before it, and may stay or go."""
    with mock.patch(name, **answer):
        twin = package_twin.twin("psutil")
        assert os.getpid() in twin.pids()
    assert twin.Process().as_dict(["ppid"]) == {"ppid": os.getppid()}


def test_its_modules_are_its_own() -> None:
    """And nobody finds them, who looks through the modules that are loaded."""
    twin = package_twin.twin("psutil")
    assert twin.__version__ == psutil.__version__
    assert twin is package_twin.twin("psutil") is not psutil
    assert twin._common is twin._pslinux._common is not psutil._common
    assert twin.os is twin._common.os is originals.os
    assert twin not in sys.modules.values()


def test_a_package_that_is_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        package_twin.twin("no_such_package")
