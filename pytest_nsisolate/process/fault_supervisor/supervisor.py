# SPDX-License-Identifier: MIT
"""Who answers the calls of one test, and what the test asks of it."""

from __future__ import annotations

import heapq
import json
import os
import select
import socket
import sys
import time
from typing import Any, Final, NoReturn

from . import LONGEST, PATIENCE, RUNNER, SOCKET, TEST
from .callers import status
from .faults import Fault
from .listener import Listener, Notification

_TURN_MILLISECONDS: Final = 1
_PIDFD_GETFD: Final = 438
_LISTENER: Final = "anon_inode:seccomp notify"


class Supervisor:
    """Answers for the calls of one test until the runner ends this process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._listener: Listener | None = None
        self._faults: dict[int, Fault] = {}
        self._by_call: dict[int, list[Fault]] = {}
        self._numbers = 0
        #: Calls that are held: when they are to be answered, in which order, and how.
        self._held: list[tuple[float, int, Notification, int]] = []
        self._exempt: frozenset[int] = frozenset()
        self._test = _pid_of(TEST)
        self._level = len(status(self._test).get("NStgid", [""])) - 1
        self._poller = select.poll()
        self._poller.register(RUNNER, select.POLLIN)
        self._poller.register(channel, select.POLLIN)

    def serve(self) -> NoReturn:
        """Until the runner is gone, or kills this process."""
        listening = -1
        while True:
            if self._listener is not None:
                listening = self._listener.descriptor
            for descriptor, events in self._poller.poll(self._patience()):
                if descriptor == listening and events & select.POLLIN:
                    self._judge()
                elif descriptor == listening:
                    self._poller.unregister(listening)  # no process is under the filter any more
                elif descriptor == RUNNER:
                    sys.exit(0)
                elif descriptor == SOCKET:
                    self._hear()
            self._release()

    def _judge(self) -> None:
        listener = self._listener
        assert listener is not None
        call = listener.receive()
        if call is None:
            return
        faults = self._by_call.get(call.number)
        if not faults or self._is_exempt(call):
            listener.let_go_on(call)
            return
        delay, error = 0.0, 0
        for fault in faults:
            # seccomp_unotify(2): what was read is the caller's only if it is still waiting.
            if fault.applies(call, self._level) and listener.is_waiting(call) and fault.hits():
                fault.tell(call, self._level)
                delay += fault.delay
                error = error or fault.error
        if delay:
            self._numbers += 1
            entry = (time.monotonic() + delay, self._numbers, call, error)
            heapq.heappush(self._held, entry)
        else:
            self._finish(call, error)

    def _finish(self, call: Notification, error: int) -> None:
        assert self._listener is not None
        if error:
            self._listener.refuse(call, error)
        else:
            self._listener.let_go_on(call)

    def _is_exempt(self, call: Notification) -> bool:
        """The machinery's own, in the test's process: what it tells the runner, and this one."""
        if call.arguments[0] not in self._exempt:
            return False
        return status(call.pid).get("Tgid") == [str(self._test)]

    def _patience(self) -> float | None:
        if not self._held:
            return None
        return max(self._held[0][0] - time.monotonic(), 0) * 1000

    def _release(self) -> None:
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, call, error = heapq.heappop(self._held)
            self._finish(call, error)

    # Requests -------------------------------------------------------------------------------------

    def _hear(self) -> None:
        try:
            request = self._channel.recv(LONGEST)
        except ConnectionError:
            request = b""
        if not request:
            self._poller.unregister(SOCKET)  # the test has ended; its daemons may go on
            return
        number = None
        try:
            asked = json.loads(request)
            number = asked.pop("number", None)
            answer = self._do(asked)
        except Exception as error:  # of the wrong shape: the test's process is not trusted
            answer = {"problem": f"{type(error).__name__}: {error}"}
        answer["number"] = number
        try:
            self._channel.send(json.dumps(answer).encode())
        except OSError:
            pass

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.pop("do"):
            case "take":
                return self._take(request["descriptor"], request["exempt"])
            case "add":
                key = int(request.pop("fault"))
                self._faults[key] = fault = Fault(**request)
                for number in fault.calls:
                    self._by_call.setdefault(number, []).append(fault)
                return {}
            case "count":
                return self._faults[request["fault"]].state()
            case "drop":
                return self._drop(request["fault"])
        raise ValueError("an unknown request")

    def _drop(self, key: int) -> dict[str, Any]:
        fault = self._faults.pop(key)
        for number in fault.calls:
            rest = [other for other in self._by_call[number] if other is not fault]
            if rest:
                self._by_call[number] = rest
            else:
                del self._by_call[number]
        return fault.state()

    def _take(self, guess: int, exempt: list[int]) -> dict[str, Any]:
        """Get a copy of the listener, which the test cannot send any more.

        Between its birth and this each call of the test waits, also those of threads that have the
        interpreter's lock, and sending it is such a call.

        :param guess: the descriptor that it probably has.
        """
        self._channel.send(b'{"ready": true}')
        poller = select.poll()
        poller.register(SOCKET, select.POLLIN)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if (found := self._find(guess)) is not None:
                self._listener = Listener(_copied(TEST, found))
                self._poller.register(self._listener.descriptor, select.POLLIN)
                self._exempt = frozenset(exempt)
                return {"taken": found}
            if poller.poll(_TURN_MILLISECONDS):
                self._channel.recv(LONGEST)  # the kernel has refused the filter
                return {"problem": "there is no filter"}
        return {"problem": f"the filter was not there within {PATIENCE:g} s"}

    def _find(self, guess: int) -> int | None:
        where = f"/proc/{self._test}/fd"
        try:
            if os.path.islink(f"{where}/{guess}") and os.readlink(f"{where}/{guess}") == _LISTENER:
                return guess
            for name in os.listdir(where):
                if os.readlink(f"{where}/{name}") == _LISTENER:
                    return int(name)
        except OSError:
            pass
        return None


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as info:
        fields = dict(line.split(":", 1) for line in info)
    return int(fields["Pid"])


def _copied(pidfd: int, descriptor: int) -> int:
    import ctypes

    call = ctypes.CDLL(None, use_errno=True)["syscall"]
    arguments = (_PIDFD_GETFD, pidfd, descriptor, 0)
    copied = int(call(*(ctypes.c_long(argument) for argument in arguments)))
    if copied < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return copied


def main() -> NoReturn:  # pragma: no cover (runs in a process of its own, seen by its effects)
    """Serve the test; see :class:`Supervisor`."""
    channel = socket.socket(fileno=SOCKET)
    channel.send(b'{"hello": true}')
    Supervisor(channel).serve()
