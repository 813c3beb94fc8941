# SPDX-License-Identifier: MIT
"""The watchdog's own process: see :mod:`pytest_nsisolate.process.watchdog`, which starts it.

A program, run by path without site-packages: it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from typing import Final, NoReturn

#: Descriptors that it is started with: a pidfd of the runner, and where children report.
RUNNER: Final = 3
SOCKET: Final = 4


def serve() -> NoReturn:  # pragma: no cover (runs in a process of its own, seen by its effects)
    """Collect children, forget the dead, and outlive the runner by a moment.

    The end of a child wakes it not: the dead are forgotten when another child reports.
    """
    channel = socket.socket(fileno=SOCKET)
    children: set[int] = set()
    ends = select.poll()
    poller = select.poll()
    poller.register(RUNNER, select.POLLIN)
    poller.register(channel, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if SOCKET in ready:
            _, received, _, _ = socket.recv_fds(channel, 1, 4)
            for child, _ in ends.poll(0):
                ends.unregister(child)
                children.discard(child)
                os.close(child)
            for child in received:
                children.add(child)
                ends.register(child, select.POLLIN)
            if not received:
                poller.unregister(SOCKET)  # the runner's end is closed; its death comes next
        elif RUNNER in ready:
            # Only now, when no child is left unread in the socket.
            for child in children:
                with contextlib.suppress(ProcessLookupError):  # reaped just before that death
                    signal.pidfd_send_signal(child, signal.SIGKILL)
            sys.exit(0)


if __name__ == "__main__":
    serve()
