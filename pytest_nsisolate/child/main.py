# SPDX-License-Identifier: MIT
"""The child's side: what is left of the item's phases, and then the exit.

Fact: the clone happens in the middle of the set-up phase, below pytest's own frames, and a copy of
pytest that returns through all of them goes on with the next test: two sessions, two reports.

Consequence: the child goes back up through the set-up hooks, because their second halves belong to
the phase, but only as far as our ``pytest_runtest_makereport``, the outermost. There
:meth:`Child.end_phase` takes over, runs call and teardown itself and ends the process by
``posix._exit`` in a ``finally``. (``os._exit`` may be a patch: coverage's, which saves data, or a
test's own mock.) What the runner has left for its exit, and the reporters, never run; what the test
has left does (:mod:`.ending`). An exception that gets past that meets :meth:`Child.barrier` round
the protocol and round the loop.

A process that the test forks may come back from the test body too (:mod:`.strays`): it is told
apart by a flag that an at-fork hook sets, never by its pid (the runner and the child may both be
PID 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_nsisolate.child import (
    ending,
    fixtures,
    leftovers,
    output,
    strays,
)
from pytest_nsisolate.child.arrival import Arrival
from pytest_nsisolate.child.outgoing import Outgoing, wish_to_end
from pytest_nsisolate.child.terminal import ChildTerminal, Turns
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import faulthandler, os, posix, traceback
from pytest_nsisolate.process import after_fork
from pytest_nsisolate.process.channel import Output
from pytest_nsisolate.process.outcome import EXIT_STRAY
from pytest_nsisolate.wire import warnings
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_nsisolate.integrations.coverage import Measurement


class Child:
    """The one isolated test that a process exists for.

    Made in the runner, just before the clone, where getting things ready costs no page; it
    changes nothing there. The child calls :meth:`settle_in` first.

    :param item: the test.
    :param nextitem: what pytest runs after it.
    :param files: where output goes.
    :param inside: higher-scope fixtures that are set up in the child.
    :param own_pid: whether "am I alone?" has an answer there.
    :param leftover_check: sees what the test has left running.
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
        config = item.config
        self._item = item
        self._nextitem = nextitem
        self._own_pid = own_pid
        self._leftover_check = leftover_check
        #: All that this process tells the runner.
        self.outgoing = Outgoing(item, files.fault)
        #: To the editor that debugs the runner.
        self.connection: debuggers.Connection | None = None
        #: What is opened before the first fixture, with a helper outside (``reach=``, ``tty=``).
        self.openings: list[Callable[[FrameWriter], None]] = []
        self._undebugged = ""
        self._left = ""
        self._measurement = measurement
        self._files = files
        self._ending = ending.Ending()
        self._ended = False
        self._arrival = Arrival(item, files)
        self._own_finalizers = fixtures.OwnFinalizers(item, inside)
        self._records_warnings = config.pluginmanager.hasplugin("warnings")
        self._carries = bool(item.ihook.pytest_nsisolate_carry.get_hookimpls())
        self.terminal = ChildTerminal(config, turns)
        #: Sees to it that a copy of this process does not come back.
        self.copies = strays.Copies(item)
        #: Whether a phase's hooks are at work; reports that are made then are those of subtests.
        self.in_phase = True
        self._pauses = bool(config.getoption("--nsisolate-pause"))
        #: A failure for which no pause has been held yet.
        self._failed = False
        self._has_failed = False

    # Before the first fixture ---------------------------------------------------------------------

    def settle_in(self, writer: FrameWriter) -> None:
        """Make this copy of pytest the child's own: output, faults, warnings, finalizers."""
        self.outgoing.writer = writer
        self.terminal.enter(self.outgoing.send)
        os.register_at_fork(after_in_child=self._after_fork, after_in_parent=self._note_fork)
        self._arrival.settle_in(self.outgoing.send)
        if self._measurement is not None:
            self._measurement.settle_in(lambda data: self.outgoing.send(Kind.COVERAGE, data))
        for open_up in self.openings:
            open_up(writer)
        self._ending.begin()
        writer.note("settle in")
        self.begin()

    def begin(self) -> None:
        """From here on everything that the item does is done, and told, by this process."""
        assert self.outgoing.writer is not None
        if self._records_warnings:
            warnings.divert(lambda data: self.outgoing.send(Kind.WARNING, data))
        self._own_finalizers.apply(self.copies.guarded)
        self._item.runtest = self.copies.guarded(self._item.runtest)  # type: ignore[method-assign]
        hand_over = self.outgoing.hand_over_section
        self._item.add_report_section = hand_over  # type: ignore[method-assign]
        post_mortem = self.outgoing.post_mortem
        if post_mortem is not None and post_mortem.asks_for_mounts:
            post_mortem.begin(lambda data: self.outgoing.send(Kind.VIEW, data))
        self.outgoing.writer.send_ready()
        if self.connection is not None:
            # Now, when the runner does not wait for READY any more: the user may have to click.
            self._undebugged = self.connection.attach()

    def hear_report(self, report: pytest.TestReport) -> None:
        """``pytest_runtest_logreport`` in the child: only subtests log their reports here."""
        self.copies.leave_if_stray()
        self.terminal.say_done()
        self.outgoing.send_subtest(report)
        self.terminal.wait()

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
            if self._failed and self._pauses:
                self._hold()
            internals.call_and_report(item, "teardown", log=False, nextitem=self._nextitem)
            if self._failed and self._pauses:
                self._hold()
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

        A test that has failed does not fail again for that: often its failure kept it from ending
        what it had started. The report gets a section then.

        :param error: of the phase, which keeps it.
        """
        if self.copies.stray or isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
            return
        threads = self._await_threads() if self._ending.has_threads else ()
        if left := self._leftover_check.look(threads):
            self._left = left if self._has_failed else self._leftover_check.judge(left, error)

    def _await_threads(self) -> list[str]:
        """What they write meanwhile is captured, as the rest of the tear-down is."""
        with internals.captured_again(self._item, "teardown"):
            return self._ending.await_threads()

    def _tell(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        if self._left:
            report.sections.append((leftovers.SECTION, self._left))
        output.flush_streams()
        self._failed |= report.failed
        self._has_failed |= report.failed
        if self._measurement is not None:
            self._measurement.hand_over()
        self.terminal.say_done()
        self.outgoing.send_report(call, report)
        if call.when != "teardown":
            self.terminal.wait()

    def _hold(self) -> None:
        """A failure: after the debugger, if there is one, and before anything is torn down."""
        self._failed = False
        faulthandler.cancel_dump_traceback_later()
        self.terminal.hold()

    # The end --------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Every phase is over: what the test has left for the end of its process, and that end."""
        if self._carries:
            self.outgoing.carry()
        if self._ending.is_due:
            self._ended = True
            self.outgoing.send(Kind.ENDING, {})
            output.direct_to(self._files)
            warnings.write_from_now_on()
            self._ending.run(self._end)
        self._end()

    def _end(self) -> NoReturn:
        """The completion record. Also called by :mod:`atexit`, which takes no exception from us."""
        try:
            self.copies.leave_if_stray()
            after_fork.finish_multiprocessing()
            if self._ended:
                self._ending.finish()
                output.flush_streams()
            if self._measurement is not None:
                self._measurement.hand_over()
            alone = self._own_pid and process.alone()
            self.outgoing.send_done(alone=alone, ended=self._ended, undebugged=self._undebugged)
        except BaseException as error:
            self.outgoing.send_broken(error)
        finally:
            self._exit(0)

    def _give_up(self, error: BaseException) -> None:
        """An exception ends the session, or a hook of another plugin is broken: tell the runner."""
        self.copies.leave_if_stray(error)
        wish = wish_to_end(error)
        if wish is None:
            self.outgoing.send_broken(error)
            return
        try:
            internals.tear_everything_down(self._item.session)
        except BaseException as failure:
            traceback.print_exception(failure)
        output.flush_streams()
        self.outgoing.send(Kind.EXIT, wish)
        self._finish()

    def _exit(self, status: int) -> NoReturn:
        try:
            output.flush_streams()
        finally:
            posix._exit(EXIT_STRAY if self.copies.stray else status)

    # Copies ---------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In a process that the test has forked: it has nothing to tell, and does not come back."""
        self.copies.stray = True
        descriptor = self.outgoing.abandon()
        debuggers.mute()
        self.terminal.leave()
        if self._measurement is not None:
            self._measurement.leave()
        after_fork.cover(descriptor)
        spot = strays.Spot()
        self._ending.forget()
        self._own_finalizers.set_traps(
            lambda frame: self.copies.leave_if_stray() if spot.is_below(frame) else None
        )

    def _note_fork(self) -> None:
        if self.outgoing.post_mortem is not None:
            self.outgoing.post_mortem.forked = True
