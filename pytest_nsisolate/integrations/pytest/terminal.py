# SPDX-License-Identifier: MIT
"""Where pytest writes: its terminal reporter, its live logs, what it captures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytest

from pytest_nsisolate.integrations.pytest.private import show_test_item


class LiveLog(NamedTuple):
    """What the handler of live logs remembers; no public neighbour."""

    first_record: bool
    outcome_written: bool
    title_shown: bool
    when: str | None


class TerminalState(NamedTuple):
    """Where on the line the terminal's reporter believes it is; no public neighbour."""

    line: str
    on_a_line: bool
    log: LiveLog | None


def writes_live(config: pytest.Config) -> bool:
    """Whether tests write to the terminal while they run, or may stop there at a prompt."""
    return live_option(config) is not None


def live_option(config: pytest.Config) -> str | None:
    """Which option has them do that, None if none does."""
    # Each of these is a plugin's, and may be switched off.
    capture = config.getoption("capture", "no")
    if capture in ("no", "tee-sys"):
        return f"--capture={capture}"
    for name in ("setupshow", "usepdb", "trace"):
        if config.getoption(name, False):
            return _SPELLED[name]
    return None if _live_log_handler(config) is None else "live logs"


_SPELLED = {"setupshow": "--setup-show", "usepdb": "--pdb", "trace": "--trace"}


def terminal_state(config: pytest.Config) -> TerminalState:
    """As it is in this process."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    handler = _live_log_handler(config)
    log = None
    if handler is not None:
        written = handler._first_record_emitted, handler._test_outcome_written
        log = LiveLog(*written, handler._section_name_shown, handler._when)
    if reporter is None:
        return TerminalState("", False, log)
    return TerminalState(reporter._tw._current_line, bool(reporter.currentfspath), log)


def adopt_line(config: pytest.Config, text: str, *, added: bool) -> None:
    """The child has written this to the reporter's line, or a new line."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter._tw._current_line = reporter._tw._current_line + text if added else text


def show_reports_inside(
    config: pytest.Config, around: Callable[[Any, Any], AbstractContextManager[None]]
) -> None:
    """Have the terminal show each report inside of ``around(report, writer)``.

    Public neighbour: the ``toterminal`` of what a report shows, behind which captured output
    follows. pytest-sugar and pytest-instafail show reports by the same method.
    """
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    show = getattr(reporter, "_outrep_summary", None)
    if show is None:
        return

    def show_inside(report: Any) -> None:
        with around(report, reporter._tw):
            show(report)

    reporter._outrep_summary = show_inside


def leave_line(config: pytest.Config) -> None:
    """The child has ended the line on which the reporter had named a file or a test."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.currentfspath = None


def adopt_live_log(config: pytest.Config, state: LiveLog) -> None:
    """Go on with the live log of the child.

    A title counts within its phase, and in the runner the tear-down phase of the logging plugin
    begins when the child's is over.
    """
    handler = _live_log_handler(config)
    if handler is None:
        return
    handler._first_record_emitted = state.first_record
    handler._test_outcome_written = state.outcome_written
    if state.title_shown and state.when == "teardown":
        vars(handler).pop("set_when", None)
        original = handler.set_when

        def set_when(when: str | None) -> None:
            del handler.set_when
            original(when)
            handler._section_name_shown = when == "teardown"

        handler.set_when = set_when


def write_line(config: pytest.Config, text: str) -> None:
    """At the user's terminal, on a line of its own, whatever is captured."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:
        with capture_disabled(config):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        return
    if reporter._tw._current_line:
        reporter._tw.line()
    reporter.currentfspath = None
    reporter.write_line(text)
    reporter.flush()


def _live_log_handler(config: pytest.Config) -> Any:
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler: Any = getattr(plugin, "log_cli_handler", None)
    return handler if hasattr(handler, "_first_record_emitted") else None


def mark_as_shown(report: pytest.TestReport) -> None:
    """The debugger has shown this failure, so the summary does not repeat it (``PdbInvoke``)."""
    report._pdbshown = True  # type: ignore[attr-defined]


def show_item(item: pytest.Item) -> None:
    """The line of ``--setup-show`` that names the test (``runtestprotocol``)."""
    if pytest.version_tuple >= (9, 0):
        try:
            show_test_item(item, add_space=not item.config.getoption("setuponly", False))
            return
        except TypeError:  # before 9.1
            pass
    show_test_item(item)  # type: ignore[call-arg]


def global_captures(config: pytest.Config) -> list[Any]:
    """The capture objects of standard output and error (``FDCapture``, ``SysCapture``), if any."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capturing = getattr(manager, "_global_capturing", None)
    if capturing is None:
        return []
    return [capture for capture in (capturing.out, capturing.err) if capture is not None]


def standard_input(config: pytest.Config) -> int:
    """The descriptor of standard input as it is without capture."""
    return standard_streams(config)[0]


def standard_streams(config: pytest.Config) -> list[int]:
    """The descriptors of standard input, output and error as they are without capture."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capturing = getattr(manager, "_global_capturing", None)
    captures = (getattr(capturing, name, None) for name in ("in_", "out", "err"))
    saved = (getattr(capture, "targetfd_save", None) for capture in captures)
    return [fd if isinstance(fd, int) else number for number, fd in enumerate(saved)]


def capture_disabled(config: pytest.Config) -> AbstractContextManager[None]:
    """``capsys.disabled()`` for code that has no fixture at hand."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        return nullcontext()
    disabled: AbstractContextManager[None] = manager.global_and_fixture_disabled()
    return disabled


def captured_again(item: pytest.Item, when: str) -> AbstractContextManager[None]:
    """Capture once more for a phase of the item; what comes is a section of its report.

    Public neighbour: the hooks of the phases, which are over.
    """
    manager: Any = item.config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        return nullcontext()
    capture: AbstractContextManager[None] = manager.item_capture(when, item)
    return capture


def report_log_handler(config: pytest.Config) -> logging.Handler | None:
    """The handler whose stream becomes the "Captured log" section."""
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler: logging.Handler | None = getattr(plugin, "report_handler", None)
    return handler
