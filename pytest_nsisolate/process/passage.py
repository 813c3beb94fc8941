# SPDX-License-Identifier: MIT
"""What PID 1 sends back from its root on the way in: a way to look at what is written there.

Fact: the report of a crashed test tells what the test has written, and nothing inside can say it.
What we do: PID 1 sends a descriptor of the tmpfs that holds all that is written, and one of the
ownership layer if there is one (:mod:`pytest_nsisolate.process.ownership_layer`). Either works in
another mount namespace, and what it stands for lives as long as it is open.
"""

from __future__ import annotations

import array
from _socket import socketpair  # pytest-socket forbids the one of the module above

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel.originals import os, select, socket
from pytest_nsisolate.process.channel import STEP_SECONDS


class Passage:
    """A pair of sockets for one message with descriptors, from a child to its launcher.

    :raises StepError: when no descriptor is left.
    """

    def __init__(self) -> None:
        with failing("socketpair", None):
            ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours = ours.detach()
        # As an object of C: to make one touches twice as many pages in the child.
        self._theirs = theirs
        self._collected = False
        #: What has come and was not taken; this object owns them.
        self._found: list[int] = []

    # In the child ---------------------------------------------------------------------------------

    def send(self, *descriptors: int) -> None:
        """The one message; the child's copies of the descriptors stay open.

        :raises OSError: when it cannot be sent.
        """
        content = array.array("i", descriptors)
        self._theirs.sendmsg([b"r"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, content)])
        self._theirs.close()

    # In the launching process ---------------------------------------------------------------------

    def passed_on(self) -> None:
        """There is a child, which holds the other end: when that is gone, nothing will come."""
        self._theirs.close()

    def cancel(self) -> None:
        """There will be no child."""
        self._theirs.close()
        self.close()

    def collect(self, most: int) -> list[int]:
        """What the child has sent, until it is taken; waits for it if need be.

        :param most: how many descriptors that may be.
        """
        if not self._collected:
            self._collected = True
            self._found = _received(self.ours, most)
        return self._found

    def descriptors(self) -> tuple[int, ...]:
        """What no other child must have."""
        return (self.ours, *self._found)

    def close(self) -> None:
        """Let go of everything that was not taken."""
        for fd in (self.ours, *self._found):
            os.close(fd)
        self._found = []


def _received(channel: int, most: int) -> list[int]:
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    if not poller.poll(STEP_SECONDS * 1000):
        return []
    connection = socket.SocketType(fileno=channel)
    try:
        size = socket.CMSG_SPACE(most * 4)
        _, rights, _, _ = connection.recvmsg(1, size, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return []
    finally:
        connection.detach()
    found = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
