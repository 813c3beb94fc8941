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
        twin = originals.package("psutil")
        assert os.getpid() in twin.pids()
    assert twin.Process().as_dict(["ppid"]) == {"ppid": os.getppid()}


@pytest.mark.parametrize(
    "name",
    [
        *("json.encoder.c_make_encoder", "json.encoder.encode_basestring_ascii"),
        *("json.JSONEncoder.encode", "json.JSONEncoder.default", "json.JSONDecoder.decode"),
        *("json.decoder.scanstring", "json._default_encoder", "json._default_decoder"),
    ],
)
def test_what_json_is_made_of(name: str) -> None:
    """What crosses between the processes does not pass through what a suite has put there."""
    with mock.patch(name):
        text = originals.json.dumps({"text": ["ä", 1, None]})
        assert originals.json.loads(text) == {"text": ["ä", 1, None]}
        with pytest.raises(TypeError, match="not JSON serializable"):
            originals.json.dumps(object())


def test_its_modules_are_its_own() -> None:
    """And nobody finds them, who looks through the modules that are loaded."""
    twin = originals.package("psutil")
    assert twin.__version__ == psutil.__version__
    assert twin is originals.package("psutil") is not psutil
    assert twin._common is twin._pslinux._common is not psutil._common
    assert twin.os is twin._common.os is originals.os
    assert twin not in sys.modules.values()


def test_a_package_that_is_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        originals.package("no_such_package")
