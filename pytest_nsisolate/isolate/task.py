# SPDX-License-Identifier: MIT
"""The caller's side of a call by ``isolate``: launch, listen, judge, reap.

A value counts when the stream has ended with its completion record (law 1), and the child is
reaped before the caller sees the value. Nothing here waits without a bound, except for a function
that was given none. A task belongs to the process that has started it (:mod:`.per_process`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from pytest_nsisolate.child import output
from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.isolate import answer, awaiting
from pytest_nsisolate.isolate.call import Call, Function, is_in_memory
from pytest_nsisolate.isolate.judgement import error_of, refusal, without_caller
from pytest_nsisolate.isolate.per_process import PerProcess
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.process import outcome
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.process.channel import read_text
from pytest_nsisolate.process.expiry import catch_up
from pytest_nsisolate.process.job_control import Job
from pytest_nsisolate.request import limits
from pytest_nsisolate.runner import notes
from pytest_nsisolate.wire import log_records, warnings
from pytest_nsisolate.wire.frames import Frame, FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.process.channel import Output
    from pytest_nsisolate.process.place import Place
    from pytest_nsisolate.request.model import IsolationRequest

T = TypeVar("T")

#: Seconds for which frames are read in one go: a function may log without end.
_LOOK_SECONDS = 0.1


class Task(Generic[T]):
    """A function at work in a child. Made by ``isolate.start``.

    ``await task`` waits under asyncio or trio, without a thread, and gives what :meth:`result`
    gives. If you cancel the wait, the child goes on.
    """

    def __init__(
        self,
        home: PerProcess,
        function: Function,
        request: IsolationRequest,
        join: Place | None = None,
        *,
        awaited: bool = False,
    ) -> None:
        __tracebackhide__ = True
        self.name = function.name
        self._trusted = function.trusted
        self._command = bool(function.command)
        self._caller = caller = home.caller
        self._home = here()
        self._notes = home.notes
        self._end_span = home.span(function.name, "command" if function.command else "call")
        self._request = request
        self._awaited = awaited
        self._streams = [s if is_in_memory(s) else None for s in (sys.stdout, sys.stderr)]
        self._frame: dict[str, Any] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self.over = False
        self._asked = False
        self._waiters = awaiting.Waiters(caller.launcher.lock)

        def prepare(files: Output) -> Callable[[FrameWriter], NoReturn]:
            call = Call(
                function,
                home.config,
                files,
                own_pid=join is None and "pid" in self._request.namespaces,
                number=home.calls,
                unawaited=home.unawaited,
                measurement=self._measurement,
            )
            self._handlers = call.handlers
            call.connection = connection
            return call.run

        with caller.launcher.lock:
            self._measurement: Measurement | None = caller.measurement()
            home.calls += 1
            connection = debuggers.connect() if debuggers.is_active() else None
            try:
                output.flush_to_terminal(home.config)
                self._launch(prepare, join, debugged=connection is not None)
            finally:
                if connection is not None:
                    connection.close()
            caller.tasks.append(self)
        self._guarded(self.child.get_ready)
        if isinstance(self.child.outcome, Refusal | outcome.Broken):
            self._conclude()
        if self._error is not None:
            raise self._error

    def _launch(
        self,
        prepare: Callable[[Output], Callable[[FrameWriter], NoReturn]],
        join: Place | None,
        *,
        debugged: bool,
    ) -> None:
        __tracebackhide__ = True
        launcher = self._caller.launcher
        try:
            options: dict[str, Any] = {
                "budget": None if debugged else self._request.timeout,
                "measured": self._measurement is not None,
                "interruptible": True,
                "patient": debugged,
                # Else code of the suite's may wait for any child, and take its status away.
                "supervised": not self._awaited,
            }
            if join is None:
                started = launcher.start_admitted(self._request, prepare, **options)
                self.child, self._request = started
            else:
                self.child = launcher.start(self._request, prepare, join=join, **options)
        except RefusedError as error:
            raise refusal(error.refusal, self._request, self.name) from None

    @property
    def pid(self) -> int | None:
        """The child's number as the caller sees it; of the init with ``init=True``."""
        return self.child.end.pid1

    @property
    def settled(self) -> bool:
        """Whether the caller has asked for its result, or has ended it."""
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
        self._guarded(lambda: catch_up(self.child))
        while not self.over:
            if until is not None:
                left = until - monotonic()
                answers = partial(self.child.wait, max(left, 0))
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
        __tracebackhide__ = True
        self._check_home()
        self._guarded(lambda: catch_up(self.child))
        until = monotonic() + _LOOK_SECONDS
        while not self.over and self._guarded(lambda: self.child.wait(0)):
            self._advance()
            if monotonic() > until:
                break
        return self.over

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, waiting up to so many seconds for that."""
        __tracebackhide__ = True
        until = monotonic() + seconds
        while not self.done():
            left = until - monotonic()
            if left <= 0 or not self._guarded(partial(self.child.wait, left)):
                break
        return self.over

    def kill(self) -> None:
        """End the child now, by SIGKILL; it is gone afterwards."""
        __tracebackhide__ = True
        self._check_home()
        self._asked = True
        self.end()

    def end(self) -> None:
        """As :meth:`kill`, but it still counts as not awaited."""
        if not self.over and self._home is here():
            self.child.kill()
            while not self.over:
                self._advance()

    def helpers(self) -> dict[int, str]:
        """The processes beside that of the function, and what to call them."""
        return self.child.helpers()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        __tracebackhide__ = True
        while not self.done():
            # What has been read, but not been taken yet, makes no descriptor readable.
            there = self._guarded(lambda: self.child.wait(0))
            seconds = 0 if there else self.child.seconds_left
            await self._waiters.readable(self.child.watched(), seconds)
        return self.result()

    def __repr__(self) -> str:
        state = "ended" if self.over else "running"
        return f"<{type(self).__name__} {self.name} in process {self.pid}, {state}>"

    # What the child says --------------------------------------------------------------------------

    def _check_home(self) -> None:
        __tracebackhide__ = True
        if self._home is not here():
            raise RuntimeError(f"{self!r} belongs to the process that has started it")

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """End the child if this raises (Ctrl-C, another plugin's timer): no caller asks again."""
        if self.over:
            return None
        try:
            return action()
        except BaseException as error:
            self._asked = True
            try:
                if isinstance(error, KeyboardInterrupt):
                    Job(self.child).interrupt()
            finally:
                self.end()
            raise

    def _advance(self) -> None:
        frame = self._guarded(self.child.next_frame)
        if frame is None:
            self._conclude()
            return
        try:
            self._take(frame)
        except Exception as error:  # of the wrong shape, or raised by a log handler of the suite's
            self.child.lose(f"its stream is broken: {error!r}")

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.WARNING:
                warnings.replay(frame.data)
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
                    self._notes.add(notes.UNDEBUGGED, self.name, debuggers.why())
            case Kind.BROKEN:
                self.child.lose(str(frame.data.get("text")))
            case _:
                raise BrokenStream(f"an unexpected frame ({frame.kind.name})")

    # The end --------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        child = self.child
        ended = child.outcome
        assert ended is not None
        if ended != outcome.Finished(alone=True):
            child.kill()
        files = child.end.output
        written = files.lost_text() if child.captured is None else child.captured
        texts = [dict(written).get(name, "") for name in ("stdout", "stderr")]
        faults = without_caller(read_text(files.fault)).strip()
        with self._caller.launcher.lock:
            child.end.let_go()
            child.reap()
            self.over = True
            self._caller.tasks.remove(self)
            self._waiters.wake()
        self._judge(ended, faults)
        became = "returned" if self._error is None else type(self._error).__name__
        self._end_span(became, child)
        if child.limits is not None and self._error is not None:
            met = child.limits.met_by_failure(limits.errnos(self._error))
            for bound in child.limits_met() or met:
                self._error.add_note(str(bound))
        for stream, text in zip(self._streams, texts, strict=True):
            if text and stream is not None:
                _write(stream, text)

    def _judge(self, ended: outcome.Outcome, faults: str) -> None:
        if isinstance(ended, Refusal):
            explained = self._caller.launcher.explained(ended, self._request.user)
            self._error = refusal(explained, self._request, self.name)
            if faults:
                self._error.add_note(faults)
            return
        ending, command = self.child.inbox.ending, self._command
        self._error = error_of(ended, self.name, faults, command=command, ending=ending)
        if self._error is None:
            frame = self._frame or {}
            self._value, self._error = answer.read(frame, self.name, trusted=self._trusted)


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except ValueError:  # closed meanwhile: the stream that has replaced it has to do
        sys.stdout.write(text)
