# SPDX-License-Identifier: MIT
"""The only module that imports ``_pytest``: its names, as the rest of this package uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
from _pytest._code.code import (
    ExceptionChainRepr,
    ReprEntryNative,
    ReprFileLocation,
    ReprTraceback,
)
from _pytest._io import TerminalWriter
from _pytest.capture import CaptureIO, TeeCaptureIO
from _pytest.faulthandler import fault_handler_stderr_fd_key
from _pytest.junitxml import xml_key
from _pytest.runner import call_and_report, check_interactive_exception, show_test_item
from _pytest.scope import Scope
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key
from _pytest.terminal import TerminalReporter
from _pytest.threadexception import collect_thread_exception, thread_exceptions
from _pytest.unittest import TestCaseFunction
from _pytest.unraisableexception import collect_unraisable, unraisable_exceptions

try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest 8.4 has no subtests of its own
    failed_subtests_key = None  # type: ignore[assignment]

__all__ = [
    "STRUCTURED_IDS",
    "CaptureIO",
    "ExceptionChainRepr",
    "Finalizer",
    "ReprEntryNative",
    "ReprFileLocation",
    "ReprTraceback",
    "Scope",
    "TeeCaptureIO",
    "TerminalReporter",
    "TerminalWriter",
    "TestCaseFunction",
    "call_and_report",
    "check_interactive_exception",
    "collect_thread_exception",
    "collect_unraisable",
    "evaluate_skip_marks",
    "evaluate_xfail_marks",
    "failed_subtests_key",
    "fault_handler_stderr_fd_key",
    "is_builtin",
    "show_test_item",
    "thread_exceptions",
    "unraisable_exceptions",
    "xfailed_key",
    "xml_key",
]

#: What pytest calls in tear-down.
Finalizer: TypeAlias = Callable[[], object]

#: pytest 9.2 counts failed subtests by structured id, earlier releases by node id.
STRUCTURED_IDS = pytest.version_tuple >= (9, 2)


def is_builtin(plugin: object) -> bool:
    """Whether pytest itself ships this plugin (a module or an instance of a class of one)."""
    module = getattr(plugin, "__name__", None) if _is_module(plugin) else type(plugin).__module__
    return isinstance(module, str) and module.startswith("_pytest.")


def _is_module(plugin: object) -> bool:
    return type(plugin).__name__ == "module"
