# SPDX-License-Identifier: MIT
"""The runner's side of one child: frames, deadline, kill, reap; the answer is an Outcome.

Fact: a daemon that the test left may hold the writing end of the pipe for hours, so EOF says
nothing; and a process that was killed may have closed the pipe before it is dead.

Consequence: the end of a child is what the supervisor says on its own socket (the exact wait
status), or the supervisor's pidfd. Every wait is a ``poll`` over descriptors with a deadline on the
runner's clock (a time namespace moves the child's). What can still be read from the pipe is read
after the end, without blocking, and only then judged.

The kill is SIGKILL to PID 1 by pidfd: the kernel kills its namespace. The supervisor sees it and
reports; if it does not within the machinery's deadline, it is killed too and PID 1 dies by
PDEATHSIG.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from errno import ECONNRESET, ESRCH
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import BrokenStream, StepError
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import idmap
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os, select, signal, time, traceback
from pytest_nsisolate.process import channel, diagnosis, job_control, outcome, reaping
from pytest_nsisolate.process.channel import MESSAGE, STEP_SECONDS, RunnerEnd
from pytest_nsisolate.process.deadline import Deadline
from pytest_nsisolate.wire.frames import Frame, FrameReader, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_nsisolate.process.limits import Bound, HeldLimits

#: Seconds that the child has for its teardown after a Ctrl-C.
INTERRUPT_GRACE: Final = 2.0

#: Seconds that a child whose budget is over has to hand over what coverage has measured.
LAST_WORDS_SECONDS: Final = 0.5

#: More would be mapped and unmapped at every read.
_CHUNK: Final = 1 << 16

#: Steps that a kill may take.
_PATIENCE: Final = 2

#: Where a system call of the runner's is made while it waits for a child.
_OWN_FILES: Final = (__file__, channel.__file__, idmap.__file__)

#: What it is called, by the function that makes it.
_STEPS: Final = {
    "_take_in": "poll",
    "_read_frames": "read of its frames",
    "_read_message": "read of its supervisor's words",
    "tell": "write to its supervisor",
    "_reap_pid1": "waitpid",
    "_signal": "pidfd_send_signal",
}

#: What to do when one of those fails.
_HINT: Final = "Look into dmesg, and for a filter (seccomp) or a limit around the runner"


#: How long a Ctrl-Z waits at most until the child stands still.
_HOLD_SECONDS: Final = 2.0

_TURN_SECONDS: Final = 0.001


class ChildProcess:
    """One child from its first fork to its burial, as the runner sees it.

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
        maps: idmap.IdMaps | None,
        budget: float | None,
        init: bool,
        measured: bool = False,
        limits: HeldLimits | None = None,
    ) -> None:
        self.end = end
        self.limits = limits
        if limits is not None:
            limits.launched()
        self._cpu_seconds: float | None = None
        self._init = init
        self._measured = measured
        self.outcome: outcome.Outcome | None = None
        self._maps = maps
        self._budget = budget
        self._reader = FrameReader(end.nonce)
        self._frames: deque[Frame] = deque()
        self._deadline = Deadline(STEP_SECONDS)
        self._interrupted = False
        #: With ``--pdb`` a Ctrl-C is for the test: it fails, and the debugger opens there.
        self.debugged = False
        self._ready = False
        self._done: Frame | None = None
        self._refused: Refusal | None = None
        self._test_status: int | None = None
        self._pid1_status: int | None = None
        self._lost_sight = False
        self._forked_reaped = False
        #: The raw wait status of what was forked, once it is reaped by :meth:`reap`.
        self.forked_status: int | None = None
        self._open = True
        self._reaped = False
        self._deaf = False
        self._blind = False
        self._last_words: list[Frame] | None = None
        self._owed_signal: int | None = None
        self._held = False
        self._ready_at = 0.0
        #: Waits until one of :meth:`watched` is readable, for so many seconds at most, while the
        #: runner looks after other children; None where there are none.
        self.meanwhile: Callable[[ChildProcess, float | None], None] | None = None
        # The init holds the other end too: when the supervisor is gone, a read would block.
        os.set_blocking(end.control, False)
        self._poller = select.poll()
        self._watched = {end.frames, end.control, end.forked_pidfd}
        for fd in self._watched:
            self._poller.register(fd, select.POLLIN)
        if end.direct and maps is not None:
            self._write_maps(end.forked)

    # What the rest of the runner uses -----------------------------------------------------------

    def helpers(self) -> dict[int, str]:
        """The processes that stand beside the child's own, as far as they are known by now."""
        end = self.end
        found = {} if end.direct else {end.forked: "(supervisor of a call)"}
        if self._init and end.pid1 is not None:
            found[end.pid1] = "(init of a call)"
        return found

    def next_frame(self) -> Frame | None:
        """The next frame of the child, or None when there will be no other.

        Then :attr:`outcome` says how it ended. Waits as long as the budget allows.

        :raises KeyboardInterrupt: on Ctrl-C, when the child has ended; not where a debugger in the
            child takes it, as it would un-isolated.
        """
        if not self._frames and job_control.has_terminal():
            with job_control.stopping_with(self.hold, self.go_on):
                self._await_frames()
        else:
            self._await_frames()
        return self._frames.popleft() if self._frames else None

    def _await_frames(self) -> None:
        while not self._frames and self.outcome is None:
            try:
                self._step()
            except KeyboardInterrupt:
                if not self.pass_on():
                    raise
            except BaseException:
                # Another plugin's timer, say: nobody will ask for this child again.
                self.kill()
                raise

    def get_ready(self) -> None:
        """Until the child stands in its namespaces and is known by number, or has ended."""
        while self.outcome is None and (not self._ready or self.end.pid1 is None):
            self._step()
        while self.end.pid1 is None and self.outcome == outcome.Finished(alone=True):
            if not self._pump(STEP_SECONDS):
                return

    def wait(self, seconds: float) -> bool:
        """Whether :meth:`next_frame` has an answer now, or has one within so many seconds."""
        until = monotonic() + seconds
        while not self._frames and self.outcome is None:
            left = max(until - monotonic(), 0)
            if (allowed := self._deadline.left) is not None and allowed <= left:
                self._step()
            elif self._pump(left):
                self._look()
            else:
                return False
        return True

    def wait_aside(self, seconds: float) -> bool:
        """:meth:`wait`, and the budget does not count it: the child does something for us."""
        with self._deadline.resting():
            return self.wait(seconds)

    def catch_up(self) -> None:
        """Too late, but nobody has looked for a while: what was said in time counts, read now."""
        if self.seconds_left != 0:
            return
        until = monotonic() + STEP_SECONDS
        while self.outcome is None and (left := until - monotonic()) > 0:
            if not self._pump(0 if self._reader.at_boundary else left):
                return
            self._look()

    def listen(self) -> None:
        """Take in what has come, without waiting: of a child that nobody asks for a frame."""
        if self.outcome is None and self._pump(0):
            self._look()

    def keep_up(self) -> None:
        """:meth:`listen`, and end the child if its budget is over: its turn has not come yet."""
        self.listen()
        if self.outcome is None and self.seconds_left == 0:
            self._come_late()

    def allow(self, budget: float | None) -> None:
        """Another plugin limits its seconds, which is known only now that its turn has come."""
        if budget is None or (self._budget is not None and self._budget <= budget):
            return
        self._budget = budget
        if self._ready and self._done is None and not self._deadline.paused:
            self._deadline.set(max(self._ready_at + budget - monotonic(), 0))

    @property
    def ready(self) -> bool:
        """Whether its part of the test has begun."""
        return self._ready

    @property
    def speaks(self) -> bool:
        """Whether :meth:`next_frame` would not wait."""
        return bool(self._frames) or self.outcome is not None

    @property
    def waits_for_turn(self) -> bool:
        """Whether nothing more comes of it until the runner has answered, or it has ended."""
        return self.outcome is not None or self._deadline.paused

    @property
    def at_prompt(self) -> bool:
        """Whether it stands still until somebody has typed."""
        return self._deadline.paused

    def ask_to_end(self) -> None:
        """Send SIGINT, as for a Ctrl-C; it may tear down."""
        self._signal(signal.SIGINT)

    def watched(self) -> tuple[int, ...]:
        """What becomes readable when there may be an answer; another set after each look."""
        return tuple(self._watched)

    @property
    def seconds_left(self) -> float | None:
        """Until the child is ended for its slowness, None without a limit."""
        left = self._deadline.left
        return None if left is None else max(left, 0)

    def kill(self) -> None:
        """End the child now, whatever it is doing; bounded, and it is gone afterwards.

        Unless it cannot end: then this gives up on it, and the outcome says so.
        """
        patience = _PATIENCE
        while self._pid1_status is None and not self._lost_sight:
            self._signal(signal.SIGKILL)
            if self.end.forked_pidfd not in self._watched:
                # Its end has been seen: who could tell more has told it, and it is here by now.
                self._lost_sight = not self._pump(0)
                continue
            if self.end.pid1_pidfd is None:
                # Not born yet, or its number is still on the way: the supervisor takes it along.
                reaping.end(self.end.forked_pidfd)
            if not self._pump(STEP_SECONDS):
                reaping.end(self.end.forked_pidfd)
                patience -= 1
                self.outcome = self.outcome or outcome.Broken(reaping.obstacle(self.end.pid1))
                self._lost_sight = not patience
        self._read_rest()
        if self.outcome is None:
            self.outcome = self._judge()

    def lose(self, reason: str) -> None:
        """Nothing that the child has said counts any more: end it, whatever it was about to say."""
        self.outcome = outcome.Broken(reason)
        self._deaf = True
        self._frames.clear()
        self.kill()

    def let_go(self) -> None:
        """Nothing more is wanted from the child: close every descriptor but its pidfd."""
        if self._open:
            self._open = False
            if self.end.pid1_pidfd is None:
                # The test was over before its number had been read: the supervisor waits for a
                # word, and no EOF will come, because it holds a copy of this end as well.
                self.end.tell(b"G")
            self.end.close_channels()

    @property
    def reaped(self) -> bool:
        """Nothing is held of it any more."""
        return self._reaped

    def descriptors(self) -> tuple[int, ...]:
        """What this process holds of it; another child must not have that."""
        return self.end.descriptors() if self._open else (self.end.forked_pidfd,)

    def end_and_reap(self) -> None:
        """Both, whatever it is doing. Bounded; may be called again."""
        try:
            if self._open:
                self.kill()
        finally:
            self.reap()

    def reap(self) -> None:
        """Reap what was forked and close the rest. Bounded; may be called again."""
        if self._reaped:
            return
        self._reaped = True
        try:
            if not self._forked_reaped:
                self._end_and_reap()
        except BaseException:
            # A signal handler of the suite has raised while this waited.
            reaping.end_and_reap(self.end.forked, self.end.forked_pidfd)
            raise
        finally:
            self.let_go()
            os.close(self.end.forked_pidfd)
            if self.limits is not None:
                self.limits.release()

    def _end_and_reap(self) -> None:
        if self.end.pid1_pidfd is None:
            self.let_go()
        over = reaping.await_end(self.end.forked, self.end.forked_pidfd)
        if not over:
            reaping.end(self.end.forked_pidfd)
            if self._open:
                self._signal(signal.SIGKILL)
            over = reaping.await_end(self.end.forked, self.end.forked_pidfd)
        if self.limits is not None and self._cpu_seconds is None:
            self._cpu_seconds = diagnosis.cpu_seconds(self.end.forked)
        self.forked_status = reaping.reap(self.end.forked, over=over)

    def limits_met(self) -> list[Bound]:
        """The limits that have brought about its end, as far as can be told."""
        if self.limits is None:
            return []
        used = self._cpu_seconds
        if used is None:
            used = diagnosis.cpu_seconds(self.end.forked)
        return self.limits.met_by_end(self.outcome, cpu_seconds=used, init=self._init)

    def last_wish(self) -> dict[str, object] | None:
        """How the child that a Ctrl-C has ended wants the session to end, if it could tell."""
        wishes = [frame.data for frame in self._frames if frame.kind is Kind.EXIT]
        return wishes[-1] if wishes else None

    # One turn -----------------------------------------------------------------------------------

    def _step(self) -> None:
        left = self._deadline.left
        if self.meanwhile is not None and (left is None or left > 0):
            self.meanwhile(self, left)
            if self._pump(0):
                self._look()
        elif self.meanwhile is not None:
            self._come_late()
        elif left is not None and left <= 0:
            self._expire()
        elif self._pump(left):
            self._look()
        # else the next turn looks at the clock: it may have been stopped in between (Ctrl-Z)

    def _come_late(self) -> None:
        """The budget is over, and nobody may have looked for a while: what was said counts."""
        self.catch_up()
        if self.outcome is None and self.seconds_left == 0:
            self._expire()

    def _look(self) -> None:
        """What has come may have been the last of it."""
        if self.outcome is not None:
            return  # its stream was broken, and it is gone: judged already
        if self._done is not None and self._done.data.get("alone") is True:
            self.outcome = outcome.Finished(alone=True)
        elif self._pid1_status is not None or self._lost_sight:
            self._read_rest()
            if self.outcome is None:
                self.outcome = self._judge()

    def _pump(self, seconds: float | None) -> bool:
        """Wait for anything at all and take it in; False when the time is over."""
        try:
            return self._take_in(seconds)
        except OSError as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            if at.filename not in _OWN_FILES:
                raise  # a signal handler's of the suite
            if self._blind:
                # Not even of the kill can be heard: the supervisor takes it along, or it is PID 1.
                reaping.end(self.end.forked_pidfd)
                self._lost_sight = True
                return False
            self._blind = True
            step = StepError(_STEPS.get(at.name, at.name), None, error.errno or 0)
            self.lose(f"in the runner {step}. {_HINT}")
            return True

    def _take_in(self, seconds: float | None) -> bool:
        ready = self._poller.poll(None if seconds is None else max(seconds, 0) * 1000)
        for fd, _ in ready:
            if fd == self.end.frames:
                self._read_frames()
            elif fd == self.end.control:
                self._read_message()
            elif fd == self.end.forked_pidfd:
                self._forked_ended()
        return bool(ready)

    def _forked_ended(self) -> None:
        if not self._forget(self.end.forked_pidfd):
            return  # a kill on account of an earlier descriptor has seen to it
        if self.end.direct:
            while self._read_message():
                pass  # the init's last word
            self._reap_pid1()
            return
        while self._pid1_status is None and self._read_message():
            pass
        if self._pid1_status is None:
            self._lost_sight = True
            # PDEATHSIG does this too, unless the test has changed its ids.
            self._signal(signal.SIGKILL)

    def _reap_pid1(self) -> None:
        self._forked_reaped = True
        if self.limits is not None:
            self._cpu_seconds = diagnosis.cpu_seconds(self.end.forked)
        try:
            reaped, status = os.waitpid(self.end.forked, os.WNOHANG)
            if not reaped and reaping.ask_after(self.end.forked):
                reaped, status = os.waitpid(self.end.forked, os.WNOHANG)
        except ChildProcessError:
            reaped = status = 0  # somebody in the runner waits for every child
        if reaped:
            self._pid1_status = status
        else:
            self._lost_sight = True

    def _read_frames(self) -> bool:
        try:
            chunk = os.read(self.end.frames, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._forget(self.end.frames)
            return False
        if self._deaf:
            self._hear_last_words(chunk)
            return True  # drained, so that no writer blocks; nothing else counts any more
        try:
            frames = self._reader.feed(chunk)
        except BrokenStream as error:
            self._take(self._reader.salvaged)
            whole = [*self._frames]
            self.lose(f"its stream is broken: {error}")
            self._frames.extend(whole)
            return False
        self._take(frames)
        return True

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind is Kind.READY:
                self._ready = True
                self._ready_at = monotonic()
                self._deadline.set(self._budget)
            elif frame.kind is Kind.REFUSED:
                found = outcome.read_refusal(frame.data)
                # That the runner was gone follows from what it has run into itself.
                if self._refused is None or found.errno not in (ESRCH, ECONNRESET):
                    self._refused = found
            else:
                if frame.kind is Kind.PAUSE:
                    self._deadline.pause()
                elif frame.kind is Kind.RESUME:
                    self._deadline.resume()
                elif frame.kind is Kind.DONE:
                    self._done = frame
                    self._deadline.set(STEP_SECONDS)
                self._interrupted = False
                self._frames.append(frame)

    def _read_message(self) -> bool:
        try:
            message = os.read(self.end.control, MESSAGE.size)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            message = b""
        if len(message) != MESSAGE.size:
            self._forget(self.end.control)
            return False
        letter, number = MESSAGE.unpack(message)
        if letter == b"U":
            self._write_maps(number or self.end.forked)
        elif letter == b"P":
            self._open_pid1(number)
        elif letter == b"T":
            self._test_status = number
        elif letter == b"H":
            self._held = True
        elif letter == b"S":
            self._pid1_status = number
            self._forget(self.end.control)
        return True

    def _open_pid1(self, pid: int) -> None:
        try:
            self.end.pid1_pidfd, self.end.pid1 = os.pidfd_open(pid), pid
        except ProcessLookupError:
            pass  # the supervisor has been killed, and PID 1 with it: its pidfd says so
        except OSError as error:
            self._refused = Refusal("pidfd_open", None, error.errno or 0)
            self.kill()
        else:
            self.end.tell(b"G")
            if self._owed_signal is not None:
                self._signal(self._owed_signal)

    def _forget(self, fd: int) -> bool:
        try:
            self._poller.unregister(fd)
        except KeyError:
            return False
        self._watched.remove(fd)
        return True

    def _write_maps(self, pid: int) -> None:
        assert self._maps is not None
        try:
            idmap.write_maps(self._maps, pid)
        except StepError as error:
            self._refused = Refusal.of(error)
            self.kill()
        else:
            self.end.tell(b"G")

    def _read_rest(self) -> None:
        """What is still in the pipe; the writers are dead, or nobody whom we wait for."""
        os.set_blocking(self.end.frames, False)
        while self._read_frames():
            pass

    # The end ------------------------------------------------------------------------------------

    def _judge(self) -> outcome.Outcome:
        if self._refused is not None:
            return replace(self._refused, late=self._ready)
        if self._done is not None:
            return outcome.Finished(alone=False)
        status = self._pid1_status if self._test_status is None else self._test_status
        return outcome.of_end(status, whole=self._reader.at_boundary)

    def _expire(self) -> None:
        """The deadline is over: the test's budget, or the machinery's own."""
        if self._done is not None:
            self.kill()
            return
        # The evidence wakes a test that had stopped itself; what it says then is too late.
        self._deaf = True
        if not self._ready:
            self.outcome = outcome.Broken(f"not ready after {STEP_SECONDS:g} s")
        else:
            assert self._budget is not None
            found = diagnosis.gather(self.end, init=self._init)
            if self._measured:
                self._ask_for_coverage()
            self.outcome = outcome.TimedOut(self._budget, found)
        self.kill()

    def _ask_for_coverage(self) -> None:
        """A bounded chance; a test that blocks the signal, or hangs in C code, has none."""
        words: list[Frame] = []
        self._last_words = words
        until = monotonic() + LAST_WORDS_SECONDS
        self._signal(diagnosis.coverage_signal())
        while self._pid1_status is None and not self._lost_sight and self._last_words is words:
            if any(frame.data.get("final") is True for frame in words):
                break
            if (left := until - monotonic()) <= 0 or not self._pump(left):
                break
        self._last_words = None
        self._frames.extend(words)

    def _hear_last_words(self, chunk: bytes) -> None:
        if self._last_words is None:
            return
        try:
            frames = self._reader.feed(chunk)
        except BrokenStream:
            self._last_words = None  # damaged before or now: nothing after it can be read
        else:
            self._last_words += [frame for frame in frames if frame.kind is Kind.COVERAGE]

    def interrupt(self) -> None:
        """Ctrl-C: the child may tear down for a while; a second Ctrl-C ends that at once.

        Does nothing to a child that has ended.
        """
        try:
            self._signal(signal.SIGINT)
            self._wait_for_end(or_prompt=False)
        finally:
            self.kill()

    def pass_on(self) -> bool:
        """Ctrl-C while the child is at work: whether it has been the child's own affair."""
        if self._deadline.paused:
            self._signal(signal.SIGINT)
            return True
        if self.debugged:
            if self._interrupted:
                self.kill()  # it has not answered the last one
                return False
            self._interrupted = True
            self._signal(signal.SIGINT)
            return True
        at_prompt = False
        try:
            self._signal(signal.SIGINT)
            # After "continue" pdb takes a Ctrl-C for the wish to see where the test is.
            at_prompt = self._wait_for_end(or_prompt=True)
        finally:
            if not at_prompt:
                self.kill()
        return at_prompt

    def _wait_for_end(self, *, or_prompt: bool) -> bool:
        """For as long as a Ctrl-C may take; True when the child has opened a prompt instead."""
        until = monotonic() + INTERRUPT_GRACE
        while self._pid1_status is None and not self._lost_sight and self._done is None:
            if or_prompt and self._deadline.paused:
                return True
            if not self._pump(until - monotonic()):
                break
        return False

    def hold(self) -> None:
        """Ctrl-Z: the child stops with the runner, and so does its clock. Bounded.

        It stands still when this returns: until then it would read what is typed for the shell.
        """
        self._deadline.hold()
        until = monotonic() + (_HOLD_SECONDS if self._open else 0)
        self._hear_until(until, lambda: self.end.pid1_pidfd is not None)
        self._held = False
        self._signal(job_control.hold_signal() if self._init else signal.SIGSTOP)
        if self._init:
            self._hear_until(until, lambda: self._held)
        else:
            while not job_control.stands_still(self.end.pid1) and monotonic() < until:
                time.sleep(_TURN_SECONDS)

    def _hear_until(self, until: float, condition: Callable[[], bool]) -> None:
        """Take in words of the supervisor, and nothing else."""
        waiter = select.poll()
        waiter.register(self.end.control, select.POLLIN)
        while not condition() and (left := until - monotonic()) > 0:
            if not waiter.poll(left * 1000) or not self._read_message():
                return

    def go_on(self) -> None:
        """The runner goes on, and so does the child."""
        self._deadline.release()
        self._signal(job_control.release_signal() if self._init else signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.end.pid1_pidfd is None:
            # A busy supervisor may say its number when the test is already running.
            self._owed_signal = number
            return
        try:
            signal.pidfd_send_signal(self.end.pid1_pidfd, number)
        except ProcessLookupError:
            pass
