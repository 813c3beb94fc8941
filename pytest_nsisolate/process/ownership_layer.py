# SPDX-License-Identifier: MIT
"""Who owns ``/etc`` for a test whose root is nobody on the host.

Fact: rootless, one id exists inside. All that is root's on the host belongs to nobody there, and no
capability counts against an owner that has no number (capable_wrt_inode_uidgid() in the kernel):
in an overlay of ``/etc`` even root inside gets EACCES.
Fact: a merged directory takes its owner and mode from the topmost layer that has it.
What we do: between the host's files and what the test writes lies a tree of empty directories like
the host's, owned by this user. What programs edit in place, and not by a rename, is there as a
copy: the files of ``/etc`` and the logs; and the empty files of ``/var``, which are locks.

Fact: 15,000 directories take half a second, so the tree must last for more than one test. Files
of the host outlive a runner that is killed, and a process that keeps them is a child that the suite
may wait for. A mount that is attached nowhere lives as long as a descriptor of it, but only the
namespace that it is in can clone it, so it serves one test.
What we do: the tree is on a tmpfs that a short-lived child fills and leaves as such a descriptor.
The test's PID 1 attaches it in its own namespace, clones it there, and sends the clone back for the
next test (:class:`Baton`). Nothing is on the disk, no process waits, and with the runner the kernel
frees it.

What still fails: files outside of these that are edited in place, and ids other than one. Each
worker of pytest-xdist makes a tree. Where a child dies on its way in, the tree is made anew.
"""

from __future__ import annotations

import array
import errno
import sys
from _socket import socketpair  # pytest-socket forbids the one of the module above
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from stat import S_IMODE, S_ISREG
from typing import TYPE_CHECKING, Final, NoReturn

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.kernel import overlays, syscalls
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import open, os, posix, select, socket
from pytest_nsisolate.process.channel import STEP_SECONDS, refuse
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.process.launcher import Launcher

#: The deepest directories of a host that has more are left as they are, and those that are not
#: reached in time.
_MOST: Final = 60_000
_SECONDS: Final = 8.0

#: Below these, files are copied: what programs edit in place.
_EDITED: Final = ("/etc/", "/var/log/")
_MOST_BYTES: Final = 1 << 20

#: Below this, empty files are: locks.
_LOCKED: Final = "/var/"

_OPAQUE: Final = "user.overlay.opaque"

#: Everybody may list it and enter it.
_ALL_LOOK: Final = 0o555

#: The links of a directory that has none below it, on file systems that count them; others have 1.
_LEAF: Final = 2


class Baton:
    """The layer on its way through one child: here for this test, and back for the next."""

    def __init__(self, layer: OwnershipLayer, tree: int) -> None:
        self._layer = layer
        self._tree = tree
        ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours, self._theirs = ours.detach(), theirs.detach()

    def put_in_place(self) -> None:
        """In the child, on the tmpfs of its root: attach the tree, and send a clone of it back.

        :raises StepError: naming the call.
        """
        try:
            syscalls.move_mount(self._tree, overlays.LAYER)
            clone = syscalls.open_tree(
                overlays.LAYER, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
            )
            # The C type: the class built on it touches twice as many pages in the child.
            channel = socket.SocketType(fileno=self._theirs)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, clone.to_bytes(4, sys.byteorder))
            channel.sendmsg([b"l"], [rights])
            channel.close()
            os.close(clone)
            os.close(self._tree)
        except OSError as error:
            raise step_error("attach the ownership layer", "mount", error) from error

    def passed_on(self) -> None:
        """In the launching process: the child has it now."""
        os.close(self._tree)
        os.close(self._theirs)
        self._layer.await_from(self._ours)

    def keep(self) -> None:
        """In the launching process: there is no child."""
        os.close(self._theirs)
        os.close(self._ours)
        self._layer.put(self._tree)

    def descriptors(self) -> tuple[int, ...]:
        """What is the launching process's alone."""
        return (self._ours,)


class OwnershipLayer:
    """The tree of one launcher; made when it is first taken.

    :param places: directories of the host, the tops of what is like the host's.
    :param same: the owner may do what this user may do, and no file is copied: for a test
        that is no root inside.
    """

    def __init__(self, launcher: Launcher, places: frozenset[str], *, same: bool) -> None:
        self.places = places
        self._launcher = launcher
        self._same = same
        self._trees: list[int] = []
        self._awaited: list[int] = []
        self._out: Baton | None = None

    def take(self) -> Baton:
        """The tree, for the next child.

        :raises RefusedError: when it cannot be made.
        """
        while not self._trees and self._awaited:
            tree = _received(self._awaited.pop())
            if tree is not None:
                self._trees.append(tree)
        tree = self._trees.pop() if self._trees else self._make()
        try:
            with failing("socketpair", None):
                self._out = Baton(self, tree)
        except StepError:
            self.put(tree)
            raise
        return self._out

    def put(self, tree: int) -> None:
        """It was not needed."""
        self._trees.append(tree)
        self._out = None

    def await_from(self, channel: int) -> None:
        """It will come back here."""
        self._awaited.append(channel)
        self._out = None

    def descriptors(self) -> tuple[int, ...]:
        """What is not the child's that is launched now."""
        out = () if self._out is None else self._out.descriptors()
        return (*self._trees, *self._awaited, *out)

    def close(self) -> None:
        """Let the kernel free it."""
        for fd in (*self._trees, *self._awaited):
            os.close(fd)
        self._trees.clear()
        self._awaited.clear()

    def _make(self) -> int:
        with failing("socketpair", None):
            ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            builder = _Builder(self.places, same=self._same, channel=theirs.fileno())
            request = IsolationRequest(frozenset({"user", "pid", "mount"}))
            child = self._launcher.start(request, lambda _: builder, budget=_SECONDS + STEP_SECONDS)
            try:
                while child.next_frame() is not None:
                    pass
            finally:
                child.end_and_reap()
            theirs.close()
            tree = _received(ours.detach())
        finally:
            ours.close()
            theirs.close()
        if tree is not None:
            return tree
        refusal = child.outcome
        if not isinstance(refusal, Refusal):
            refusal = Refusal("make the ownership layer", "mount", errno.EPIPE, str(refusal))
        raise RefusedError(self._launcher.explained(refusal))


def _received(channel: int) -> int | None:
    """The tree that comes by this socket; None: it is lost. Closes the socket."""
    connection = socket.SocketType(fileno=channel)
    try:
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        if not poller.poll(STEP_SECONDS * 1000):
            return None
        size = socket.CMSG_SPACE(4)
        _, rights, _, _ = connection.recvmsg(1, size, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    finally:
        connection.close()
    found = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found[0] if found else None


class _Builder:
    """The body of the child that makes the tree."""

    def __init__(self, places: frozenset[str], *, same: bool, channel: int) -> None:
        self._places = sorted(places)
        self._same = same
        self._channel = channel

    def __call__(self, writer: FrameWriter) -> NoReturn:
        try:
            sys.settrace(None)
            writer.send_encoded(Kind.READY, b"{}")
            self._build()
            writer.send(Kind.DONE, {"phases": [], "alone": False})
        except StepError as error:
            refuse(writer, error)
        finally:
            posix._exit(0)

    def _build(self) -> None:
        try:
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
            syscalls.prepare_mount("tmpfs", "/", "tmpfs", flags, "mode=0755")()
            os.umask(0)
            os.chdir("/..")
            self._fill()
            tree = syscalls.open_tree(".", syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC)
            channel = socket.SocketType(fileno=self._channel)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, tree.to_bytes(4, sys.byteorder))
            channel.sendmsg([b"l"], [rights])
            channel.detach()
        except OSError as error:
            raise step_error("make the ownership layer", "mount", error) from error

    def _fill(self) -> None:
        """Breadth first: where there are too many, the deepest are left out."""
        until = monotonic() + _SECONDS
        ids = Ids.here()
        waiting: deque[tuple[str, os.stat_result]] = deque()
        for place in self._places:
            # Above a place are directories of the skeleton, which have their own owners.
            os.makedirs("." + os.path.dirname(place), exist_ok=True)
            with suppress(OSError):  # it is gone
                waiting.append((place, os.stat(place)))
        left = _MOST
        while waiting and left and monotonic() < until:
            path, status = waiting.popleft()
            left -= 1
            os.mkdir("." + path, self._mode(status, path))
            if not _may_look(status, path):
                # Else it could not be listed inside, by its own owner.
                os.setxattr("." + path, _OPAQUE, b"y")
            elif status.st_nlink != _LEAF or f"{path}/".startswith((*_EDITED, _LOCKED)):
                self._enter(path, ids, waiting)

    def _enter(self, path: str, ids: Ids, waiting: deque[tuple[str, os.stat_result]]) -> None:
        """Copy what has to be, and find the directories whose owners have no numbers inside."""
        below = f"{path}/"
        edited = not self._same and below.startswith(_EDITED)
        locked = not self._same and below.startswith(_LOCKED)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        if not ids.have(status):
                            waiting.append((entry.path, status))
                    elif (edited or locked) and entry.is_file(follow_symlinks=False):
                        _copy(entry, empty_only=not edited)
        except OSError:
            pass  # it is gone, or may not be looked at

    def _mode(self, status: os.stat_result, path: str) -> int:
        return mode_for_others(status, path) if self._same else S_IMODE(status.st_mode)


def _may_look(status: os.stat_result, path: str) -> bool:
    return status.st_mode & _ALL_LOOK == _ALL_LOOK or os.access(path, os.R_OK | os.X_OK)


def mode_for_others(status: os.stat_result, path: str) -> int:
    """Of a directory whose owner inside may do what this process may do outside."""
    mode = S_IMODE(status.st_mode) & ~0o700
    for bit, right in ((0o400, os.R_OK), (0o200, os.W_OK), (0o100, os.X_OK)):
        if os.access(path, right):
            mode |= bit
    return mode


@dataclass(frozen=True, slots=True)
class Ids:
    """The users and groups that exist in a user namespace, by their numbers in this one."""

    users: tuple[range, ...]
    groups: tuple[range, ...]

    @classmethod
    def here(cls) -> Ids:
        """Those of this process's own (user_namespaces(7)).

        :raises OSError: without a ``/proc``.
        """
        return cls(_ranges("uid_map"), _ranges("gid_map"))

    @classmethod
    def one(cls, uid: int, gid: int) -> Ids:
        """All that a process without capabilities may map."""
        return cls((range(uid, uid + 1),), (range(gid, gid + 1),))

    def have(self, status: os.stat_result) -> bool:
        """Owner and group of a file are among them."""
        return any(status.st_uid in numbers for numbers in self.users) and any(
            status.st_gid in numbers for numbers in self.groups
        )


def _ranges(name: str) -> tuple[range, ...]:
    with open(f"/proc/self/{name}", "rb") as lines:
        extents = [tuple(map(int, line.split())) for line in lines]
    return tuple(range(first, first + count) for first, _, count in extents)


def _copy(entry: os.DirEntry[str], *, empty_only: bool) -> None:
    status = entry.stat(follow_symlinks=False)
    if status.st_size > (0 if empty_only else _MOST_BYTES) or not S_ISREG(status.st_mode):
        return
    name = "." + entry.path
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if not empty_only:
            # A program takes it for missing, and not for broken: /etc/shadow.
            os.mknod(name, 0o020000, 0)
        return
    try:
        content = os.read(fd, _MOST_BYTES) if status.st_size else b""
    finally:
        os.close(fd)
    overlays.write(name, content, S_IMODE(status.st_mode), None)
