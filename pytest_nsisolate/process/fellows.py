# SPDX-License-Identifier: MIT
"""The other workers of one run, which share what takes long to make.

Fact: workers of pytest-xdist have no channel to one another, and a file that one leaves for the
others outlives them if all are killed.
What we do: each worker has a mailbox, an abstract datagram socket (unix(7)), before any test runs.
Whoever needs a tree first makes one for everybody, and sends each mailbox a descriptor of it.
While it is made, an abstract name is taken; the others wait until it is free. The kernel frees
names, and descriptors that no one has fetched, with the processes.

Fact: anyone on this machine can see these names and send something, a test without a network of its
own among them.
What we do: what is taken comes from a process of the same parent, as the kernel has noted. That is
the controller, and a test has another one.

What still fails: a worker that takes the place of a crashed one makes its own, and so does one on
another machine.
"""

from __future__ import annotations

import _socket  # pytest-socket forbids the classes of the module above it
import array
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, select

_NAME: Final = "pytest-nsisolate/trees"
_CREDENTIALS: Final = struct.Struct("3i")
_KEY_BYTES: Final = 16

#: Trees that one message of the maker's child can bring (SCM_MAX_FD is 253).
_MOST: Final = 200


class Fellows:
    """What one worker has to do with the others.

    :param run: a name that all workers of the run have, and no other run.
    :param own: the name of this one.
    :param others: those of the others.
    :raises OSError: when no socket can be had.
    """

    def __init__(self, run: str, own: str, others: Iterable[str]) -> None:
        self._run = run
        self._parent = os.getppid()
        self._others = tuple(others)[: _MOST - 1]
        self._arrived: dict[bytes, int] = {}
        #: Of these this worker has made a tree for everybody, or got one.
        self._done: set[bytes] = set()
        # Numbers: an object would close its own in a child too, where another file may have it.
        self._lock: int | None = None
        self._mailbox: int | None = None
        mailbox = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK)
        try:
            mailbox.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
            mailbox.bind(self._address(own))
            self._mailbox = mailbox.detach()
        finally:
            mailbox.close()

    def share(self, key: object, make: Callable[[int], list[int]], seconds: float) -> int:
        """A tree that one of the workers has made.

        :param key: the same in two workers if their trees are.
        :param make: makes so many descriptors of a tree.
        :param seconds: to wait for another worker.
        :returns: a descriptor that the caller owns.
        """
        digest = sha256(repr(key).encode(errors="surrogateescape")).digest()[:_KEY_BYTES]
        until = monotonic() + seconds
        while digest not in self._done:
            if (tree := self._fetched(digest)) is not None:
                return tree
            if self._take_turn(digest):
                try:
                    # It may have come since, and then the turn was free again.
                    if (tree := self._fetched(digest)) is not None:
                        return tree
                    own, *trees = make(1 + len(self._others))
                    self._done.add(digest)
                    self._send(digest, trees)
                    return own
                finally:
                    self._end_turn()
            if not self._wait(digest, until):
                break
        self._done.add(digest)
        return make(1)[0]  # the first one was lost, or the others are too slow

    def descriptors(self) -> tuple[int, ...]:
        """What no child must have."""
        own = (fd for fd in (self._mailbox, self._lock) if fd is not None)
        return (*own, *self._arrived.values())

    def close(self) -> None:
        """Give everything back."""
        self._end_turn()
        for tree in self._arrived.values():
            os.close(tree)
        self._arrived.clear()
        if self._mailbox is not None:
            os.close(self._mailbox)
            self._mailbox = None

    def _address(self, name: str) -> bytes:
        """An abstract name begins with a zero."""
        return f"\0{_NAME}/{os.geteuid()}/{self._run}/{name}".encode()

    # Whose turn it is to make one -----------------------------------------------------------------

    def _take_turn(self, digest: bytes) -> bool:
        lock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            lock.bind(self._address(digest.hex()))
            lock.listen(_MOST)
            self._lock = lock.detach()
        except OSError:
            return False
        finally:
            lock.close()
        return True

    def _end_turn(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _wait(self, digest: bytes, until: float) -> bool:
        """Until something has come, or the one whose turn it is has ended it.

        :returns: whether that was in time.
        """
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._address(digest.hex()))
            waiter = select.poll()
            if self._mailbox is not None:
                waiter.register(self._mailbox, select.POLLIN)
            waiter.register(connection.fileno(), select.POLLIN)  # when the other end is closed
            return bool(waiter.poll(max(0.0, until - monotonic()) * 1000))
        except ConnectionRefusedError:
            return monotonic() < until  # it has just ended, or is about to listen
        except OSError:
            return False
        finally:
            connection.close()

    # The mail -------------------------------------------------------------------------------------

    def _send(self, digest: bytes, trees: list[int]) -> None:
        """To all the others; one that has gone, or that is full, makes its own."""
        with self._mail() as mailbox:
            for name, tree in zip(self._others, trees, strict=False):
                content = array.array("i", [tree]).tobytes()
                rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, content)]
                with suppress(OSError):
                    mailbox.sendmsg([digest], rights, 0, self._address(name))
                os.close(tree)

    def _fetched(self, digest: bytes) -> int | None:
        self._fetch()
        tree = self._arrived.pop(digest, None)
        if tree is not None:
            self._done.add(digest)
        return tree

    def _fetch(self) -> None:
        size = _socket.CMSG_SPACE(4) + _socket.CMSG_SPACE(_CREDENTIALS.size)
        with self._mail() as mailbox, suppress(OSError):  # when there is no more
            while True:
                digest, notes, _, _ = mailbox.recvmsg(_KEY_BYTES, size, _socket.MSG_CMSG_CLOEXEC)
                self._sort_in(digest, notes)

    def _sort_in(self, digest: bytes, notes: list[tuple[int, int, bytes]]) -> None:
        trees, pid = array.array("i"), -1
        for level, kind, data in notes:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                trees.frombytes(data[: len(data) - len(data) % trees.itemsize])
            elif (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS):
                pid, _, _ = _CREDENTIALS.unpack(data)
        wanted = len(trees) == 1 and digest not in self._done and digest not in self._arrived
        if wanted and _parent_of(pid) == self._parent:
            self._arrived[digest] = trees[0]
        else:
            for fd in trees:
                os.close(fd)

    @contextmanager
    def _mail(self) -> Iterator[_socket.socket]:
        mailbox = _socket.socket(fileno=self._mailbox)
        try:
            yield mailbox
        finally:
            mailbox.detach()


def _parent_of(pid: int) -> int:
    """-1 for a process that has ended, or is in none of this one's namespaces."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return proc.stat(file.read()).ppid
    except OSError:
        return -1
