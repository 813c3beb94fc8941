# SPDX-License-Identifier: MIT
"""Limits that a process sets for itself, and ``kernel.pid_max`` of its PID namespace.

Fact: RLIMIT_NPROC binds neither the host's root nor a process with CAP_SYS_RESOURCE or
CAP_SYS_ADMIN outside, whatever its user namespace; inside a container you cannot read which it is.
What we do: the runner asks the kernel once, by a child with a limit of 0 that tries to fork.

Fact: since Linux 6.14 each PID namespace has its own ``kernel.pid_max``; before, the same file is
the whole machine's.
What we do: nothing is written before 6.14; and after it only where a fresh ``/proc`` shows either
another value than the runner's or the one that every new namespace begins with.

Fact: once a namespace has given out its number 300, numbers below that are not given again
(RESERVED_PIDS), so a ``pid_max`` of N leaves no more than N - 300 processes to a test that has
started many. The kernel refuses one below 301.

Fact: PID 1 does not get SIGXCPU; at the hard limit the kernel kills it all the same. SIGXFSZ is
ignored by every Python; the write fails with EFBIG.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel.libc import Step, run_all
from pytest_nsisolate.kernel.originals import open, os, posix, resource
from pytest_nsisolate.kernel.readonly import SysctlWays, sysctl_ways

PID_MAX: Final = "/proc/sys/kernel/pid_max"

#: The first kernel whose PID namespaces have one each.
FIRST_OWN_PID_MAX: Final = (6, 14)

#: The kernel's RESERVED_PIDS.
RESERVED_PIDS: Final = 300

#: The kernel's PIDS_PER_CPU_MIN.
_PIDS_PER_PROCESSOR: Final = 8

#: What a new namespace begins with, PID_MAX_LIMIT of a 64-bit kernel.
_AT_BIRTH: Final = b"4194304"

#: The number of ``resource.RLIMIT_*`` by the name of the limit.
RESOURCES: Final = {
    "memory": "RLIMIT_AS",
    "cpu": "RLIMIT_CPU",
    "processes": "RLIMIT_NPROC",
    "files": "RLIMIT_NOFILE",
    "file_size": "RLIMIT_FSIZE",
}


@dataclass(frozen=True, slots=True)
class Rlimit:
    """One call of setrlimit(2), made in the child.

    :param most: the runner's own hard limit, which the child cannot raise; None for infinity.
    """

    name: str
    soft: int
    hard: int
    most: int | None = None

    def apply(self, extra: int = 0) -> None:
        """Set it for this process and those that it will start.

        :raises StepError: ``setrlimit(RLIMIT_...)``.
        """
        try:
            hard = self.hard + extra
            if self.most is not None:
                hard = min(hard, self.most)
            values = (min(self.soft + extra, hard), hard)
            resource.setrlimit(getattr(resource, self.name), values)
        except (OSError, ValueError) as error:  # a ValueError where a hard limit would be raised
            number = error.errno if isinstance(error, OSError) else errno.EPERM
            step = f"setrlimit({self.name})"
            raise StepError(step, None, number or 0, str(self.soft)) from error


def least_processes() -> int:
    """The lowest number that a ``pid_max`` can bound; the kernel wants 8 for each processor."""
    processors = os.sysconf("SC_NPROCESSORS_CONF")
    return max(RESERVED_PIDS + 1, _PIDS_PER_PROCESSOR * processors) - 1


def hard_limit(name: str) -> int | None:
    """The runner's own hard limit; None for infinity."""
    hard: int = resource.getrlimit(getattr(resource, name))[1]
    return None if hard == resource.RLIM_INFINITY else hard


def address_space() -> int:
    """Bytes of address space that the runner has, and each fork of it inherits (proc_pid_statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def is_refused_a_fork() -> bool:
    """In a process of its own: whether RLIMIT_NPROC stops this user from forking."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        another = os.fork()
    except BlockingIOError:  # EAGAIN
        return True
    if another == 0:
        posix._exit(0)
    os.waitpid(another, 0)
    return False


@dataclass(frozen=True, slots=True)
class PidMax:
    """The bound of processes that a PID namespace has for itself.

    :param processes: how many there may be, PID 1 among them.
    :param outside: what the runner's own ``pid_max`` reads.
    :param ways: how the file is opened for writing, and made read-only again.
    """

    processes: int
    outside: bytes
    ways: SysctlWays

    def apply(self) -> None:
        """In PID 1, on its fresh ``/proc``.

        :raises StepError: ``write pid_max``; ENOSYS where it is not the namespace's own.
        """
        try:
            descriptor, after = self._open()
            try:
                # At an offset but 0 the kernel takes a write, and drops it.
                inside = os.pread(descriptor, 32, 0).strip()
                if inside == self.outside != _AT_BIRTH:
                    raise StepError("write pid_max", "pid", errno.ENOSYS, "it is the host's")
                wanted = b"%d" % (self.processes + 1)
                os.pwrite(descriptor, wanted, 0)
                if os.pread(descriptor, 32, 0).strip() != wanted:
                    raise StepError("write pid_max", "pid", errno.ENOSYS, "it has no effect")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StepError("write pid_max", "pid", error.errno or 0, PID_MAX) from error
        run_all(after)

    def _open(self) -> tuple[int, tuple[Step, ...]]:
        """A descriptor, and what makes the file read-only for the test."""
        try:
            return os.open(PID_MAX, os.O_RDWR | os.O_CLOEXEC), self.ways.seal
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        run_all(self.ways.unlock)
        return os.open(PID_MAX, os.O_RDWR | os.O_CLOEXEC), self.ways.lock


def plan_pid_max(processes: int) -> PidMax:
    """What :class:`PidMax` needs, read in the runner.

    :raises StepError: ``read pid_max``, without one to compare with.
    """
    with failing("read pid_max", "pid"), open(PID_MAX, "rb") as file:
        outside = file.read().strip()
    return PidMax(processes, outside, sysctl_ways(PID_MAX))
