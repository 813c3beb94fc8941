# SPDX-License-Identifier: MIT
"""pytest's private parts: what there is to know about them is known in this package.

Everything here has a public neighbour that does not suffice; each function says which. Tested with
pytest 8.4 and the newest; when a release moves one of these, this is the only place to mend.
"""

from __future__ import annotations

from pytest_nsisolate.pytest_internals.capture import (
    capture_disabled,
    captured_again,
    global_captures,
    report_log_handler,
    standard_input,
)
from pytest_nsisolate.pytest_internals.fixtures import (
    ClassCleanups,
    definitions_behind,
    definitions_of,
    disown,
    fixture_arguments,
    forget_fixture,
    higher_scope_names,
    is_set_up,
    known_fixtures,
    replace_stack,
    set_traps,
    set_up_fixtures,
    setup_stack,
    tear_everything_down,
    wider_fixtures_of_suite,
)
from pytest_nsisolate.pytest_internals.hooks import (
    Silence,
    is_builtin,
    let_interact,
    show_item,
    tear_down_runner,
)
from pytest_nsisolate.pytest_internals.noticed import collect_noticed, forget_noticed
from pytest_nsisolate.pytest_internals.private import (
    CaptureIO,
    TeeCaptureIO,
    call_and_report,
    check_interactive_exception,
)
from pytest_nsisolate.pytest_internals.results import (
    PlainPass,
    add_junit_attributes,
    expected_failure,
    junit_attributes,
    plain_pass,
    rendered,
    report_sections,
    testsuite_properties,
    text_representation,
)
from pytest_nsisolate.pytest_internals.subtests import (
    failed_subtests,
    restore_subtest,
    set_failed_subtests,
    shows_subtests,
    silent_terminal,
)
from pytest_nsisolate.pytest_internals.surroundings import (
    base_temp,
    create_base_temp,
    exits_on_fault_timeout,
    fault_handler_descriptor,
    fault_timeout,
    files_in_use,
)
from pytest_nsisolate.pytest_internals.terminal import (
    LiveLog,
    TerminalState,
    adopt_line,
    adopt_live_log,
    leave_line,
    mark_as_shown,
    terminal_state,
    write_line,
    writes_live,
)

__all__ = [
    "CaptureIO",
    "ClassCleanups",
    "LiveLog",
    "PlainPass",
    "Silence",
    "TeeCaptureIO",
    "TerminalState",
    "add_junit_attributes",
    "adopt_line",
    "adopt_live_log",
    "base_temp",
    "call_and_report",
    "capture_disabled",
    "captured_again",
    "check_interactive_exception",
    "collect_noticed",
    "create_base_temp",
    "definitions_behind",
    "definitions_of",
    "disown",
    "exits_on_fault_timeout",
    "expected_failure",
    "failed_subtests",
    "fault_handler_descriptor",
    "fault_timeout",
    "files_in_use",
    "fixture_arguments",
    "forget_fixture",
    "forget_noticed",
    "global_captures",
    "higher_scope_names",
    "is_builtin",
    "is_set_up",
    "junit_attributes",
    "known_fixtures",
    "leave_line",
    "let_interact",
    "mark_as_shown",
    "plain_pass",
    "rendered",
    "replace_stack",
    "report_log_handler",
    "report_sections",
    "restore_subtest",
    "set_failed_subtests",
    "set_traps",
    "set_up_fixtures",
    "setup_stack",
    "show_item",
    "shows_subtests",
    "silent_terminal",
    "standard_input",
    "tear_down_runner",
    "tear_everything_down",
    "terminal_state",
    "testsuite_properties",
    "text_representation",
    "wider_fixtures_of_suite",
    "write_line",
    "writes_live",
]
