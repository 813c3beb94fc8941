# SPDX-License-Identifier: MIT
"""One attempt at one item: what its child says, phase by phase.

The runner takes in frames as they come: warnings, reports of subtests and properties go where
pytest would have put them, and the report of a phase ends the wait for it. When no report comes,
the outcome of the child becomes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_nsisolate.child import output, terminal
from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.process import job_control, outcome
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner import notes, reports
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.view.postmortem.at_failure import PATIENCE
from pytest_nsisolate.wire import interrupts, warnings
from pytest_nsisolate.wire.frames import Frame, Kind
from pytest_nsisolate.wire.tagged_json import text_of

if TYPE_CHECKING:
    from pytest_nsisolate.child.terminal import Turns
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.view.postmortem.at_failure import PostMortem

_FATAL: Final = "Fatal Python error"


class Attempt:
    """The runner's side of one attempt.

    :param item: the test.
    :param request: what it asked for.
    """

    def __init__(self, item: pytest.Item, request: IsolationRequest, run: Run) -> None:
        self.item = item
        self.request = request
        self.child: ChildProcess | None = None
        self.measurement: Measurement | None = None
        self.post_mortem: PostMortem | None = None
        #: Of the phase, with what is not the test's own doing.
        self.seconds_aside = 0.0
        #: When the phase began and ended and how long it took in the child, if the child says so:
        #: launched ahead, it may have been over before the runner asked.
        self.times: tuple[float, float, float] | None = None
        #: What gives this child the word; None: what all share.
        self.turns: Turns | None = None
        self._measured = False
        self.over = False
        self._run = run
        self._setup_show = False
        self._captured: reports.Sections = list(internals.report_sections(item))
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

    def await_phase(self, when: str) -> tuple[pytest.TestReport, BaseException | None]:
        """The child's report of a phase, and what stands for its exception.

        A child that cannot report any more gets a report made for it, and is :attr:`over`.

        :raises pytest.exit.Exception: when the child asks for the end of the session.
        :raises KeyboardInterrupt: likewise, or on Ctrl-C here.
        """
        child = self.child
        assert child is not None
        self.seconds_aside = 0.0
        self.times = None
        try:
            self._in_spite_of_ctrl_c(child, self._give_word)
            found = self._receive(child, when)
            if when == "teardown" or found is None:
                self._complete(child)
        except BrokenStream as error:
            child.lose(f"its stream is broken: {error}")
            found = None
        except KeyboardInterrupt as error:
            self.over = True
            try:
                self._end_by_interrupt(child, error)
            finally:
                self.take_coverage()
        if self._exit is not None:
            self.over = True
            _end_session(self._exit)
        if found is None or (when == "teardown" and isinstance(child.outcome, _LOST)):
            assert child.outcome is not None
            self.over = True
            return self._replace(child.outcome, when, self._new_faults(child))
        if found[0].passed and self._faults_said > self._faults_read:
            faults = self._new_faults(child, until=self._faults_said)
            if _FATAL in faults:
                # The child does not know, and runs the call phase; the runner's pytest will not.
                self._call_is_void = when == "setup"
                return self._replace(outcome.Finished(alone=False), when, faults)
        return found

    def refuse(self, refusal: Refusal) -> pytest.TestReport:
        """The report of a test that this host does not let in: an error, or by policy a skip."""
        self.over = True
        refusal = self._run.launcher.explained(refusal, self.request.user)
        skip = self.request.may_be_skipped and not refusal.late
        return reports.refusal_report(self.item, refusal, self._captured, skip=skip)

    @contextmanager
    def more_time(self) -> Iterator[None]:
        """What runs in the runner meanwhile belongs to the phase as well."""
        began = monotonic()
        try:
            yield
        finally:
            if self.times is not None:
                start, stop, seconds = self.times
                self.times = start, stop, seconds + monotonic() - began

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

    def _receive(
        self, child: ChildProcess, when: str
    ) -> tuple[pytest.TestReport, BaseException | None] | None:
        """Take frames in until the report of this phase comes; None when there is no more."""
        while (frame := child.next_frame()) is not None:
            if frame.kind is not Kind.REPORT or "sub" in frame.data:
                self._take(child, frame)
            elif self._call_is_void and len(self._phases) == 1 and _phase(frame.data) == "call":
                self._read_report(frame.data, "call")
            else:
                found = self._read_report(frame.data, when)
                self._add_view(child, frame.data, found[0])
                return found
        return None

    def _complete(self, child: ChildProcess) -> None:
        """Read on to the end, and hold the completion record against what has been reported."""
        while (frame := child.next_frame()) is not None:
            self._take(child, frame)
            if self._prompts_after_log(frame):
                self.unfinished = True
                return
        if self._done is not None and self._done.get("stashed") is True:
            self._run.notes.add(notes.STASH, self.item.nodeid)
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
        child = self.child
        assert child is not None
        try:
            self._hold_open(child)
            self._give_word()
            self._complete(child)
        except BrokenStream as error:
            child.lose(f"its stream is broken: {error}")  # failed already
        except KeyboardInterrupt as error:
            self._end_by_interrupt(child, error)
        if self._exit is not None:
            _end_session(self._exit)

    def _take(self, child: ChildProcess, frame: Frame) -> None:
        match frame.kind:
            case Kind.WARNING:
                self._replay_warning(frame.data)
            case Kind.REPORT:
                self._log_subtest(child, frame.data)
                self._give_word()
            case Kind.PAUSE if self._run.settings.pause and frame.data.get("held") is True:
                self._take_hold(child, frame)
            case Kind.TURN | Kind.PAUSE | Kind.RESUME:
                self._in_spite_of_ctrl_c(child, lambda: self._take_turn(frame))
            case Kind.EXIT:
                self._exit = frame.data
            case Kind.DONE:
                self._done = frame.data
            case Kind.COVERAGE if self.measurement is not None:
                self.measurement.merge(frame.data)
                self._measured |= frame.data.get("final") is True
            case Kind.VIEW if self.post_mortem is not None:
                self.post_mortem.take_mounts(frame.data)
            case Kind.TIMES:
                self.times = reports.read_times(frame.data)
            case Kind.CARRIED:
                self._hand_over(frame.data.get("data"))
            case Kind.BROKEN:
                child.lose(str(frame.data.get("text")))
            case _:
                raise BrokenStream(f"an unexpected frame ({frame.kind.name})")

    def take_coverage(self) -> None:
        """After a Ctrl-C: of what an ended child has sent, this still counts."""
        if self.measurement is None or self.child is None:
            return
        while (frame := self.child.next_frame()) is not None:
            if frame.kind is Kind.COVERAGE:
                with suppress(BrokenStream):
                    self.measurement.merge(frame.data)

    def _take_turn(self, frame: Frame) -> None:
        """The child has written to the terminal, and waits, or has somebody at a prompt."""
        terminal.adopt(self.item.config, frame.data)
        self._owes_word = frame.kind is not Kind.RESUME
        shown = self._last if frame.data.get("shown") is True else None
        if shown is not None:
            internals.mark_as_shown(shown)
        later = shown is not None and shown.when == "teardown" and not self.unfinished
        if frame.kind is Kind.PAUSE and not later:
            job_control.await_foreground(internals.standard_input(self.item.config))
            self._give_word()

    def _take_hold(self, child: ChildProcess, frame: Frame) -> None:
        """``--nsisolate-pause``: what has failed is shown first, that of tear-down when logged."""
        terminal.adopt(self.item.config, frame.data)
        self._owes_word = self._holds = True
        if "teardown" not in self._phases or self.unfinished:
            self._hold_open(child)

    def _hold_open(self, child: ChildProcess) -> None:
        if self._holds:
            from pytest_nsisolate.runner import hold  # nobody else needs it

            self._holds = False
            say = partial(internals.write_line, self.item.config)
            failure = f"{self._phases[-1]}: {outcome.headline(self._last and self._last.longrepr)}"
            hold.hold(child, self.item.nodeid, failure, say, init=self.request.init)
            self._give_word()

    def _in_spite_of_ctrl_c(self, child: ChildProcess, action: Callable[[], None]) -> None:
        """A Ctrl-C that comes just now is for the debugger in the child, if there is one."""
        while True:
            try:
                return action()
            except KeyboardInterrupt:
                if not child.pass_on():
                    raise

    def _give_word(self) -> None:
        """Everything that the runner has to write is written: the child may go on."""
        if self._owes_word:
            self._owes_word = False
            output.flush_to_terminal(self.item.config)
            (self.turns or self._run.turns).give()

    def _read_report(
        self, frame: dict[str, Any], when: str
    ) -> tuple[pytest.TestReport, BaseException | None]:
        before = len(self._captured)
        report = reports.read_report(self.item, frame, self._captured, when=when)
        internals.report_sections(self.item).extend(self._captured[before:])
        self._phases.append(when)
        said = frame.get("faults")
        self._faults_said = said if isinstance(said, int) else 0
        self.item.user_properties[:] = report.user_properties
        self._adopt_session_state(frame)
        error = reports.stand_in(frame, report) if "error" in frame else None
        if report.failed and self.child is not None and self.child.limits is not None:
            reports.add_limits(report, self.child.limits.met_by_failure(reports.errnos(frame)))
        self._last = report
        return report, error

    def _add_view(
        self, child: ChildProcess, frame: dict[str, Any], report: pytest.TestReport
    ) -> None:
        """A failed test: what it saw of its world, which comes behind its report."""
        if self.post_mortem is None or frame.get("view") is not True or not report.failed:
            return
        # Only a failure needs them.
        from pytest_nsisolate.view.postmortem import listeners, outsiders, section

        began = monotonic()
        found = self._await_view(child)
        self.seconds_aside += monotonic() - began
        own = []
        if "net" in self.request.namespaces:
            own.append(listeners.hint(self.item, found.get("tried")))
        if "pid" in self.request.namespaces:
            own.append(outsiders.hint(self.item, found.get("asked")))
        section.attach(report, found.get("text"), found.get("hints"), *own)

    def _await_view(self, child: ChildProcess) -> dict[str, Any]:
        while child.wait_aside(PATIENCE):
            frame = child.next_frame()
            if frame is None:
                return {"text": "the view could not be read: the test's process has ended"}
            if frame.kind is Kind.VIEW:
                return frame.data
            self._take(child, frame)
        return {"text": f"the view could not be read within {PATIENCE:g} s"}

    def _hand_over(self, data: object) -> None:
        if not isinstance(data, dict):
            raise BrokenStream("it carried something of the wrong shape")
        try:
            self.item.ihook.pytest_nsisolate_receive(item=self.item, data=data)
        except Exception as error:  # of another plugin, or because of what the child made up
            raise BrokenStream(f"what it carried could not be taken in ({error!r})") from error

    def _replay_warning(self, data: dict[str, Any]) -> None:
        try:
            warnings.replay(data)
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenStream(f"a warning of the wrong shape ({error!r})") from error

    def _log_subtest(self, child: ChildProcess, frame: dict[str, Any]) -> None:
        report = reports.read_report(self.item, frame, self._captured, when=None)
        failed = frame.get("failed")
        if not isinstance(failed, int):
            raise BrokenStream("a subtest without a count")
        internals.set_failed_subtests(self.item, failed)
        self._add_view(child, frame, report)
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

    def _end_by_interrupt(self, child: ChildProcess, error: KeyboardInterrupt) -> NoReturn:
        """Ctrl-C here: shown as where it has hit the child, if that could still tell."""
        child.interrupt()  # it may have come while nobody waited for the child
        if (wish := child.last_wish()) is not None:
            _end_session(wish)
        if child.debugged:
            # With --pdb pytest would take a KeyboardInterrupt for a failure of this test.
            raise pytest.exit.Exception("KeyboardInterrupt", pytest.ExitCode.INTERRUPTED) from None
        raise error

    def _new_faults(self, child: ChildProcess, until: int | None = None) -> str:
        """What the fault handler has written since the last phase.

        :param until: how long its file was when the phase ended; the child is in the next by now.
        """
        text = output.read_text(child.end.output.fault)[self._faults_read : until]
        self._faults_read += len(text)
        return text.strip()

    def _replace(
        self, ended: outcome.Outcome, when: str, faults: str
    ) -> tuple[pytest.TestReport, BaseException]:
        """A report for a phase whose own is missing or does not count."""
        assert self.child is not None
        if isinstance(ended, Refusal):
            report = self.refuse(ended)
        else:
            lost = output.lost_text(self.child.end.output)
            self._captured.extend((when, kind, text) for kind, text in lost)
            internals.report_sections(self.item).extend((when, kind, text) for kind, text in lost)
            report = reports.crash_report(
                self.item,
                ended,
                when,
                self._captured,
                faults=faults,
                init=self.request.init,
                met=self.child.limits_met(),
            )
            if self.measurement is not None and isinstance(ended, _LOST):
                self._close_measurement(self.measurement, report)
        return report, reports.crash_of(report)

    def _close_measurement(self, measurement: Measurement, report: pytest.TestReport) -> None:
        measurement.forget_context()
        if not self._measured:
            done = f"after its {self._phases[-1]} phase" if self._phases else "in its child"
            text = f"What this attempt ran {done} is missing: it ended without handing it over."
            report.sections.append(("Coverage", text))


_LOST = (outcome.Crashed, outcome.Exited, outcome.TimedOut, Refusal, outcome.Broken)


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
