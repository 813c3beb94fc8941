# SPDX-License-Identifier: MIT
"""Faults on demand: system calls of the test, and of what it starts, that fail or take their time.

The test's side. What a fault is for is checked here, where an error still has the test's line; a
process outside answers the calls (:mod:`pytest_nsisolate.process.helpers`).
"""

from __future__ import annotations

import errno as errors
from _socket import SocketType, socketpair  # pytest-socket forbids those of the module above
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, TypeAlias

from pytest_nsisolate.errors import FaultRefusal
from pytest_nsisolate.host import examine
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.host.remedies import explained
from pytest_nsisolate.kernel import seccomp, syscall_numbers
from pytest_nsisolate.kernel.originals import json, os, random, select, socket, threading
from pytest_nsisolate.process.fault_supervisor_program import LONGEST, PATIENCE
from pytest_nsisolate.view.assertions.failures import failure
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.wire.frames import FrameWriter, Kind

Unused: TypeAlias = Literal["fail", "ok"]

#: What a C library calls for a function that people know by another name.
_MEANT: Final[Mapping[str, tuple[str, ...]]] = {
    "accept": ("accept4",),
    "access": ("faccessat2",),
    "chmod": ("fchmodat",),
    "chown": ("fchownat",),
    "creat": ("openat",),
    "dup2": ("dup3",),
    "epoll_create": ("epoll_create1",),
    "eventfd": ("eventfd2",),
    "fopen": ("openat",),
    "fork": ("clone", "clone3"),
    "fstat": ("newfstatat", "statx"),
    "getdents": ("getdents64",),
    "inotify_init": ("inotify_init1",),
    "link": ("linkat",),
    "lstat": ("newfstatat", "statx"),
    "malloc": ("mmap", "brk"),
    "mkdir": ("mkdirat",),
    "mknod": ("mknodat",),
    "nanosleep": ("clock_nanosleep",),
    "open": ("openat",),
    "pipe": ("pipe2",),
    "poll": ("ppoll",),
    "pread": ("pread64",),
    "pwrite": ("pwrite64",),
    "read": ("readv", "pread64"),
    "readdir": ("getdents64",),
    "readlink": ("readlinkat",),
    "recv": ("recvfrom",),
    "rename": ("renameat2", "renameat"),
    "rmdir": ("unlinkat",),
    "select": ("pselect6",),
    "send": ("sendto",),
    "signalfd": ("signalfd4",),
    "sleep": ("clock_nanosleep",),
    "stat": ("newfstatat", "statx"),
    "symlink": ("symlinkat",),
    "umount": ("umount2",),
    "unlink": ("unlinkat",),
    "utime": ("utimensat",),
    "utimes": ("utimensat",),
    "vfork": ("clone", "clone3"),
    "wait": ("wait4",),
    "waitpid": ("wait4",),
    "write": ("writev", "pwrite64"),
}

#: Which argument is a socket address; its length is the next one.
_ADDRESSES: Final = {"bind": 1, "connect": 1, "sendto": 4}

_MOST_ERRNO: Final = 4095
_LONGEST_DELAY: Final = 3600.0
_MOST_ARGUMENTS: Final = 6


@dataclass(frozen=True, slots=True)
class FaultyCall:
    """One call that a fault was for.

    :param call: its name.
    :param about: the path, the descriptor's file or the address that it was for; may be empty.
    :param pid: the process that made it, by its number in the test's PID namespace.
    :param process: the name of its program, as ``/proc/PID/comm`` has it.
    """

    call: str
    about: str
    pid: int
    process: str

    def __str__(self) -> str:
        return f"{self.call}({self.about}) of {self.process} ({self.pid})"


class Fault:
    """What ``pid1.fail`` and ``pid1.delay`` return: a context manager, in force in its block."""

    def __init__(
        self,
        engine: Engine | None,
        request: dict[str, Any],
        described: str,
        unused: Unused,
        names: Sequence[str],
    ) -> None:
        self._engine = engine
        self._request = request
        self._described = described
        self._unused = unused
        self._names = names
        self._key: int | None = None
        self._state: dict[str, Any] = {}

    @property
    def count(self) -> int:
        """So many calls were hit by now."""
        return int(self._look().get("count", 0))

    @property
    def calls(self) -> tuple[FaultyCall, ...]:
        """The first twenty of them."""
        return tuple(
            FaultyCall(call["call"], call["about"], call["pid"], call["name"])
            for call in self._look().get("calls", ())
        )

    def __enter__(self) -> Fault:
        __tracebackhide__ = True
        if self._key is not None:
            raise RuntimeError(f"{self!r} is in force already")
        if self._engine is None:
            raise RuntimeError("faults are for the pid1 of an isolated test, in its own process")
        self._key = self._engine.add(self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        self._drop()
        if error is None and self._unused == "fail" and not self._state.get("count"):
            raise self._never_happened()

    def _drop(self) -> None:
        if self._key is not None and self._engine is not None:
            key, self._key = self._key, None
            self._state = self._engine.drop(key) or self._state

    def _look(self) -> dict[str, Any]:
        if self._key is not None and self._engine is not None:
            self._state = self._engine.count(self._key) or self._state
        return self._state

    def _never_happened(self) -> AssertionError:
        seen, matched = (int(self._state.get(name, 0)) for name in ("seen", "matched"))
        unreadable = int(self._state.get("unreadable", 0))
        names = " or ".join(self._names)
        hint = 'if that may be, say unused="ok"'
        if not seen:
            meant = [m for name in self._names for m in _MEANT.get(name, ()) if m not in names]
            if meant:
                hint = f"a C library may call {' or '.join(meant)} instead; name both in a tuple"
            found = f"no call of {names}"
        elif unreadable:
            found = f"{seen} calls of {names}; of {unreadable} the arguments may not be looked at"
            hint = "a process that changed its ids hides its memory (prctl(2), PR_SET_DUMPABLE)"
        elif not matched:
            found = f"{seen} calls of {names}, none that was meant"
        else:
            found = f"{matched} of those calls, and none was hit"
        expected = "at least one call that it is for, before its block ended"
        return failure(f"{self!r} never happened", expected=expected, seen=found, hint=hint)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._described}>"


class FaultInjection(Readings):
    """Faults, as methods of ``pid1``."""

    __slots__ = ()

    def fail(  # noqa: PLR0913 (keywords, each a filter of its own)
        self,
        call: str | Sequence[str],
        error: int | str,
        *,
        path: str | None = None,
        address: str | None = None,
        fd: int | None = None,
        args: Mapping[int, int] | None = None,
        process: int | str | Any = None,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: int | None = None,
        unused: Unused = "fail",
    ) -> Fault:
        """Let system calls fail: of the test, and of all that it starts from the first fault on.

        :param call: its name, or names: ``"openat"``, ``("write", "pwrite64")`` (syscalls(2)).
        :param error: the errno, by number or by name (errno(3)).
        :param path: only calls with a path, or a descriptor of a file, that matches this pattern
            (``fnmatch``): as it was given, or whole, without ``.`` and ``..``.
        :param address: only with a socket address that matches: ``127.0.0.1:80``, ``[::1]:80``, the
            path of a Unix socket, ``@name`` of an abstract one. For connect, bind and sendto.
        :param fd: only with this descriptor.
        :param args: only with these values, by position from 0; a negative one as 64 bits.
        :param process: only of this process, by its number or what has ``pid``; or of programs
            whose name matches this pattern.
        :param times: so many calls fail, and then none; without, all.
        :param after: so many calls that are meant go through first.
        :param probability: of each call that is meant, to fail.
        :param seed: of these chances; a failure names the one that was used.
        :param unused: what follows if no call failed: ``"fail"`` fails the test, ``"ok"`` nothing.
        :returns: a context manager; it is in force in its block, which begins with a
            ``FaultRefusal`` where this host has no way to do it.
        """
        __tracebackhide__ = True
        number, symbol = _errno(error)
        filters = _Filters(path, address, fd, args, process)
        chances = _Chances(times, after, probability, seed)
        action = {"error": number}
        return self._fault(call, action, f"with {symbol}", filters, chances, unused)

    def delay(  # noqa: PLR0913 (likewise)
        self,
        call: str | Sequence[str],
        seconds: float,
        *,
        path: str | None = None,
        address: str | None = None,
        fd: int | None = None,
        args: Mapping[int, int] | None = None,
        process: int | str | Any = None,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: int | None = None,
        unused: Unused = "fail",
    ) -> Fault:
        """Hold system calls up, and let them go on: as :meth:`fail`, with the same filters.

        :param seconds: how long; a call that two of them are for is held for both. Signals wait as
            long, but for SIGKILL.
        """
        __tracebackhide__ = True
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"seconds is a number, not {seconds!r}")
        if not isfinite(seconds) or not 0 < seconds <= _LONGEST_DELAY:
            raise ValueError(f"seconds is above 0 and at most {_LONGEST_DELAY:g}, not {seconds!r}")
        filters = _Filters(path, address, fd, args, process)
        chances = _Chances(times, after, probability, seed)
        action = {"delay": float(seconds)}
        return self._fault(call, action, f"by {seconds:g} s", filters, chances, unused)

    def _end_faults(self) -> None:
        """End what is still in force; the fixture does so when the test is over."""
        if self._origin.faults is not None:
            self._origin.faults.close()

    def _fault(
        self,
        call: str | Sequence[str],
        action: dict[str, Any],
        how: str,
        filters: _Filters,
        chances: _Chances,
        unused: Unused,
    ) -> Fault:
        __tracebackhide__ = True
        if unused not in ("fail", "ok"):
            raise ValueError(f'unused is "fail" or "ok", not {unused!r}')
        known = _known(call)
        only, told = filters.resolve(known)
        rest, more = chances.resolve()
        calls = {str(number): _place(name) for name, number in known.items()}
        request = {"calls": calls, **action, **only, **rest}
        described = " ".join([" or ".join(known), how, *told, *more])
        return Fault(self._origin.faults, request, described, unused, tuple(known))


@dataclass(frozen=True, slots=True)
class _Filters:
    """Which of the calls by that name are meant."""

    path: str | None
    address: str | None
    fd: int | None
    args: Mapping[int, int] | None
    process: Any

    def resolve(self, known: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
        """As the supervisor takes them, and as words."""
        places = {name: _place(name) for name in known}
        found: dict[str, Any] = {}
        if self.path is not None:
            _is_pattern("path", self.path)
            _all_have("path", {n: bool(p[1] or p[2]) for n, p in places.items()}, "a path")
            found["path"] = self.path
        if self.address is not None:
            _is_pattern("address", self.address)
            _all_have("address", {n: p[3] >= 0 for n, p in places.items()}, "a socket address")
            found["address"] = self.address
        if self.fd is not None:
            _is_whole("fd", self.fd, 0)
            _all_have("fd", {n: bool(p[2]) for n, p in places.items()}, "a descriptor")
            found["fd"] = self.fd
        told = [f"{key}={value!r}" for key, value in found.items()]
        if self.args is not None:
            found["arguments"] = [_argument(*pair) for pair in self.args.items()]
            told.append(f"args={dict(self.args)!r}")
        if self.process is not None:
            found["process"] = who = _process(self.process)
            told.append(f"process={who!r}")
        return found, told


@dataclass(frozen=True, slots=True)
class _Chances:
    """Which of the calls that are meant are hit."""

    times: int | None
    after: int
    probability: float
    seed: int | None

    def resolve(self) -> tuple[dict[str, Any], list[str]]:
        """As the supervisor takes them, and as words."""
        found: dict[str, Any] = {}
        if self.times is not None:
            found["times"] = _is_whole("times", self.times, 1)
        if _is_whole("after", self.after, 0):
            found["after"] = self.after
        told = [f"{key}={value!r}" for key, value in found.items()]
        chance = self.probability
        if isinstance(chance, bool) or not isinstance(chance, int | float):
            raise TypeError(f"probability is a number, not {chance!r}")
        if not 0 < chance <= 1:
            raise ValueError(f"probability is above 0 and at most 1, not {chance!r}")
        if chance < 1:
            seed = random.SystemRandom().getrandbits(32) if self.seed is None else self.seed
            found |= {"probability": float(chance), "seed": _is_whole("seed", seed, 0)}
            told.append(f"probability={chance:g} seed={seed}")
        elif self.seed is not None:
            raise ValueError("seed is of no use without a probability")
        return found, told


def _errno(error: int | str) -> tuple[int, str]:
    if isinstance(error, str):
        number = getattr(errors, error, None)
        if not isinstance(number, int) or not error.startswith("E"):
            near = get_close_matches(error.upper(), errors.errorcode.values(), 1)
            raise ValueError(f"{error!r} is not the name of an errno{_ask(near)} (errno(3))")
        return number, error
    if isinstance(error, bool) or not isinstance(error, int):
        raise TypeError(f"error is an errno, by number or by name, not {error!r}")
    if not 0 < error <= _MOST_ERRNO:
        raise ValueError(f"an errno is from 1 to {_MOST_ERRNO}, not {error}")
    return int(error), errors.errorcode.get(error, str(error))


def _known(call: str | Sequence[str]) -> dict[str, int]:
    """The calls that are meant, by name; those that only other machines have are left out."""
    if not isinstance(call, str | tuple | list) or not call:
        raise TypeError(f"call is the name of a system call, or a tuple of names, not {call!r}")
    names = [call] if isinstance(call, str) else call
    here, everywhere = syscall_numbers.numbers(), syscall_numbers.every_name()
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name of a system call is text, not {name!r}")
        if name not in everywhere:
            near = _MEANT.get(name) or get_close_matches(name, everywhere, 3)
            raise ValueError(f"there is no system call {name!r}{_ask(near)} (syscalls(2))")
        if name in seccomp.NEVER_ASKED:
            raise ValueError(f"{name} is one of the calls that cannot be made to fail")
    found = {name: here[name] for name in names if name in here}
    if not found and here:
        meant = tuple(m for name in names for m in _MEANT.get(name, ()) if m in here)
        machine, named = os.uname().machine, " or ".join(names)
        raise ValueError(f"this machine ({machine}) has no system call {named}{_ask(meant)}")
    return found


def _place(name: str) -> tuple[str, list[list[int]], list[int], int]:
    """What :class:`~pytest_nsisolate.process.fault_supervisor_program.Fault` has to know of it."""
    paths = [list(pair) for pair in syscall_numbers.path_arguments().get(name, ())]
    descriptors = list(syscall_numbers.descriptor_arguments().get(name, ()))
    descriptors += [] if descriptors else [base for _, base in paths if base >= 0]
    return name, paths, [] if paths and not descriptors else descriptors, _ADDRESSES.get(name, -1)


def _argument(position: object, value: object) -> list[int]:
    if not isinstance(position, int) or not 0 <= position < _MOST_ARGUMENTS:
        raise ValueError(f"args has positions from 0 to {_MOST_ARGUMENTS - 1}, not {position!r}")
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"args has whole numbers of 64 bits, not {value!r}")
    return [position, value & (1 << 64) - 1]


def _process(process: Any) -> int | str:
    found = process if isinstance(process, int | str) else getattr(process, "pid", None)
    if isinstance(found, str):
        return _is_pattern("process", found)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise TypeError(f"process is a number, what has one (pid), or a name, not {process!r}")
    return found


def _is_pattern(keyword: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{keyword} is a pattern, as text, not {value!r}")
    return value


def _is_whole(keyword: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{keyword} is a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{keyword} is at least {least}, not {value}")
    return value


def _all_have(keyword: str, places: Mapping[str, bool], what: str) -> None:
    for name, has in places.items():
        if not has:
            raise ValueError(f"{keyword}= is not for {name}, which has no argument that is {what}")


def _ask(names: Iterable[str]) -> str:
    listed = " or ".join(names)
    return f": did you mean {listed}?" if listed else ""


# The way to the supervisor ------------------------------------------------------------------------

_NOT_HERE: Final = "faults belong to the test's own process, not to a fork of it"


class Engine:
    """The filter of this process, and what tells the supervisor what to do. Threads may share it.

    :param writer: the way to the runner.
    """

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._channel: SocketType | None = None
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._over = False

    def add(self, request: dict[str, Any]) -> int:
        """Begin a fault; under the filter from the first one on.

        :raises FaultRefusal: when this host does not allow it.
        """
        with self._lock:
            if self._writer.descriptor < 0:
                raise RuntimeError(_NOT_HERE)
            if self._over:
                raise RuntimeError("pid1 is torn down, and begins no other fault")
            if self._channel is None:
                self._channel = self._begin()
            key = int(self._ask({"do": "add", **request})["fault"])
            self._open.add(key)
            return key

    def count(self, key: int) -> dict[str, Any]:
        """What has become of it by now."""
        with self._lock:
            return {} if self._over else self._ask({"do": "count", "fault": key})

    def drop(self, key: int) -> dict[str, Any]:
        """End a fault: what has become of it."""
        with self._lock:
            self._open.discard(key)
            return {} if self._over else self._ask({"do": "drop", "fault": key})

    def close(self) -> None:
        """The test is over: end those that are still in force, and begin no other."""
        with self._lock:
            channel, self._channel, self._over = self._channel, None, True
            if channel is not None and self._writer.descriptor >= 0:
                for key in self._open:
                    self._tell(channel, {"do": "drop", "fault": key})
                    self._hear(channel)
                channel.close()

    def _begin(self) -> SocketType:
        if (error := seccomp.refusal()) is not None:
            _refuse(seccomp.STEP, error.errno or 0)
        ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            inode = os.fstat(theirs.fileno()).st_ino
            self._writer.send(Kind.FAULTS, {"descriptor": theirs.fileno(), "inode": inode})
            # The runner may be busy with another test; it ends this one if there is no supervisor.
            self._hear(ours, None)
            exempt = [self._writer.descriptor, ours.fileno()]
            self._install(ours, exempt)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
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
        # Where nobody answers any more the calls must fail: then nobody may hold the listener.
        os.close(listener)
        answer = self._hear(channel)
        if "problem" in answer:
            _refuse("ask the fault supervisor", errors.ESRCH, str(answer["problem"]))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._channel is None or self._writer.descriptor < 0:
            raise RuntimeError(_NOT_HERE)
        self._tell(self._channel, request)
        answer = self._hear(self._channel)
        if "problem" in answer:
            raise RuntimeError(f"the fault supervisor: {answer['problem']}")
        return answer

    @staticmethod
    def _tell(channel: SocketType, request: dict[str, Any]) -> None:
        try:
            channel.send(json.dumps(request).encode())
        except OSError as error:
            _lost(error)

    @staticmethod
    def _hear(channel: SocketType, patience: float | None = 2 * PATIENCE) -> dict[str, Any]:
        said = b""
        try:
            poller = select.poll()
            poller.register(channel, select.POLLIN)
            if poller.poll(None if patience is None else patience * 1000):
                said = channel.recv(LONGEST)
        except OSError as error:
            _lost(error)
        if not said:
            _lost(ConnectionResetError(errors.ECONNRESET, "it has ended"))
        answer: dict[str, Any] = json.loads(said)
        return answer


def _refuse(step: str, number: int, detail: str = "") -> NoReturn:
    found = explained(Refusal(step, None, number, detail), examine())
    raise FaultRefusal(found.error, found.cause, found.remedy)


def _lost(error: OSError) -> NoReturn:
    _refuse("ask the fault supervisor", error.errno or 0)
