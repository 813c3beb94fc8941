# SPDX-License-Identifier: MIT
"""One attempt at one item: what its child says, phase by phase.

The runner takes in frames as they come: warnings, reports of subtests and properties go where
pytest would have put them, and the report of a phase ends the wait for it. When no report comes,
the outcome of the child becomes one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import pytest

from pytest_nsisolate import (
    debuggers,
    interrupts,
    jobcontrol,
    live,
    outcome,
    output,
    remarks,
    replay,
    warning_frames,
)
from pytest_nsisolate import pytest_internals as internals
from pytest_nsisolate.clock import monotonic
from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.postmortem.inquest import PATIENCE
from pytest_nsisolate.remedies import Explanation, explain
from pytest_nsisolate.request import IsolationRequest, may_be_skipped
from pytest_nsisolate.run import Run
from pytest_nsisolate.supervise import Attempt
from pytest_nsisolate.tagged import text_of
from pytest_nsisolate.wire import Frame, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.coverage import Measurement
    from pytest_nsisolate.postmortem.inquest import Inquest

_FATAL: Final = "Fatal Python error"


class Ended(NamedTuple):
    """A phase as the runner knows it.

    :param error: what stands for the exception of a report that did not pass.
    :param made_here: no child could tell, and nobody has heard of the exception yet.
    """

    report: pytest.TestReport
    error: BaseException | None
    made_here: bool = False


class Isolation:
    """The runner's side of one attempt.

    :param item: the test.
    :param request: what it asked for.
    """

    def __init__(self, item: pytest.Item, request: IsolationRequest, run: Run) -> None:
        self.item = item
        self.request = request
        self.attempt: Attempt | None = None
        self.measurement: Measurement | None = None
        self.inquest: Inquest | None = None
        self.connection: debuggers.Connection | None = None
        #: Of the phase, with what is not the test's own doing.
        self.seconds_aside = 0.0
        self._measured = False
        self.over = False
        self._run = run
        self._setup_show = False
        self._captured: replay.Sections = list(internals.report_sections(item))
        self._phases: list[str] = []
        self._exit: dict[str, Any] | None = None
        self._done: dict[str, Any] | None = None
        self._last: pytest.TestReport | None = None
        self._owes_word = False
        #: The child is to be held open before it gets the word.
        self._holds = False
        #: The child waits for the report of its tear-down to be logged, to open a debugger then.
        self.unfinished = False
        self._faults_read = 0
        self._faults_said = 0
        self._call_is_void = False

    def await_phase(self, when: str) -> Ended:
        """The child's report of a phase, and what stands for its exception.

        A child that cannot report any more gets a report made for it, and is :attr:`over`.

        :raises pytest.exit.Exception: when the child asks for the end of the session.
        :raises KeyboardInterrupt: likewise, or on Ctrl-C here.
        """
        attempt = self.attempt
        assert attempt is not None
        self.seconds_aside = 0.0
        try:
            self._in_spite_of_ctrl_c(attempt, self._give_word)
            found = self._receive(attempt, when)
            if when == "teardown" or found is None:
                self._complete(attempt)
        except BrokenStream as error:
            attempt.lose(f"its stream is broken: {error}")
            found = None
        except KeyboardInterrupt as error:
            self.over = True
            try:
                self._end_by_interrupt(attempt, error)
            finally:
                self.take_coverage()
        if self._exit is not None:
            self.over = True
            _end_session(self._exit)
        if found is None or (when == "teardown" and isinstance(attempt.outcome, _LOST)):
            assert attempt.outcome is not None
            self.over = True
            lost = self._replace(attempt.outcome, when, self._new_faults(attempt))
            if found is None or not (attempt.ending and found.report.failed):
                return lost
            replay.add_loss(found.report, lost.report)
            return found
        if found.report.passed and self._faults_said > self._faults_read:
            faults = self._new_faults(attempt, until=self._faults_said)
            if _FATAL in faults:
                # The child does not know, and runs the call phase; the runner's pytest will not.
                self._call_is_void = when == "setup"
                return self._replace(outcome.Finished(alone=False), when, faults)
        return found

    def refuse(self, refused: outcome.Refused, why: Explanation | None = None) -> pytest.TestReport:
        """The report of a test that this host does not let in: an error, or by policy a skip.

        :param why: the cause and the remedy, if they are known already.
        """
        self.over = True
        host = self._run.host
        why = why or explain(
            refused.step, refused.namespace, refused.errno, host, user=self.request.user
        )
        skip = may_be_skipped(self.request) and not refused.late
        return replay.refusal_report(self.item, refused, why, self._captured, skip=skip)

    def hush_setup_show(self) -> None:
        """``--setup-show``: the child has shown the item's line between its fixtures' lines."""
        option = self.item.config.option
        self._setup_show = getattr(option, "setupshow", False)
        option.setupshow = False

    def let_setup_show(self) -> None:
        """The wider fixtures' lines are the runner's again."""
        if self._setup_show:
            self.item.config.option.setupshow = self._setup_show

    # Frames -------------------------------------------------------------------------------------

    def _receive(self, attempt: Attempt, when: str) -> Ended | None:
        """Take frames in until the report of this phase comes; None when there is no more."""
        while (frame := attempt.next_frame()) is not None:
            if frame.kind is not Kind.REPORT or "sub" in frame.data:
                self._take(attempt, frame)
            elif self._call_is_void and len(self._phases) == 1 and _phase(frame.data) == "call":
                self._read_report(frame.data, "call")
            else:
                found = self._read_report(frame.data, when)
                self._add_view(attempt, frame.data, found.report)
                return found
        return None

    def _complete(self, attempt: Attempt) -> None:
        """Read on to the end, and hold the completion record against what has been reported."""
        while (frame := attempt.next_frame()) is not None:
            self._take(attempt, frame)
            if self._prompts_after_log(frame):
                self.unfinished = True
                return
        if self._done is not None and self._done.get("stashed") is True:
            self._run.remarks.add(remarks.STASH, self.item.nodeid)
        if self._done is not None and self._done.get("undebugged"):
            debuggers.give_up(text_of(self._done["undebugged"]))
            self._run.remarks.add(remarks.UNDEBUGGED, self.item.nodeid, debuggers.why())
        if self._done is not None and self._done.get("ended") is True:
            files = attempt.end.output
            words = output.read_text(files.stdout), output.read_text(files.stderr)
            self._run.last_words.append(words)
        said = self._phases if self._done is None else self._done.get("phases")
        if said != self._phases and self._exit is None:
            raise BrokenStream(f"its completion record names the phases {said!r}")

    def _prompts_after_log(self, frame: Frame) -> bool:
        """``--pdb`` shows what has failed in tear-down when pytest has reported it, not before."""
        return frame.kind is Kind.PAUSE and self._owes_word and not self.unfinished

    def finish(self) -> None:
        """The report of a failed tear-down has been logged: now the debugger, and the end.

        :raises pytest.exit.Exception: when it is left by "quit".
        """
        attempt = self.attempt
        assert attempt is not None
        try:
            self._hold_open(attempt)
            self._give_word()
            self._complete(attempt)
        except BrokenStream as error:
            attempt.lose(f"its stream is broken: {error}")  # failed already
        except KeyboardInterrupt as error:
            self._end_by_interrupt(attempt, error)
        if self._exit is not None:
            _end_session(self._exit)

    def _take(self, attempt: Attempt, frame: Frame) -> None:
        match frame.kind:
            case Kind.WARNING:
                self._replay_warning(frame.data)
            case Kind.OUTPUT:
                self._add_captured(replay.read_texts(frame.data.get("fresh")))
            case Kind.REPORT:
                self._log_subtest(attempt, frame.data)
                self._give_word()
            case Kind.PAUSE if self._run.settings.pause and frame.data.get("held") is True:
                self._take_hold(attempt, frame)
            case Kind.TURN | Kind.PAUSE | Kind.RESUME:
                self._in_spite_of_ctrl_c(attempt, lambda: self._take_turn(frame))
            case Kind.EXIT:
                self._exit = frame.data
            case Kind.DONE:
                self._done = frame.data
            case Kind.COVERAGE if self.measurement is not None:
                self.measurement.merge(frame.data)
                self._measured |= frame.data.get("final") is True
            case Kind.VIEW if self.inquest is not None:
                self.inquest.take_mounts(frame.data)
            case Kind.CARRIED:
                self._hand_over(frame.data.get("data"))
            case Kind.BROKEN:
                attempt.lose(str(frame.data.get("text")))
            case _:
                raise BrokenStream(f"an unexpected frame ({frame.kind.name})")

    def take_coverage(self) -> None:
        """After a Ctrl-C: of what an ended child has sent, this still counts."""
        if self.measurement is None or self.attempt is None:
            return
        while (frame := self.attempt.next_frame()) is not None:
            if frame.kind is Kind.COVERAGE:
                with contextlib.suppress(BrokenStream):
                    self.measurement.merge(frame.data)

    def _take_turn(self, frame: Frame) -> None:
        """The child has written to the terminal, and waits, or has somebody at a prompt."""
        live.adopt(self.item.config, frame.data)
        self._owes_word = frame.kind is not Kind.RESUME
        shown = self._last if frame.data.get("shown") is True else None
        if shown is not None:
            internals.mark_as_shown(shown)
        later = shown is not None and shown.when == "teardown" and not self.unfinished
        if frame.kind is Kind.PAUSE and not later:
            jobcontrol.await_foreground(internals.standard_input(self.item.config))
            self._give_word()

    def _take_hold(self, attempt: Attempt, frame: Frame) -> None:
        """``--nsisolate-pause``: what has failed is shown first, that of tear-down when logged."""
        live.adopt(self.item.config, frame.data)
        self._owes_word = self._holds = True
        if "teardown" not in self._phases or self.unfinished:
            self._hold_open(attempt)

    def _hold_open(self, attempt: Attempt) -> None:
        if self._holds:
            from pytest_nsisolate import pause  # nobody else needs it

            self._holds = False
            say = functools.partial(internals.write_line, self.item.config)
            failure = f"{self._phases[-1]}: {outcome.headline(self._last and self._last.longrepr)}"
            pause.hold(attempt, self.item.nodeid, failure, say, init=self.request.init)
            self._give_word()

    def _in_spite_of_ctrl_c(self, attempt: Attempt, action: Callable[[], None]) -> None:
        """A Ctrl-C that comes just now is for the debugger in the child, if there is one."""
        while True:
            try:
                return action()
            except KeyboardInterrupt:
                if not attempt.pass_on():
                    raise

    def _give_word(self) -> None:
        """Everything that the runner has to write is written: the child may go on."""
        if self._owes_word:
            self._owes_word = False
            output.flush_to_terminal(self.item.config)
            self._run.turns.give()

    def _read_report(self, frame: dict[str, Any], when: str) -> Ended:
        before = len(self._captured)
        report = replay.read_report(self.item, frame, self._captured, when=when)
        internals.report_sections(self.item).extend(self._captured[before:])
        self._phases.append(when)
        said = frame.get("faults")
        self._faults_said = said if isinstance(said, int) else 0
        self.item.user_properties[:] = report.user_properties
        self._adopt_session_state(frame)
        error = replay.stand_in(frame, report) if "error" in frame else None
        if report.failed and self.attempt is not None and self.attempt.limits is not None:
            replay.add_limits(report, self.attempt.limits.met_by_failure(replay.errnos(frame)))
        self._last = report
        return Ended(report, error)

    def _add_captured(self, texts: replay.Sections) -> None:
        self._captured.extend(texts)
        internals.report_sections(self.item).extend(texts)

    def _add_view(self, attempt: Attempt, frame: dict[str, Any], report: pytest.TestReport) -> None:
        """A failed test: what it saw of its world, which comes behind its report."""
        if self.inquest is None or frame.get("view") is not True or not report.failed:
            return
        from pytest_nsisolate.postmortem import listeners, section  # only a failure needs them

        began = monotonic()
        found = self._await_view(attempt)
        self.seconds_aside += monotonic() - began
        own_net = "net" in self.request.namespaces
        hint = listeners.hint(self.item, found.get("tried")) if own_net else ""
        section.attach(report, found.get("text"), hint)

    def _await_view(self, attempt: Attempt) -> dict[str, Any]:
        while attempt.wait_aside(PATIENCE):
            frame = attempt.next_frame()
            if frame is None:
                return {"text": "the view could not be read: the test's process has ended"}
            if frame.kind is Kind.VIEW:
                return frame.data
            self._take(attempt, frame)
        return {"text": f"the view could not be read within {PATIENCE:g} s"}

    def _hand_over(self, data: object) -> None:
        if not isinstance(data, dict):
            raise BrokenStream("it carried something of the wrong shape")
        try:
            self.item.ihook.pytest_nsisolate_receive(item=self.item, data=data)
        except Exception as error:  # of another plugin, or because of what the child made up
            raise BrokenStream(f"what it carried could not be taken in ({error!r})") from error

    def _replay_warning(self, data: dict[str, Any]) -> None:
        if hasattr(self.item.config, "workerinput"):
            from pytest_nsisolate.adapters import xdist  # only a worker needs it

            data = xdist.taken(data)
        try:
            warning_frames.replay(data)
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenStream(f"a warning of the wrong shape ({error!r})") from error

    def _log_subtest(self, attempt: Attempt, frame: dict[str, Any]) -> None:
        report = replay.read_report(self.item, frame, self._captured, when=None)
        failed = frame.get("failed")
        if not isinstance(failed, int):
            raise BrokenStream("a subtest without a count")
        internals.set_failed_subtests(self.item, failed)
        self._add_view(attempt, frame, report)
        with internals.silent_terminal(self.item):
            self.item.ihook.pytest_runtest_logreport(report=report)

    def _adopt_session_state(self, frame: dict[str, Any]) -> None:
        session = self.item.session
        for name in ("shouldstop", "shouldfail"):
            value = frame.get(name)
            if value:
                setattr(session, name, value if value is True else text_of(value))
        mine = internals.testsuite_properties(self.item.config)
        for entry in frame.get("properties") or ():
            if mine is not None and isinstance(entry, tuple) and len(entry) == 2:
                mine.append((str(entry[0]), str(entry[1])))
        attributes = frame.get("attributes")
        if isinstance(attributes, dict):
            internals.add_junit_attributes(
                self.item, {str(name): str(value) for name, value in attributes.items()}
            )

    # The end ------------------------------------------------------------------------------------

    def _end_by_interrupt(self, attempt: Attempt, error: KeyboardInterrupt) -> NoReturn:
        """Ctrl-C here: shown as where it has hit the child, if that could still tell."""
        attempt.interrupt()  # it may have come while nobody waited for the child
        if (wish := attempt.last_wish()) is not None:
            _end_session(wish)
        if attempt.debugged:
            # With --pdb pytest would take a KeyboardInterrupt for a failure of this test.
            raise pytest.exit.Exception("KeyboardInterrupt", pytest.ExitCode.INTERRUPTED) from None
        raise error

    def _new_faults(self, attempt: Attempt, until: int | None = None) -> str:
        """What the fault handler has written since the last phase.

        :param until: how long its file was when the phase ended; the child is in the next by now.
        """
        text = output.read_text(attempt.end.output.fault)[self._faults_read : until]
        self._faults_read += len(text)
        return text.strip()

    def _replace(self, ended: outcome.Outcome, when: str, faults: str) -> Ended:
        """A report for a phase whose own is missing or does not count."""
        assert self.attempt is not None
        if isinstance(ended, outcome.Refused):
            report = self.refuse(ended)
        else:
            lost = self.attempt.captured
            if lost is None:
                lost = output.lost_text(self.attempt.end.output)
            self._add_captured([(when, kind, text) for kind, text in lost])
            report = replay.crash_report(
                self.item,
                ended,
                when,
                self._captured,
                faults=faults,
                init=self.request.init,
                ending=self.attempt.ending,
                met=self.attempt.limits_met(),
            )
            if self.measurement is not None and isinstance(ended, _LOST):
                self._close_measurement(self.measurement, report)
        return Ended(report, replay.crash_of(report), made_here=True)

    def _close_measurement(self, measurement: Measurement, report: pytest.TestReport) -> None:
        measurement.forget_context()
        if not self._measured:
            done = f"after its {self._phases[-1]} phase" if self._phases else "in its child"
            text = f"What this attempt ran {done} is missing: it ended without handing it over."
            report.sections.append(("Coverage", text))


_LOST = (outcome.Crashed, outcome.Exited, outcome.TimedOut, outcome.Refused, outcome.Broken)


def _phase(frame: dict[str, Any]) -> object:
    report = frame.get("report")
    return report.get("when") if isinstance(report, dict) else None


def _end_session(wish: dict[str, Any]) -> None:
    """``pytest.exit()`` or a KeyboardInterrupt in the child ends the session here."""
    if wish.get("kind") == "interrupt":
        interrupts.raise_at(KeyboardInterrupt(), wish.get("place"))
    status = wish.get("status")
    raise pytest.exit.Exception(
        str(wish.get("reason")), status if isinstance(status, int) else None
    )
