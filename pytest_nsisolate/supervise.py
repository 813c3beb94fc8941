# SPDX-License-Identifier: MIT
"""The runner's side of one child: frames, deadline, kill, reap; the answer is an Outcome.

Fact: a daemon that the test left may hold the writing end of the pipe for hours, so EOF says
nothing; and a process that was killed may have closed the pipe before it is dead.

Consequence: the end of a child is what the usher says on its own socket (the exact wait status),
or the usher's pidfd. Every wait is a ``poll`` over descriptors with a deadline on the runner's
clock (a time namespace moves the child's). What can still be read from the pipe is read after the
end, without blocking, and only then judged.

The kill is SIGKILL to PID 1 by pidfd: the kernel kills its namespace. The usher sees it and
reports; if it does not within the machinery's deadline, it is killed too and PID 1 dies by
PDEATHSIG.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from typing import Final

from pytest_nsisolate import evidence, outcome
from pytest_nsisolate.channel import MESSAGE, STEP_SECONDS, RunnerEnd
from pytest_nsisolate.errors import BrokenStream, StepError
from pytest_nsisolate.kernel import idmap
from pytest_nsisolate.wire import Frame, FrameReader, Kind

#: Seconds that the child has for its teardown after a Ctrl-C.
INTERRUPT_GRACE: Final = 2.0

#: More would be mapped and unmapped at every read.
_CHUNK: Final = 1 << 16


class Attempt:
    """One child from its first fork to its burial, as the runner sees it.

    :param end: the runner's descriptors; this object owns them and reaps the usher.
    :param maps: written for the child when it asks, if the runner is the one to do it.
    :param budget: seconds for set-up, call and teardown together; None is no limit.
    :param init: a reaper stands between the usher and the test.
    """

    def __init__(
        self, end: RunnerEnd, *, maps: idmap.IdMaps | None, budget: float | None, init: bool
    ) -> None:
        self.end = end
        self._init = init
        self.outcome: outcome.Outcome | None = None
        self._maps = maps
        self._budget = budget
        self._reader = FrameReader(end.nonce)
        self._frames: deque[Frame] = deque()
        self._deadline: float | None = time.monotonic() + STEP_SECONDS
        self._left: float | None = None
        self._ready = False
        self._done: Frame | None = None
        self._refused: outcome.Refused | None = None
        self._test_status: int | None = None
        self._pid1_status: int | None = None
        self._lost_sight = False
        self._forked_reaped = False
        self._open = True
        self._buried = False
        self._deaf = False
        # The reaper holds the other end too: when the usher is gone, a read would block.
        os.set_blocking(end.control, False)
        self._poller = select.poll()
        for fd in (end.frames, end.control, end.forked_pidfd):
            self._poller.register(fd, select.POLLIN)
        if end.direct and maps is not None:
            self._write_maps(end.forked)

    # What the rest of the runner uses -----------------------------------------------------------

    def next_frame(self) -> Frame | None:
        """The next frame of the child, or None when there will be no other.

        Then :attr:`outcome` says how it ended. Waits as long as the budget allows.

        :raises KeyboardInterrupt: on Ctrl-C, when the child has ended.
        """
        while not self._frames:
            if self.outcome is not None:
                return None
            try:
                self._step()
            except KeyboardInterrupt:
                self.interrupt()
                raise
            except BaseException:
                # Another plugin's timer, say: nobody will ask for this child again.
                self.kill()
                raise
        return self._frames.popleft()

    def kill(self) -> None:
        """End the child now, whatever it is doing; bounded, and it is gone afterwards."""
        while self._pid1_status is None and not self._lost_sight:
            self._signal(signal.SIGKILL)
            if self.end.pid1_pidfd is None:
                # Not born yet, or its number is still on the way: the usher takes it along.
                signal.pidfd_send_signal(self.end.forked_pidfd, signal.SIGKILL)
            if not self._pump(STEP_SECONDS):
                signal.pidfd_send_signal(self.end.forked_pidfd, signal.SIGKILL)
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
                # The test was over before its number had been read: the usher waits for a word,
                # and no EOF will come, because it holds a copy of this end as well.
                self.end.tell(b"G")
            self.end.close_channels()

    def bury(self) -> None:
        """Reap what was forked and close the rest. Bounded; may be called again."""
        if self._buried:
            return
        self._buried = True
        waiter = select.poll()
        waiter.register(self.end.forked_pidfd, select.POLLIN)
        if self.end.pid1_pidfd is None:
            self.let_go()
        if not waiter.poll(STEP_SECONDS * 1000):
            signal.pidfd_send_signal(self.end.forked_pidfd, signal.SIGKILL)
            if self._open:
                self._signal(signal.SIGKILL)
            waiter.poll(STEP_SECONDS * 1000)
        if not self._forked_reaped:
            try:
                os.waitpid(self.end.forked, 0)
            except ChildProcessError:
                pass  # SIGCHLD is ignored in this runner, or somebody waited for every child
        self.let_go()
        os.close(self.end.forked_pidfd)

    def pause(self) -> None:
        """Stop the clock: somebody is typing at a prompt inside."""
        if self._deadline is not None and self._left is None:
            self._left = self._deadline - time.monotonic()
            self._deadline = None

    def resume(self) -> None:
        """Let the clock go on."""
        if self._left is not None:
            self._deadline = time.monotonic() + self._left
            self._left = None

    # One turn -----------------------------------------------------------------------------------

    def _step(self) -> None:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if (left is not None and left <= 0) or not self._pump(left):
            self._expire()
        elif self.outcome is not None:
            return  # its stream was broken, and it is gone: judged already
        elif self._done is not None and self._done.data.get("alone") is True:
            self.outcome = outcome.Finished(alone=True)
        elif self._pid1_status is not None or self._lost_sight:
            self._read_rest()
            if self.outcome is None:
                self.outcome = self._judge()

    def _pump(self, seconds: float | None) -> bool:
        """Wait for anything at all and take it in; False when the time is over."""
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
                pass  # the reaper's last word
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
        try:
            _, self._pid1_status = os.waitpid(self.end.forked, 0)
        except ChildProcessError:
            self._lost_sight = True  # somebody in the runner waits for every child

    def _read_frames(self) -> bool:
        try:
            chunk = os.read(self.end.frames, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._forget(self.end.frames)
            return False
        if self._deaf:
            return True  # drained, so that no writer blocks; nothing in it counts any more
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
                self._deadline = None if self._budget is None else time.monotonic() + self._budget
            elif frame.kind is Kind.REFUSED:
                self._refused = _refusal(frame.data)
            elif frame.kind is Kind.PAUSE:
                self.pause()
            elif frame.kind is Kind.RESUME:
                self.resume()
            else:
                if frame.kind is Kind.DONE:
                    self._done = frame
                    self._deadline = time.monotonic() + STEP_SECONDS
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
        elif letter == b"S":
            self._pid1_status = number
            self._forget(self.end.control)
        return True

    def _open_pid1(self, pid: int) -> None:
        try:
            self.end.pid1_pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._refused = outcome.Refused("pidfd_open", None, error.errno or 0)
            self.kill()
        else:
            self.end.tell(b"G")

    def _forget(self, fd: int) -> bool:
        try:
            self._poller.unregister(fd)
        except KeyError:
            return False
        return True

    def _write_maps(self, pid: int) -> None:
        assert self._maps is not None
        try:
            idmap.write_maps(self._maps, pid)
        except StepError as error:
            self._refused = outcome.Refused(error.step, error.namespace, error.errno, error.detail)
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
            return self._refused
        if self._done is not None:
            return outcome.Finished(alone=False)
        status = self._pid1_status if self._test_status is None else self._test_status
        if status is None:
            return outcome.Broken("nobody could tell how it ended: its supervisor was killed")
        if not self._reader.at_boundary:
            return outcome.Broken(f"its stream was cut off ({_how(status)})")
        return outcome.from_wait_status(status)

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
            found = evidence.gather(self.end, init=self._init)
            self.outcome = outcome.TimedOut(self._budget, found)
        self.kill()

    def interrupt(self) -> None:
        """Ctrl-C: the child may tear down for a while; a second Ctrl-C ends that at once.

        Does nothing to a child that has ended.
        """
        until = time.monotonic() + INTERRUPT_GRACE
        try:
            self._signal(signal.SIGINT)
            while self._pid1_status is None and not self._lost_sight and self._done is None:
                if not self._pump(until - time.monotonic()):
                    break
        finally:
            self.kill()

    def _signal(self, number: int) -> None:
        if self.end.pid1_pidfd is not None:
            try:
                signal.pidfd_send_signal(self.end.pid1_pidfd, number)
            except ProcessLookupError:
                pass


def _refusal(data: dict[str, object]) -> outcome.Refused:
    namespace, errno = data.get("namespace"), data.get("errno")
    return outcome.Refused(
        step=str(data.get("step")),
        namespace=namespace if isinstance(namespace, str) else None,
        errno=errno if isinstance(errno, int) else 0,
        detail=str(data.get("detail") or ""),
    )


def _how(status: int) -> str:
    ended = outcome.from_wait_status(status)
    return ended.name if isinstance(ended, outcome.Crashed) else f"exit status {ended.status}"
