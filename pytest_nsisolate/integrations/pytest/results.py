# SPDX-License-Identifier: MIT
"""Results: reports, subtests, and what pytest keeps of an item or notices beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_nsisolate.integrations.pytest.private import (
    STRUCTURED_IDS,
    ExceptionChainRepr,
    ReprEntryNative,
    ReprFileLocation,
    ReprTraceback,
    TerminalReporter,
    TerminalWriter,
    TestCaseFunction,
    check_interactive_exception,
    collect_thread_exception,
    collect_unraisable,
    evaluate_skip_marks,
    evaluate_xfail_marks,
    failed_subtests_key,
    is_builtin,
    thread_exceptions,
    unraisable_exceptions,
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
    """Knows the report of a phase that passed without output, so that it need not be sent whole.

    Public neighbour: ``pytest_report_to_serializable``, whose result costs more pages to make and
    to read than the rest of an empty test's phase. Not used when another plugin implements that.
    Made in the runner, which makes such reports of it too.
    """

    def __init__(self, item: pytest.Item) -> None:
        nodeid: Any = item.id if STRUCTURED_IDS else item.nodeid
        keywords: Any = dict.fromkeys(item.keywords, 1)
        report = pytest.TestReport(nodeid, item.location, keywords, "passed", None, "call")
        self._expected = vars(report)
        self._own = {name: self._expected[name] for name in _OWN_FIELDS & self._expected.keys()}
        implementations = item.config.hook.pytest_report_to_serializable.get_hookimpls()
        self._usable = all(_is_known(found.plugin) for found in implementations)

    def fits(self, report: pytest.TestReport) -> bool:
        """Whether :meth:`report` makes the same one, but for the times."""
        found = vars(report)
        return (
            self._usable
            and type(report) is pytest.TestReport
            and report.outcome == "passed"
            and found.keys() == self._expected.keys()
            and found | self._own == self._expected
        )

    def report(self, when: str) -> pytest.TestReport:
        """The report of a phase that passed without output, properties or anything else."""
        made = object.__new__(pytest.TestReport)
        fields = self._expected
        vars(made).update(fields, when=when, keywords=fields["keywords"].copy())
        made.sections, made.user_properties = [], []
        return made


def _is_known(plugin: object) -> bool:
    """Whether it adds nothing to such a report: pytest's own, and that of our adapter for xdist."""
    return is_builtin(plugin) or type(plugin).__module__.startswith("pytest_nsisolate.")


#: What differs between two reports of one item that say nothing.
_OWN_FIELDS = frozenset({"when", "duration", "start", "stop"})


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


class Silence:
    """In the child only a few plugins hear ``pytest_runtest_logreport``.

    Subtests send their reports through that hook from inside the call phase. Public neighbour:
    ``PluginManager.unregister`` would take a conftest's other hooks away too.

    :param keep: which plugins go on listening.
    """

    def __init__(self, config: pytest.Config, keep: Callable[[object], bool]) -> None:
        self._caller: Any = config.hook.pytest_runtest_logreport
        # The list itself, which stays alive in the child: to free it would write to each of them.
        self._every = self._caller._hookimpls
        self._kept = [found for found in self._every if keep(found.plugin)]

    def fall(self) -> None:
        """In the child, before the test's first line."""
        self._caller._hookimpls = self._kept


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


def let_interact(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """``pytest_exception_interact`` for an exception that is a stand-in: for all but a debugger.

    Public neighbour: pytest calls it for all, while ``call`` has the exception.
    """
    if not item.config.getoption("usepdb", False):
        return  # it does
    if check_interactive_exception(call, report):
        debugger = item.config.pluginmanager.getplugin("pdbinvoke")
        hook = item.config.pluginmanager.subset_hook_caller("pytest_exception_interact", [debugger])
        hook(node=item, call=call, report=report)
    call.excinfo = None


def forget_collected_errors(config: pytest.Config) -> None:
    """In a copy: what was collected before, and is still to be told, is told by the original."""
    for key in _NOTICED:
        noticed: Any = config.stash.get(key, None)
        if noticed is not None:
            noticed.clear()


def raise_collected_errors(config: pytest.Config) -> None:
    """Warn now of exceptions that could not be raised: of threads, and of ``__del__``.

    Public neighbour: the hooks round each phase, of which there is none in a call by ``isolate``.
    """
    for key, collect in _NOTICED.items():
        if config.stash.get(key, None):
            collect(config)


_NOTICED: dict[pytest.StashKey[Any], Callable[[pytest.Config], None]] = {
    thread_exceptions: collect_thread_exception,
    unraisable_exceptions: collect_unraisable,
}
