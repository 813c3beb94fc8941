# SPDX-License-Identifier: MIT
"""``reach=`` in the child: a socket for each address, handed to the forwarder outside.

Connections queue from the moment that a socket listens, so nothing has to wait for the forwarder;
but the test begins when it has taken over, so that what is refused is a refusal of the test.

The waits here have no bound of their own: the runner, which may be busy with another test, ends a
child whose forwarder it cannot start, or that is late.
"""

from __future__ import annotations

import errno
import sys
from _socket import SocketType, socketpair  # pytest-socket forbids those of the module above

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel.originals import json, os, posix, socket
from pytest_nsisolate.process.channel import refuse
from pytest_nsisolate.process.forwarder_program import LONGEST, target_of
from pytest_nsisolate.process.outcome import EXIT_REFUSED
from pytest_nsisolate.wire.frames import FrameWriter, Kind

_BACKLOG = 1024


def open_up(addresses: tuple[str, ...], writer: FrameWriter) -> None:
    """Let these be reached, from now on.

    What the kernel refuses is a refusal of the test, and the end of this process.

    :param addresses: as :func:`pytest_nsisolate.request.reach.check` gives them.
    """
    try:
        _hand_over(addresses, writer)
    except StepError as error:
        refuse(writer, error)
        posix._exit(EXIT_REFUSED)


def _hand_over(addresses: tuple[str, ...], writer: FrameWriter) -> None:
    opened: list[SocketType] = []
    try:
        for address in addresses:
            with failing(f"open {address}", "net"):
                opened.append(_opened(address))
        with failing("socketpair", None):
            ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened += [ours, theirs]
        inode = os.fstat(theirs.fileno()).st_ino
        writer.send(Kind.REACH, {"descriptor": theirs.fileno(), "inode": inode})
        with failing("ask the forwarder", None):
            _hear(ours)
            numbers = [end.fileno().to_bytes(4, sys.byteorder) for end in opened[:-2]]
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(numbers))
            ours.sendmsg([json.dumps(addresses).encode()], [rights])
            theirs.close()
            _hear(ours)
    finally:
        for end in opened:
            end.close()


def _opened(address: str) -> SocketType:
    kind, _, rest = address.partition(":")
    target = target_of(kind, rest)
    family = socket.AF_INET6 if "[" in rest else socket.AF_INET
    if kind == "unix":
        family = socket.AF_UNIX
    end = SocketType(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    try:
        if kind == "tcp":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind(target)
        if kind != "udp":
            end.listen(_BACKLOG)
    except BaseException:
        end.close()
        raise
    return end


def _hear(channel: SocketType) -> None:
    if not channel.recv(LONGEST):
        raise ConnectionResetError(errno.ECONNRESET, "it has ended")
