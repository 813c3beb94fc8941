# SPDX-License-Identifier: MIT
"""Subtests: those of pytest 9, of ``unittest``, and of the plugin for pytest 8.4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_nsisolate.integrations.pytest.private import (
    STRUCTURED_IDS,
    TerminalReporter,
    TestCaseFunction,
    failed_subtests_key,
)
from pytest_nsisolate.kernel.originals import io


def failed_subtests(item: pytest.Item) -> int:
    """How many subtests pytest has booked as failed; it does not book those of ``unittest``."""
    count = 0
    if failed_subtests_key is not None:
        key: Any = item.id if STRUCTURED_IDS else item.nodeid
        count = item.config.stash[failed_subtests_key][key]
    return count


def shows_subtests(item: pytest.Item, plugin: object) -> bool:
    """Whether this plugin is the terminal, and the child shows the item's subtests itself.

    Those of ``unittest`` are logged while pytest captures, so their letters are captured text.
    """
    return type(plugin) is TerminalReporter and isinstance(item, TestCaseFunction)


@contextmanager
def silent_terminal(item: pytest.Item) -> Iterator[None]:
    """While the runner logs a subtest that the child has shown: the terminal only counts it."""
    reporter: Any = item.config.pluginmanager.getplugin("terminalreporter")
    if not shows_subtests(item, reporter):
        yield
        return
    writer = reporter._tw
    file, writer._file = writer._file, io.StringIO()
    try:
        yield
    finally:
        writer._file = file


def set_failed_subtests(item: pytest.Item, count: int) -> None:
    """Book them here as the child has booked them.

    pytest then fails the passing parent itself, at the moment at which it would have.
    """
    if failed_subtests_key is not None:
        key: Any = item.id if STRUCTURED_IDS else item.nodeid
        item.config.stash[failed_subtests_key][key] = count


def restore_subtest(report: pytest.TestReport, data: dict[str, Any]) -> None:
    """Undo the second ``saferepr`` of a subtest's keywords: ``i=1`` would read ``i='1'``.

    pytest-subtests, for pytest 8.4, sends the values themselves.
    """
    context = getattr(report, "context", None)
    sent = data.get("_subtest.context")
    native = type(report).__module__ == "_pytest.subtests"
    if native and isinstance(sent, dict) and isinstance(sent.get("kwargs"), dict):
        object.__setattr__(context, "kwargs", {k: str(v) for k, v in sent["kwargs"].items()})
