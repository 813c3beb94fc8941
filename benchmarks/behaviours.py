# SPDX-License-Identifier: MIT
"""The rows of the table of behaviours: a small suite each, and what is read off its run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import PYTEST

# What stands for the contender's marker in a suite's text.
MARK = "@MARK"
SEGFAULT = "import ctypes; ctypes.string_at(0)"


@dataclass(frozen=True, slots=True)
class Seen:
    """One run of a row's suite: ``status`` None is a run that was killed at the time limit.

    ``seconds`` is its wall-clock time, ``left`` how many of its processes outlived it,
    ``reports`` and ``warnings`` what bench_probe.py wrote.
    """

    status: int | None
    seconds: float
    left: int
    folder: Path
    output: str
    reports: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pid: int = 0

    def outcome(self, test: str, when: str = "call") -> str:
        """The outcome of one phase of one test: passed, failed, skipped, xfailed, or missing."""
        for report in self.reports:
            if report["nodeid"].endswith(f"::{test}") and report["when"] in (when, "???"):
                xfailed = report["xfail"] and report["outcome"] == "skipped"
                return "xfailed" if xfailed else str(report["outcome"])
        return "missing"

    def lines(self, name: str) -> list[str]:
        """The lines that the suite wrote to this file."""
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


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


def works(seen: Seen) -> str:
    """Whether an empty marked test passes."""
    if seen.status == 0 and seen.outcome("test_it") == "passed":
        return "yes"
    errors = re.findall(r"(?:Error|Exception): .*|EXITED with status \d+", seen.output)
    return f"**no**: {errors[-1][:80] if errors else f'exit {seen.status}'}"


def own_process(seen: Seen) -> str:
    """Whether the test ran in another process than the runner."""
    return "yes" if seen.lines("pid") not in ([], [str(seen.pid)]) else "**no**"


def set_ups(seen: Seen) -> str:
    """How often the session's fixture was set up and torn down."""
    log = seen.lines("log")
    return f"up {log.count('up')}, down {log.count('down')}"


def next_module(seen: Seen) -> str:
    """Whether the plain test of the module after a marked one is left in peace."""
    if seen.outcome("test_plain", "setup") == "failed":
        return "**ERROR**"
    return "ok" if seen.status == 0 else f"exit {seen.status}"


def warning_kept(seen: Seen) -> str:
    """Whether the test's warning reached the summary."""
    return "kept" if any("canary" in text for text in seen.warnings) else "**lost**"


def crash_output(seen: Seen) -> str:
    """What of the crashed test's output is in a report."""
    text = "\n".join(report["text"] for report in seen.reports)
    names = {"print": "canary-print", "fd 2": "canary-fd", "stack": "in test_crash"}
    kept = [name for name, word in names.items() if word in text]
    if seen.outcome("test_crash") not in ("failed", "missing"):
        return f"**{seen.outcome('test_crash')}**"
    return "kept: " + ", ".join(kept) if kept else "**lost**"


def wrong_xfail(seen: Seen) -> str:
    """Whether a crash passes for the exception that xfail names."""
    outcome = seen.outcome("test_crash")
    return outcome if outcome == "failed" else f"**{outcome}**"


def subtests(seen: Seen) -> str:
    """Whether a test of which a subtest fails makes the run fail."""
    return "fails" if seen.status == 1 else f"**green, exit {seen.status}**"


def exit_request(seen: Seen) -> str:
    """Whether pytest.exit in a test ends the session."""
    ran = seen.outcome("test_after") == "passed"
    return f"**goes on, exit {seen.status}**" if ran else f"ends, exit {seen.status}"


def suite_property(seen: Seen) -> str:
    """Whether record_testsuite_property reaches the junit file."""
    return "kept" if any("canary" in line for line in seen.lines("junit.xml")) else "**lost**"


def covered(seen: Seen) -> str:
    """Percentage of the lines that only the marked test runs, with coverage's defaults."""
    data = seen.folder / "coverage.json"
    if not data.is_file():
        return f"no report, exit {seen.status}"
    files = json.loads(data.read_text(encoding="utf-8"))["files"]
    percent = round(files["lines.py"]["summary"]["percent_covered"]) if "lines.py" in files else 0
    return f"{percent} %" if percent == 100 else f"**{percent} %**"


def daemon(seen: Seen) -> str:
    """What becomes of a process that the test left behind, and of who waits for it."""
    # The daemon sleeps 8 s; a run of one empty test takes well under 4.
    waits = f", **waits {seen.seconds:.0f} s**" if seen.seconds > 4 else ""
    return ("**still runs**" if seen.left else "gone") + waits


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
    Row("works-9.2.0", "works on pytest 9.2.0", {"test_it.py": EMPTY}, works, pytest="9.2.0"),
    Row(
        "bare-marker",
        "marker without keywords isolates",
        {"test_it.py": one('open("pid", "w").write(str(os.getpid()))')},
        own_process,
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
        set_ups,
    ),
    Row(
        "next-module",
        "last test of a module marked, next module plain",
        {
            "test_a.py": f"{HEADER}def test_first(): pass\n{MARK}\ndef test_last(): pass\n",
            "test_b.py": "def test_plain(): pass\n",
        },
        next_module,
    ),
    Row(
        "warnings",
        "warnings of the test in the summary",
        {"test_it.py": one('warnings.warn("canary")')},
        warning_kept,
    ),
    Row(
        "crash-output",
        "output of a test that ends by SIGSEGV",
        {
            "test_it.py": one(
                f'print("canary-print"); os.write(2, b"canary-fd"); {SEGFAULT}', name="test_crash"
            )
        },
        crash_output,
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
        wrong_xfail,
        unmarked=False,
    ),
    Row(
        "subtests",
        "failing subtest (pytest 9.0.3)",
        {"test_it.py": one("with subtests.test(): assert False", takes="subtests")},
        subtests,
        pytest="9.0.3",
    ),
    Row(
        "pytest-exit",
        "pytest.exit() in the test",
        {"test_it.py": one('pytest.exit("enough")') + "\ndef test_after(): pass\n"},
        exit_request,
    ),
    Row(
        "suite-property",
        "record_testsuite_property",
        {
            "test_it.py": one(
                'record_testsuite_property("canary", "1")', takes="record_testsuite_property"
            )
        },
        suite_property,
        arguments=("--junitxml=junit.xml",),
    ),
    Row(
        "coverage",
        "coverage of lines that only a marked test runs",
        {
            "lines.py": LINES,
            "test_it.py": "import lines\n" + one("assert lines.only_isolated(1) == 1"),
        },
        covered,
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
        daemon,
    ),
)
