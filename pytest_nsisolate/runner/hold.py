# SPDX-License-Identifier: MIT
"""``--nsisolate-pause``: a failed test stays as it is, and you may look inside.

Fact: to enter the namespaces of a process you need that very process: a number may be another's
by then, and a file with the number in it can be forged.

Consequence: while a test is held, its runner listens on an abstract socket (unix(7)): it leaves no
file, it is gone with the runner, and the kernel says at both ends whose the other one is. A visitor
with the runner's own user id gets a pidfd of the test. The connection is the visit: it ends when
the visitor goes, and its other end when the pause is over.

What still fails: an abstract socket belongs to a network namespace, so it is found from the one
that the runner is in, and from no other.
"""

from __future__ import annotations

import _socket  # pytest-socket forbids the classes of the module above it
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import json, os, select

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess

#: Before the user id and the number of a held test, in the name of its socket.
NAME: Final = "pytest-nsisolate/held"

#: What a visitor says who ends the pause by leaving.
SHELL: Final = b"shell"

#: Seconds that visitors have to leave when the pause is over.
FAREWELL_SECONDS: Final = 3.0

_MOST_VISITORS: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")

#: Why a pause is over.
CTRL_C: Final = "Ctrl-C"
LEFT: Final = "its shell was left"
ENDED: Final = "its process has ended"


def address(uid: int, pid: int) -> bytes:
    """Where a held test is asked for; an abstract name begins with a zero."""
    return f"\0{NAME}/{uid}/{pid}".encode()


def owner(connection: _socket.socket) -> int:
    """The user id of the process at the other end, as the kernel has noted it (unix(7))."""
    size = _CREDENTIALS.size
    found = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
    uid: int = _CREDENTIALS.unpack(found)[1]
    return uid


def command(pid: int) -> str:
    """What to type; with the interpreter's own path, which another terminal may not have."""
    return f"{sys.executable or 'python'} -m pytest_nsisolate enter {pid}"


@dataclass(slots=True)
class _Visit:
    connection: _socket.socket
    shell: bool = False


class Held:
    """A test that is held open; a context manager, at whose end every visitor has gone.

    :param child: its process, which waits for a word of the runner's.
    :param nodeid: shown to visitors.
    :param init: the child's PID 1 is an init, and the test its first child.
    :raises OSError: when no socket can be had.
    """

    def __init__(self, child: ChildProcess, nodeid: str, *, init: bool) -> None:
        assert child.end.pid1 is not None
        self._child = child
        self._nodeid = nodeid
        self._visits: dict[int, _Visit] = {}
        self.pid = _first_child(child.end.pid1) if init else child.end.pid1
        """The number of the test's process, as the runner sees it."""
        self._pidfd = os.pidfd_open(self.pid)
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(address(os.geteuid(), self.pid))
            self._listener.listen(_MOST_VISITORS)
            self._listener.setblocking(False)
        except OSError:
            self._close()
            raise

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._listener.close()
            self._say_farewell()
        finally:
            self._close()

    def wait(self) -> str:
        """Until it is over: why. The caller takes care of Ctrl-C."""
        while True:
            self._child.listen()
            if self._child.outcome is not None:
                return ENDED
            waiter = select.poll()
            for fd in (self._listener.fileno(), *self._visits, *self._child.watched()):
                waiter.register(fd, select.POLLIN)
            for fd, _ in waiter.poll():
                if fd == self._listener.fileno():
                    self._admit()
                elif fd in self._visits and self._hear(fd):
                    return LEFT

    def _admit(self) -> None:
        with suppress(OSError):  # gone again already
            # The C type has no other; it is what the class of the standard library calls.
            connection = _socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
            if owner(connection) != os.geteuid() or len(self._visits) >= _MOST_VISITORS:
                connection.close()
                return
            connection.setblocking(False)
            hello = json.dumps({"nodeid": self._nodeid, "pid": self.pid}).encode()
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack("=i", self._pidfd))
            connection.sendmsg([hello], [rights])
            self._visits[connection.fileno()] = _Visit(connection)

    def _hear(self, fd: int) -> bool:
        """Whether the pause ends, because the visitor with the last shell has gone."""
        visit = self._visits[fd]
        try:
            said = visit.connection.recv(len(SHELL))
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        if said:
            visit.shell |= said == SHELL
            return False
        del self._visits[fd]
        visit.connection.close()
        return visit.shell and not any(other.shell for other in self._visits.values())

    def _say_farewell(self) -> None:
        """What visitors have started inside ends before the test goes on. Bounded."""
        for visit in self._visits.values():
            with suppress(OSError):
                visit.connection.shutdown(_socket.SHUT_WR)
        until = monotonic() + FAREWELL_SECONDS
        waiter = select.poll()
        for fd in self._visits:
            waiter.register(fd, select.POLLIN)
        while self._visits and (left := until - monotonic()) > 0:
            for fd, _ in waiter.poll(left * 1000):
                self._hear(fd)
                if fd not in self._visits:
                    waiter.unregister(fd)

    def _close(self) -> None:
        self._listener.close()
        for visit in self._visits.values():
            visit.connection.close()
        os.close(self._pidfd)


def hold(
    child: ChildProcess, nodeid: str, failure: str, say: Callable[[str], None], *, init: bool
) -> None:
    """Hold a child that waits for the runner's word, until the user has seen enough of it.

    The first Ctrl-C ends the pause and nothing else.

    :param failure: why it is held, in one line.
    :param say: shows a line at the user's terminal.
    """
    try:
        child.get_ready()  # the number of its PID 1 may still be on the way
        with Held(child, nodeid, init=init) as held:
            enter = command(held.pid)
            say(f"nsisolate: {nodeid} failed in {failure}")
            say(
                f"nsisolate: {nodeid} is held open as {held.pid}; look inside: {enter} "
                "(leave the shell, or press Ctrl-C here, to go on)"
            )
            why = CTRL_C
            with suppress(KeyboardInterrupt):
                why = held.wait()
    except KeyboardInterrupt:
        why = CTRL_C
    except OSError as error:
        why = f"it cannot be held open: {error.strerror}"
    echo = "\n" if why is CTRL_C else ""  # the terminal has shown ^C
    say(f"{echo}nsisolate: {nodeid} goes on ({why})")


def _first_child(pid: int) -> int:
    """The oldest child of a process, which comes first; itself, if it has none."""
    try:
        return proc.children_of(pid)[0]
    except (OSError, IndexError):
        return pid
