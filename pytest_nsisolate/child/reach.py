# SPDX-License-Identifier: MIT
"""``reach=`` in the child: a socket for each address, handed to the forwarder outside.

Connections queue from the moment that a socket listens, so nothing has to wait for the forwarder;
but the test begins when it has taken over, so that what is refused is a refusal of the test.
"""

from __future__ import annotations

from _socket import SocketType  # pytest-socket forbids that of the module above

from pytest_nsisolate.child import helper_channel
from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel.originals import socket
from pytest_nsisolate.process.forwarder_program import target_of
from pytest_nsisolate.wire.frames import FrameWriter, Kind

_BACKLOG = 1024


def open_up(addresses: tuple[str, ...], writer: FrameWriter) -> None:
    """Let these be reached, from now on.

    :param addresses: as :func:`pytest_nsisolate.request.reach.check` gives them.
    :raises StepError: for the step that fails.
    """
    opened: list[SocketType] = []
    try:
        for address in addresses:
            with failing(f"open {address}", "net"):
                opened.append(_opened(address))
        with failing("ask the forwarder", None):
            channel = helper_channel.ask(Kind.REACH, writer)
            opened.append(channel)
            numbers = [end.fileno() for end in opened[:-1]]
            helper_channel.hand_over(channel, b"listeners", numbers)
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
