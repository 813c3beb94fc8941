# SPDX-License-Identifier: MIT
"""Who owns ``/etc`` for a test whose root has no rights on the host.

Fact: rootless, one id exists inside. What is root's on the host has no owner there, and no
capability counts against an owner that has no number (capable_wrt_inode_uidgid() in the kernel):
in an overlay of ``/etc`` even root inside gets EACCES.
Fact: a merged directory takes its owner and mode from the topmost layer that has it.
What we do: between the host's files and what the test writes lies a tree of empty directories like
the host's, owned by this user. What programs edit in place, and not by a rename, is there as a
copy: the files of ``/etc`` and the logs; and the empty files of ``/var``, which are locks.

Fact: 15,000 directories take half a second, so the tree must last for more than one test.
What we do: it is made once, and lent (see :mod:`pytest_nsisolate.process.lending`).

Fact: a directory of another may lie below one of this user's own, where no layer is needed.
What we do: such directories are looked through for it, 10,000 of them, and not the user's home,
which may have any number, and lie on a server.

What still fails: files outside of these that are edited in place, and ids other than one;
directories of others in the home, and below a top-level directory of the user's own.
"""

from __future__ import annotations

import errno
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from stat import S_IMODE, S_ISREG
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import overlays
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.process.lending import LentTree, TreeBuilder
from pytest_nsisolate.request.model import IsolationRequest

if TYPE_CHECKING:
    from pytest_nsisolate.process.launcher import Launcher

#: Directories of a host that has more are left as they are: first the deepest ones that are no
#: part of the system.
_MOST: Final = 60_000

#: Directories of this user's own that are looked through for those of others, and as many of these.
_MOST_OWN: Final = 10_000

#: More time is a refusal: a file system does not answer. 60,000 directories take some 2 s; a disk
#: that is read for the first time, and a machine under load, take many times as long.
_SECONDS: Final = 600.0

#: First parts of paths that programs are installed to.
_SYSTEM: Final = frozenset({"boot", "etc", "lib", "lib32", "lib64", "libx32", "run", "usr", "var"})

#: Below these, files are copied: what programs edit in place.
_EDITED: Final = ("/etc/", "/var/log/")
_MOST_BYTES: Final = 1 << 20

#: In these the same, and of this size: dpkg links its status to another name, which takes an owner.
_DATABASES: Final = frozenset({"/var/lib/dpkg", "/var/lib/dpkg/triggers"})
_MOST_OF_A_DATABASE: Final = 32 << 20

#: Below this, empty files are: locks.
_LOCKED: Final = "/var/"

_OPAQUE: Final = "user.overlay.opaque"

#: Everybody may list it and enter it.
_ALL_LOOK: Final = 0o555

#: The links of a directory that has none below it, on file systems that count them; others have 1.
_LEAF: Final = 2


class OwnershipLayer(LentTree):
    """The tree of one launcher; made when it is first taken.

    :param places: directories of the host, the tops of what is like the host's.
    :param same: the owner may do what this user may do, and no file is copied: for a test
        that is no root inside.
    :param base: the folder that is the test's root, if the host's is not.
    """

    def __init__(
        self, launcher: Launcher, places: frozenset[str], *, same: bool, base: str | None = None
    ) -> None:
        request = IsolationRequest(frozenset({"user", "pid", "mount"}))
        key = ("ownership layer", sorted(places), same, base)
        super().__init__(launcher, key, request, _SECONDS)
        self.places = places
        self._same = same
        self._base = base

    def _builder(self, count: int) -> TreeBuilder:
        return _Builder(self.places, count, same=self._same, base=self._base)


class _Builder(TreeBuilder):
    """The body of the child that makes the tree."""

    def __init__(self, places: frozenset[str], count: int, *, same: bool, base: str | None) -> None:
        super().__init__("make the ownership layer", count)
        self._places = sorted(places)
        self._same = same
        self._base = base
        self._home = os.path.realpath(os.path.expanduser("~")) if base is None else None
        #: This user's directories with their modes, and those not looked through yet.
        self._own: dict[str, int] = {}
        self._unread: deque[str] = deque()

    def fill(self) -> None:
        """Breadth first: where there are too many, the deepest are left out."""
        ids = Ids.here()
        if self._base is not None:
            os.chroot(self._base)  # the paths are its own; the current directory stays the tmpfs
        until = monotonic() + _SECONDS
        system: list[str] = []
        others: list[str] = []
        for place in self._places:
            (system if place.split("/", 2)[1] in _SYSTEM else others).append(place)
            # Above a place are directories of the skeleton, which have their own owners.
            os.makedirs("." + os.path.dirname(place), exist_ok=True)
        left = _MOST
        for places in (system, others):
            waiting: deque[tuple[str, os.stat_result]] = deque()
            for place in places:
                with suppress(OSError):  # it is gone
                    waiting.append((place, os.stat(place)))
            left = self._fill_below(waiting, ids, left, until)
        if not self._same:  # else it has the rights that it has on the host
            self._fill_in_own(ids, until)

    def _fill_in_own(self, ids: Ids, until: float) -> None:
        """What is not this user's, in the directories that are."""
        left = _MOST_OWN
        for _ in range(_MOST_OWN):
            if not self._unread:
                break
            path = self._unread.popleft()
            found: deque[tuple[str, os.stat_result]] = deque()
            self._enter(path, ids, found, own=True)
            if found and left:
                self._lead_to(path)
                left = self._fill_below(found, ids, left, until)

    def _lead_to(self, path: str) -> None:
        if not os.path.isdir("." + path):
            self._lead_to(os.path.dirname(path))
            os.mkdir("." + path, self._own[path])

    def _fill_below(
        self, waiting: deque[tuple[str, os.stat_result]], ids: Ids, left: int, until: float
    ) -> int:
        """
        :returns: how many directories may follow.
        """
        while waiting and left:
            path, status = waiting.popleft()
            left -= 1
            if monotonic() > until:
                raise StepError("make the ownership layer", "mount", errno.ETIMEDOUT)
            os.mkdir("." + path, self._mode(status, path))
            if not _may_look(status, path):
                # Else it could not be listed inside, by its own owner.
                os.setxattr("." + path, _OPAQUE, b"y")
            elif status.st_nlink != _LEAF or f"{path}/".startswith((*_EDITED, _LOCKED)):
                self._enter(path, ids, waiting)
        return left

    def _enter(
        self,
        path: str,
        ids: Ids,
        waiting: deque[tuple[str, os.stat_result]],
        *,
        own: bool = False,
    ) -> None:
        """Copy what has to be, and find the directories whose owners have no numbers inside."""
        below = f"{path}/"
        most = 0
        if path in _DATABASES:
            most = _MOST_OF_A_DATABASE
        elif below.startswith(_EDITED):
            most = _MOST_BYTES
        copies = not self._same and not own and (most or below.startswith(_LOCKED))
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        if not ids.have(status):
                            waiting.append((entry.path, status))
                        elif status.st_nlink != _LEAF and entry.path != self._home:
                            self._own[entry.path] = S_IMODE(status.st_mode)
                            self._unread.append(entry.path)
                    elif copies and entry.is_file(follow_symlinks=False):
                        _copy(entry, most)
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


def _copy(entry: os.DirEntry[str], most: int) -> None:
    status = entry.stat(follow_symlinks=False)
    if status.st_size > most or not S_ISREG(status.st_mode):
        return
    name, content = "." + entry.path, b""
    if status.st_size:
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            # A program takes it for missing, and not for broken: /etc/shadow.
            os.mknod(name, 0o020000, 0)
            return
        try:
            content = os.read(fd, most)
        finally:
            os.close(fd)
    overlays.write(name, content, S_IMODE(status.st_mode), None)
