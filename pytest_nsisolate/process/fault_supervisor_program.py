# SPDX-License-Identifier: MIT
"""The fault supervisor's own process: see :mod:`pytest_nsisolate.process.fault_supervisor`.

It answers every system call of one test, and of all that the test starts, from the first fault that
the test asks for (seccomp_unotify(2)). A call that no fault is for goes on at once.

A program, run by path without site-packages: it imports the standard library only. What it knows of
system calls by name comes with each request.

Requests come over one socket, one JSON object each, and each has an answer:

* ``{"do": "take", "descriptor": N, "exempt": [...]}``: find the listener in the test's process;
* ``{"do": "add", ...}``: a fault, see :class:`Fault`; answered with its number;
* ``{"do": "count", "fault": N}`` and ``{"do": "drop", "fault": N}``: what has become of it.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import heapq
import json
import os
import posixpath
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from random import Random

#: Descriptors that it is started with: pidfds of the runner and of the test, and where requests
#: come from.
RUNNER: Final = 3
TEST: Final = 4
SOCKET: Final = 5

#: Bytes of the longest request.
LONGEST: Final = 1 << 16

#: Seconds that the test has between its request and its filter.
PATIENCE: Final = 10.0
_TURN_MILLISECONDS: Final = 1

#: ``SECCOMP_IOCTL_NOTIF_…`` (linux/seccomp.h).
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_IS_VALID: Final = 0x40082102
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1
_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("=QqiI")

_PIDFD_GETFD: Final = 438
_LISTENER: Final = "anon_inode:seccomp notify"

_AT_FDCWD: Final = 0xFFFFFF9C
_PAGE: Final = 4096
_LONGEST_PATH: Final = 4096
_LONGEST_ADDRESS: Final = 128

#: Calls that are told one by one; more are counted.
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Notification:
    """One call that waits for its answer (``struct seccomp_notif``).

    :param pid: the thread that makes it, as this process sees it.
    """

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


class Listener:
    """The descriptor over which calls are answered; whoever opened it closes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = bytearray(_NOTIFICATION.size)
        self._empty = bytes(_NOTIFICATION.size)
        try:
            # Linux 6.6: the waker hands over its processor.
            fcntl.ioctl(descriptor, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:
            pass

    def receive(self) -> Notification | None:
        """The next call; None if its thread was killed before it could be read."""
        buffer = self._buffer
        buffer[:] = self._empty
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id_, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(id_, pid, number, tuple(arguments))

    def let_go_on(self, call: Notification) -> None:
        """The kernel carries the call out (SECCOMP_USER_NOTIF_FLAG_CONTINUE)."""
        self._send(_RESPONSE.pack(call.id, 0, 0, _CONTINUE))

    def refuse(self, call: Notification, error: int) -> None:
        """The call fails, and is not carried out."""
        self._send(_RESPONSE.pack(call.id, 0, -error, 0))

    def answer(self, call: Notification, value: int) -> None:
        """The call gives this value, and is not carried out."""
        self._send(_RESPONSE.pack(call.id, value, 0, 0))

    def is_waiting(self, call: Notification) -> bool:
        """Whether the thread is still there: until then its number may be another's by now."""
        try:
            fcntl.ioctl(self.descriptor, _IS_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, response)
        except FileNotFoundError:
            pass  # killed meanwhile


# What a call is about -----------------------------------------------------------------------------


class UnreadableError(Exception):
    """The caller's memory or its files may not be looked at (ptrace(2))."""


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Bytes of the caller's memory, at most so many, and up to the end of what is mapped."""
    found = b""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            while len(found) < size:
                # Not over the end of a page, behind which there may be nothing.
                step = min(size - len(found), _PAGE - (address + len(found)) % _PAGE)
                try:
                    part = os.pread(memory.fileno(), step, address + len(found))
                except OSError:
                    break
                if not part:
                    break
                found += part
    except (OSError, OverflowError) as error:
        raise UnreadableError from error
    return found


def read_text(pid: int, address: int) -> str:
    """A string of the caller's memory (``\\0`` ends it)."""
    text = b""
    while len(text) < _LONGEST_PATH:
        part = read_memory(pid, address + len(text), 256)
        text += part.partition(b"\0")[0]
        if b"\0" in part or not part:
            break
    return os.fsdecode(text)


def file_of(pid: int, descriptor: int) -> str:
    """Where a descriptor of the caller leads, as ``/proc/PID/fd`` shows it; empty if nowhere."""
    where = "cwd" if descriptor == _AT_FDCWD else f"fd/{descriptor}"
    try:
        return os.readlink(f"/proc/{pid}/{where}").removesuffix(" (deleted)")
    except PermissionError as error:
        raise UnreadableError from error
    except OSError:
        return ""


def address_of(pid: int, position: int, size: int) -> str:
    """A socket address (``127.0.0.1:80``, ``[::1]:80``, a path, ``@name`` if it is abstract)."""
    raw = read_memory(pid, position, min(size, _LONGEST_ADDRESS))
    family = int.from_bytes(raw[:2], sys.byteorder)
    if family == socket.AF_INET and len(raw) >= 8:
        return f"{socket.inet_ntoa(raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}"
    if family == socket.AF_INET6 and len(raw) >= 24:
        host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        return f"[{host}]:{int.from_bytes(raw[2:4], 'big')}"
    if family == socket.AF_UNIX:
        path = raw[2:]
        if path[:1] == b"\0":
            return "@" + os.fsdecode(path[1:])
        return os.fsdecode(path.partition(b"\0")[0])
    return ""


def _status(pid: int) -> dict[str, list[str]]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            lines = [line.partition(":") for line in status]
    except OSError:
        return {}
    return {key: value.split() for key, _, value in lines}


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return ""


def _basename(pid: int) -> str:
    """Of what was typed to start it: ``comm`` has 15 characters, and a script's interpreter."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            return posixpath.basename(os.fsdecode(line.read(_PAGE).partition(b"\0")[0]))
    except OSError:
        return ""


# Faults -------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """What happens to some calls, from its request to its end.

    :param calls: by number of the call: its name, which arguments are paths (with the position of
        the descriptor that a relative one starts at, or -1), which are descriptors, and where a
        socket address is, or -1.
    :param error: the errno; 0 lets the call go on.
    :param delay: seconds before that.
    :param after: so many matching calls go through first.
    :param times: so many calls are hit, and then none; 0 is no bound.
    :param path: a pattern (fnmatch) for a path, or for the file of a descriptor.
    :param fd: a descriptor's number.
    :param arguments: position and value, 64 bits unsigned.
    :param process: a process's number in the test's PID namespace, or a pattern for its program.
    """

    calls: dict[int, tuple[str, list[list[int]], list[int], int]]
    error: int = 0
    delay: float = 0.0
    after: int = 0
    times: int = 0
    path: str | None = None
    address: str | None = None
    fd: int | None = None
    arguments: list[list[int]] = field(default_factory=list)
    process: int | str | None = None
    probability: float = 1.0
    seed: int = 0
    #: So many calls had its name, so many matched, so many were hit, of so many it is not known.
    seen: int = 0
    matched: int = 0
    count: int = 0
    unreadable: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    chance: Random | None = None

    def __post_init__(self) -> None:
        self.calls = {int(number): call for number, call in self.calls.items()}
        if self.probability < 1:
            from random import Random

            self.chance = Random(self.seed)  # noqa: S311 (it guards nothing)

    def applies(self, call: Notification, test_level: int) -> bool:
        """Whether a call is one of those that it is for."""
        self.seen += 1
        if self.times and self.count >= self.times:
            return False
        _, paths, descriptors, address = self.calls[call.number]
        given = call.arguments
        if any(given[position] != value for position, value in self.arguments):
            return False
        if self.fd is not None and all(given[n] & 0xFFFFFFFF != self.fd for n in descriptors):
            return False
        try:
            if self.process is not None and not self._is_of(call.pid, test_level):
                return False
            if self.path is not None:
                found = _files(call, paths, descriptors)
                return any(fnmatch.fnmatchcase(name, self.path) for name in found)
            if self.address is not None:
                found = _addresses(call, address)
                return any(fnmatch.fnmatchcase(name, self.address) for name in found)
        except UnreadableError:
            self.unreadable += 1
            return False
        return True

    def hits(self) -> bool:
        """Whether a call that it is for is the one, and counts it."""
        self.matched += 1
        if self.matched <= self.after:
            return False
        if self.chance is not None and self.chance.random() >= self.probability:
            return False
        self.count += 1
        return True

    def tell(self, call: Notification, test_level: int) -> None:
        """Write down one that was hit."""
        if len(self.told) >= _MOST_TOLD:
            return
        name, paths, descriptors, address = self.calls[call.number]
        try:
            about = [*_files(call, paths, descriptors), *_addresses(call, address)]
        except UnreadableError:
            about = []
        whole = [text for text in about if text.startswith("/")]
        found = {"call": name, "about": next(filter(None, [*whole, *about]), "")}
        found |= {"name": _program(call.pid)}
        self.told.append({**found, "pid": _number(call.pid, test_level)})

    def state(self) -> dict[str, Any]:
        """What has become of it."""
        names = ("seen", "matched", "count", "unreadable")
        return {**{name: getattr(self, name) for name in names}, "calls": self.told}

    def _is_of(self, pid: int, test_level: int) -> bool:
        if isinstance(self.process, int):
            return _number(pid, test_level) == self.process
        assert self.process is not None
        names = (_program(pid), _basename(pid))
        return any(name and fnmatch.fnmatchcase(name, self.process) for name in names)


def _number(tid: int, level: int) -> int:
    """The number of a thread's process, at a level of nested PID namespaces."""
    numbers = _status(tid).get("NStgid", [])
    return int(numbers[level]) if level < len(numbers) else 0


def _files(call: Notification, paths: list[list[int]], descriptors: list[int]) -> Iterator[str]:
    """The files that a call names: as it does, whole, and by its descriptors."""
    given = call.arguments
    for position, base in paths:
        text = read_text(call.pid, given[position]) if given[position] else ""
        if text:
            yield text
        if not text.startswith("/"):
            start = file_of(call.pid, _AT_FDCWD if base < 0 else given[base] & 0xFFFFFFFF)
            yield posixpath.normpath(posixpath.join(start, text)) if text else start
        else:
            yield posixpath.normpath(text)
    for position in descriptors:
        yield file_of(call.pid, given[position] & 0xFFFFFFFF)


def _addresses(call: Notification, position: int) -> Iterator[str]:
    if position >= 0 and call.arguments[position]:
        size = call.arguments[position + 1]
        yield address_of(call.pid, call.arguments[position], size)


# The supervisor -----------------------------------------------------------------------------------


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
        self._level = len(_status(self._test).get("NStgid", [""])) - 1
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
        return _status(call.pid).get("Tgid") == [str(self._test)]

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
        try:
            answer = self._do(json.loads(request))
        except Exception as error:  # of the wrong shape: the test's process is not trusted
            answer = {"problem": f"{type(error).__name__}: {error}"}
        try:
            self._channel.send(json.dumps(answer).encode())
        except OSError:
            pass

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.pop("do"):
            case "take":
                return self._take(request["descriptor"], request["exempt"])
            case "add":
                fault = Fault(**request)
                self._numbers += 1
                self._faults[self._numbers] = fault
                for number in fault.calls:
                    self._by_call.setdefault(number, []).append(fault)
                return {"fault": self._numbers}
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
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as info:
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


if __name__ == "__main__":
    main()
