# SPDX-License-Identifier: MIT
"""Which calls a fault is for: what a test says is checked here, and put as the supervisor takes it.

An error has the test's line, because it is found where the test says it.
"""

from __future__ import annotations

import errno as errors
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final

from pytest_nsisolate.kernel import seccomp, syscall_numbers
from pytest_nsisolate.kernel.originals import os, random

#: What a C library calls for a function that people know by another name.
MEANT: Final[Mapping[str, tuple[str, ...]]] = {
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
class Filters:
    """Which of the calls by that name are meant."""

    path: str | None = None
    address: str | None = None
    fd: int | None = None
    args: Mapping[int, int] | None = None
    process: Any = None

    def resolve(self, known: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
        """As the supervisor takes them, and as words."""
        places = {name: place(name) for name in known}
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
class Chances:
    """Which of the calls that are meant are hit."""

    times: int | None = None
    after: int = 0
    probability: float = 1.0
    seed: int | None = None

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


def check_errno(error: int | str) -> tuple[int, str]:
    """Its number, and its name where it has one."""
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


def check_delay(seconds: float) -> float:
    """Seconds that a call may be held."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds is a number, not {seconds!r}")
    if not isfinite(seconds) or not 0 < seconds <= _LONGEST_DELAY:
        raise ValueError(f"seconds is above 0 and at most {_LONGEST_DELAY:g}, not {seconds!r}")
    return float(seconds)


def known_calls(call: str | Sequence[str]) -> dict[str, int]:
    """The calls that are meant, by name; those that only other machines have are left out."""
    if not isinstance(call, str | tuple | list) or not call:
        raise TypeError(f"call is the name of a system call, or a tuple of names, not {call!r}")
    names = [call] if isinstance(call, str) else call
    here, everywhere = syscall_numbers.numbers(), syscall_numbers.every_name()
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name of a system call is text, not {name!r}")
        if name not in everywhere:
            near = MEANT.get(name) or get_close_matches(name, everywhere, 3)
            raise ValueError(f"there is no system call {name!r}{_ask(near)} (syscalls(2))")
        if name in seccomp.NEVER_ASKED:
            raise ValueError(f"{name} is one of the calls that cannot be made to fail")
    found = {name: here[name] for name in names if name in here}
    if not found and here:
        meant = tuple(m for name in names for m in MEANT.get(name, ()) if m in here)
        machine, named = os.uname().machine, " or ".join(names)
        raise ValueError(f"this machine ({machine}) has no system call {named}{_ask(meant)}")
    return found


def place(name: str) -> tuple[str, list[list[int]], list[int], int]:
    """What :class:`~pytest_nsisolate.process.fault_supervisor.faults.Fault` has to know of it."""
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
