# SPDX-License-Identifier: MIT
"""The terminal reader's own process: it reads what is written to a test's own terminal.

Fact: what is written to a terminal waits in the kernel until the other side reads it, and who
writes more than some KiB waits too (pty(7)). The test cannot read what it writes itself.

Consequence: this process reads all of it, at once, and keeps the end. The test asks for what is new
since it asked last. It ends with the test.

A program, run by path without site-packages: it imports the standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from typing import Final, NoReturn

#: Descriptors that it is started with: a pidfd of the runner, and where the test asks.
RUNNER: Final = 3
SOCKET: Final = 5

#: A request: its number, from which byte on, and how many milliseconds to wait for one.
REQUEST: Final = struct.Struct("=IQI")
#: An answer begins with the number of its request (an exception of a signal handler may have kept
#: the test from hearing the one before), and the byte from which on the next request asks.
ANSWER: Final = struct.Struct("=IQ")
#: As the byte to begin with: close the terminal.
HANG_UP: Final = (1 << 64) - 1

_CHUNK: Final = 1 << 16
_KEPT: Final = 1 << 20


class Reader:
    """Reads one terminal, and answers one test."""

    def __init__(self, channel: socket.socket, master: int) -> None:
        self._channel = channel
        self._master = master
        self._kept = bytearray()
        self._total = 0
        #: A request that waits: its number, from which byte on, and until when.
        self._asked: tuple[int, int, float] | None = None
        self._poller = select.poll()
        for descriptor in (RUNNER, SOCKET, master):
            self._poller.register(descriptor, select.POLLIN)

    def serve(self) -> NoReturn:
        """Until the runner is gone, or kills this process."""
        while True:
            patience = None
            if self._asked is not None:
                patience = max(self._asked[2] - time.monotonic(), 0) * 1000
            ready = dict(self._poller.poll(patience))
            if RUNNER in ready:
                sys.exit(0)
            if self._master in ready:
                self._read()
            if SOCKET in ready:
                self._hear()
            self._answer()

    def _read(self) -> None:
        try:
            chunk = os.read(self._master, _CHUNK)
        except OSError:  # EIO: the test's side is closed
            chunk = b""
        if not chunk:
            self._poller.unregister(self._master)
        self._total += len(chunk)
        self._kept += chunk
        del self._kept[:-_KEPT]

    def _hear(self) -> None:
        try:
            request = self._channel.recv(REQUEST.size)
        except ConnectionError:
            request = b""
        if len(request) != REQUEST.size:
            self._poller.unregister(SOCKET)  # the test has ended; its daemons may go on
            return
        number, start, milliseconds = REQUEST.unpack(request)
        if start == HANG_UP:
            self._hang_up()
            start = self._total
        self._asked = number, start, time.monotonic() + milliseconds / 1000

    def _hang_up(self) -> None:
        try:
            self._poller.unregister(self._master)
        except KeyError:
            pass
        os.close(self._master)
        self._master = -1

    def _answer(self) -> None:
        if self._asked is None:
            return
        number, start, until = self._asked
        if start >= self._total and time.monotonic() < until:
            return
        self._asked = None
        first = self._total - len(self._kept)
        start = min(max(start, first), self._total)
        chunk = bytes(self._kept[start - first :][:_CHUNK])
        try:
            self._channel.send(ANSWER.pack(number, start + len(chunk)) + chunk)
        except OSError:
            pass


def main() -> NoReturn:  # pragma: no cover (runs in a process of its own, seen by its effects)
    """Take over the terminal, and read."""
    channel = socket.socket(fileno=SOCKET)
    channel.send(b"hello")
    _, received, _, _ = socket.recv_fds(channel, 16, 1)
    if not received:
        sys.exit(0)  # the test has ended
    channel.send(b"taken")
    Reader(channel, received[0]).serve()


if __name__ == "__main__":
    main()
