# SPDX-License-Identifier: MIT
"""Which tests run, and when a run ends: the runner's options mean the same for isolated tests."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9_1,
    Result,
    differences,
    run_parity,
    run_source,
    run_suite,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

# One suite, many options --------------------------------------------------------------------------

SUITE: Final = {
    "test_first.py": """
        '''A module.'''
        import pytest
        @pytest.fixture(scope="session")
        def wide():
            '''For all.'''
            yield 1
        @pytest.fixture
        def broken(wide): raise ValueError(wide)
        @pytest.fixture
        def broken_after(wide):
            yield
            raise ValueError(wide)
        def test_pass(wide): pass
        @pytest.mark.slow
        def test_slow(tmp_path): assert tmp_path.is_dir()
        def test_fail(): assert 0, "first"
        def test_error(broken): pass
        @pytest.mark.slow
        def test_error_after(broken_after): pass
        @pytest.mark.skip(reason="why not")
        def test_skip(): pass
        @pytest.mark.xfail(strict=True)
        def test_xpass(): pass
        @pytest.mark.parametrize("n", range(3))
        def test_number(n, wide): assert n != 1
    """,
    "test_second.py": """
        import pytest
        class TestClass:
            @pytest.fixture(scope="class", params=["a", "b"])
            def letter(self, request): return request.param
            def test_letter(self, letter): assert letter == "a"
            def test_pass(self, letter): pass
        def test_last(): pass
    """,
    "conftest.py": """
        def pytest_configure(config):
            config.addinivalue_line("markers", "slow: takes its time")
    """,
}

OPTIONS: Final = (
    ("-x", "-rA"),
    ("--maxfail=3", "-v"),
    ("-m", "slow", "-rA"),
    ("-k", "TestClass and not pass", "-v"),
    ("--deselect=test_first.py::test_number", "--deselect=test_second.py::TestClass", "-ra"),
    ("--setup-only", "-rA"),
    ("--setup-plan", "-rA"),
    ("--setup-show", "-x"),
    ("--collect-only", "-q"),
    ("--fixtures-per-test", "-v"),
    ("--runxfail", "--tb=line", "-q"),
)


def shown(result: Result) -> list[str]:
    """The terminal's lines, without the side that ``--setup-show`` names."""
    return [line.replace(" [runner]", "").replace(" [child]", "") for line in terminal(result)]


@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_options_mean_the_same(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The same tests, reports, lines and exit code."""
    plain, isolated = run_parity(write_files(tmp_path, SUITE), *arguments)
    assert differences(plain, isolated) == []
    assert shown(isolated) == shown(plain)
    assert isolated.returncode == plain.returncode


@pytest.mark.parametrize("arguments", [("-x",), ("-p", "no:terminal", "--maxfail=2")], ids=" ".join)
def test_a_plan_is_not_carried_out(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """``--setup-plan`` and ``--collect-only`` fork nothing, and touch no fixture."""
    files = {
        **SUITE,
        "conftest.py": SUITE["conftest.py"] + COUNTING,
        "test_first.py": SUITE["test_first.py"].replace(
            "yield 1", "from journal import note; note('wide'); yield 1"
        ),
    }
    write_files(tmp_path, files)
    for plan in ("--setup-plan", "--collect-only"):
        result = run_suite(tmp_path, plan, *arguments, "--nsisolate=all")
        assert [line for line in result.journal if "child" in line or "wide" in line] == []
        if plan == "--collect-only":
            assert result.journal == ["runner 0 forks"]


#: How often the runner has forked, whichever way, when the run is over.
COUNTING: Final = """
        import os
        from journal import note
        from pytest_nsisolate.process import launch
        forks = []
        launched = launch.launch
        def counted(*arguments):
            forks.append(arguments)
            return launched(*arguments)
        launch.launch = counted
        def pytest_unconfigure(config):
            note(f"{len(forks)} forks")
"""


def test_no_child_for_a_test_that_does_not_run(tmp_path: Path) -> None:
    """Marks that skip, and ``xfail(run=False)``, are decided in the runner; others need a child.

    Counted is every launch: that of the host check, and the one test that passes.
    """
    source = """
        import sys, pytest
        pytestmark = pytest.mark.isolated
        @pytest.mark.skip
        def test_skip(): pass
        @pytest.mark.skipif(True, reason="a condition")
        def test_skipif(): pass
        @pytest.mark.skipif("sys.platform == 'linux'", reason="a text")
        def test_skipif_text(): pass
        @pytest.mark.xfail(run=False, reason="hangs")
        def test_norun(): pass
        @pytest.mark.skipif(False, reason="not in force")
        @pytest.mark.xfail(False, reason="not in force", run=False)
        def test_runs(): pass
    """
    write_files(tmp_path, {"test_it.py": source, "conftest.py": COUNTING})
    result = run_suite(tmp_path, "-rA")
    assert result.summary == "1 passed, 3 skipped, 1 xfailed", result.text
    # The host check is the other one.
    assert result.journal == ["runner 2 forks"]


# What is remembered -------------------------------------------------------------------------------

MENDED: Final = ("assert 0", "assert 1")

#: How old ``--sw`` finds its cache.
AGE: Final = re.compile(r"cache from \S+ ago")


def remembered(folder: Path, *mode: str) -> list[Result]:
    """Run after run over one cache: what failed is mended in between."""
    write_files(folder, SUITE)
    runs = [
        ("--sw",),
        ("--sw",),
        ("--sw", "--sw-skip"),
        *([("--sw", "--sw-reset")] if PYTEST_9_1 else []),
        (),
        ("--lf",),
        ("--ff", "-v"),
        ("--nf", "-v"),
        ("--lf", "--lfnf=none", "-x"),
        ("--cache-show",),
    ]
    found = [run_suite(folder, *arguments, *mode, cache=True) for arguments in runs]
    mended = {name: text.replace(*MENDED) for name, text in SUITE.items()}
    write_files(folder, {**mended, "test_third.py": "def test_new(): pass"})
    again = (("--lf",), ("--nf", "-v"), ("--sw",), ("--cache-clear", "-q"))
    return found + [run_suite(folder, *arguments, *mode, cache=True) for arguments in again]


def test_the_cache_remembers_the_same(tmp_path: Path) -> None:
    """``--lf``, ``--ff``, ``--nf``, ``--sw`` and ``--sw-skip``, run after run, after a change."""
    folder = tmp_path / "suite"
    sides = []
    for mode in ((), ("--nsisolate=all",)):
        folder.mkdir()
        sides.append(remembered(folder, *mode))
        shutil.rmtree(folder)
    for plain, isolated in zip(*sides, strict=True):
        assert differences(plain, isolated) == []
        assert [AGE.sub("", x) for x in terminal(isolated)] == [
            AGE.sub("", x) for x in terminal(plain)
        ]
        assert isolated.returncode == plain.returncode


def test_what_a_child_writes_to_the_cache_stays(tmp_path: Path) -> None:
    """Read by a later test, by the runner at the end, and by the next run; directories too."""
    source = """
        import pytest
        from journal import note
        pytestmark = pytest.mark.isolated
        @pytest.fixture
        def counted(cache):
            cache.set("mine/count", cache.get("mine/count", 0) + 1)
        def test_writes(cache, counted):
            cache.set("mine/value", {"a": [1, None, "x"]})
            cache.mkdir("mine").joinpath("file").write_text("kept")
        def test_reads(request, counted):
            assert request.config.cache.get("mine/value", None) == {"a": [1, None, "x"]}
            assert request.config.cache.mkdir("mine").joinpath("file").read_text() == "kept"
        @pytest.fixture(scope="module", autouse=True)
        def last(request):
            yield
            note(request.config.cache.get("mine/count", None))
    """
    for count in (2, 4):
        result = run_source(tmp_path, source, cache=True)
        assert result.returncode == 0, result.text
        assert result.journal == [f"runner {count}"]


# The end ------------------------------------------------------------------------------------------

ENDING: Final = """
import pytest
from journal import note

def end(here):
    if here == WHERE:
        END

@pytest.fixture(scope="module")
def module():
    end("module set-up")
    yield
    note("module")
    end("module tear-down")

@pytest.fixture
def function(module):
    print("from set-up")
    end("set-up")
    yield
    note("function")
    end("tear-down")

def test_before(): pass
def test_it(function):
    end("call")
def test_next(module): pass
"""

ENDING_CONFTEST: Final = """
import pytest
from test_it import WHERE, end

def pytest_runtest_setup(item):
    if item.name == "test_it": end("setup hook")
def pytest_runtest_call(item):
    if item.name == "test_it": end("call hook")
@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    if item.name == "test_it": end("teardown hook")
def pytest_fixture_setup(request):
    if request.fixturename == "function": end("fixture hook")
def pytest_runtest_logreport(report):
    if "test_it" in report.nodeid and report.when == "call": end("logreport hook")
"""

EXIT: Final = "pytest.exit('enough', 42)"
CTRL_C: Final = "raise KeyboardInterrupt"


@pytest.mark.parametrize(
    ("end", "where"),
    [
        *((EXIT, where) for where in ("module set-up", "set-up", "call", "tear-down")),
        *((EXIT, where) for where in ("fixture hook", "logreport hook")),
        *((CTRL_C, where) for where in ("set-up", "call", "tear-down", "module tear-down")),
        *((CTRL_C, where) for where in ("setup hook", "call hook", "teardown hook")),
    ],
)
def test_the_end_of_a_session(tmp_path: Path, end: str, where: str) -> None:
    """``pytest.exit`` and Ctrl-C from wherever: exit code, one banner and its line, tear-downs."""
    source = f"WHERE = {where!r}\n{ENDING.replace('END', end)}"
    write_files(tmp_path, {"test_it.py": source, "conftest.py": ENDING_CONFTEST})
    plain, isolated = run_parity(tmp_path, "-rA", "-o", "pythonpath=.")
    assert differences(plain, isolated) == []
    assert shown(isolated) == shown(plain)
    assert isolated.returncode == plain.returncode == (42 if end == EXIT else 2)
    noted = [
        [re.sub("^(runner|child) ", "", line) for line in r.journal] for r in (plain, isolated)
    ]
    assert noted[1] == noted[0]


@pytest.mark.parametrize("status", ["", ", 0", ", returncode=1", ", 255"])
def test_the_status_of_an_exit(tmp_path: Path, status: str) -> None:
    """Whatever it is, and without one."""
    source = f"import pytest\ndef test_it(): pytest.exit('because'{status})\n"
    plain, isolated = run_parity(write_files(tmp_path, {"test_it.py": source}))
    assert shown(isolated) == shown(plain)
    assert isolated.returncode == plain.returncode


def test_full_trace_of_a_ctrl_c(tmp_path: Path) -> None:
    """``--full-trace`` ends at the test's line, with its source."""
    source = "def test_it():\n    here = 1\n    raise KeyboardInterrupt\n"
    result = run_source(tmp_path, source, "--full-trace", "--nsisolate=all")
    assert result.returncode == 2
    assert "test_it.py:3: KeyboardInterrupt" in result.stdout
    assert ">       raise KeyboardInterrupt" in result.stdout.replace(">   ", ">       ")
