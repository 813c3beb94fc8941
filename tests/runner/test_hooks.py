# SPDX-License-Identifier: MIT
"""What the run does once, before its first isolated test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import NEEDS_NAMESPACES, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

SUITE = {
    "conftest.py": """
from pathlib import Path
from pytest_nsisolate.runner import hooks

class Pages:
    @staticmethod
    def collapse():
        Path("asked").touch()

hooks._MANY, hooks.huge_pages = 2, Pages
""",
    "test_it.py": """
import pytest

@pytest.mark.isolated(pid=True)
@pytest.mark.parametrize("number", [1, 2])
def test_it(number):
    pass

def test_plain():
    pass
""",
}


@pytest.mark.parametrize(("kept", "asked"), [("1 or 2", True), ("1 or plain", False)])
def test_huge_pages_are_for_many_tests(tmp_path: Path, kept: str, asked: bool) -> None:
    """They take time once, which each isolated test wins back in part."""
    result = run_suite(write_files(tmp_path, SUITE), "-k", kept)
    assert len(result.passed()) == 2
    assert (tmp_path / "asked").exists() is asked
