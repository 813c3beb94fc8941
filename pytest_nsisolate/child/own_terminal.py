# SPDX-License-Identifier: MIT
"""``tty=`` in the child: a terminal is opened, taken, and read by a process outside.

Fact: who leads a session, as the test's process does, gets a terminal as the controlling one for
all of it (ioctl_tty(2), TIOCSCTTY). Consequence: ``/dev/tty`` opens in the test and in what it
starts, and job control works there.
"""

from __future__ import annotations

from _socket import SocketType
from typing import NamedTuple

from pytest_nsisolate.child import helper_channel
from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel.originals import fcntl, os, termios
from pytest_nsisolate.wire.frames import FrameWriter, Kind


class OpenedTerminal(NamedTuple):
    """Both ends, and the way to what reads what is written; this process keeps them."""

    master: int
    slave: int
    channel: SocketType


def open_up(writer: FrameWriter) -> OpenedTerminal:
    """Open a terminal and make it the controlling one of this session.

    :raises StepError: for the step that fails.
    """
    with failing("open a terminal", "mount"):
        master, slave = os.openpty()
    with failing("take the terminal", None):
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.set_blocking(master, False)
    with failing("ask the terminal reader", None):
        channel = helper_channel.ask(Kind.TTY, writer)
        helper_channel.hand_over(channel, b"master", [master])
    return OpenedTerminal(master, slave, channel)
