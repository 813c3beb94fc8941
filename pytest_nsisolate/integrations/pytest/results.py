# SPDX-License-Identifier: MIT
"""Reports, and what pytest keeps of an item for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_nsisolate.integrations.pytest.hooks import is_builtin
from pytest_nsisolate.integrations.pytest.private import (
    STRUCTURED_IDS,
    ExceptionChainRepr,
    ReprEntryNative,
    ReprFileLocation,
    ReprTraceback,
    TerminalWriter,
    evaluate_skip_marks,
    evaluate_xfail_marks,
    xfailed_key,
    xml_key,
)
from pytest_nsisolate.kernel.originals import io


def expected_failure(item: pytest.Item) -> tuple[str, bool] | None:
    """The xfail mark in force: (reason, whether it names ``raises``), None without one."""
    if item.config.getoption("runxfail", False):
        return None
    mark = item.stash.get(xfailed_key, None)
    return None if mark is None else (mark.reason, mark.raises is not None)


def is_left_out(item: pytest.Item) -> bool:
    """Whether its marks have pytest not run it, or cannot be followed; it says so at its turn.

    Public neighbour: ``pytest_runtest_setup``, which raises it.
    """
    try:
        if evaluate_skip_marks(item) is not None:
            return True
        mark = None if item.config.getoption("runxfail", False) else evaluate_xfail_marks(item)
    except pytest.fail.Exception:
        return True
    return mark is not None and not mark.run


class PlainPass:
    """Knows the report of a phase that passed without a word, so that it need not be sent whole.

    Public neighbour: ``pytest_report_to_serializable``, whose result costs more pages to make and
    to read than the rest of an empty test's phase. Not used when another plugin implements that.
    Made in the runner.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._expected = vars(plain_pass(item, "call"))
        implementations = item.config.hook.pytest_report_to_serializable.get_hookimpls()
        self._usable = all(is_builtin(found.plugin) for found in implementations)

    def fits(self, report: pytest.TestReport) -> bool:
        """Whether :func:`plain_pass` makes the same report, but for the times."""
        found = vars(report)
        return (
            self._usable
            and type(report) is pytest.TestReport
            and report.outcome == "passed"
            and found.keys() == self._expected.keys()
            and all(found[name] == self._expected[name] for name in found.keys() - _OWN_FIELDS)
        )


#: What differs between two reports of one item that say nothing.
_OWN_FIELDS = frozenset({"when", "duration", "start", "stop"})


def plain_pass(item: pytest.Item, when: str) -> pytest.TestReport:
    """The report of a phase that passed without output, properties or anything else."""
    nodeid: Any = item.id if STRUCTURED_IDS else item.nodeid
    phase: Any = when
    keywords: Any = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(nodeid, item.location, keywords, "passed", None, phase)


def text_representation(item: pytest.Item, text: str) -> ExceptionChainRepr:
    """A text in the shape of a failure's ``longrepr``, its first line being what summaries show.

    Public neighbour: a string, of which ``-rf``, ``--tb=line`` and junit's ``message`` show nothing
    in pytest 8.4.
    """
    path, line, _ = item.reportinfo()
    crash = ReprFileLocation(str(path), (line or 0) + 1, text.partition("\n")[0])
    entry = ReprEntryNative([f"{row}\n" for row in text.splitlines()])
    return ExceptionChainRepr([(ReprTraceback([entry], None, "native"), crash, None)])


@contextmanager
def red_headline(told: object) -> Iterator[None]:
    """While this lasts, the first line of :func:`text_representation` shows itself as the line
    of any other failure that says what is wrong: red where there are colours."""
    entry = _text_entry(told)
    if entry is None:
        yield
        return
    entry.toterminal = partial(_show_red, entry.lines)
    try:
        yield
    finally:
        del entry.toterminal


def _text_entry(told: Any) -> Any:
    """A native traceback begins with other words than the line of the summary."""
    try:
        ((traceback, crash, _),) = told.chain
        (entry,) = traceback.reprentries
        is_text = traceback.style == "native" and entry.lines[0] == f"{crash.message}\n"
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return entry if is_text else None


def _show_red(lines: list[str], tw: Any) -> None:
    tw.line(lines[0].removesuffix("\n"), red=True, bold=True)
    tw.write("".join(lines[1:]))


def rendered(config: pytest.Config, representation: Any) -> tuple[str, str]:
    """What a ``TerminalRepr`` shows: plain, and as on this run's terminal.

    Public neighbour: ``str()`` of it, which strips what stands at its ends, and has no colours.
    """
    shown: Any = config.pluginmanager.getplugin("terminalreporter")
    shown = getattr(shown, "_tw", None)
    texts = []
    for markup in (False, True):
        file = io.StringIO()
        writer = TerminalWriter(file)
        if markup and shown is not None:
            writer.hasmarkup, writer.fullwidth = shown.hasmarkup, shown.fullwidth
            writer.code_highlight = shown.code_highlight
        representation.toterminal(writer)
        texts.append(file.getvalue())
    return texts[0], texts[1]


def report_sections(item: pytest.Item) -> list[tuple[str, str, str]]:
    """(phase, kind, text) of everything captured for the item so far."""
    return item._report_sections


def testsuite_properties(config: pytest.Config) -> list[tuple[str, str]] | None:
    """``record_testsuite_property``'s list, None without ``--junitxml``."""
    xml = config.stash.get(xml_key, None)
    return None if xml is None else xml.global_properties


def junit_attributes(item: pytest.Item) -> dict[str, str]:
    """What ``record_xml_attribute`` has recorded for the item so far."""
    xml: Any = item.config.stash.get(xml_key, None)
    key = item.id if STRUCTURED_IDS else item.nodeid
    reporter = None if xml is None else xml.node_reporters.get((key, None))
    return {} if reporter is None else reporter.attrs


def add_junit_attributes(item: pytest.Item, attributes: Mapping[str, str]) -> None:
    """Record them; without ``--junitxml`` nothing happens."""
    xml: Any = item.config.stash.get(xml_key, None)
    if xml is not None:
        xml.node_reporter(item.nodeid).attrs.update(attributes)
