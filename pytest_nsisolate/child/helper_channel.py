# SPDX-License-Identifier: MIT
"""How a test's process gets a helper outside (:mod:`pytest_nsisolate.process.helpers`)."""

from __future__ import annotations

import errno
import sys
from _socket import SocketType, socketpair  # pytest-socket forbids those of the module above
from collections.abc import Callable, Sequence
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel.originals import os, posix, socket
from pytest_nsisolate.process.channel import refuse
from pytest_nsisolate.process.outcome import EXIT_REFUSED
from pytest_nsisolate.wire.frames import FrameWriter, Kind

_LONGEST: Final = 1 << 17


def ask(kind: Kind, writer: FrameWriter) -> SocketType:
    """Have the runner start one: the socket over which it is told what to do; the caller closes it.

    The waits here have no bound of their own: the runner, which may be busy with another test, ends
    a child whose helper it cannot start, or that is late.

    :raises OSError: when there is none.
    """
    ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        inode = os.fstat(theirs.fileno()).st_ino
        writer.send(kind, {"descriptor": theirs.fileno(), "inode": inode})
        hear(ours)  # it has started
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


def hand_over(channel: SocketType, text: bytes, descriptors: Sequence[int]) -> None:
    """Give it copies of descriptors, and wait until it has them.

    :raises OSError: when it is gone.
    """
    numbers = b"".join(fd.to_bytes(4, sys.byteorder) for fd in descriptors)
    channel.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
    hear(channel)


def hear(channel: SocketType) -> bytes:
    """Wait for its answer.

    :raises ConnectionResetError: when it is gone.
    """
    said = channel.recv(_LONGEST)
    if not said:
        raise ConnectionResetError(errno.ECONNRESET, "it has ended")
    return said


def or_refuse(open_up: Callable[[FrameWriter], object], writer: FrameWriter) -> None:
    """Open something before the first fixture.

    What the kernel refuses is a refusal of the test, and the end of this process.
    """
    try:
        with failing("ask a helper", None):
            open_up(writer)
    except StepError as error:
        refuse(writer, error)
        posix._exit(EXIT_REFUSED)
