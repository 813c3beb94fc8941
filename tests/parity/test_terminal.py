# SPDX-License-Identifier: MIT
"""What the terminal shows of one varied suite is the same isolated as plain, whatever the options.

Reports and warnings are compared as well, because some options change them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.parity.test_parity import VARIED
from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9_1,
    differences,
    run_parity,
    run_source,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: Skipped in one frame of pytest's with the time among its locals.
_LOCALS: Final = "--deselect=test_outcomes.py::test_xfail_norun"
#: One frame of pytest's own is missing where the fixture round setUpClass fails.
_CLASS: Final = "--deselect=test_unit.py::Broken"

OPTIONS: Final = {
    "native": ("--tb=native", "-rA", _CLASS),
    "short": ("--tb=short", "--showlocals", "-q", "--color=yes", _LOCALS),
    "line": ("--tb=line", "--no-header", "-v", "-rfEsxXpP"),
    "quiet": ("--tb=no", "-qq", "-ra"),
    "errors": ("-W", "error", "-vv", "--tb=short"),
    "long": ("--tb=long", "--color=yes", "-vv", "-rA", "--code-highlight=no"),
    "sys": ("--capture=sys", "--show-capture=log", "--log-level=INFO"),
    "tee": ("--capture=tee-sys", "--show-capture=stderr", "-rA"),
    "bare": ("--capture=no", "--show-capture=no", "--disable-warnings"),
}

COLLECTED: Final = ("--doctest-modules", "--doctest-glob=*.txt")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_terminal_shows_the_same(tmp_path: Path, options: tuple[str, ...]) -> None:
    """To the last colour, letter and line."""
    environment = {"PYTHONHASHSEED": "0"}  # a set of colours is written in its order
    write_files(tmp_path, VARIED)
    plain, isolated = run_parity(tmp_path, *COLLECTED, *options, env=environment)
    assert plain.returncode == isolated.returncode == 1, plain.text
    assert len(plain.reports) > 280
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)


def test_a_full_trace_has_the_same_frames(tmp_path: Path) -> None:
    """Also pytest's own; but their arguments name every plugin that takes part, and so ours."""
    files = {name: VARIED[name] for name in ("conftest.py", "test_fixtures.py", "test_hooks.py")}
    plain, isolated = run_parity(write_files(tmp_path, files), "--full-trace")
    before, after = (
        [
            line.replace("_SubsetHookCaller", "HookCaller")
            for line in terminal(result)
            if not line.startswith(("methods = ", "hook_impls = "))
        ]
        for result in (plain, isolated)
    )
    assert after == before
    assert sum("_pytest/runner.py" in line for line in after) > 10


def test_the_slowest_durations_list_the_same_phases(tmp_path: Path) -> None:
    """--durations=0 -vv has an entry for each phase; their order is that of the clock."""
    source = """
        import pytest
        def test_pass(): pass
        def test_fail(): assert 0
        @pytest.fixture
        def around(): yield; assert 0
        @pytest.mark.parametrize("n", [1, 2])
        def test_around(around, n): pass
        def test_skip(): pytest.skip("s")
    """
    plain, isolated = (
        run_source(tmp_path, source, "--durations=0", "-vv", *isolation)
        for isolation in ((), ("--nsisolate=all",))
    )
    entry = re.compile(r"^\d+\.\d\ds (setup|call|teardown) +(\S+)$", re.MULTILINE)
    assert len(entry.findall(plain.stdout)) == 15
    assert sorted(entry.findall(isolated.stdout)) == sorted(entry.findall(plain.stdout))


@pytest.mark.skipif(not PYTEST_9_1, reason="--max-warnings came with pytest 9.1")
@pytest.mark.parametrize(("most", "status"), [(5, 0), (4, 6)])
def test_warnings_are_counted_where_they_come_from(tmp_path: Path, most: int, status: int) -> None:
    """Those of a child count for --max-warnings, from each phase, each thread and each __del__."""
    source = """
        import threading, warnings
        import pytest
        @pytest.fixture
        def around():
            warnings.warn("set-up")
            yield
            warnings.warn("tear-down")
        def test_phases(around): warnings.warn("call")
        class Dying:
            def __del__(self): raise ValueError("in del")
        def test_del(): Dying()
        def test_thread():
            thread = threading.Thread(target=int, args=("x",))
            thread.start()
            thread.join()
    """
    folder = write_files(tmp_path, {"test_it.py": source})
    plain, isolated = run_parity(folder, f"--max-warnings={most}")
    assert differences(plain, isolated) == []
    assert len(isolated.warnings) == 5
    assert isolated.returncode == plain.returncode == status, isolated.text


PHASES: Final = """
import threading, warnings
import pytest

class Dying:
    def __del__(self): raise ValueError("in del")
def in_thread():
    thread = threading.Thread(target=int, args=("x",), name="worker")
    thread.start()
    thread.join()
def warn(): warnings.warn("a warning")
WAYS = {"del": Dying, "thread": in_thread, "warning": warn}

@pytest.fixture
def before(way): WAYS[way]()
@pytest.fixture
def after(way): yield; WAYS[way]()

@pytest.mark.parametrize("way", WAYS)
class TestPhases:
    def test_setup(self, way, before): pass
    def test_call(self, way): WAYS[way]()
    def test_teardown(self, way, after): pass
    def test_both(self, way, before, after): pass
    def test_and_failure(self, way, after): WAYS[way](); assert 0
"""


@pytest.mark.parametrize("options", [(), ("-W", "error"), ("-W", "error", "-x")], ids=" ".join)
def test_what_goes_wrong_beside_the_test_belongs_to_its_phase(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Unraisable exceptions, those of threads and warnings: same phase, place and text."""
    folder = write_files(tmp_path, {"test_it.py": PHASES})
    plain, isolated = run_parity(folder, *options, "-rA", "--tb=short")
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)
    assert isolated.returncode == plain.returncode == 1
