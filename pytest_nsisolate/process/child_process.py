# SPDX-License-Identifier: MIT
"""The runner's side of one child: frames, deadline, kill, reap; the answer is an Outcome.

Fact: a daemon that the test left may hold the writing end of the pipe for hours, so EOF says
nothing; and a process that was killed may have closed the pipe before it is dead.

Consequence: a child has ended when the supervisor says so on its own socket (with the exact wait
status), or when the supervisor's pidfd does. Every wait is a ``poll`` over descriptors with a
deadline on the runner's clock (a time namespace moves the child's). After the end the runner reads
what is left in the pipe, without blocking, and only then judges.

The kill is SIGKILL to PID 1 by pidfd: the kernel kills its namespace. The supervisor sees it and
reports; if it does not within the machinery's deadline, it is killed too and PID 1 dies by
PDEATHSIG.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os, signal
from pytest_nsisolate.process import job_control, outcome, reaping
from pytest_nsisolate.process.channel import STEP_SECONDS, RunnerEnd
from pytest_nsisolate.process.deadline import Deadline
from pytest_nsisolate.process.expiry import catch_up, expire
from pytest_nsisolate.process.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_nsisolate.kernel.idmap import IdMaps
    from pytest_nsisolate.process.limits import Bound, HeldLimits
    from pytest_nsisolate.process.plan import OwnRoot
    from pytest_nsisolate.wire.frames import Frame

#: Steps that a kill may take.
_PATIENCE: Final = 2


class ChildProcess:
    """One child from its first fork to its reaping, as the runner sees it.

    :param end: the runner's descriptors; this object owns them and reaps the supervisor.
    :param maps: written for the child when it asks, if the runner is the one to do it.
    :param budget: seconds for set-up, call and teardown together; None is no limit.
    :param init: an init stands between the supervisor and the test.
    :param measured: coverage is under way, so a child that is late is asked for what it has.
    :param limits: what holds those of the test; this object releases it.
    """

    def __init__(
        self,
        end: RunnerEnd,
        *,
        maps: IdMaps | None,
        budget: float | None,
        init: bool,
        measured: bool = False,
        limits: HeldLimits | None = None,
    ) -> None:
        self.end = end
        self.limits = limits
        #: What made its root another; this object releases it.
        self.root: OwnRoot | None = None
        if limits is not None:
            limits.launched()
        self.init = init
        self.measured = measured
        self.outcome: outcome.Outcome | None = None
        #: Kind and text of what the phase had captured when its time was over.
        self.captured: list[tuple[str, str]] | None = None
        self.deadline = Deadline(STEP_SECONDS)
        self.inbox = Inbox(end, maps, self.deadline, budget, limits, init=init)
        #: With ``--pdb`` a Ctrl-C is for the test: it fails, and the debugger opens there.
        self.debugged = False
        #: Waits until one of :meth:`watched` is readable, for so many seconds at most, while the
        #: runner looks after other children; None where there are none.
        self.meanwhile: Callable[[ChildProcess, float | None], None] | None = None
        #: The raw wait status of what was forked, once it is reaped by :meth:`reap`.
        self.forked_status: int | None = None
        #: This object holds nothing of it any more.
        self.reaped = False
        self.heed()

    # What the rest of the runner uses -----------------------------------------------------------

    def helpers(self) -> dict[int, str]:
        """The processes that stand beside the child's own, as far as they are known by now."""
        end = self.end
        found = {} if end.direct else {end.forked: "(supervisor of a call)"}
        if self.init and end.pid1 is not None:
            found[end.pid1] = "(init of a call)"
        return found

    def next_frame(self) -> Frame | None:
        """The next frame of the child, or None when there will be no other.

        Then :attr:`outcome` says how it ended. Waits as long as the budget allows.

        :raises KeyboardInterrupt: on Ctrl-C, when the child has ended; not where a debugger in the
            child takes it, as it would un-isolated.
        """
        frames = self.inbox.frames
        if not frames and job_control.has_terminal():
            job = job_control.Job(self)
            with job_control.stopping_with(job.hold, job.go_on):
                self._await_frames()
        else:
            self._await_frames()
        return frames.popleft() if frames else None

    def _await_frames(self) -> None:
        while not self.inbox.frames and self.outcome is None:
            try:
                self._step()
            except KeyboardInterrupt:
                if not job_control.Job(self).pass_on():
                    raise
            except BaseException:
                # Another plugin's timer, say: the runner will not ask for this child again.
                self.kill()
                raise

    def get_ready(self) -> None:
        """Wait until the child stands in its namespaces and its number is known, or it ends."""
        while self.outcome is None and (not self.inbox.ready or self.end.pid1 is None):
            self._step()
        while self.end.pid1 is None and self.outcome == outcome.Finished(alone=True):
            if not self.pump(STEP_SECONDS):
                return

    def wait(self, seconds: float) -> bool:
        """Whether :meth:`next_frame` has an answer now, or has one within so many seconds."""
        until = monotonic() + seconds
        while not self.inbox.frames and self.outcome is None:
            left = max(until - monotonic(), 0)
            if (allowed := self.deadline.left) is not None and allowed <= left:
                self._step()
            elif self.pump(left):
                self.look()
            else:
                return False
        return True

    def wait_aside(self, seconds: float) -> bool:
        """:meth:`wait`, not counted by the budget: the child does something for us."""
        with self.deadline.resting():
            return self.wait(seconds)

    def listen(self) -> None:
        """Take in what has come, without waiting, while no caller waits for a frame.

        A child whose budget is over is ended.
        """
        if self.outcome is None and self.pump(0):
            self.look()
        self._come_late()

    def watched(self) -> tuple[int, ...]:
        """What becomes readable when there may be an answer; the set may differ after each look."""
        return tuple(self.inbox.watched)

    @property
    def seconds_left(self) -> float | None:
        """Until the child is ended for its slowness, None without a limit."""
        left = self.deadline.left
        return None if left is None else max(left, 0)

    def kill(self) -> None:
        """End the child now, whatever it is doing; bounded, and it is gone afterwards.

        Unless it cannot end: then this gives up on it, and the outcome says so.
        """
        inbox = self.inbox
        inbox.doomed = False
        patience = _PATIENCE
        while inbox.pid1_status is None and not inbox.lost_sight:
            self.end.send_signal(signal.SIGKILL)
            if self.end.forked_pidfd not in inbox.watched:
                # Its end has been seen: all that could be told of it has arrived by now.
                inbox.lost_sight = not self.pump(0)
                continue
            if self.end.pid1_pidfd is None:
                # Not born yet, or its number is still on the way: the supervisor takes it along.
                reaping.end(self.end.forked_pidfd)
            if not self.pump(STEP_SECONDS):
                reaping.end(self.end.forked_pidfd)
                patience -= 1
                self.outcome = self.outcome or outcome.Broken(reaping.obstacle(self.end.pid1))
                inbox.lost_sight = not patience
        self._conclude()

    def lose(self, reason: str) -> None:
        """Nothing that the child says counts any more: end it now."""
        self.outcome = outcome.Broken(reason)
        self.inbox.deaf = True
        self.inbox.frames.clear()
        self.kill()

    def descriptors(self) -> tuple[int, ...]:
        """What this process holds of it; another child must not have that."""
        root = () if self.root is None else self.root.descriptors()
        helpers = () if self.inbox.helpers is None else self.inbox.helpers.descriptors()
        return (*self.end.descriptors(), *root, *helpers)

    def end_and_reap(self) -> None:
        """Both, whatever it is doing. Bounded; may be called again."""
        try:
            if self.end.open:
                self.kill()
        finally:
            self.reap()

    def reap(self) -> None:
        """Reap what was forked and close the rest. Bounded; may be called again."""
        if self.reaped:
            return
        self.reaped = True
        try:
            if not self.inbox.forked_reaped:
                self._end_and_reap()
        except BaseException:
            # A signal handler of the suite has raised while this waited.
            reaping.end_and_reap(self.end.forked, self.end.forked_pidfd)
            raise
        finally:
            self.end.let_go()
            os.close(self.end.forked_pidfd)
            if self.inbox.helpers is not None:
                self.inbox.helpers.dismiss()
            if self.limits is not None:
                self.limits.release()
            if self.root is not None:
                self.root.release()

    def _end_and_reap(self) -> None:
        if self.end.pid1_pidfd is None:
            self.end.let_go()
        over = reaping.await_end(self.end.forked, self.end.forked_pidfd)
        if not over:
            reaping.end(self.end.forked_pidfd)
            if self.end.open:
                self.end.send_signal(signal.SIGKILL)
            over = reaping.await_end(self.end.forked, self.end.forked_pidfd)
        if self.limits is not None:
            self.limits.note_use(self.end.forked)
        self.forked_status = reaping.reap(self.end.forked, over=over)

    def limits_met(self) -> list[Bound]:
        """The limits that have ended it, as far as is known."""
        if self.limits is None:
            return []
        return self.limits.met_by_end(self.outcome, pid=self.end.forked, init=self.init)

    # One turn -----------------------------------------------------------------------------------

    def _step(self) -> None:
        left = self.deadline.left
        if left is not None and left <= 0:
            self._come_late()
            return
        if self.meanwhile is not None:
            self.meanwhile(self, left)
            left = 0
        if self.pump(left):
            self.look()
        # else the next turn looks at the clock: it may have been stopped in between (Ctrl-Z)

    def _come_late(self) -> None:
        catch_up(self)
        if self.outcome is None and self.seconds_left == 0:
            expire(self)

    def look(self) -> None:
        """Take in what has come; it may have been the last."""
        if self.outcome is not None:
            return  # its stream was broken, and it is gone: judged already
        inbox = self.inbox
        if inbox.done is not None and inbox.done.data.get("alone") is True:
            self.outcome = outcome.Finished(alone=True)
        elif inbox.pid1_status is not None or inbox.lost_sight:
            self._conclude()

    def pump(self, seconds: float | None) -> bool:
        """Wait for anything at all and take it in; False when the time is over.

        What has come may have been the end of it (:meth:`heed`).
        """
        found = self.inbox.pump(seconds)
        if self.inbox.doomed:
            self.heed()
        return found

    def heed(self) -> None:
        """End it now, if what has come calls for that."""
        if self.inbox.doomed:
            if self.inbox.broken is not None:
                self.outcome = outcome.Broken(self.inbox.broken)
            self.kill()

    def _conclude(self) -> None:
        """It is dead, or given up: read the rest, and judge."""
        inbox = self.inbox
        inbox.read_rest()
        if inbox.doomed:
            self.heed()
        if self.outcome is not None:
            return
        if inbox.refused is not None:
            self.outcome = replace(inbox.refused, late=inbox.ready)
        elif inbox.done is not None:
            self.outcome = outcome.Finished(alone=False)
        else:
            said = inbox.supervisor
            status = said.pid1_status if said.test_status is None else said.test_status
            self.outcome = outcome.of_end(status, whole=inbox.reader.at_boundary)
