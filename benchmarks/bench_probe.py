# SPDX-License-Identifier: MIT
"""Write down what the runner was told about each test; loaded with ``-p bench_probe``.

Reports and warnings are taken where every reporter takes them (terminal, junit, xdist), so a
word that is missing here is missing for the user. ``NSIBENCH_PROBE`` names the JSON file; it is
removed from the environment, so that a pytest started by a plugin for its tests writes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import warnings

    import pytest


class Probe:
    """Collects in the runner, writes at the end of its session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._reports: list[dict[str, object]] = []
        self._warnings: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(
            {
                "nodeid": report.nodeid,
                "when": report.when,
                "outcome": report.outcome,
                "xfail": hasattr(report, "wasxfail"),
                "text": "\n".join((report.longreprtext, *(body for _, body in report.sections))),
            }
        )

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        self._warnings.append(str(warning_message.message))

    def pytest_sessionfinish(self) -> None:
        if os.getpid() == self._pid:
            found = {"reports": self._reports, "warnings": self._warnings, "pid": self._pid}
            self._path.write_text(json.dumps(found), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Start probing where the environment asks for it."""
    path = os.environ.pop("NSIBENCH_PROBE", "")
    if path:
        config.pluginmanager.register(Probe(Path(path)), "nsibench-probe")
