# SPDX-License-Identifier: MIT
"""What a child and its supervisor have said, and the descriptors on which they say it.

The inbox waits, reads, and answers the supervisor; it ends no child. If a child has to be ended it
says so (:attr:`Inbox.doomed`), and :class:`~pytest_nsisolate.process.child_process.ChildProcess`
acts on it after each look into the inbox.

A system call that fails here is named where it is made. What a signal handler of the suite raises
meanwhile stays as it is (:func:`~pytest_nsisolate.process.channel.raised_by_handler`).
"""

from __future__ import annotations

from collections import deque
from errno import ECONNRESET, ESRCH
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import BrokenStream, StepError
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os, signal
from pytest_nsisolate.process import outcome, reaping
from pytest_nsisolate.process.channel import STEP_SECONDS, RunnerEnd, raised_by_handler
from pytest_nsisolate.process.deadline import EXIT_SECONDS, Deadline
from pytest_nsisolate.process.supervisor_messages import SupervisorMessages
from pytest_nsisolate.process.watched import Watched
from pytest_nsisolate.wire.frames import Frame, FrameReader, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_nsisolate.host.refusal import Refusal
    from pytest_nsisolate.kernel.idmap import IdMaps
    from pytest_nsisolate.process.helpers import Helpers
    from pytest_nsisolate.process.limits import HeldLimits

#: More would be mapped and unmapped at every read.
_CHUNK: Final = 1 << 16

#: The test asks for a helper.
_HELPED: Final = frozenset({Kind.FAULTS, Kind.REACH, Kind.TTY})

#: What to do when a system call of the runner's fails while it waits for a child.
_HINT: Final = "Look into dmesg, and for a filter (seccomp) or a limit around the runner"


class Inbox:
    """All that one child has said, and its clock, which depends on it.

    :param end: the runner's descriptors.
    :param maps: written for the child when it asks, if the runner is the one to do it.
    :param deadline: set anew by what the child says.
    :param budget: seconds from the moment that the child is ready; None is no limit.
    :param limits: told of the end of what was forked, before that is reaped.
    :param init: an init stands between PID 1 and the test.
    :raises StepError: when the child cannot be told that its maps are written.
    """

    def __init__(
        self,
        end: RunnerEnd,
        maps: IdMaps | None,
        deadline: Deadline,
        budget: float | None,
        limits: HeldLimits | None,
        *,
        init: bool,
    ) -> None:
        self.supervisor = SupervisorMessages(end, maps)
        if end.direct and maps is not None:
            self.supervisor.write_maps(end.forked)  # first of all: the child waits for it
        self._end = end
        self._deadline = deadline
        self._limits = limits
        self._blind = False
        self.reader = FrameReader(end.nonce)
        #: What the child has said, and no caller has taken yet.
        self.frames: deque[Frame] = deque()
        #: Nothing that the child says from now on counts.
        self.deaf = False
        #: Frames that count all the same, while this is a list: the coverage of a late child.
        self.last_words: list[Frame] | None = None
        #: A Ctrl-C has been passed on, and the child has said nothing since.
        self.unanswered = False
        #: An editor may be debugging it: no time is too long.
        self.patient = False
        #: Seconds that it has for what it is doing.
        self.allowed = self._budget = budget
        self.ready = False
        self.steps: object = None  # of its way in, where there is a trace (wire/steps.py)
        self._ready_at = 0.0
        #: It does what is left for the end of a process.
        self.ending = False
        self.done: Frame | None = None
        #: What was forked has ended, or is not heard any more, and no status will come.
        self.lost_sight = False
        #: Reaped by :meth:`pump`, or by others before.
        self.forked_reaped = False
        #: What works for the test beside it, once it has asked for that.
        self.helpers: Helpers | None = None
        self.refused: Refusal | None = None
        #: Why nothing that it says can be relied on.
        self.broken: str | None = None
        #: What its request names, and the forwarder carries; the child cannot name others.
        self.reach: tuple[str, ...] = ()
        #: It is to be ended now, because of one of these two.
        self.doomed = False
        # A PID 1 without a supervisor and an init has nothing to say there.
        says = () if end.direct and not init else (end.control,)
        self._watched = Watched(end.frames, *says, end.forked_pidfd)
        self._heed_supervisor()

    @property
    def watched(self) -> frozenset[int]:
        """The descriptors that it waits for."""
        return frozenset(self._watched.descriptors)

    def pump(self, seconds: float | None) -> bool:
        """Wait for anything at all and take it in; False when the time is over."""
        try:
            ready = self._watched.wait(seconds)
            for fd in ready:
                if fd == self._end.frames:
                    self._read_frames()
                elif fd == self._end.control:
                    self._read_message()
                elif fd == self._end.forked_pidfd:
                    self._forked_ended()
                elif self._watched.forget(fd) and self.done is None and not self.deaf:
                    assert self.helpers is not None
                    self._lose(self.helpers.loss_of(fd))
                if self.doomed:
                    break  # it is ended first, and the rest is heard then
        except StepError as error:
            return self._cannot_hear(error)
        return bool(ready)

    def _cannot_hear(self, error: StepError) -> bool:
        if self._blind:
            # Not even of the kill can be heard: the supervisor takes it along, or it is PID 1.
            reaping.end(self._end.forked_pidfd)
            self.lost_sight = True
            return False
        self._blind = True
        if self.broken is None:
            self.frames.clear()
        self.deaf = self.doomed = True
        self.broken = f"in the runner {error}. {_HINT}"
        return True

    def read_rest(self) -> None:
        """What is still in the pipe; its writers are dead, or we do not wait for them."""
        try:
            os.set_blocking(self._end.frames, False)
            # After the end of the stream there is nothing more to come.
            while self._end.frames in self._watched.descriptors and self._read_frames():
                pass
        except StepError as error:
            self._cannot_hear(error)

    # What the child says ------------------------------------------------------------------------

    def _read_frames(self) -> bool:
        try:
            chunk = os.read(self._end.frames, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if raised_by_handler(error):
                raise
            raise StepError("read of its frames", None, error.errno or 0) from error
        if not chunk:
            self._watched.forget(self._end.frames)
            return False
        if self.deaf:
            self._hear_last_words(chunk)
            return True  # drained, so that no writer blocks; nothing else counts any more
        try:
            frames = self.reader.feed(chunk)
        except BrokenStream as error:
            self._take(self.reader.salvaged)
            self.deaf = self.doomed = True
            self.broken = f"its stream is broken: {error}"
            return False
        self._take(frames)
        return True

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind is Kind.READY:
                self.steps = self.steps or frame.data.get("steps")
                self.ready = True
                self._ready_at = monotonic()
                self._deadline.set(self._budget)
            elif frame.kind is Kind.ENDING:
                if not self.ending:  # once: it is the child who says so
                    self.allowed = None if self.patient else EXIT_SECONDS
                    self._deadline.set(self.allowed)
                self.ending = True
            elif frame.kind is Kind.REFUSED:
                found = outcome.read_refusal(frame.data)
                self.steps = self.steps or frame.data.get("steps")
                # It found the runner gone: the cause is what the runner met itself.
                if self.refused is None or found.errno not in (ESRCH, ECONNRESET):
                    self.refused = found
            elif frame.kind in _HELPED:
                self._start_helper(frame)
            else:
                if frame.kind is Kind.PAUSE:
                    self._deadline.pause()
                elif frame.kind is Kind.RESUME:
                    self._deadline.resume()
                elif frame.kind is Kind.DONE:
                    self.done = frame
                    self._deadline.set(STEP_SECONDS)
                self.unanswered = False
                self.frames.append(frame)

    def _hear_last_words(self, chunk: bytes) -> None:
        if self.last_words is None:
            return
        try:
            frames = self.reader.feed(chunk)
        except BrokenStream:
            self.last_words = None  # damaged before or now: nothing after it can be read
        else:
            self.last_words += [frame for frame in frames if frame.kind is Kind.COVERAGE]

    def allow(self, budget: float | None) -> None:
        """Another plugin limits its seconds, which is known only now that its turn has come."""
        if budget is None or (self._budget is not None and self._budget <= budget):
            return
        self._budget = budget
        if self.ending or self.done is not None:
            return
        self.allowed = budget
        if self.ready and not self._deadline.paused:
            self._deadline.set(self._ready_at + budget - monotonic())

    def last_wish(self) -> dict[str, object] | None:
        """How a child that a Ctrl-C has ended wants the session to end, if it could tell."""
        wishes = [frame.data for frame in self.frames if frame.kind is Kind.EXIT]
        return wishes[-1] if wishes else None

    # What its supervisor says -------------------------------------------------------------------

    @property
    def pid1_status(self) -> int | None:
        """The raw wait status of PID 1, once it has ended."""
        return self.supervisor.pid1_status

    def _read_message(self) -> bool:
        found = self.supervisor.read()
        self._heed_supervisor()
        return found

    def _heed_supervisor(self) -> None:
        said = self.supervisor
        if said.over:
            self._watched.forget(self._end.control)
        if said.refusal is not None:
            # The cause is what the child said before it ended: its ids cannot be mapped any more.
            self.refused = self.refused or said.refusal
            self.doomed = True

    def hear_until(self, until: float, condition: Callable[[], bool]) -> None:
        """Take in words of the supervisor, and nothing else.

        :param until: on the runner's clock.
        :raises StepError: when they cannot be read, or not be answered.
        """
        control = Watched(self._end.control)
        while not condition() and (left := until - monotonic()) > 0:
            if not control.wait(left) or not self._read_message():
                return

    # Its helpers --------------------------------------------------------------------------------

    def _start_helper(self, wish: Frame) -> None:
        """The test asks for a process that works for it, and waits until that has been told."""
        from pytest_nsisolate.process import helpers  # few tests need it

        end = self._end
        self.hear_until(monotonic() + STEP_SECONDS, lambda: end.is_born)
        if self.helpers is None:
            self.helpers = helpers.Helpers(self.reach)
        try:
            pidfd = self.helpers.start(end.pid1, wish)
        except StepError as error:
            self._lose(helpers.explained(wish.kind, error))
            return
        self._watched.add(pidfd)
        # It has waited for the runner, which may have been busy with another test.
        self._deadline.leave(STEP_SECONDS)

    def _lose(self, reason: str) -> None:
        self.frames.clear()
        self.deaf = self.doomed = True
        self.broken = reason

    # The end ------------------------------------------------------------------------------------

    def _forked_ended(self) -> None:
        if not self._watched.forget(self._end.forked_pidfd):
            return  # a kill while this was interrupted (Ctrl-Z) has seen to it
        if self._end.direct:
            while self._read_message():
                pass  # the init's last word
            self._reap_pid1()
            return
        while self.pid1_status is None and not self.doomed and self._read_message():
            pass
        if self.pid1_status is None and not self.doomed:
            self.lost_sight = True
            # PDEATHSIG does this too, unless the test has changed its ids.
            self._end.send_signal(signal.SIGKILL)

    def _reap_pid1(self) -> None:
        self.forked_reaped = True
        if self._limits is not None:
            self._limits.note_use(self._end.forked)
        status = reaping.reap(self._end.forked, over=True)
        if status is None:
            self.lost_sight = True  # code in the runner waits for every child
        else:
            self.supervisor.pid1_status = status
