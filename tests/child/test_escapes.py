# SPDX-License-Identifier: MIT
"""No way out of the default set, as the host's root and rootless; see ``inner/escaping.py``."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from tests.inner import escaping
from tests.inner_runs import SIDES, Side, run_batch, shared_batch
from tests.support import NEEDS_NAMESPACES

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("docs/guarantees.md", "SECURITY.md")

#: ``tests/file.py::name``, or with a class between.
NAMED: Final = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")

ESCAPES: Final = [name for name in vars(escaping) if name.startswith("test_")]


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ESCAPES)
def test_escape(tmp_path_factory: pytest.TempPathFactory, side: Side, name: str) -> None:
    """A test of the suite finds its way out closed, and its control finds it open."""
    result = shared_batch(tmp_path_factory, "escaping", side)
    reports = [r for r in result.reports if re.search(rf"::{name}(\[|$)", r["nodeid"])]
    assert reports, result.text
    for report in reports:
        assert report["outcome"] != "failed", report["text"]


#: The three ways to undo the protection, and what a network test does.
UNDOING: Final = """
import os, socket, subprocess
import pytest

PROTECTED = "/proc/sys" if os.geteuid() == 0 else "/sys"
WAYS = (f"mount -o remount,bind,rw {PROTECTED}", "umount -l /dev", "mount -t proc proc /mnt")

def undone():
    return [subprocess.run(way.split(), capture_output=True).returncode == 0 for way in WAYS]

@pytest.mark.isolated
def test_marked(isolate):
    assert undone() == isolate(undone) == [False] * 3
    subprocess.run("ip link set lo down".split(), check=True)

def test_unmarked():
    assert undone() == [False] * 3

@pytest.mark.isolated(caps=["sys_admin"])
def test_control():
    assert undone() == [True] * 3
"""


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
def test_closed_for_a_whole_suite(side: Side) -> None:
    """``--nsisolate-caps=-sys_admin`` makes it final, where no marker says otherwise."""
    options = ("--nsisolate=all", "--nsisolate-caps=-sys_admin")
    result = run_batch({"test_it.py": UNDOING}, side, *options)
    assert result.passed() == {"test_marked", "test_unmarked", "test_control"}, result.text


@pytest.mark.parametrize("page", PAGES)
def test_guarantees_name_tests_that_exist(page: str) -> None:
    """Whatever a page about safety promises is shown by the test that it names."""
    named = NAMED.findall((ROOT / page).read_text("utf-8"))
    assert named or page != "docs/guarantees.md"
    for file, name in named:
        assert name in _tests(ROOT / file), f"{page} names {file}::{name}"


def _tests(path: Path) -> set[str]:
    """Names of the functions of a module, those of classes as ``Class::name``."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {node.name, *(f"{node.name}::{function.name}" for function in inner)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found
