# SPDX-License-Identifier: MIT
"""Processes beside the runner that work for one test, for as long as it is at work.

The fault supervisor (:mod:`.fault_supervisor`) answers for its system calls, the forwarder
(:mod:`.forwarder_program`) carries its connections, the terminal reader
(:mod:`.terminal_reader_program`) reads what is written to its own terminal.

Fact: the calls of a process can be answered only from outside (seccomp_unotify(2)), and a socket
of the runner's network is opened only by a process that stands in it. The runner waits for its
child, may not have a second thread, and may have other children to wait for.

Consequence: each is a process of its own, started when a test asks for it, ended with that test. It
is told what to do by the test itself, over a socket that the runner takes from the test
(pidfd_getfd(2)), so that nothing is made beforehand for tests that ask for none.

If it dies while the test is at work, the runner ends the test and says why: every system call would
fail with ENOSYS, every connection would end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import EACCES, EALREADY, ESRCH
from stat import S_ISSOCK
from types import MappingProxyType
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.process import (
    fault_supervisor,
    forwarder_program,
    helper_program,
    terminal_reader_program,
)
from pytest_nsisolate.process.fault_supervisor import RUNNER, SOCKET, TEST
from pytest_nsisolate.wire.frames import Frame, Kind


@dataclass(frozen=True, slots=True)
class Program:
    """What a helper runs.

    :param name: what it is called in messages.
    :param loss: what follows if it ends.
    """

    name: str
    path: str
    loss: str


#: By the frame that asks for it.
PROGRAMS: Final[Mapping[Kind, Program]] = MappingProxyType(
    {
        Kind.FAULTS: Program(
            "fault supervisor",
            os.path.dirname(os.path.abspath(fault_supervisor.__file__)),
            "nothing answers its calls",
        ),
        Kind.REACH: Program(
            "forwarder",
            os.path.abspath(forwarder_program.__file__),
            "it reaches nothing outside",
        ),
        Kind.TTY: Program(
            "terminal reader",
            os.path.abspath(terminal_reader_program.__file__),
            "what is written to its terminal is lost",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Helper:
    """A process beside the runner, to be ended by :meth:`dismiss`."""

    program: Program
    pid: int
    pidfd: int

    def dismiss(self) -> None:
        """End it and reap it; the test is over."""
        helper_program.end(self.pid, self.pidfd)


class Helpers:
    """Those of one child.

    :param reach: what its request names; a child that names none has no forwarder.
    """

    def __init__(self, reach: tuple[str, ...] = ()) -> None:
        self._reach = reach
        #: Why the one that was asked for last could not be started.
        self.refused: StepError | None = None
        self._by_wish: dict[Kind, Helper] = {}

    def start(self, pid1: int | None, wish: Frame) -> int:
        """Start the one that a child asks for: its pidfd, which says when it has ended.

        :param pid1: the child, by its number here; it may be the test's init. None: not known.
        :raises StepError: if one of the steps fails.
        """
        if wish.kind in self._by_wish:
            name = PROGRAMS[wish.kind].name
            raise StepError(f"start the {name}", None, EALREADY, "the test has asked for it twice")
        try:
            new = self._by_wish[wish.kind] = start(wish.kind, pid1, wish.data, self._reach)
        except StepError as error:
            self.refused = error
            raise
        return new.pidfd

    def loss_of(self, pidfd: int) -> str:
        """What it means for the test that one has ended."""
        (gone,) = (helper.program for helper in self._by_wish.values() if helper.pidfd == pidfd)
        return f"its {gone.name} has ended, so {gone.loss}"

    def descriptors(self) -> tuple[int, ...]:
        """What this process holds of them; another child must not have that."""
        return tuple(helper.pidfd for helper in self._by_wish.values())

    def dismiss(self) -> None:
        """End and reap them all. May be called again."""
        while self._by_wish:
            self._by_wish.popitem()[1].dismiss()


def start(
    kind: Kind, pid1: int | None, wish: Mapping[str, object], reach: tuple[str, ...] = ()
) -> Helper:
    """Start one for a test that asks for it.

    :param pid1: the child, by its number here; it may be the test's init. None: not known.
    :param wish: ``descriptor`` and ``inode``: the test's socket. Not trusted.
    :raises StepError: if one of the steps fails.
    """
    program = PROGRAMS[kind]
    if kind is Kind.REACH and not reach:
        raise StepError(f"start the {program.name}", None, EACCES, "the test has no reach=")
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
        with failing(f"start the {program.name}", None):
            given = reach if kind is Kind.REACH else ()
            numbers = {TEST: held[0], RUNNER: held[1], SOCKET: held[2]}
            return Helper(program, *helper_program.spawn(program.path, numbers, given))
    finally:
        for fd in held:
            os.close(fd)


def explained(kind: Kind, error: StepError) -> str:
    """Why there is none, with its cause and its remedy."""
    from pytest_nsisolate.host import examine, remedies

    refusal = remedies.explained(Refusal.of(error), examine())
    return f"{PROGRAMS[kind].name} refused: {refusal}"


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
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as children:
            yield from map(int, children.read().split())
    except OSError:
        return
