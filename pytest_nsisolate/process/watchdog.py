# SPDX-License-Identifier: MIT
"""One small process per run that outlives the runner by a moment, to end its children.

Fact: a child that is cloned straight from the runner has no supervisor to watch over it, and
PR_SET_PDEATHSIG is lost when a test changes its ids (prctl(2)).

Consequence: before its first line of test code such a child sends a pidfd of itself to the
watchdog, which polls the runner's. When the runner dies, the watchdog kills every child that it
holds. Between its birth and that message the child has PDEATHSIG, which only code of ours could
have lost.

It is a fresh interpreter and not a fork, so that it holds no page of the runner's. Its program,
:mod:`pytest_nsisolate.process.watchdog_program`, is started by
:mod:`pytest_nsisolate.process.helper_program`.

What still fails: a runner and a watchdog that are killed in the same moment leave a child whose
test has changed its ids. The runner replaces a watchdog that has died before it clones again, a few
times; one that dies between a clone and the child's report costs that one test, which is refused.
"""

from __future__ import annotations

import sys
from _socket import SocketType, socketpair  # pytest-socket forbids those of the module above
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.kernel.originals import os, select, socket
from pytest_nsisolate.process import helper_program, watchdog_program
from pytest_nsisolate.process.watchdog_program import RUNNER, SOCKET

_PROGRAM: Final = os.path.abspath(watchdog_program.__file__)


@dataclass(frozen=True, slots=True)
class Watchdog:
    """The runner's side: who it is, and where a child reports.

    :param pid: to be reaped by :meth:`dismiss`.
    :param socket: for :func:`report_to` in the child; the runner never reads or writes it.
    """

    pid: int
    pidfd: int
    socket: SocketType

    def is_alive(self) -> bool:
        """Whether it can still take on a child."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return not poller.poll(0)

    def dismiss(self) -> None:
        """End it and reap it; it has no child to watch any more."""
        helper_program.end(self.pid, self.pidfd)
        self.socket.close()


def spawn(runner_pidfd: int) -> Watchdog | None:
    """Start a watchdog for the process behind this pidfd; None where that is impossible."""
    if not sys.executable:
        return None
    try:
        ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        return None
    try:
        pid, pidfd = helper_program.spawn(_PROGRAM, {RUNNER: runner_pidfd, SOCKET: theirs.fileno()})
    except OSError:
        ours.close()
        return None
    finally:
        theirs.close()
    return Watchdog(pid, pidfd, ours)


def report_to(watchdog: SocketType, own_pidfd: int) -> None:
    """In a child, before the test: ask the watchdog to see to our end.

    :param watchdog: the socket of :class:`Watchdog`, which the runner has made: to make one here
        is five calls more.
    :raises OSError: EPIPE or ECONNRESET when the watchdog is gone.
    """
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, own_pidfd.to_bytes(4, sys.byteorder))
    watchdog.sendmsg([b"c"], [rights])
