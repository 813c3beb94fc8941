# SPDX-License-Identifier: MIT
"""Loaded into inner runs (``-p recording``): what every plugin of the runner gets to hear.

One JSON line per ``pytest_runtest_logreport`` and ``pytest_warning_recorded``, in the order in
which they came, to the file named by ``RECORDING``.
"""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # With pytest-xdist the controller hears what all workers have said.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(os.environ["RECORDING"]), "recorder")


class _Recorder:
    def __init__(self, path: str) -> None:
        self._path = path

    def _write(self, record: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="ascii") as file:
            file.write(json.dumps(record) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write({"record": "start", "nodeid": nodeid})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write({"record": "finish", "nodeid": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        longrepr = report.longrepr
        self._write(
            {
                "record": "report",
                "type": type(report).__name__,
                "nodeid": report.nodeid,
                "when": report.when,
                "outcome": report.outcome,
                "wasxfail": getattr(report, "wasxfail", None),
                "skip": repr(longrepr) if isinstance(longrepr, tuple) else None,
                "text": report.longreprtext,
                "longrepr": type(longrepr).__name__,
                "sections": [(title, _short(text)) for title, text in report.sections],
                "properties": [(repr(key), repr(value)) for key, value in report.user_properties],
                "location": report.location,
                "keywords": sorted(report.keywords),
                "context": repr(getattr(report, "context", None)),
                "duration": report.duration,
            }
        )

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object
    ) -> None:
        self._write(
            {
                "record": "warning",
                "category": warning_message.category.__name__,
                "text": str(warning_message.message),
                "filename": warning_message.filename,
                "lineno": warning_message.lineno,
                "when": when,
                "nodeid": nodeid,
                "location": location,
            }
        )


def _short(text: str) -> str:
    """A text of megabytes by its size and its two ends."""
    if len(text) < 4_000_000:
        return text
    return f"{len(text)} characters, {text[:100]} ... {text[-100:]}"
