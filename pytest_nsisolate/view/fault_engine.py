# SPDX-License-Identifier: MIT
"""The way to the process that answers for the test's system calls.

It is asked over a socket; the first fault puts this process under a filter (seccomp(2)), which it
cannot leave any more (:mod:`pytest_nsisolate.process.helpers`).

Fact: a handler of a signal runs, and raises, anywhere in the main thread: a Ctrl-C, a timeout. A
filter that has been installed then without being taken note of could neither be used nor be
installed again. Consequence: a thread of our own begins, which no handler interrupts. Who has not
waited for it finds its result later.
"""

from __future__ import annotations

import errno as errors
from _socket import SocketType  # pytest-socket forbids that of the module above
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pytest_nsisolate.child import helper_channel
from pytest_nsisolate.errors import FaultRefusal
from pytest_nsisolate.host import examine
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.host.remedies import explained
from pytest_nsisolate.kernel import seccomp, syscall_numbers
from pytest_nsisolate.kernel.originals import json, os, select, threading, time
from pytest_nsisolate.process.fault_supervisor import LONGEST, PATIENCE
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.child.outgoing import Outgoing

#: Seconds for the end of a thread that has nothing more to do.
_MOMENT: Final = 1.0

_NOT_HERE: Final = "faults belong to the test's own process, not to a fork of it"


def engine_of(outgoing: Outgoing) -> Engine:
    """The one of this process: the kernel allows no second filter of the kind (seccomp(2))."""
    if outgoing.faults is None:
        assert outgoing.writer is not None, "only the child has faults"
        outgoing.faults = Engine(outgoing.writer)
    return outgoing.faults


class Engine:
    """The filter of this process, and what tells the supervisor what to do. Threads may share it.

    :param writer: the way to the runner.
    """

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._channel: SocketType | None = None
        #: Taken, for good, by the thread that begins.
        self._beginning = threading.Lock()
        self._begun = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._over = False
        self._last_key = 0
        #: Of the last question. An exception of a signal handler may keep us from hearing an
        #: answer, which is not the next question's.
        self._number = 0

    def new_key(self) -> int:
        """For another fault."""
        with self._lock:
            self._last_key += 1
            return self._last_key

    def begin(self) -> None:
        """Come under the filter, if this process is not under it yet.

        :raises FaultRefusal: when this host does not allow it.
        """
        if not self._begun.is_set():
            thread = threading.Thread(target=self._begin_once, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # a limit of the test's is reached
                self._begin_once()
            self._begun.wait()
            _await_end(thread)
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def add(self, key: int, request: dict[str, Any]) -> None:
        """Begin a fault; under the filter from the first one on.

        After an exception :meth:`forget` it.

        :param key: as :meth:`new_key` gave it.
        :raises FaultRefusal: when this host does not allow it.
        """
        with self._lock:
            if self._writer.descriptor < 0:
                raise RuntimeError(_NOT_HERE)
            if self._over:
                raise RuntimeError("pid1 is torn down, and begins no other fault")
            self.begin()
            self._open.add(key)
            self._ask({"do": "add", "fault": key, **request})

    def count(self, key: int) -> dict[str, Any]:
        """What has become of it by now."""
        with self._lock:
            return {} if self._over else self._ask({"do": "count", "fault": key})

    def drop(self, key: int) -> dict[str, Any]:
        """End a fault: what has become of it. After an exception :meth:`forget` it."""
        with self._lock:
            answer = {} if self._over else self._ask({"do": "drop", "fault": key})
            self._open.discard(key)
            return answer

    def forget(self, key: int) -> None:
        """End a fault that may be in force: an exception came while it was begun, or dropped."""
        self._open.discard(key)
        if self._channel is not None and self._writer.descriptor >= 0:
            with suppress(FaultRefusal):
                self._tell(self._channel, {"do": "drop", "fault": key})

    def close(self) -> None:
        """The test is over: end those that are still in force, and begin no other."""
        with self._lock:
            if self._beginning.locked():
                self._begun.wait()
            channel, self._channel, self._over = self._channel, None, True
            if channel is not None and self._writer.descriptor >= 0:
                for key in self._open:
                    self._question(channel, {"do": "drop", "fault": key})
                channel.close()

    def _begin_once(self) -> None:
        if self._beginning.acquire(blocking=False):
            try:
                self._channel = self._begin()
            except BaseException as failure:
                self._failure = failure
            finally:
                self._begun.set()

    def _begin(self) -> SocketType:
        if (error := seccomp.refusal()) is not None:
            _refuse(seccomp.STEP, error.errno or 0)
        try:
            ours = helper_channel.ask(Kind.FAULTS, self._writer)
        except OSError as gone:
            _lost(gone)
        try:
            self._install(ours, [self._writer.descriptor, ours.fileno()])
        except BaseException:
            ours.close()
            raise
        return ours

    def _install(self, channel: SocketType, exempt: list[int]) -> None:
        guess = os.dup(channel.fileno())
        os.close(guess)  # the lowest number that is free: the listener's, if no thread takes it
        self._tell(channel, {"do": "take", "descriptor": guess, "exempt": exempt})
        self._hear(channel)
        numbers = syscall_numbers.numbers()
        spared = [numbers[name] for name in seccomp.NEVER_ASKED if name in numbers]
        program = seccomp.handing_over(spared)
        try:
            listener = seccomp.install(program)
        except OSError as error:
            self._tell(channel, {"do": "nothing"})
            self._hear(channel)
            _refuse(seccomp.STEP, error.errno or 0)
        # Once no process answers, the calls must fail: so only that process may hold the listener.
        os.close(listener)
        answer = self._hear(channel)
        if "problem" in answer:
            _refuse("ask the fault supervisor", errors.ESRCH, str(answer["problem"]))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._channel is None or self._writer.descriptor < 0:
            raise RuntimeError(_NOT_HERE)
        answer = self._question(self._channel, request)
        if "problem" in answer:
            raise RuntimeError(f"the fault supervisor: {answer['problem']}")
        return answer

    def _question(self, channel: SocketType, request: dict[str, Any]) -> dict[str, Any]:
        number = self._number = self._number + 1
        self._tell(channel, {**request, "number": number})
        while True:
            answer = self._hear(channel)
            if answer.get("number") == number:
                return answer  # those before it were not waited for

    @staticmethod
    def _tell(channel: SocketType, request: dict[str, Any]) -> None:
        try:
            channel.send(json.dumps(request).encode())
        except OSError as error:
            _lost(error)

    @staticmethod
    def _hear(channel: SocketType) -> dict[str, Any]:
        said = b""
        try:
            poller = select.poll()
            poller.register(channel, select.POLLIN)
            if poller.poll(2 * PATIENCE * 1000):
                said = channel.recv(LONGEST)
        except OSError as error:
            _lost(error)
        if not said:
            _lost(ConnectionResetError(errors.ECONNRESET, "it has ended"))
        answer: dict[str, Any] = json.loads(said)
        return answer


def _await_end(thread: threading.Thread) -> None:
    """Until the kernel does not count it any more: os.fork() warns where there are threads."""
    if thread.native_id is not None:
        threading.Thread.join(thread)
        until = time.monotonic() + _MOMENT
        while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < until:
            os.sched_yield()


def _refuse(step: str, number: int, detail: str = "") -> NoReturn:
    found = explained(Refusal(step, None, number, detail), examine())
    raise FaultRefusal(found.error, found.cause, found.remedy)


def _lost(error: OSError) -> NoReturn:
    _refuse("ask the fault supervisor", error.errno or 0)
