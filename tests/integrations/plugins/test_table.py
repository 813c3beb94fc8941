# SPDX-License-Identifier: MIT
"""docs/plugins.md against reality: what it names is installed for the tests, and has one."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.integrations.plugins.installed import needs, version
from tests.integrations.plugins.test_helpers import HELPERS

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "plugins.md"

ROW: Final = re.compile(r"^\| ([a-z][\w-]+) \| ([^|]*\d[^|]*) \| [^|]+ \| [^|]*\|$", re.MULTILINE)


def rows() -> dict[str, str]:
    """Plugin to the versions that were tried."""
    found = ROW.findall(PAGE.read_text("utf-8"))
    assert len(found) == len(dict(found)), "a plugin has two rows"
    return dict(found)


def installed_for_tests() -> set[str]:
    """The names of the dependency group ``test``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    names = (re.match(r"[\w.-]+", text) for text in project["dependency-groups"]["test"])
    return {name[0].lower() for name in names if name}


def is_plugin(distribution: str) -> bool:
    """Whether pytest would load it."""
    points = importlib.metadata.distribution(distribution).entry_points
    return any(point.group == "pytest11" for point in points)


def asked() -> set[str]:
    """Every distribution that a test of this folder needs."""
    text = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    calls = re.findall(r"\bneeds\(([^)*]*)\)", text)
    return {*HELPERS, *(name for call in calls for name in re.findall(r'"([\w-]+)"', call))}


@needs(*rows())
def test_every_plugin_of_the_table_is_installed_and_tested() -> None:
    """And the other way round: every neighbour of the test group has its row."""
    named = set(rows())
    assert len(named) > 30
    assert named == {name for name in installed_for_tests() if is_plugin(name)}
    assert named - asked() <= {"hypothesis"}  # has its tests elsewhere


@needs(*rows())
@pytest.mark.parametrize("plugin", sorted(rows()))
def test_the_table_claims_no_newer_version_than_is_installed(plugin: str) -> None:
    """What was tried is what runs here, or older."""
    stated = [
        tuple(map(int, text.split("."))) for text in re.findall(r"\d+(?:\.\d+)+", rows()[plugin])
    ]
    stated = [numbers for numbers in stated if numbers != (8, 4)]
    assert stated
    assert min(stated) <= version(plugin)
