# SPDX-License-Identifier: MIT
"""The snippets of README.md and docs/: whatever is said to be a file is written, and run."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.support import (
    NEEDS_BUBBLEWRAP,
    NEEDS_NAMESPACES,
    needs,
    needs_program,
    run_suite,
    write_files,
)

ROOT: Final = Path(__file__).parents[1]

#: A fenced block of Python; those that begin with ``# name.py`` are files.
BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME: Final = re.compile(r"# (\w+\.py)\n")

#: The tests that fail on their page too.
FAILING: Final = {
    "test_bridge.py::test_bridge",
    "test_crash.py::test_crash",
    "test_crash.py::test_hang",
    "test_fetch.py::test_fetch",
    "test_link.py::test_link",
    "test_shutdown.py::test_the_service_stops",
    "test_stop.py::test_stop",
}


#: The pages about programs that a machine may lack.
NEEDS: Final = {
    "containers": NEEDS_BUBBLEWRAP,
    "terminal": needs(find_spec("pyte") is not None, "needs pyte (the extra terminal)"),
    "rootless": needs_program("initdb", "dbus-run-session", "iptables-nft"),
}


def pages() -> list[Path]:
    """The pages that have a test in them."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "\ndef test_" in page.read_text("utf-8")]


def snippets(page: Path) -> dict[str, str]:
    """File name to text."""
    files = {}
    for block in BLOCK.findall(page.read_text("utf-8")):
        name = NAME.match(block)
        files[name[1] if name else "test_snippet.py"] = block
    return files


@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=NEEDS.get(page.stem, ()), id=page.stem) for page in pages()]
)
def test_snippets_do_what_their_page_says(page: Path, tmp_path: Path) -> None:
    """Every test of a page passes, but for those that the page shows failing."""
    options = ("-p", "pytest_rerunfailures") if "reruns=" in page.read_text("utf-8") else ()
    result = run_suite(write_files(tmp_path, snippets(page)), "-W", "error", *options)

    failed = {report["nodeid"] for report in result.reports if report["outcome"] == "failed"}
    assert result.returncode in (0, 1), result.text
    assert failed == FAILING & {report["nodeid"] for report in result.reports}, result.text


def test_the_lines_of_the_gallery_are_taken(tmp_path: Path) -> None:
    """The markers that stand for what other suites do by hand: pytest collects each."""
    text = (ROOT / "docs" / "howto" / "gallery.md").read_text("utf-8")
    lines = re.findall(
        r"^```text\n(?:pytestmark = |@)(pytest\.mark\.isolated.*)\n```$", text, re.MULTILINE
    )
    tests = [f"@{line}\ndef test_{number}(): pass\n" for number, line in enumerate(lines)]
    source = {"test_lines.py": "import pytest\n" + "".join(tests)}
    result = run_suite(write_files(tmp_path, source), "--collect-only", "-q")

    assert result.returncode == 0, result.text
    assert f"{len(lines)} tests collected" in result.text
    assert len(lines) == 8
