# SPDX-License-Identifier: MIT
"""Tests that are held open by ``--nsisolate-pause``, as another process of the same user sees them.

We believe nothing that can be forged: a name in the list of sockets is only a hint, the kernel
says who listens there, and the test itself comes as a pidfd from its runner.
"""

from __future__ import annotations

import errno
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.kernel import proc_net
from pytest_nsisolate.kernel.originals import json, open, os, re, select, socket
from pytest_nsisolate.runner import hold

_LISTED: Final = re.compile(rf"@{re.escape(hold.NAME)}/(\d+)/(\d+)")

#: Seconds for the answer of a runner, which does nothing else while it holds a test.
_PATIENCE: Final = 5.0

_MOST_BYTES: Final = 1 << 16


class NotHeldError(Exception):
    """There is no such test for this user; the text says why, and what to do."""


@dataclass(slots=True)
class Visit:
    """A connection to the runner of a held test.

    :param connection: at its end when the pause is over; closing it ends the visit.
    :param pidfd: the test's process.
    :param pid: its number as seen from here, when the visit began.
    :param nodeid: the test.
    """

    connection: socket.socket
    pidfd: int
    pid: int
    nodeid: str

    def close(self) -> None:
        """Go."""
        self.connection.close()
        os.close(self.pidfd)

    @property
    def is_over(self) -> bool:
        """Whether the pause is over."""
        waiter = select.poll()
        waiter.register(self.connection, select.POLLIN)
        return bool(waiter.poll(0))


def listed() -> dict[int, set[int]]:
    """Numbers of held tests, with the user ids under which they are offered; unchecked."""
    found: dict[int, set[int]] = {}
    for entry in proc_net.unix("/proc/net"):
        if match := _LISTED.fullmatch(entry.path):
            uid, pid = map(int, match.groups())
            found.setdefault(pid, set()).add(uid)
    return found


def visit(pid: int | None) -> Visit:
    """Ask the runner of a held test to be let in.

    :param pid: its number; None: the only one that there is.
    :raises NotHeldError: when there is none, or none of this user, or more than one.
    """
    if pid is not None:
        return _knock(pid)
    uid = os.geteuid()
    found = {}
    for number in sorted(number for number, uids in listed().items() if uid in uids):
        with suppress(NotHeldError):
            found[number] = _knock(number)
    if len(found) == 1:
        return found.popitem()[1]
    for each in found.values():
        each.close()
    if not found:
        raise NotHeldError(f"no test of yours is held open; {_HOW}")
    lines = "".join(f"\n  {number}  {each.nodeid}" for number, each in found.items())
    raise NotHeldError(f"{len(found)} tests are held open, which of them?{lines}")


_HOW: Final = "pytest --nsisolate-pause holds a failed isolated test open, and says its number"


def _knock(pid: int) -> Visit:
    uid = os.geteuid()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(hold.address(uid, pid))
        except OSError as error:
            raise NotHeldError(_why_not(pid, error)) from error
        if hold.owner(connection) != uid:
            raise NotHeldError(f"{pid} is offered by another user, who only says that it is yours")
        hello, pidfd = _hello(connection, pid)
        connection.settimeout(None)
        return Visit(connection, pidfd, _number(pidfd, pid), str(hello.get("nodeid")))
    except BaseException:
        connection.close()
        raise


def _why_not(pid: int, error: OSError) -> str:
    if error.errno in {errno.EAGAIN, errno.ETIMEDOUT} or isinstance(error, TimeoutError):
        return f"the pytest that holds {pid} open does not answer: is it stopped?"
    others = listed().get(pid, set()) - {os.geteuid()}
    if others:
        whose = ", ".join(map(str, sorted(others)))
        return f"{pid} is held open by another user (uid {whose}): only that user can enter it"
    return f"no test is held open as {pid}; {_HOW}"


def _hello(connection: socket.socket, pid: int) -> tuple[dict[str, object], int]:
    """What the runner says first, and the pidfd that comes with it."""
    received = array("i")
    try:
        text, ancillary, _, _ = connection.recvmsg(
            _MOST_BYTES, socket.CMSG_SPACE(received.itemsize)
        )
    except OSError as error:
        raise NotHeldError(_why_not(pid, error)) from error
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(data[: received.itemsize])
    hello = json.loads(text) if text else None
    if not isinstance(hello, dict) or len(received) != 1:
        raise NotHeldError(f"{pid} is not held open any more")
    os.set_inheritable(received[0], False)
    return hello, received[0]


def _number(pidfd: int, pid: int) -> int:
    """The number of a process in the PID namespace of this ``/proc`` (pidfd_open(2))."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as info:
        for line in info:
            if line.startswith("Pid:"):
                number = int(line.partition(":")[2])
                if number > 0:
                    return number
    os.close(pidfd)
    raise NotHeldError(f"the process of {pid} has ended, or cannot be seen from here")
