# SPDX-License-Identifier: MIT
"""The only module that knows pytest's private parts.

Everything here has a public neighbour that does not suffice; each function says which. Tested with
pytest 8.4 and the newest; when a release moves one of these, this is the only file to mend.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple, TypeAlias, cast

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
from _pytest.skipping import xfailed_key
from _pytest.terminal import TerminalReporter
from _pytest.threadexception import collect_thread_exception, thread_exceptions
from _pytest.unittest import TestCaseFunction
from _pytest.unraisableexception import collect_unraisable, unraisable_exceptions

try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest 8.4 has no subtests of its own
    failed_subtests_key = None  # type: ignore[assignment]

__all__ = ["CaptureIO", "TeeCaptureIO", "call_and_report", "check_interactive_exception"]

Finalizer: TypeAlias = Callable[[], object]

#: pytest 9.2 counts failed subtests by structured id, earlier releases by node id.
_STRUCTURED_IDS = pytest.version_tuple >= (9, 2)


# Fixtures ------------------------------------------------------------------------------------


def higher_scope_names(item: pytest.Item) -> Iterator[str]:
    """Names of the item's fixtures that live longer than the item, in set-up order.

    Public neighbour: ``item.fixturenames`` does not tell the scope. A class-scoped fixture of a
    function outside a class is bound to the item, and so is the child's.
    """
    request: Any = getattr(item, "_request", None)
    if not request:
        return
    definitions: dict[str, Any] = request._arg2fixturedefs
    callspec: Any = getattr(item, "callspec", None)
    for name in getattr(item, "fixturenames", ()):
        if name == "request" or name not in definitions or not definitions[name]:
            continue
        if callspec is not None and name in callspec.params:
            scope = callspec._arg2scope[name]
        else:
            scope = definitions[name][-1]._scope
        if scope is Scope.Class and item.getparent(pytest.Class) is None:
            continue
        if scope > Scope.Function:
            yield name


def is_set_up(item: pytest.Item, name: str) -> bool:
    """Whether a fixture has its value, or its error, for this item's parameter already."""
    definitions = item._request._arg2fixturedefs.get(name)  # type: ignore[attr-defined]
    cached = definitions[-1].cached_result if definitions else None
    callspec: Any = getattr(item, "callspec", None)
    parameter = None if callspec is None else callspec.params.get(name)
    return cached is not None and cached[1] is parameter


def set_up_fixtures(item: pytest.Item, names: Iterable[str]) -> None:
    """Set some of the item's fixtures up, as its ``setup`` sets up all of them.

    Public neighbour: ``FixtureRequest.getfixturevalue``, which leaves ``item.funcargs`` alone.
    Through pytest's own functions, because ``--full-trace`` shows their frames.
    """
    request: Any = item._request  # type: ignore[attr-defined]
    filling = _StandIn(
        request,
        _pyfuncitem=_StandIn(item, fixturenames=[*names], funcargs=item.funcargs),  # type: ignore[attr-defined]
        getfixturevalue=request.getfixturevalue,
    )
    fill = MethodType(type(request)._fillfixtures, filling)
    pytest.Function.setup(
        cast("Any", _StandIn(item, _request=_StandIn(request, _fillfixtures=fill)))
    )


class _StandIn:
    """Some attributes of an object, under the name of the whole."""

    def __init__(self, whole: object, **attributes: object) -> None:
        self._whole = whole
        vars(self).update(attributes)

    def __repr__(self) -> str:
        return repr(self._whole)


def fixture_arguments(item: pytest.Item, name: str) -> tuple[str, ...]:
    """The fixtures that a fixture asks for by name."""
    definitions = item._request._arg2fixturedefs.get(name)  # type: ignore[attr-defined]
    return tuple(definitions[-1].argnames) if definitions else ()


def known_fixtures(item: pytest.Item) -> frozenset[str]:
    """Every fixture that the item uses statically."""
    request: Any = getattr(item, "_request", None)
    return frozenset(request._arg2fixturedefs) if request else frozenset()


def forget_fixture(item: pytest.Item, name: str) -> None:
    """Make a fixture look as if it had never been set up; its finalizers are the runner's."""
    request: Any = item._request  # type: ignore[attr-defined]
    for definition in request._arg2fixturedefs.get(name, ()):
        definition.cached_result = None
        definition._finalizers.clear()
    request._fixture_defs.pop(name, None)
    item.funcargs.pop(name, None)  # type: ignore[attr-defined]


# SetupState ----------------------------------------------------------------------------------


def setup_stack(item: pytest.Item) -> dict[Any, tuple[list[Finalizer], Any]]:
    """``SetupState.stack``: node to (finalizers, set-up error); no public neighbour."""
    stack: dict[Any, tuple[list[Finalizer], Any]] = item.session._setupstate.stack
    return stack


def replace_stack(
    item: pytest.Item,
    stack: dict[Any, tuple[list[Finalizer], Any]],
    adopt: Callable[[Finalizer, object], None],
) -> None:
    """Give the child a stack of its own, and every finalizer that is registered to ``adopt``."""
    state: Any = item.session._setupstate
    state.stack = stack
    state.addfinalizer = adopt


def tear_everything_down(session: pytest.Session) -> None:
    """``teardown_exact(None)``, as pytest does at the end of a session."""
    session._setupstate.teardown_exact(None)


def disown(item: pytest.Item) -> None:
    """The item stays on the runner's stack with nothing to finalize: its set-up is the child's."""
    setup_stack(item)[item] = ([], None)


class ClassCleanups:
    """What a ``unittest`` test registers by ``addClassCleanup``.

    Public neighbour: pytest's fixture round ``setUpClass``, which runs in the runner and sees the
    class as it was before the test.

    :param item: any test; of one that is not ``unittest``'s there is nothing to clean up.
    """

    def __init__(self, item: pytest.Item) -> None:
        self.node = item.getparent(pytest.Class) if isinstance(item, TestCaseFunction) else None
        self._class: Any = None if self.node is None else self.node.obj

    def forget(self) -> None:
        """In the child: those of ``setUpClass`` are the runner's."""
        self._class._class_cleanups = []

    def run(self) -> None:
        """Those registered since. What they raise is raised as pytest would have it."""
        self._class.doClassCleanups()
        errors = [error for _, error, _ in self._class.tearDown_exceptions]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("Unittest class cleanup errors", errors)


# Hooks ---------------------------------------------------------------------------------------


def is_builtin(plugin: object) -> bool:
    """Whether pytest itself ships this plugin (a module or an instance of a class of one)."""
    module = getattr(plugin, "__name__", None) if _is_module(plugin) else type(plugin).__module__
    return isinstance(module, str) and module.startswith("_pytest.")


def _is_module(plugin: object) -> bool:
    return type(plugin).__name__ == "module"


class Silence:
    """In the child nobody but a few hears ``pytest_runtest_logreport`` any more.

    Subtests send their reports through that hook from inside the call phase. Public neighbour:
    ``PluginManager.unregister`` would take a conftest's other hooks away too.

    :param keep: which plugins go on listening.
    """

    def __init__(self, config: pytest.Config, keep: Callable[[object], bool]) -> None:
        self._caller: Any = config.hook.pytest_runtest_logreport
        self._kept = [found for found in self._caller.get_hookimpls() if keep(found.plugin)]

    def fall(self) -> None:
        """In the child, before the test's first line."""
        self._caller._hookimpls[:] = self._kept


def failed_subtests(item: pytest.Item) -> int:
    """How many subtests pytest has booked as failed; it does not book those of ``unittest``."""
    count = 0
    if failed_subtests_key is not None:
        key: Any = item.id if _STRUCTURED_IDS else item.nodeid
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
        key: Any = item.id if _STRUCTURED_IDS else item.nodeid
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


def show_item(item: pytest.Item) -> None:
    """The line of ``--setup-show`` that names the test (``runtestprotocol``)."""
    if pytest.version_tuple >= (9, 0):
        try:
            show_test_item(item, add_space=not item.config.getoption("setuponly", False))
            return
        except TypeError:  # before 9.1
            pass
    show_test_item(item)  # type: ignore[call-arg]


def tear_down_runner(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The tear-down phase in the runner, where the test's own part has run in the child.

    pytest's own hooks and those of plugins that steer ``SetupState`` itself; everybody else's have
    run in the child. pytest-rerunfailures holds the wider scopes back for the next attempt there.
    Where every wider node stays for the next item there is nothing that a hook could see.
    """
    manager = item.config.pluginmanager
    steered = any(manager.hasplugin(name) for name in _STEERING)
    stack = setup_stack(item)
    stays = nextitem is not None and list(stack)[:-1] == nextitem.listchain()[: len(stack) - 1]
    if stays and not steered and item in stack:
        del stack[item]
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        return
    others = [
        plugin
        for plugin in manager.get_plugins()
        if not is_builtin(plugin) and manager.get_name(plugin) not in _STEERING
    ]
    hook = manager.subset_hook_caller("pytest_runtest_teardown", others)
    hook(item=item, nextitem=nextitem)


#: Names under which plugins register whose tear-down hook works on the runner's SetupState, or
#: undoes there what their set-up hook has done (pytest-socket's guard).
_STEERING = frozenset({"rerunfailures", "pytest_rerunfailures", "socket", "pytest_socket"})


# Results -------------------------------------------------------------------------------------


def expected_failure(item: pytest.Item) -> tuple[str, bool] | None:
    """The xfail mark in force: (reason, whether it names ``raises``), None without one."""
    if item.config.option.runxfail:
        return None
    mark = item.stash.get(xfailed_key, None)
    return None if mark is None else (mark.reason, mark.raises is not None)


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
    nodeid: Any = item.id if _STRUCTURED_IDS else item.nodeid
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
    key = item.id if _STRUCTURED_IDS else item.nodeid
    reporter = None if xml is None else xml.node_reporters.get((key, None))
    return {} if reporter is None else reporter.attrs


def add_junit_attributes(item: pytest.Item, attributes: Mapping[str, str]) -> None:
    """Record them; without ``--junitxml`` nothing happens."""
    xml: Any = item.config.stash.get(xml_key, None)
    if xml is not None:
        xml.node_reporter(item.nodeid).attrs.update(attributes)


def fault_handler_descriptor(config: pytest.Config) -> int | None:
    """Where pytest's faulthandler plugin writes; None when it is off."""
    return config.stash.get(fault_handler_stderr_fd_key, None)


def fault_timeout(config: pytest.Config) -> float:
    """``faulthandler_timeout`` in seconds, 0 for none."""
    try:
        return float(config.getini("faulthandler_timeout") or 0)
    except (KeyError, ValueError):
        return 0.0


def exits_on_fault_timeout(config: pytest.Config) -> bool:
    """``faulthandler_exit_on_timeout`` (pytest 9.0)."""
    try:
        return bool(config.getini("faulthandler_exit_on_timeout"))
    except (KeyError, ValueError):
        return False


def create_base_temp(config: pytest.Config) -> None:
    """Create the base temporary directory now, so that every child shares it.

    Public neighbour: the ``tmp_path_factory`` fixture, which needs a request.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None:
        factory.getbasetemp()


def base_temp(config: pytest.Config) -> str | None:
    """Where it is, if it has been created."""
    factory = getattr(config, "_tmp_path_factory", None)
    return None if factory is None or factory._basetemp is None else str(factory._basetemp)


def files_in_use(config: pytest.Config) -> Iterator[str]:
    """Directories that pytest's own plugins write to: the cache's, the log file's."""
    cache = getattr(config, "cache", None)
    if cache is not None:
        yield str(cache._cachedir)
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler = getattr(plugin, "log_file_handler", None)
    if handler is not None:
        yield str(Path(handler.baseFilename).parent)


# Capture and logging --------------------------------------------------------------------------


def global_captures(config: pytest.Config) -> list[Any]:
    """The capture objects of standard output and error (``FDCapture``, ``SysCapture``), if any."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capturing = getattr(manager, "_global_capturing", None)
    if capturing is None:
        return []
    return [capture for capture in (capturing.out, capturing.err) if capture is not None]


def standard_input(config: pytest.Config) -> int:
    """The descriptor of standard input as it is without capture."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capture = getattr(getattr(manager, "_global_capturing", None), "in_", None)
    saved = getattr(capture, "targetfd_save", 0)
    return saved if isinstance(saved, int) else 0


def capture_disabled(config: pytest.Config) -> AbstractContextManager[None]:
    """``capsys.disabled()`` for whoever has no fixture at hand."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        return nullcontext()
    disabled: AbstractContextManager[None] = manager.global_and_fixture_disabled()
    return disabled


def report_log_handler(config: pytest.Config) -> logging.Handler | None:
    """The handler whose stream becomes the "Captured log" section."""
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler: logging.Handler | None = getattr(plugin, "report_handler", None)
    return handler


# What pytest notices beside the test -----------------------------------------------------------


def forget_noticed(config: pytest.Config) -> None:
    """In a copy: what was noticed before, and is still to be told, is told by the original."""
    for key in _NOTICED:
        noticed: Any = config.stash.get(key, None)
        if noticed is not None:
            noticed.clear()


def collect_noticed(config: pytest.Config) -> None:
    """Warn now of exceptions that nobody could raise: of threads, and of ``__del__``.

    Public neighbour: the hooks round each phase, of which there is none in a call by ``isolate``.
    """
    for key, collect in _NOTICED.items():
        if config.stash.get(key, None):
            collect(config)


_NOTICED: dict[pytest.StashKey[Any], Callable[[pytest.Config], None]] = {
    thread_exceptions: collect_thread_exception,
    unraisable_exceptions: collect_unraisable,
}


# The terminal ---------------------------------------------------------------------------------


class LiveLog(NamedTuple):
    """What the handler of live logs remembers; no public neighbour."""

    first_record: bool
    outcome_written: bool
    title_shown: bool
    when: str | None


class TerminalState(NamedTuple):
    """Where the terminal's reporter believes to stand; no public neighbour."""

    line: str
    on_a_line: bool
    log: LiveLog | None


def writes_live(config: pytest.Config) -> bool:
    """Whether tests write to the terminal while they run, or may stop there at a prompt."""
    option = config.option
    return bool(
        option.capture in ("no", "tee-sys")
        or option.setupshow
        or option.usepdb
        or option.trace
        or _live_log_handler(config) is not None
    )


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
    """Somebody else has written this to the reporter's line, or a new line."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter._tw._current_line = reporter._tw._current_line + text if added else text


def leave_line(config: pytest.Config) -> None:
    """Somebody else has ended the line on which the reporter had named a file or a test."""
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


def _live_log_handler(config: pytest.Config) -> Any:
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler: Any = getattr(plugin, "log_cli_handler", None)
    return handler if hasattr(handler, "_first_record_emitted") else None


def mark_as_shown(report: pytest.TestReport) -> None:
    """The debugger has shown this failure, so the summary does not repeat it (``PdbInvoke``)."""
    report._pdbshown = True  # type: ignore[attr-defined]
