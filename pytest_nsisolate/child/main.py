# SPDX-License-Identifier: MIT
"""The child's side: what is left of the item's phases, and then the exit.

Fact: the clone happens in the middle of the set-up phase, below pytest's own frames, and a copy of
pytest that returns through all of them goes on with the next test: two sessions, two reports.

Consequence: the child goes back up through the set-up hooks, because their second halves belong to
the phase, but only as far as our ``pytest_runtest_makereport``, the outermost. There
:meth:`Child.end_phase` takes over, runs call and teardown itself and ends the process by
``posix._exit`` in a ``finally``. (``os._exit`` may be somebody's patch: coverage's saves data, and
so does a test's own mock.) ``atexit``, ``multiprocessing``'s finalizers and the reporters never
run. Whatever slips past that meets :meth:`Child.barrier` round the protocol and round the loop.

A process that the test forks may return from the test body too: it is told apart by a flag that an
at-fork hook sets, never by its pid (the runner and the child may both be PID 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_nsisolate.child import after_fork, fixtures, inherited, leftovers, output
from pytest_nsisolate.child.terminal import ChildTerminal, Turns
from pytest_nsisolate.errors import NsisolateLeftoversWarning
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import faulthandler, os, posix, random, traceback
from pytest_nsisolate.process import diagnosis
from pytest_nsisolate.process.channel import Output
from pytest_nsisolate.request import limits
from pytest_nsisolate.runner import notes
from pytest_nsisolate.wire import interrupts, reports, type_names, warnings
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.view.postmortem.at_failure import PostMortem

#: The reports of phases about which there is nothing else to say (see ``PlainPass``).
_PASSED: Final = {
    when: b'{"passed": "%s"}' % when.encode() for when in ("setup", "call", "teardown")
}

#: The completion record of nearly every test.
_EVERY_PHASE: Final = ["setup", "call", "teardown"]
_DONE: Final = b'{"phases": ["setup", "call", "teardown"], "alone": true}'

#: Exit status of a child that could not begin; the reason went over the pipe.
EXIT_REFUSED: Final = 97

#: Exit status of a copy of the child that came back from the test body.
EXIT_STRAY: Final = 98


class Child:
    """The one isolated test that a process exists for.

    Made in the runner, just before the clone, where getting things ready costs no page; it
    changes nothing there. The child calls :meth:`settle_in` first.

    :param item: the test.
    :param nextitem: what pytest runs after it.
    :param files: where output goes.
    :param inside: higher-scope fixtures that are set up in the child.
    :param own_pid: whether "am I alone?" has an answer there.
    :param lookout: sees what the test has left running.
    :param turns: who may write to the terminal.
    :param measurement: of coverage, if it is under way.
    """

    def __init__(
        self,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        files: Output,
        *,
        inside: frozenset[str],
        own_pid: bool,
        leftover_check: leftovers.LeftoverCheck,
        turns: Turns,
        measurement: Measurement | None = None,
    ) -> None:
        config, session = item.config, item.session
        self._item = item
        self._nextitem = nextitem
        self._own_pid = own_pid
        self._leftover_check = leftover_check
        #: Whether a failure may come of the test's limits.
        self.limited = False
        self._left = ""
        self._measurement = measurement
        #: What is asked if the test fails.
        self.post_mortem: PostMortem | None = None
        self._subtest_error: BaseException | None = None
        self._fault = files.fault
        self._redirection = output.Redirection(files, config)
        self._own_finalizers = fixtures.OwnFinalizers(item, inside)
        self._plain = internals.PlainPass(item)
        self._watchdog = _watchdog(config)
        self._silence = internals.Silence(config, self._is_kept)
        self._records_warnings = config.pluginmanager.hasplugin("warnings")
        self._carries = bool(item.ihook.pytest_nsisolate_carry.get_hookimpls())
        after_fork.wake_openssl()
        # A fork reseeds :mod:`random`; who seeded it wants the same numbers here as anywhere.
        self._randomness = random.getstate()
        self.terminal = ChildTerminal(config, turns)
        self._writer: FrameWriter | None = None
        self._stray = False
        #: Whether a phase's hooks are at work; reports that are made then are those of subtests.
        self.in_phase = True
        self._phases: list[str] = []
        self._properties = len(internals.testsuite_properties(config) or ())
        self._attributes = dict(internals.junit_attributes(item))
        self._sections = len(internals.report_sections(item))
        self._stashed = notes.stashed(item)
        self._stop = (session.shouldstop, session.shouldfail)
        self._pauses = bool(config.getoption("--nsisolate-pause"))
        #: A failure that nobody has looked at in a pause.
        self._failed = False
        self._has_failed = False

    # Before the first fixture ---------------------------------------------------------------------

    def settle_in(self, writer: FrameWriter) -> None:
        """Make this copy of pytest the child's own: output, faults, warnings, finalizers.

        What the kernel refuses is a refusal of the test, and the end of this process.
        """
        self._writer = writer
        step = "redirect output"
        try:
            self._redirection.apply()
            step = "install the fault handler"
            faulthandler.enable(file=self._fault)
            faulthandler.register(diagnosis.stack_signal(), file=self._fault, all_threads=True)
        except OSError as error:
            frame: dict[str, object] = {"step": step, "errno": error.errno}
            self._send(Kind.REFUSED, frame)
            posix._exit(EXIT_REFUSED)
        self.terminal.enter(self._send)
        if self._watchdog is not None:
            # A thread, which no fork takes along.
            timeout, descriptor, leave = self._watchdog
            faulthandler.dump_traceback_later(timeout, file=descriptor, exit=leave)
        os.register_at_fork(after_in_child=self._after_fork, after_in_parent=self._note_fork)
        after_fork.end_twinship()
        after_fork.renew_thread_id()
        inherited.stay_visible()
        random.setstate(self._randomness)
        self._silence.fall()
        if self._measurement is not None:
            self._measurement.settle_in(lambda data: self._send(Kind.COVERAGE, data))
        self.begin()

    def begin(self) -> None:
        """From here on everything that the item does is done, and told, by this process."""
        assert self._writer is not None
        if self._records_warnings:
            warnings.divert(lambda data: self._send(Kind.WARNING, data))
        self._own_finalizers.apply()
        if self.post_mortem is not None and self.post_mortem.asks_for_mounts:
            self.post_mortem.begin(lambda data: self._send(Kind.VIEW, data))
        self._writer.send_encoded(Kind.READY, b"{}")

    def _send(self, kind: Kind, data: dict[str, object]) -> None:
        assert self._writer is not None, "only the child sends"
        if not self._stray:  # a copy that warns, say: it has nobody to tell
            self._writer.send(kind, data)

    def hear_report(self, report: pytest.TestReport) -> None:
        """``pytest_runtest_logreport`` in the child: only subtests log their reports here."""
        self.leave_if_stray()
        self.terminal.say_done()
        failed = internals.failed_subtests(self._item)
        frame = {**self._serialize(report), "sub": True, "failed": failed}
        error, self._subtest_error = self._subtest_error, None
        self._send_with_view(frame, report, error, subtest=True)
        self.terminal.wait()

    def _is_kept(self, plugin: object) -> bool:
        """Who hears of subtests in the child: the session (``-x``), live logs, and us."""
        kind = type(plugin)
        return (
            isinstance(plugin, pytest.Session)
            or kind.__name__ in {"LoggingPlugin", "OutermostHooks"}
            or internals.shows_subtests(self._item, plugin)
        )

    # The phases -----------------------------------------------------------------------------------

    def _run_rest(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> NoReturn:
        """From the end of set-up to the end of this process (``_pytest.runner.runtestprotocol``).

        :param call: of the set-up phase, which has just ended here.
        :param report: its report.
        """
        try:
            item, option = self._item, self._item.config.option
            self._tell(call, report)
            if internals.check_interactive_exception(call, report):
                item.ihook.pytest_exception_interact(node=item, call=call, report=report)
            if report.passed:
                if getattr(option, "setupshow", False):
                    internals.show_item(item)
                if not getattr(option, "setuponly", False):
                    internals.call_and_report(item, "call", log=False)
            self._hold_if_failed()
            internals.call_and_report(item, "teardown", log=False, nextitem=self._nextitem)
            self._hold_if_failed()
            self._finish()
        except BaseException as error:
            self._give_up(error)
        finally:
            self._exit(0)

    def barrier(self, error: BaseException | None) -> NoReturn:
        """Nothing above this frame is the child's business.

        :param error: what came up from below, if anything did: ``pytest.exit`` during set-up, a
            Ctrl-C, or an error in another plugin's hook.
        """
        try:
            self.leave_if_stray()
            self._give_up(error or RuntimeError("the child came back from the test's protocol"))
        finally:
            self._exit(0)

    def end_phase(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """A phase has its report. After set-up this does not return."""
        if call.when == "setup":
            self._run_rest(call, report)
        self._tell(call, report)

    def look_round(self, error: BaseException | None) -> None:
        """The last hook of the tear-down has ended: what is alive now is left over.

        A test that has failed is not told off again: often it was the failure that kept it from
        ending what it had started. The report gets a section then.

        :param error: of the phase, which keeps it.
        """
        if self._stray or isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
            return
        if left := self._leftover_check.look():
            if self._has_failed:
                self._left = left
                return
            try:
                self._leftover_check.judge(left)
            except (pytest.fail.Exception, NsisolateLeftoversWarning):
                if error is None or isinstance(error, pytest.skip.Exception):
                    raise
                self._left = left

    def _tell(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        if self._left:
            report.sections.append((leftovers.SECTION, self._left))
        output.flush_streams()
        self._phases.append(call.when)
        self._failed |= report.failed
        self._has_failed |= report.failed
        if self._measurement is not None:
            self._measurement.hand_over()
        self.terminal.say_done()
        self._send_report(call, report)
        if call.when != "teardown":
            self.terminal.wait()

    def _hold_if_failed(self) -> None:
        """After the debugger, if there is one, and before anything is torn down."""
        if self._failed and self._pauses:
            self._failed = False
            faulthandler.cancel_dump_traceback_later()
            self.terminal.hold()

    def _send_report(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        if call.excinfo is None and self._says_nothing(report):
            assert self._writer is not None
            self._writer.send_encoded(Kind.REPORT, _PASSED[call.when])
            return
        # Every report repeats what the earlier phases captured; the wire does not.
        frame = self._serialize(report)
        captured = internals.report_sections(self._item)
        fresh = captured[self._sections :]
        self._sections = len(captured)
        known = {
            (f"Captured {kind} {phase}", text): at
            for at, (phase, kind, text) in enumerate(captured)
        }
        sections = [known.get((title, text), (title, text)) for title, text in report.sections]
        frame["report"]["sections"] = []
        frame |= {"fresh": fresh, "sections": sections, "faults": os.fstat(self._fault).st_size}
        if call.excinfo is not None:
            frame["error"] = _describe_error(call.excinfo.value)
            if self.limited:
                frame["error"]["errnos"] = limits.errnos(call.excinfo.value)
        self._add_session_state(frame)
        error = None if call.excinfo is None else call.excinfo.value
        self._send_with_view(frame, report, error)

    def note_subtest(self, call: pytest.CallInfo[None]) -> None:
        """A subtest is about to log its report, which does not have the exception itself."""
        self._subtest_error = None if call.excinfo is None else call.excinfo.value

    def _send_with_view(
        self,
        frame: dict[str, object],
        report: pytest.TestReport,
        error: BaseException | None,
        *,
        subtest: bool = False,
    ) -> None:
        """The report first: it stands, whatever becomes of the view."""
        asks = self.post_mortem if report.failed and not self._stray else None
        if asks is not None:
            frame["view"] = True
        self._send(Kind.REPORT, frame)
        if asks is not None:
            self._send(Kind.VIEW, asks.examine(error, subtest=subtest))

    def _says_nothing(self, report: pytest.TestReport) -> bool:
        """Whether "passed" is all that there is to say, as it is of most phases."""
        session = self._item.session
        return (
            self._plain.fits(report)
            and not os.fstat(self._fault).st_size
            and (session.shouldstop, session.shouldfail) == self._stop
            and len(internals.testsuite_properties(self._item.config) or ()) == self._properties
            and not self._new_junit_attributes()
        )

    def _serialize(self, report: pytest.TestReport) -> dict[str, Any]:
        config = self._item.config
        try:
            data = config.hook.pytest_report_to_serializable(config=config, report=report)
        except Exception:  # an attribute that a hook has added raises when it is looked at
            report = reports.harmless(report)
            data = config.hook.pytest_report_to_serializable(config=config, report=report)
        return reports.pack(report, data, config)

    def _add_session_state(self, frame: dict[str, object]) -> None:
        session = self._item.session
        if (session.shouldstop, session.shouldfail) != self._stop:
            frame["shouldstop"], frame["shouldfail"] = session.shouldstop, session.shouldfail
        properties = internals.testsuite_properties(self._item.config)
        if properties is not None and len(properties) > self._properties:
            frame["properties"] = properties[self._properties :]
            self._properties = len(properties)
        if attributes := self._new_junit_attributes():
            frame["attributes"] = attributes
            self._attributes |= attributes

    def _new_junit_attributes(self) -> dict[str, str]:
        attributes = internals.junit_attributes(self._item)
        return {k: v for k, v in attributes.items() if self._attributes.get(k) != v}

    # The end --------------------------------------------------------------------------------------

    def _carry(self) -> None:
        """What other plugins want to keep of this process's memory."""
        carried: dict[str, object] = {}
        for part in self._item.ihook.pytest_nsisolate_carry(item=self._item):
            carried.update(part)
        if carried:
            self._send(Kind.CARRIED, {"data": carried})

    def _finish(self) -> None:
        if self._carries:
            self._carry()
        after_fork.finish_multiprocessing()
        if self._measurement is not None:
            self._measurement.hand_over()
        alone = self._own_pid and process.alone()
        stashed = notes.stashed(self._item) != self._stashed
        if alone and not stashed and self._phases == _EVERY_PHASE and self._writer is not None:
            self._writer.send_encoded(Kind.DONE, _DONE)
        else:
            self._send(Kind.DONE, {"phases": self._phases, "alone": alone, "stashed": stashed})

    def _give_up(self, error: BaseException) -> None:
        """An exception ends the session, or a hook of another plugin is broken: tell the runner."""
        frame: dict[str, object]
        kind = type(error)  # asked instead of the exception, which may raise at being looked at
        if issubclass(kind, pytest.exit.Exception):
            asked: Any = error
            frame = {"kind": "exit", "reason": asked.msg, "status": asked.returncode}
        elif issubclass(kind, KeyboardInterrupt):
            frame = {"kind": "interrupt", "place": interrupts.place(error)}
        else:
            self._send(Kind.BROKEN, {"text": _explain(error)})
            return
        try:
            internals.tear_everything_down(self._item.session)
        except BaseException as failure:
            traceback.print_exception(failure)
        output.flush_streams()
        self._send(Kind.EXIT, frame)
        self._finish()

    def _exit(self, status: int) -> NoReturn:
        try:
            output.flush_streams()
        finally:
            posix._exit(status)

    # Copies ---------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In a process that the test has forked: it has nothing to tell the runner."""
        self._stray = True
        self.terminal.leave()
        if self._measurement is not None:
            self._measurement.leave()
        if self._writer is not None:
            after_fork.cover(self._writer.abandon())

    def _note_fork(self) -> None:
        if self.post_mortem is not None:
            self.post_mortem.forked = True

    def leave_if_stray(self) -> None:
        """End a copy of this process that the test has forked, and that has come back from it."""
        if self._stray:
            text = f"pytest-nsisolate: a process forked by {self._item.nodeid} returned from it\n"
            os.write(2, text.encode())
            posix._exit(EXIT_STRAY)


def _explain(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # of an exception that raises when it is looked at
        return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def _describe_error(error: BaseException) -> dict[str, object]:
    """Enough for plugins that look at an exception's type and text in the runner."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # the report must get out all the same
        text = f"<str() raised {type(broken).__name__}>"
    return {"lineage": type_names.lineage(type(error)), "text": text}


def _watchdog(config: pytest.Config) -> tuple[float, int, bool] | None:
    """``faulthandler_timeout``: seconds, where to write, and whether to leave then."""
    descriptor = internals.fault_handler_descriptor(config)
    timeout = internals.fault_timeout(config)
    if timeout <= 0 or descriptor is None:
        return None
    return timeout, descriptor, internals.exits_on_fault_timeout(config)
