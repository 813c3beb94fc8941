# SPDX-License-Identifier: MIT
"""One attempt at one item: the runner waits for its child, phase by phase.

Frames are taken in as they come (:mod:`.incoming`), and the report of a phase ends the wait for it.
Where both sides write to the terminal the child waits for the word. When no report comes, the
outcome of the child becomes one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import pytest

from pytest_nsisolate.child import output, terminal
from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.process import job_control, outcome
from pytest_nsisolate.process.channel import read_text
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner import changed_files, reports
from pytest_nsisolate.runner.incoming import Ended, Incoming
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.view.postmortem.at_failure import PATIENCE
from pytest_nsisolate.wire import exceptions
from pytest_nsisolate.wire.frames import Frame, Kind

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
        #: What the child has said so far.
        self.incoming = Incoming(item, run)
        #: Seconds of the phase that are not the test's own.
        self.seconds_aside = 0.0
        #: What gives this child the word; None: what all share.
        self.turns: terminal.Turns | None = None
        self.over = False
        self._run = run
        self._setup_show = False
        self._owes_word = False
        #: The child is to be held open before it gets the word.
        self._holds = False
        #: The child waits for the report of its tear-down to be logged, to open a debugger then.
        self.unfinished = False
        self._faults_read = 0
        self._call_is_void = False

    def take_on(self, child: ChildProcess) -> None:
        """Its child has been born, and its turn has come."""
        run = self._run
        self.child = run.current = child
        child.debugged = bool(self.item.config.getoption("usepdb", False))
        if run.jobs is not None:
            child.meanwhile = run.jobs.wait_with
        if job_control.has_terminal():
            # Also while the runner does not wait for the child: it may be at a prompt already.
            job = job_control.Job(child)
            run.stopping.enter_context(job_control.stopping_with(job.hold, job.go_on))

    def await_phase(self, when: str) -> Ended:
        """The child's report of a phase, and what stands for its exception.

        A child that cannot report any more gets a report made for it, and is :attr:`over`.

        :raises pytest.exit.Exception: when the child asks for the end of the session.
        :raises KeyboardInterrupt: likewise, or on Ctrl-C here.
        """
        child = self.child
        assert child is not None
        self.seconds_aside = 0.0
        self.incoming.times = None
        try:
            if self._owes_word:
                _in_spite_of_ctrl_c(child, self._give_word)
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
                self.incoming.take_coverage_of(child)
        if self.incoming.wish is not None:
            self.over = True
            _end_session(self.incoming.wish)
        if found is None or (when == "teardown" and isinstance(child.outcome, _LOST)):
            assert child.outcome is not None
            self.over = True
            lost = self._replace(child.outcome, when, self._new_faults(child))
            if found is None or not (child.inbox.ending and found.report.failed):
                return lost
            reports.add_loss(found.report, lost.report)
            return found
        if found.report.passed and self.incoming.faults_said > self._faults_read:
            faults = self._new_faults(child, until=self.incoming.faults_said)
            if _FATAL in faults:
                # The child does not know, and runs the call phase; pytest in the runner will not.
                self._call_is_void = when == "setup"
                return self._replace(outcome.Finished(alone=False), when, faults)
        return found

    def refuse(self, refusal: Refusal) -> pytest.TestReport:
        """The report of a test that this host does not let in: an error, or by policy a skip."""
        self.over = True
        refusal = self._run.launcher.explained(refusal, self.request.user)
        skip = self.request.may_be_skipped and not refusal.late
        return reports.refusal_report(self.item, refusal, self.incoming.captured, skip=skip)

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

    def _receive(self, child: ChildProcess, when: str) -> Ended | None:
        """Take frames in until the report of this phase comes; None when there is no more."""
        phases = self.incoming.phases
        while (frame := child.next_frame()) is not None:
            if frame.kind is not Kind.REPORT or "sub" in frame.data:
                self._take(child, frame)
            elif self._call_is_void and len(phases) == 1 and _phase(frame.data) == "call":
                self.incoming.read_phase(frame.data, "call", child.limits)
            else:
                found = self.incoming.read_phase(frame.data, when, child.limits)
                self._add_view(child, found.report, follows=frame.data.get("view") is True)
                return found
        return None

    def _complete(self, child: ChildProcess) -> None:
        """Read on to the end, and compare the completion record with what has been reported."""
        while (frame := child.next_frame()) is not None:
            self._take(child, frame)
            if frame.kind is Kind.PAUSE and self._owes_word and not self.unfinished:
                # ``--pdb`` shows what has failed in tear-down when that is reported, not before.
                self.unfinished = True
                return
        self.incoming.conclude(child.end.output)

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
        if self.incoming.wish is not None:
            _end_session(self.incoming.wish)

    def _take(self, child: ChildProcess, frame: Frame) -> None:
        match frame.kind:
            case Kind.REPORT:
                report = self.incoming.read_subtest(frame.data)
                self._add_view(child, report, follows=frame.data.get("view") is True)
                self.incoming.log_subtest(report)
                self._give_word()
            case Kind.PAUSE if self._run.settings.pause and frame.data.get("held") is True:
                self._take_hold(child, frame)
            case Kind.TURN | Kind.PAUSE | Kind.RESUME:
                _in_spite_of_ctrl_c(child, lambda: self._take_turn(frame))
            case Kind.BROKEN:
                child.lose(str(frame.data.get("text")))
            case _:
                self.incoming.take(frame)

    def _add_view(self, child: ChildProcess, report: pytest.TestReport, *, follows: bool) -> None:
        """A failed test: what it saw of its world, which follows its report."""
        if not report.failed:
            return
        if self.incoming.post_mortem is None or not follows:
            if (keeping := self._keeping()) is not None:
                changed_files.attach(report, child, keeping)
            return
        began = monotonic()
        found = self._await_view(child)
        self.seconds_aside += monotonic() - began
        told = changed_files.told_with(found.get("text"), child, self._keeping())
        self.incoming.attach_view(report, {**found, "text": told}, self.request.namespaces)

    def _keeping(self) -> changed_files.Keeping | None:
        base = internals.base_temp(self.item.config) if self._run.settings.keep_root else None
        return None if base is None else changed_files.Keeping(base, self.item.nodeid)

    def _await_view(self, child: ChildProcess) -> dict[str, Any]:
        while child.wait_aside(PATIENCE):
            frame = child.next_frame()
            if frame is None:
                return {"text": "the view could not be read: the test's process has ended"}
            if frame.kind is Kind.VIEW:
                return frame.data
            self._take(child, frame)
        return {"text": f"the view could not be read within {PATIENCE:g} s"}

    # The word ---------------------------------------------------------------------------------

    def _take_turn(self, frame: Frame) -> None:
        """The child has written to the terminal, and waits, or has the user at a prompt."""
        terminal.adopt(self.item.config, frame.data)
        self._owes_word = frame.kind is not Kind.RESUME
        shown = self.incoming.last if frame.data.get("shown") is True else None
        if shown is not None:
            internals.mark_as_shown(shown)
        later = shown is not None and shown.when == "teardown" and not self.unfinished
        if frame.kind is Kind.PAUSE and not later:
            job_control.await_foreground(internals.standard_input(self.item.config))
            self._give_word()

    def _take_hold(self, child: ChildProcess, frame: Frame) -> None:
        """``--nsisolate-pause``: show the failure first, one of tear-down when it is logged."""
        terminal.adopt(self.item.config, frame.data)
        self._owes_word = self._holds = True
        if "teardown" not in self.incoming.phases or self.unfinished:
            self._hold_open(child)

    def _hold_open(self, child: ChildProcess) -> None:
        if self._holds:
            from pytest_nsisolate.runner import hold  # only a pause needs it

            self._holds = False
            say = partial(internals.write_line, self.item.config)
            phase, last = self.incoming.phases[-1], self.incoming.last
            failure = f"{phase}: {outcome.headline(last and last.longrepr)}"
            hold.hold(child, self.item.nodeid, failure, say, init=self.request.init)
            self._give_word()

    def _give_word(self) -> None:
        """Everything that the runner has to write is written: the child may go on."""
        if self._owes_word:
            self._owes_word = False
            output.flush_to_terminal(self.item.config)
            (self.turns or self._run.turns).give()

    # The end ------------------------------------------------------------------------------------

    def _end_by_interrupt(self, child: ChildProcess, error: KeyboardInterrupt) -> NoReturn:
        """Ctrl-C here: shown at the line that it has hit in the child, if the child could tell."""
        job_control.Job(child).interrupt()  # it may have come while we did not wait for the child
        if (wish := child.inbox.last_wish()) is not None:
            _end_session(wish)
        if child.debugged:
            # With --pdb pytest would take a KeyboardInterrupt for a failure of this test.
            raise pytest.exit.Exception("KeyboardInterrupt", pytest.ExitCode.INTERRUPTED) from None
        raise error

    def _new_faults(self, child: ChildProcess, until: int | None = None) -> str:
        """What the fault handler has written since the last phase.

        :param until: how long its file was when the phase ended; the child is in the next by now.
        """
        text = read_text(child.end.output.fault)[self._faults_read : until]
        self._faults_read += len(text)
        return text.strip()

    def _replace(self, ended: outcome.Outcome, when: str, faults: str) -> Ended:
        """A report for a phase whose own is missing or does not count."""
        assert self.child is not None
        if isinstance(ended, Refusal):
            report = self.refuse(ended)
        else:
            lost = self.child.captured
            if lost is None:
                lost = self.child.end.output.lost_text()
            self.incoming.add_captured([(when, kind, text) for kind, text in lost])
            report = reports.crash_report(
                self.item,
                ended,
                when,
                self.incoming.captured,
                faults=faults,
                init=self.request.init,
                ending=self.child.inbox.ending,
                met=self.child.limits_met(),
            )
            keeping = self._keeping()
            if self.incoming.post_mortem is not None or keeping is not None:
                changed_files.attach(report, self.child, keeping)
            if isinstance(ended, _LOST):
                self.incoming.close_measurement(report)
        return Ended(report, reports.crash_of(report), made_here=True)


_LOST = (outcome.Crashed, outcome.Exited, outcome.TimedOut, Refusal, outcome.Broken)


def _phase(frame: dict[str, Any]) -> object:
    report = frame.get("report")
    return report.get("when") if isinstance(report, dict) else None


def _in_spite_of_ctrl_c(child: ChildProcess, action: Callable[[], None]) -> None:
    """A Ctrl-C that comes just now is for the debugger in the child, if there is one."""
    while True:
        try:
            return action()
        except KeyboardInterrupt:
            if not job_control.Job(child).pass_on():
                raise


def _end_session(wish: dict[str, Any]) -> None:
    """``pytest.exit()`` or a KeyboardInterrupt in the child ends the session here."""
    if wish.get("kind") == "interrupt":
        exceptions.raise_at(KeyboardInterrupt(), wish.get("place"))
    status = wish.get("status")
    raise pytest.exit.Exception(
        str(wish.get("reason")), status if isinstance(status, int) else None
    )
