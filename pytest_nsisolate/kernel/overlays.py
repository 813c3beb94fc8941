# SPDX-License-Identifier: MIT
"""A root that shows the host's files and throws away what is written: one overlay a directory.

Fact: in a user namespace the mounts that came from outside are locked, and an overlay must not
uncover what lies below them: ``lowerdir=/`` is EINVAL (``clone_private_mount()`` in
fs/namespace.c).
What we do: the new root is an overlay on a skeleton: links, and empty directories to mount on. Each
top-level directory gets an overlay of its own there (see :mod:`pytest_nsisolate.kernel.survey`).

Fact: what is mounted on ``/`` hides nothing from a process whose root is below it, but ``/..``
leads there.
What we do: the tmpfs that holds the skeleton and all that is written is mounted on ``/`` itself and
reached by the current directory. It needs no folder to be mounted on, and every path of the host's
goes on to mean what it meant. With the old root it goes out of sight.

Fact: a merged directory has the owner and the mode of its topmost layer that has it.
What we do: the topmost directories have those of the host's; below, the ownership layer is put
between (see :mod:`pytest_nsisolate.process.ownership_layer`).

What still fails: the third overlay on another is EINVAL (FILESYSTEM_MAX_STACK_DEPTH), and so is one
on file systems that it refuses. Sockets and fifos of the skeleton are not there, and a socket
in an overlay is a copy without a listener. A top-level directory cannot be removed (EBUSY), and
a rename from one to another is EXDEV.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from stat import S_IMODE, S_ISGID, S_ISUID
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import Step, run_all, step_error
from pytest_nsisolate.kernel.originals import os, re
from pytest_nsisolate.kernel.readonly import SAFE
from pytest_nsisolate.kernel.survey import Mounted, Survey, is_in, status_of
from pytest_nsisolate.kernel.syscalls import (
    MNT_DETACH,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSUID,
    MS_REC,
)

#: A file of the skeleton is copied for each test up to this size, as long as all together have no
#: more than this. Others are bound read-only, but not more than so many.
_COPIED: Final = 1 << 20
_COPIED_IN_ALL: Final = 64 << 20
_MOST_BOUND: Final = 256

#: To write to a file, or to give it away, takes these from its mode (chown(2), write(2)).
_SET_ID: Final = S_ISUID | S_ISGID

#: What is on the tmpfs: the skeleton, what is written, overlay's own, given contents, the ownership
#: layer, what is the root in place of the host's, and the new root.
SKELETON, UPPER, WORK, _GIVEN, LAYER, BASE, NEW = "suwglbn"


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory to be made; ``owner`` is None where the maker is."""

    path: str
    mode: int
    owner: tuple[int, int] | None = None

    def make(self) -> None:
        """With exactly this mode, under a umask of 0."""
        os.mkdir(self.path, self.mode)
        if self.owner is not None:
            os.chown(self.path, *self.owner)
        if self.mode & S_ISGID:
            os.chmod(self.path, self.mode)


@dataclass(frozen=True, slots=True)
class Content:
    """A file to be made; ``content`` None: nothing will be there (a whiteout)."""

    path: str
    content: bytes | None
    mode: int = 0o644
    owner: tuple[int, int] | None = None

    def make(self) -> None:
        """In a directory that is there."""
        if self.content is None:
            os.mknod(self.path, 0o020000, 0)  # the whiteout of overlay: a character device 0:0
            return
        write(self.path, self.content, self.mode, self.owner)


def write(path: str, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """A new file with exactly this mode, under a umask of 0."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if owner is not None:
            os.fchown(fd, *owner)
        if mode & _SET_ID:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """What makes the overlays the root; made in the runner by :func:`plan_overlays`.

    :param places: directories with an overlay of their own; the n-th one's upper directory is
        ``u/n``, and ``u/0`` is that of the root itself.
    :param folders: those on the tmpfs, in the order in which they are made.
    :param copies: (file of the host's, its name on the tmpfs, its owner as a :class:`Folder`'s).
    """

    places: tuple[str, ...]
    stage: Step = field(repr=False, compare=False)
    folders: tuple[Folder, ...] = field(repr=False, compare=False)
    links: tuple[tuple[str, str], ...] = field(repr=False, compare=False)
    copies: tuple[tuple[str, str, tuple[int, int] | None], ...] = field(repr=False, compare=False)
    contents: tuple[Content, ...] = field(repr=False, compare=False)
    mounts: tuple[Step, ...] = field(repr=False, compare=False)
    exchange: tuple[Step, ...] = field(repr=False, compare=False)

    def enter(self, settle: Callable[[], None]) -> None:
        """In the child, when the rest of its mounts are made; it stands in the new ``/`` then.

        :param settle: called on the tmpfs before anything else is made there: what a child is lent
            is safe with the runner again, whatever is refused after it.
        :raises StepError: naming the call and the path.
        """
        self.stage.run()
        try:
            mask = os.umask(0)
            os.chdir("/..")
            settle()
            for folder in self.folders:
                folder.make()
            for to, path in self.links:
                os.symlink(to, path)
            for source, path, owner in self.copies:
                _copy(source, path, owner)
            for content in self.contents:
                content.make()
            os.umask(mask)
        except OSError as error:
            raise step_error("prepare the root", "mount", error) from error
        run_all(self.mounts)
        try:
            os.chdir(NEW)
            run_all(self.exchange)
            os.chdir("/")
        except OSError as error:
            raise step_error("enter the root", "mount", error) from error


def check_attributes() -> None:
    """In the runner, on memory like a tmpfs's: the kernel has one set of attributes for both.

    :raises StepError: if a tmpfs has none for overlay's marks.
    """
    with failing("set user.* attributes on a tmpfs", "mount"):
        fd = os.memfd_create("nsisolate-attributes")
        try:
            os.setxattr(fd, "user.nsisolate", b"")
        finally:
            os.close(fd)


def _copy(source: str, path: str, owner: tuple[int, int] | None) -> None:
    """A file of the skeleton; one that this user cannot read, or that has gone, is not there."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (PermissionError, FileNotFoundError):
        return
    try:
        status = os.fstat(fd)
        content = b""
        # No more than it has: to ask for a megabyte has the kernel map one, and unmap it.
        while (left := status.st_size - len(content)) and (part := os.read(fd, left)):
            content += part
    finally:
        os.close(fd)
    write(path, content, S_IMODE(status.st_mode), owner)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose the directories of the new root are.

    :param owner: of a directory that is made anew; None: the child itself.
    :param mode: likewise.
    :param layered: places that the ownership layer has.
    """

    owner: Callable[[os.stat_result], tuple[int, int] | None]
    mode: Callable[[os.stat_result, str], int]
    layered: frozenset[str]


def plan_overlays(
    found: Survey,
    points: Mapping[str, Mounted],
    *,
    size: str,
    whole_proc: bool,
    stays: Iterable[str],
    owners: Owners,
    contents: Sequence[Content],
) -> OverlayRoot:
    """The calls that make the new root, worked out in the runner.

    :param size: of the tmpfs, as an option of its own has it.
    :param whole_proc: the child mounts a ``/proc``, and shall be able to mount another.
    :param stays: real paths that stay the host's, outermost only.
    :param contents: at real paths; those in no place are put into the skeleton.
    :raises StepError: ``take / apart``, and as :func:`check_attributes`.
    """
    check_attributes()
    given = _Given(found, owners)
    owner, mode = owners.owner, owners.mode
    for content in contents:
        given.add(content)
    names = (SKELETON, UPPER, WORK, NEW, *((_GIVEN,) if given.used else ()))
    folders = [Folder(name, 0o755) for name in names]
    with failing("take / apart", "mount"):
        root = os.stat("/")
        folders.append(Folder(f"{UPPER}/0", mode(root, "/"), owner(root)))
        for path in found.folders:
            if (status := status_of(path)) is not None:
                folders.append(Folder(SKELETON + path, mode(status, path), owner(status)))
        folders.append(Folder(f"{WORK}/0", 0o700))
        mounts = [overlay_on(NEW, "/", 0, [SKELETON], 0)]
        for number, path in enumerate(found.places, 1):
            if (status := status_of(path)) is None:
                continue
            folders.append(Folder(SKELETON + path, 0o755))
            folders.append(Folder(f"{UPPER}/{number}", mode(status, path), owner(status)))
            folders.append(Folder(f"{WORK}/{number}", 0o700))
            lower = [f"{_GIVEN}/{number}"] if number in given.used else []
            if path in owners.layered:
                lower.append(LAYER + path)
            lower.append(path)
            flags = points[path].flags if path in points else 0
            mounts.append(overlay_on(NEW + path, path, number, lower, flags))
        sizes = {path: status for path in found.files if (status := status_of(path)) is not None}
    small, big = _sorted_by_size(sizes)
    folders += given.folders
    targets = []
    for path in (*found.through, *found.sealed, *big):
        if os.path.isdir(path):
            folders.append(Folder(SKELETON + path, 0o755))
        else:
            targets.append(Content(SKELETON + path, b""))
    mounts += _binds(found, big, stays, whole_proc=whole_proc)
    mounts.append(set_aside())
    return OverlayRoot(
        places=tuple(found.places),
        stage=Step("mount tmpfs on /", "mount", tmpfs(with_room(size, small, contents))),
        folders=tuple(folders),
        links=tuple((to, SKELETON + path) for to, path in found.links),
        copies=tuple(
            (path, SKELETON + path, owner(sizes[path]))
            for path in small
            if path not in given.replaced
        ),
        contents=(*targets, *given.contents),
        mounts=tuple(mounts),
        exchange=exchange(),
    )


def _sorted_by_size(files: Mapping[str, os.stat_result]) -> tuple[list[str], list[str]]:
    """Those that are copied, and those that are bound.

    :raises StepError: ``take / apart``, when too many would be bound.
    """
    small: list[str] = []
    big: list[str] = []
    left = _COPIED_IN_ALL
    for path, status in sorted(files.items(), key=lambda one: one[1].st_size):
        left -= status.st_size
        (small if status.st_size <= _COPIED and left >= 0 else big).append(path)
    if len(big) > _MOST_BOUND:
        raise StepError("take / apart", "mount", errno.E2BIG, f"files such as {big[-1]}")
    return small, big


def set_aside() -> Step:
    """The last of the mounts: on / the tmpfs would be unmounted in place of the old root."""
    return Step("move the tmpfs", "mount", syscalls.prepare_mount(".", "/proc", None, MS_MOVE))


def exchange() -> tuple[Step, ...]:
    """In the new root: it takes the place of the old one, which is gone then."""
    return (
        Step("pivot_root", "mount", syscalls.prepare_pivot_root(".", ".")),
        Step("unmount the old root", "mount", syscalls.prepare_umount2(".", MNT_DETACH)),
    )


class _Given:
    """Contents that the test has of its own: the topmost of the lower layers."""

    def __init__(self, found: Survey, owners: Owners) -> None:
        self.used: set[int] = set()
        self.folders: list[Folder] = []
        self.contents: list[Content] = []
        #: Files of the skeleton that are not the host's.
        self.replaced: set[str] = set()
        self._found = found
        self._owners = owners
        self._made = {*found.folders}

    def add(self, content: Content) -> None:
        path, place = content.path, self._found.place_of(content.path)
        base, top = SKELETON, ""
        if place is not None:
            number = self._found.places.index(place) + 1
            self.used.add(number)
            base, top = f"{_GIVEN}/{number}", place
            self._make(place, base)
        else:
            self.replaced.add(path)
            if content.content is None:
                return  # it is left out of the skeleton
        parents = []
        parent = os.path.dirname(path)
        while parent != "/" and is_in(parent, top) and parent != top:
            parents.append(parent)
            parent = os.path.dirname(parent)
        for folder in reversed(parents):
            self._make(folder, base + folder.removeprefix(top))
        name = base + path.removeprefix(top)
        self.contents.append(Content(name, content.content, content.mode, content.owner))

    def _make(self, path: str, name: str) -> None:
        if path in self._made:
            return
        self._made.add(path)
        try:
            status = os.stat(path)
        except OSError:
            self.folders.append(Folder(name, 0o755))
        else:
            owners = self._owners
            folder = Folder(name, owners.mode(status, path), owners.owner(status))
            self.folders.append(folder)


def _binds(
    found: Survey, big: Iterable[str], stays: Iterable[str], *, whole_proc: bool
) -> Iterator[Step]:
    for path in found.through:
        if path == "/proc" and whole_proc:
            # As for every other root: one that no path leads to (see kernel.mounts).
            call = syscalls.prepare_mount(path, NEW + path, None, MS_BIND)
            yield Step("bind /proc", "pid", call)
            call = syscalls.prepare_mount("proc", f"{NEW}/proc/sys", "proc", SAFE)
            yield Step("mount proc", "pid", call)
        yield bind(path)
    for path in (*found.sealed, *big):
        yield bind_sealed(path, path)
    for path in stays:
        if not found.is_bound(path):
            yield bind(path)


def bind(path: str, target: str | None = None) -> Step:
    """Bind what the host has there into the new root, with all that is mounted below.

    In a user namespace it must not be uncovered (EINVAL).

    :param target: its path there, if that is another.
    """
    call = syscalls.prepare_mount(path, NEW + (target or path), None, MS_BIND | MS_REC)
    return Step(f"bind {path}", "mount", call)


def bind_sealed(path: str, target: str) -> Step:
    """The same, and nothing can be written there. An automount stays as it is."""
    sealed = Lasting(partial(_attach_sealed, path, NEW + target), path)
    return Step(f"bind {path} read-only", "mount", sealed)


def _attach_sealed(path: str, target: str) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    tree = syscalls.open_tree(path, flags | syscalls.AT_RECURSIVE | syscalls.AT_NO_AUTOMOUNT)
    try:
        syscalls.make_tree_read_only(tree)
        syscalls.move_mount(tree, target)
    finally:
        os.close(tree)
    return 0


def overlay_on(target: str, path: str, number: int, lower: list[str], flags: int) -> Step:
    """Mount one overlay.

    :param path: as messages name it.
    :param number: of its upper directory.
    :param lower: its lower directories, topmost first.
    """
    layers = ":".join(map(_escaped, lower))
    options = f"lowerdir={layers},upperdir={UPPER}/{number},workdir={WORK}/{number},userxattr"
    call = syscalls.prepare_mount("overlay", target, "overlay", flags, options)
    return Step(f"mount overlay on {path}", "mount", Lasting(call, path))


@dataclass(frozen=True, slots=True)
class Lasting:
    """A call about a path of the host's, which may be gone since: then it is no error."""

    call: Callable[[], int]
    path: str

    def __call__(self) -> int:
        """
        :raises OSError: of the call.
        """
        try:
            self.call()
        except FileNotFoundError:
            if os.path.exists(self.path):
                raise
        return 0


def _escaped(path: str) -> str:
    """As an option of overlay has it (Documentation/filesystems/overlayfs.rst)."""
    return re.sub(r"([\\:,])", r"\\\1", path)


def with_room(size: str, files: Iterable[str], contents: Iterable[Content]) -> str:
    """A size for what the test writes, and for what is on the tmpfs already."""
    if not size.isdecimal():
        return size
    sizes = [status.st_size for path in files if (status := status_of(path)) is not None]
    sizes += [len(content.content or b"") for content in contents]
    page = os.sysconf("SC_PAGE_SIZE")
    return str(int(size) + sum(-(-length // page) * page for length in sizes))


def tmpfs(size: str) -> Callable[[], int]:
    """Mount the tmpfs of the skeleton and of all that is written."""
    options = f"mode=0755,size={size}"
    return syscalls.prepare_mount("tmpfs", "/", "tmpfs", MS_NOSUID | MS_NODEV, options)
