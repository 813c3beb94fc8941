# SPDX-License-Identifier: MIT
"""The forwarder's own process: what a test's ``reach=`` names is carried to the runner's host.

The test has opened a socket for each address in its own network, and hands them over; this process
stands in the runner's network, and opens one there for each connection (unix(7), SCM_RIGHTS). It
ends with the test.

A program, run by path without site-packages: it imports the standard library only.
"""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import struct
import sys
import time
from collections import OrderedDict
from typing import Any, Final, NoReturn, TypeAlias

#: Descriptors that it is started with, as :mod:`.fault_supervisor_program` has them.
RUNNER: Final = 3
SOCKET: Final = 5

LONGEST: Final = 1 << 16
MOST: Final = 64

_CHUNK: Final = 1 << 18
_DATAGRAM: Final = 1 << 16
#: Of one UDP address; the one that has been silent longest is forgotten for the next.
_MOST_PEERS: Final = 256
_ACCEPTED_AT_ONCE: Final = 64
#: Seconds until descriptors, or a place in a queue, are asked for again.
_REST: Final = 0.05
_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)
_ABORT: Final = struct.pack("=ii", 1, 0)


#: What connect(2) takes.
Address: TypeAlias = "str | tuple[Any, ...]"


class Half:
    """One direction of a connection: what was read here is written there."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = b""
        self.over = False


class Pair:
    """A connection of the test's, and the one out here."""

    def __init__(self, forwarder: Forwarder, inner: socket.socket, outer: socket.socket) -> None:
        self._forwarder = forwarder
        self._sockets = (inner, outer)
        self._halves = (Half(inner, outer), Half(outer, inner))
        self.connecting = True
        self._events: dict[socket.socket, int] = {}
        self.watch()

    def watch(self) -> None:
        """Ask for what can go on: nothing is read for a side that is full."""
        wanted = dict.fromkeys(self._sockets, 0)
        if self.connecting:
            wanted[self._sockets[1]] = selectors.EVENT_WRITE
        else:
            for half in self._halves:
                if half.waiting:
                    wanted[half.sink] |= selectors.EVENT_WRITE
                elif not half.over:
                    wanted[half.source] |= selectors.EVENT_READ
        for end, events in wanted.items():
            before = self._events.get(end, 0)
            if events != before:
                self._forwarder.change(end, before, events, self)
        self._events = wanted

    def ready(self, end: socket.socket, events: int) -> None:
        """Something has come, or something has gone."""
        try:
            if self.connecting:
                if error := end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, "connect")
                if end.family != socket.AF_UNIX and end.getsockname() == end.getpeername():
                    # Nobody listens, and its own port happens to be that one (tcp(7)).
                    raise OSError(errno.ECONNREFUSED, "connect")
                self.connecting = False
            else:
                for half in self._halves:
                    if half.sink is end and events & selectors.EVENT_WRITE:
                        self._write(half)
                    if half.source is end and events & selectors.EVENT_READ:
                        self._read(half)
        except BlockingIOError:
            pass
        except OSError:
            self.abort()
            return
        if all(half.over and not half.waiting for half in self._halves):
            self.close()
        else:
            self.watch()

    def abort(self) -> None:
        """What went wrong on one side is a reset on the other."""
        for end in self._sockets:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            except OSError:
                pass
        self.close()

    def close(self) -> None:
        for end in self._sockets:
            self._forwarder.change(end, self._events.get(end, 0), 0, self)
            end.close()
        self._forwarder.wake()

    def _read(self, half: Half) -> None:
        data = half.source.recv(_CHUNK)
        if not data:
            half.over = True
            half.sink.shutdown(socket.SHUT_WR)
            return
        half.waiting = data
        self._write(half)

    @staticmethod
    def _write(half: Half) -> None:
        sent = half.sink.send(half.waiting)
        half.waiting = half.waiting[sent:]


class Listening:
    """A socket of the test's that waits for connections."""

    def __init__(self, forwarder: Forwarder, listener: socket.socket, target: Address) -> None:
        self._forwarder = forwarder
        self._listener = listener
        self._target = target
        #: A connection for which the queue of the one out there has no place yet.
        self._taken: socket.socket | None = None
        listener.setblocking(False)
        forwarder.change(listener, 0, selectors.EVENT_READ, self)

    def ready(self, end: socket.socket, events: int) -> None:
        """As many as have come."""
        del end, events  # there is one that it may be
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                outer = socket.socket(self._listener.family, socket.SOCK_STREAM)
            except OSError:
                self._forwarder.rest(self)
                return
            try:
                inner = self._taken or self._listener.accept()[0]
            except OSError as error:
                outer.close()
                if error.errno in _NONE_LEFT:
                    self._forwarder.rest(self)
                return
            for end in (inner, outer):
                end.setblocking(False)
                if end.family != socket.AF_UNIX:
                    # What was sent at once goes on at once (tcp(7)).
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = outer.connect_ex(self._target)
            if begun == errno.EAGAIN and outer.family == socket.AF_UNIX:
                # unix(7): its queue is full, and nothing tells when it is not.
                self._taken = inner
                outer.close()
                self._forwarder.rest(self)
                return
            self._taken = None
            pair = Pair(self._forwarder, inner, outer)
            if begun not in (0, errno.EINPROGRESS):
                pair.abort()

    def watch(self, *, on: bool) -> None:
        """Whether connections are taken, or wait in the kernel's queue."""
        before, after = (0, selectors.EVENT_READ) if on else (selectors.EVENT_READ, 0)
        self._forwarder.change(self._listener, before, after, self)
        if on and self._taken is not None:
            self.ready(self._listener, selectors.EVENT_READ)


class Datagrams:
    """A UDP socket of the test's: for each that it hears of, one out here."""

    def __init__(self, forwarder: Forwarder, inner: socket.socket, target: Address) -> None:
        self._forwarder = forwarder
        self._inner = inner
        self._target = target
        self._peers: OrderedDict[Address, socket.socket] = OrderedDict()
        self._names: dict[socket.socket, Address] = {}
        inner.setblocking(False)
        forwarder.change(inner, 0, selectors.EVENT_READ, self)

    def ready(self, end: socket.socket, events: int) -> None:
        """One datagram, either way."""
        del events
        try:
            if end is self._inner:
                data, name = self._inner.recvfrom(_DATAGRAM)
                self._outer(name).send(data)
            else:
                self._inner.sendto(end.recv(_DATAGRAM), self._names[end])
        except OSError:
            pass  # as of any datagram that is lost

    def _outer(self, name: Address) -> socket.socket:
        if name in self._peers:
            self._peers.move_to_end(name)
            return self._peers[name]
        if len(self._peers) >= _MOST_PEERS:
            _, silent = self._peers.popitem(last=False)
            del self._names[silent]
            self._forwarder.change(silent, selectors.EVENT_READ, 0, self)
            silent.close()
        outer = socket.socket(self._inner.family, socket.SOCK_DGRAM)
        outer.setblocking(False)
        outer.connect(self._target)
        self._peers[name] = outer
        self._names[outer] = name
        self._forwarder.change(outer, 0, selectors.EVENT_READ, self)
        return outer


class Forwarder:
    """Carries until the runner ends this process."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._resting: list[Listening] = []

    def take(self, listeners: list[socket.socket], addresses: list[str]) -> None:
        """The test's sockets, and the address that each stands for."""
        for listener, address in zip(listeners, addresses, strict=True):
            kind, _, rest = address.partition(":")
            target = target_of(kind, rest)
            (Datagrams if kind == "udp" else Listening)(self, listener, target)

    def rest(self, listening: Listening) -> None:
        """No descriptor is left: connections wait until another one has ended."""
        listening.watch(on=False)
        self._resting.append(listening)

    def wake(self) -> None:
        """A connection has ended, or time has passed."""
        resting, self._resting = self._resting, []
        for listening in resting:
            listening.watch(on=True)

    def change(self, end: socket.socket, before: int, events: int, owner: object) -> None:
        """Ask for other events of a socket."""
        if before and events:
            self._selector.modify(end, events, owner)
        elif events:
            self._selector.register(end, events, owner)
        elif before:
            self._selector.unregister(end)

    def serve(self) -> NoReturn:
        """Until the runner is gone, or kills this process."""
        self._selector.register(RUNNER, selectors.EVENT_READ)
        woken = time.monotonic()
        while True:
            ready = self._selector.select(_REST if self._resting else None)
            # Also where others are busy all the time.
            if self._resting and time.monotonic() - woken >= _REST:
                woken = time.monotonic()
                self.wake()
            for key, events in ready:
                if key.fd == RUNNER:
                    sys.exit(0)
                # A turn before may have closed it.
                if isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                    key.data.ready(key.fileobj, events)


def target_of(kind: str, rest: str) -> Address:
    """What connect(2) takes, of ``127.0.0.1:80``, ``[::1]:80`` or ``@name``."""
    if kind == "unix":
        return "\0" + rest[1:]
    host, _, port = rest.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> NoReturn:  # pragma: no cover (runs in a process of its own, seen by its effects)
    """Take over what the test has opened, and carry."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two for each connection
    channel = socket.socket(fileno=SOCKET)
    channel.send(b'{"hello": true}')
    said, received, _, _ = socket.recv_fds(channel, LONGEST, MOST)
    forwarder = Forwarder()
    if said:
        # The runner names the addresses: the test, which is not trusted, gives its sockets only.
        forwarder.take([socket.socket(fileno=fd) for fd in received], sys.argv[1:])
        channel.send(b'{"taken": true}')
    channel.close()
    forwarder.serve()


if __name__ == "__main__":
    main()
