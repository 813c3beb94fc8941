# SPDX-License-Identifier: MIT
"""The rows of the table of behaviours: a small suite each, and how its run is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import readings
from contenders import PYTEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from readings import Seen

# Stands for the contender's marker in a suite's text.
MARK = "@MARK"
SEGFAULT = "import ctypes; ctypes.string_at(0)"


@dataclass(frozen=True, slots=True)
class Row:
    """A behaviour: its suite (file name to text) and how to read the answer.

    ``bare`` uses the marker without keywords; ``unmarked`` says whether plain pytest can run the
    suite at all; ``under`` is how pytest is started.
    """

    key: str
    title: str
    files: dict[str, str]
    read: Callable[[Seen], str]
    pytest: str = PYTEST
    bare: bool = False
    unmarked: bool = True
    under: tuple[str, ...] = ("-m", "pytest")
    arguments: tuple[str, ...] = ()


HEADER = "import os, subprocess, sys, warnings\nimport pytest\n\n"
EMPTY = f"{HEADER}{MARK}\ndef test_it(): pass\n"
COUNTED = """\
import pytest
@pytest.fixture(scope="session", autouse=True)
def service():
    open("log", "a").write("up\\n")
    yield
    open("log", "a").write("down\\n")
"""
LINES = "def only_isolated(x):\n    y = x + 1\n    z = y * 2\n    w = z - 3\n    return w\n"


def one(body: str, *, name: str = "test_it", above: str = "", takes: str = "") -> str:
    """A module of one marked test with this body."""
    return f"{HEADER}{above}{MARK}\ndef {name}({takes}):\n    {body}\n"


ROWS = (
    Row(
        "works-9.2.0",
        "works on pytest 9.2.0",
        {"test_it.py": EMPTY},
        readings.works,
        pytest="9.2.0",
    ),
    Row(
        "bare-marker",
        "marker without keywords isolates",
        {"test_it.py": one('open("pid", "w").write(str(os.getpid()))')},
        readings.own_process,
        bare=True,
    ),
    Row(
        "session-fixture",
        "session fixture, 4 tests, 2 of them marked",
        {
            "conftest.py": COUNTED,
            "test_it.py": f"{HEADER}def test_a(): pass\n{MARK}\ndef test_b(): pass\n"
            f"{MARK}\ndef test_c(): pass\ndef test_d(): pass\n",
        },
        readings.set_ups,
    ),
    Row(
        "next-module",
        "last test of a module marked, next module plain",
        {
            "test_a.py": f"{HEADER}def test_first(): pass\n{MARK}\ndef test_last(): pass\n",
            "test_b.py": "def test_plain(): pass\n",
        },
        readings.next_module,
    ),
    Row(
        "warnings",
        "warnings of the test in the summary",
        {"test_it.py": one('warnings.warn("canary")')},
        readings.warning_kept,
    ),
    Row(
        "crash-output",
        "output of a test that ends by SIGSEGV",
        {
            "test_it.py": one(
                f'print("canary-print"); os.write(2, b"canary-fd"); {SEGFAULT}', name="test_crash"
            )
        },
        readings.crash_output,
        unmarked=False,
    ),
    Row(
        "xfail-raises",
        "xfail(raises=ValueError) and SIGSEGV",
        {
            "test_it.py": one(
                SEGFAULT, name="test_crash", above="@pytest.mark.xfail(raises=ValueError)\n"
            )
        },
        readings.wrong_xfail,
        unmarked=False,
    ),
    Row(
        "subtests",
        "failing subtest (pytest 9.0.3)",
        {"test_it.py": one("with subtests.test(): assert False", takes="subtests")},
        readings.subtests,
        pytest="9.0.3",
    ),
    Row(
        "pytest-exit",
        "pytest.exit() in the test",
        {"test_it.py": one('pytest.exit("enough")') + "\ndef test_after(): pass\n"},
        readings.exit_request,
    ),
    Row(
        "suite-property",
        "record_testsuite_property",
        {
            "test_it.py": one(
                'record_testsuite_property("canary", "1")', takes="record_testsuite_property"
            )
        },
        readings.suite_property,
        arguments=("--junitxml=junit.xml",),
    ),
    Row(
        "coverage",
        "coverage of lines that only a marked test runs",
        {
            "lines.py": LINES,
            "test_it.py": "import lines\n" + one("assert lines.only_isolated(1) == 1"),
        },
        readings.covered,
        under=("-m", "coverage", "run", "-m", "pytest"),
    ),
    Row(
        "daemon",
        "daemon that the test leaves behind",
        {
            "test_it.py": one(
                'subprocess.Popen(["sleep", "8"], start_new_session=True).returncode = 0'
            )
        },
        readings.daemon,
    ),
)
