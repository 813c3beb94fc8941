# SPDX-License-Identifier: MIT
"""Stands for the plugin of VS Code's test explorer, which has this name: what it listens to, and
how it tells. Each line of the pipe is one result, and the number of the process that has told it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest

_told: set[str] = set()
_writer: list[Any] = []


def _tell(nodeid: str, outcome: str, message: str) -> None:
    if nodeid in _told:
        return
    _told.add(nodeid)
    if not _writer:
        _writer.append(open(os.environ["TEST_RUN_PIPE"], "w", encoding="utf-8"))  # noqa: SIM115
    line = {"test": nodeid, "outcome": outcome, "message": message, "pid": os.getpid()}
    _writer[0].write(f"{json.dumps(line)}\n")
    _writer[0].flush()


def pytest_exception_interact(node: pytest.Item, call: Any, report: Any) -> None:
    failed = call.excinfo.typename == "AssertionError"
    _tell(node.nodeid, "failure" if failed else "error", report.longreprtext)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_report_teststatus(report: Any) -> Generator[None, object, object]:
    if report.when == "call" or (report.when == "setup" and report.skipped):
        outcome = {"passed": "success", "failed": "failure"}.get(report.outcome, "skipped")
        _tell(report.nodeid, outcome, report.longreprtext)
    return (yield)
