# SPDX-License-Identifier: MIT
"""The demo of examples/system, run as a stranger would: copied away, without this project's ini."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import SIDES, Side, prefix, run_batch, said, suite_folder, verdict
from tests.support import NEEDS_NAMESPACES, Result, run_suite

DEMO: Final = Path(__file__).parents[1] / "examples" / "system"

#: The tests that crash on purpose, and what their reports have to say about it. An ``xfail`` alone
#: proves little: a fixture that cannot be set up satisfies it too.
CRASHES: Final = {
    "test_segfault": "killed by SIGSEGV",
    "test_exit": "exit status 3",
    "test_hang": "timed out after 0.5 s",
}

#: Tests that stay in the runner, besides those called ``test_control_...``.
NEVER_ISOLATED: Final = {"test_the_web_server_is_gone", "test_both_listen_at_the_same_time"}

BACKWARDS: Final = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.reverse()
"""


def demo_files() -> dict[str, str]:
    files = {path.name: path.read_text("utf-8") for path in DEMO.iterdir() if path.is_file()}
    return {**files, "backwards.py": BACKWARDS}


def run_demo(side: Side, *arguments: str) -> Result:
    return run_batch(demo_files(), side, "-W", "error", *arguments, timeout=180)


def verdicts(result: Result) -> dict[str, str]:
    names = {report["nodeid"].partition("::")[2] for report in result.reports}
    return {name: verdict(result, name) for name in sorted(names)}


def assert_as_promised(result: Result) -> None:
    """Everything passes, and each crash was the crash that it was meant to be."""
    found = verdicts(result)

    assert len(found) > 60, result.text
    assert found == {name: "call xfailed" if name in CRASHES else "passed" for name in found}, (
        result.text
    )
    assert {name: text in said(result, name) for name, text in CRASHES.items()} == dict.fromkeys(
        CRASHES, True
    )
    assert (result.returncode, result.warnings) == (0, [])


def calls_of(source: str) -> list[str]:
    """The calls and assertions of a module, whatever its docstrings and types say."""
    kinds = ast.Call | ast.Assert | ast.With
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_example_of_a_landing_page_is_the_one_that_the_demo_shows(page: str) -> None:
    """``./demo`` runs ``examples/world``."""
    text = (DEMO.parents[1] / page).read_text("utf-8")
    shown = text.partition("```python\n")[2].partition("```")[0]
    (example,) = (DEMO.parent / "world").glob("*.py")

    assert calls_of(shown) == calls_of(example.read_text("utf-8"))


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
def test_green_in_one_process(side: Side) -> None:
    """The demo passes, warnings being errors, in any order, and leaves the runner as it was."""
    backwards = ("-p", "backwards") if side == "user" else ()
    assert_as_promised(run_demo(side, *backwards))


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
def test_green_under_two_workers(side: Side) -> None:
    """The demo passes under ``-n 2``, however the workers share it."""
    options = ("-W", "error", "-p", "xdist", "-n", "2")
    with suite_folder(demo_files(), side) as folder:
        assert_as_promised(run_suite(folder, *options, prefix=prefix(side), timeout=180))


@NEEDS_NAMESPACES
def test_controls_stay_in_the_runner() -> None:
    """``--nsisolate=all`` isolates what has no marker; ``isolated(False)`` is one."""
    assert_as_promised(run_demo("user", "--nsisolate=all"))


@NEEDS_NAMESPACES
def test_without_isolation_only_the_controls_run() -> None:
    """``--nsisolate=none`` lets no test that kills or mounts run on the host."""
    result = run_demo("user", "--nsisolate=none")

    found = verdicts(result)
    controls = {n for n in found if n.startswith("test_control_")} | NEVER_ISOLATED
    assert found == {n: "passed" if n in controls else "setup skipped" for n in found}, result.text
    assert result.returncode == 0


@pytest.mark.parametrize("path", sorted(DEMO.glob("test_*.py")), ids=lambda path: path.stem)
def test_it_can_be_read(path: Path) -> None:
    """The demo is documentation: each test says in a docstring what it shows."""
    tree = ast.parse(path.read_text("utf-8"))
    tests = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]

    assert tests
    assert [test.name for test in tests if not ast.get_docstring(test)] == []


# What others do by hand ---------------------------------------------------------------------------

MIGRATED: Final = DEMO.parent / "migrated"


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", sorted(path.name for path in MIGRATED.iterdir() if path.is_dir()))
def test_a_migrated_suite_is_green(name: str, side: Side) -> None:
    """As root and as an ordinary user, who could run none of them by hand."""
    files = {path.name: path.read_text("utf-8") for path in (MIGRATED / name).glob("*.py")}
    result = run_batch(files, side, "-W", "error", timeout=240)

    found = verdicts(result)
    assert len(found) >= 3, result.text
    assert set(found.values()) == {"passed"}, result.text
    assert (result.returncode, result.warnings) == (0, [])
