# SPDX-License-Identifier: MIT
"""The runner's side of the process that answers for the system calls of one test.

Fact: the calls of a process can be answered only from outside, by whoever has the listener that was
born with its filter (seccomp_unotify(2)). The runner waits for its child, may not have a second
thread, and may have other children to wait for.

Consequence: a process of its own answers, started when a test asks for its first fault, ended with
that test. It is told what to do by the test itself, over a socket that the runner takes from the
test (pidfd_getfd(2)), so that nothing is made beforehand for tests that ask for no fault.

If it dies, every call of the test would fail with ENOSYS: the runner ends the test and says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import ESRCH
from stat import S_ISSOCK
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.process import fault_supervisor_program, helper_program
from pytest_nsisolate.process.fault_supervisor_program import RUNNER, SOCKET, TEST

_PROGRAM: Final = os.path.abspath(fault_supervisor_program.__file__)


@dataclass(frozen=True, slots=True)
class FaultSupervisor:
    """The process, to be ended by :meth:`dismiss`."""

    pid: int
    pidfd: int

    def dismiss(self) -> None:
        """End it and reap it; nothing is left that it answers for."""
        helper_program.end(self.pid, self.pidfd)


def start(pid1: int | None, wish: Mapping[str, object]) -> FaultSupervisor:
    """Start one for a test that asks for it.

    :param pid1: the child, by its number here; it may be the test's init. None: not known.
    :param wish: ``descriptor`` and ``inode``: the test's socket. Not trusted.
    :raises StepError: if one of the steps fails.
    """
    descriptor, inode = wish.get("descriptor"), wish.get("inode")
    if not isinstance(descriptor, int) or not isinstance(inode, int):
        raise StepError("find the test", None, ESRCH, "a wish of the wrong shape")
    if pid1 is None:
        raise StepError("find the test", None, ESRCH)
    test = _find(pid1, descriptor, inode)
    held: list[int] = []
    try:
        with failing("pidfd_open", None):
            held.append(os.pidfd_open(test))
            held.append(os.pidfd_open(os.getpid()))
        with failing("pidfd_getfd", None):
            held.append(syscalls.pidfd_getfd(held[0], descriptor))
        found = os.fstat(held[2])
        if not S_ISSOCK(found.st_mode) or found.st_ino != inode:
            raise StepError("find the test", None, ESRCH, "its socket is another one")
        with failing("start the fault supervisor", None):
            numbers = {TEST: held[0], RUNNER: held[1], SOCKET: held[2]}
            return FaultSupervisor(*helper_program.spawn(_PROGRAM, numbers))
    finally:
        for fd in held:
            os.close(fd)


def explained(error: StepError) -> str:
    """Why there is none, with its cause and its remedy."""
    from pytest_nsisolate.host import examine, remedies

    return f"faults refused: {remedies.explained(Refusal.of(error), examine())}"


def _find(pid1: int, descriptor: int, inode: int) -> int:
    """The test's number: that of the child, or of one of its init's children."""
    for pid in (pid1, *_children(pid1)):
        try:
            found = os.stat(f"/proc/{pid}/fd/{descriptor}").st_ino
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StepError("find the test", None, error.errno or 0, str(error.filename)) from error
        if found == inode:
            return pid
    raise StepError("find the test", None, ESRCH)


def _children(pid: int) -> Iterator[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            yield from map(int, children.read().split())
    except OSError:
        return
