# SPDX-License-Identifier: MIT
"""What is read off the run of a row's suite: a few words for a cell of the table."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


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
    """What becomes of a process that the test left behind, and of the run that waits for it."""
    # The daemon sleeps 8 s; a run of one empty test takes well under 4.
    waits = f", **waits {seen.seconds:.0f} s**" if seen.seconds > 4 else ""
    return ("**still runs**" if seen.left else "gone") + waits
