# SPDX-License-Identifier: MIT
"""The caller's side of a call by ``isolate``: launch, listen, judge, bury.

A value counts when the stream has ended with its completion record (law 1), and the child is
reaped before anybody sees the value. Nothing here waits without a bound, but for a function that
was given none. A task belongs to the process that has started it (:mod:`.home`).
"""

from __future__ import annotations

import functools
import pickle
import re
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from pytest_nsisolate import debuggers, limits, outcome, output, remarks, warning_frames
from pytest_nsisolate.calls import log_records, thrown, values, waiting
from pytest_nsisolate.calls.body import Call, Function, is_in_memory
from pytest_nsisolate.calls.home import Home
from pytest_nsisolate.calls.spawning import refusal, spawn
from pytest_nsisolate.clock import monotonic
from pytest_nsisolate.copies import here
from pytest_nsisolate.errors import (
    BrokenStream,
    IsolatedExit,
    IsolatedLoss,
    IsolatedSignal,
    IsolatedTimeout,
    NotPlainError,
)
from pytest_nsisolate.wire import Frame, FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.channel import Output
    from pytest_nsisolate.coverage import Measurement
    from pytest_nsisolate.request import IsolationRequest

T = TypeVar("T")

#: A function that logs without end is not listened to without end.
_LOOK_SECONDS = 0.1

_FATAL = "Fatal Python error"
_CALLER = re.compile(
    r'^  File ".*[/\\]calls[/\\]body\.py", line \d+ in answer\n(?:  File .*\n)*', re.MULTILINE
)


class Task(Generic[T]):
    """A function at work in a child. Made by ``isolate.start``.

    ``await task`` waits under asyncio or trio, without a thread, and gives what :meth:`result`
    gives; if the waiting is cancelled the child goes on.
    """

    def __init__(
        self,
        home: Home,
        function: Function,
        request: IsolationRequest,
        join: int | None = None,
    ) -> None:
        __tracebackhide__ = True
        self.name = function.name
        self._trusted = function.trusted
        self._run = run = home.run
        self._home = here()
        self._request = request
        self._streams = [s if is_in_memory(s) else None for s in (sys.stdout, sys.stderr)]
        self._frame: dict[str, Any] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self.over = False
        self._asked = False
        self._waiters = waiting.Waiters(run.calls_lock)

        def prepare(files: Output) -> Callable[[FrameWriter], NoReturn]:
            call = Call(
                function,
                home.config,
                files,
                own_pid=join is None and "pid" in request.namespaces,
                number=home.calls,
                custody=home.custody,
                measurement=self._measurement,
            )
            self._handlers = call.handlers
            call.connection = connection
            return call.run

        with run.calls_lock:
            self._measurement: Measurement | None = run.measurement(home.config)
            home.calls += 1
            measured = self._measurement is not None
            connection = debuggers.connect() if debuggers.is_active() else None
            if connection is not None:
                request = request.replace(timeout=None)
            try:
                self.attempt = spawn(
                    run, home.config, request, prepare, join=join, measured=measured
                )
            finally:
                if connection is not None:
                    connection.close()
            self.attempt.patient = connection is not None
            run.tasks.append(self)
        self._guarded(self.attempt.get_ready)
        if isinstance(self.attempt.outcome, outcome.Refused | outcome.Broken):
            self._conclude()
        if self._error is not None:
            raise self._error

    @property
    def pid(self) -> int | None:
        """The child's number as the caller sees it; of the reaper with ``init=True``."""
        return self.attempt.end.pid1

    @property
    def settled(self) -> bool:
        """Somebody has asked what became of it, or has ended it."""
        return self._asked

    def result(self, timeout: float | None = None) -> T:
        """The function's value, or its exception; waits for it.

        :param timeout: seconds to wait; the child goes on afterwards.
        :raises TimeoutError: when it has not ended by then.
        :raises IsolatedError: see there.
        """
        __tracebackhide__ = True
        until = None if timeout is None else monotonic() + timeout
        self._check_home()
        self._guarded(self.attempt.catch_up)
        while not self.over:
            if until is not None:
                left = until - monotonic()
                answers = functools.partial(self.attempt.wait, max(left, 0))
                if left < -_LOOK_SECONDS or not self._guarded(answers):
                    raise TimeoutError(f"{self.name} has not ended within {timeout:g} s, goes on")
            self._advance()
        self._asked = True
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def done(self) -> bool:
        """Whether :meth:`result` would not wait."""
        self._check_home()
        self._guarded(self.attempt.catch_up)
        until = monotonic() + _LOOK_SECONDS
        while not self.over and self._guarded(lambda: self.attempt.wait(0)):
            self._advance()
            if monotonic() > until:
                break
        return self.over

    def kill(self) -> None:
        """End the child now, by SIGKILL; it is gone afterwards."""
        self._check_home()
        self._asked = True
        self.end()

    def end(self) -> None:
        """As :meth:`kill`, but somebody is still to be told."""
        if not self.over and self._home is here():
            self.attempt.kill()
            while not self.over:
                self._advance()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        __tracebackhide__ = True
        while not self.done():
            # What has been read, but not been taken yet, makes no descriptor readable.
            there = self._guarded(lambda: self.attempt.wait(0))
            seconds = 0 if there else self.attempt.seconds_left
            await self._waiters.readable(self.attempt.watched(), seconds)
        return self.result()

    def __repr__(self) -> str:
        state = "ended" if self.over else "running"
        return f"<{type(self).__name__} {self.name} in process {self.pid}, {state}>"

    # What the child says --------------------------------------------------------------------------

    def _check_home(self) -> None:
        if self._home is not here():
            raise RuntimeError(f"{self!r} belongs to the process that has started it")

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Nobody will ask again after an exception, of Ctrl-C or of another plugin's timer."""
        if self.over:
            return None
        try:
            return action()
        except BaseException as error:
            self._asked = True
            try:
                if isinstance(error, KeyboardInterrupt):
                    self.attempt.interrupt()
            finally:
                self.end()
            raise

    def _advance(self) -> None:
        frame = self._guarded(self.attempt.next_frame)
        if frame is None:
            self._conclude()
            return
        try:
            self._take(frame)
        except Exception as error:  # of the wrong shape, or what somebody's log handler makes of it
            self.attempt.lose(f"its stream is broken: {error!r}")

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.WARNING:
                warning_frames.replay(frame.data)
            case Kind.LOG:
                log_records.replay(frame.data, self._handlers)
            case Kind.COVERAGE:
                if self._measurement is not None:
                    self._measurement.merge(frame.data)
            case Kind.RESULT:
                self._frame = frame.data
            case Kind.DONE:
                if reason := frame.data.get("undebugged"):
                    debuggers.give_up(str(reason))
                    self._run.remarks.add(remarks.UNDEBUGGED, self.name, debuggers.why())
            case Kind.BROKEN:
                self.attempt.lose(str(frame.data.get("text")))
            case _:
                raise BrokenStream(f"an unexpected frame ({frame.kind.name})")

    # The end --------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        attempt = self.attempt
        ended = attempt.outcome
        assert ended is not None
        if ended != outcome.Finished(alone=True):
            attempt.kill()
        files = attempt.end.output
        written = output.lost_text(files) if attempt.captured is None else attempt.captured
        texts = [dict(written).get(name, "") for name in ("stdout", "stderr")]
        faults = _without_caller(output.read_text(files.fault)).strip()
        with self._run.calls_lock:
            attempt.let_go()
            attempt.bury()
            self.over = True
            self._run.tasks.remove(self)
            self._waiters.wake()
        self._judge(ended, faults)
        if attempt.limits is not None and self._error is not None:
            met = attempt.limits.met_by_failure(limits.errnos(self._error))
            for bound in attempt.limits_met() or met:
                self._error.add_note(str(bound))
        for stream, text in zip(self._streams, texts, strict=True):
            if text and stream is not None:
                _write(stream, text)

    def _judge(self, ended: outcome.Outcome, faults: str) -> None:
        match ended:
            case outcome.Finished() if _FATAL in faults:
                self._error = IsolatedLoss(self.name, "it had a fatal error, and went on")
            case outcome.Finished():
                self._read_answer(self._frame or {})
                return
            case outcome.Crashed(signal=number):
                self._error = IsolatedSignal(self.name, number, ended.name)
            case outcome.Exited(status=status):
                self._error = IsolatedExit(self.name, status)
            case outcome.TimedOut(seconds=seconds, evidence=evidence):
                found = _without_caller(evidence)
                what = f"the exit of {self.name}" if self.attempt.ending else self.name
                self._error = IsolatedTimeout(what, seconds, found)
                self._error.add_note(found)
                return
            case outcome.Broken(reason=reason):
                self._error = IsolatedLoss(self.name, reason)
            case outcome.Refused():
                self._error = refusal(self._run, ended, self._request)
        if faults and self._error is not None:
            self._error.add_note(faults)

    def _read_answer(self, frame: dict[str, Any]) -> None:
        try:
            if not frame:
                self._error = IsolatedLoss(self.name, "it has finished without an answer")
            elif self._trusted and "pickle" in frame:
                found = pickle.loads(frame["pickle"])  # noqa: S301 (asked for by name)
                if "error" in frame:
                    found.add_note(thrown.remake(frame["error"]).__notes__[0])
                    self._error = found
                else:
                    self._value = found
            elif "error" in frame:
                self._error = thrown.remake(frame["error"])
            elif "unfit" in frame:
                self._error = NotPlainError(self.name, *map(str, frame["unfit"]))
            else:
                self._value = values.unpack(frame["value"])
        except values.UnfitError as unfit:
            self._error = NotPlainError(self.name, unfit.type_name, unfit.where, unfit.why)
        except Exception as error:  # what the child made up, or a class that pickle does not find
            self._error = IsolatedLoss(self.name, f"its answer cannot be read ({error!r})")


def _without_caller(stacks: str) -> str:
    """The fault handler's stacks without the frames below the function: those are the caller's."""
    return _CALLER.sub("", stacks)


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except ValueError:  # closed meanwhile: where its successor goes is the best that is left
        sys.stdout.write(text)
