# SPDX-License-Identifier: MIT
"""A folder or an image as the root of a test: what the launching process works out.

Fact: an overlay shows its topmost layer where both are no directories, and both where they are.
What we do: one overlay is the whole root. On top of the folder lies the skeleton: what is mounted
on, and what ``files=`` and ``hide=`` say. What is written goes to a tmpfs, so the folder itself is
never changed.

Fact: a link in the folder means a path in it, but a path that this process walks follows it out.
What we do: each path is resolved here as it is inside, before anything is mounted. The skeleton has
no link, and no mount goes through one.

Fact: a test is a copy of its runner, and imports and reads what it needs by path.
What we do: the suite and Python are bound into the root, read-only; see
:mod:`pytest_nsisolate.process.interpreter`. Of programs and libraries the root's own come first:
the host's are there only if it has no such file, or no loader.

What still fails: a folder below which something is mounted, and one in another mount namespace.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import covered, overlays, whole_root
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.survey import Mounted, is_in, mark_of, status_of
from pytest_nsisolate.process import interpreter

if TYPE_CHECKING:
    from pytest_nsisolate.process.ownership_layer import Ids
    from pytest_nsisolate.process.plan import InUse

#: Of each test its own already.
OWN: Final = ("/proc", "/sys", "/dev")

#: Links on the way of one path, as the kernel counts them (path_resolution(7)).
_MOST_LINKS: Final = 40


class Tree:
    """A folder, looked at as those see it whose root it is.

    :param top: a path of it.
    """

    def __init__(self, top: str) -> None:
        self.top = top
        self._seen: dict[str, tuple[int, ...]] = {}

    def status(self, path: str) -> os.stat_result | None:
        """Of a path that :meth:`resolve` has given; None for what is not there."""
        try:
            return os.lstat(self.top + path)
        except OSError:
            return None

    def resolve(self, path: str) -> str:
        """Where a path leads. What is not there stays as it is said.

        :raises OSError: ELOOP.
        """
        done, links = "", 0
        left = path.split("/")[::-1]
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            self._look(done)
            try:
                to = os.readlink(f"{self.top}{done}/{part}")
            except OSError:
                done = f"{done}/{part}"
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if to.startswith("/"):
                done = ""
            left += to.split("/")[::-1]
        return done or "/"

    def holds(self) -> bool:
        """No directory that was looked at has changed since."""
        return all(mark_of(self.status(path)) == mark for path, mark in self._seen.items())

    def _look(self, path: str) -> None:
        if path not in self._seen:
            self._seen[path] = mark_of(self.status(path))


@dataclass(frozen=True, slots=True)
class Shown:
    """One path of the host's in the root.

    :param path: as the host has it.
    :param target: as the root has it.
    """

    path: str
    target: str
    writable: bool


def step(path: str) -> str:
    """How a refusal names it."""
    return f"take {path} as root"


def check(path: str, covers: tuple[str, ...], mounts: dict[str, Mounted]) -> str:
    """The real path of what ``root=`` names.

    :param covers: what a test has of its own.
    :param mounts: what is mounted here.
    :raises StepError: ``take PATH as root``.
    """
    name = step(path)
    with failing(name, "mount"):
        status = os.stat(path)
        real = os.path.realpath(path)
        again = os.stat(real)
    if not os.path.samestat(status, again):
        raise StepError(name, "mount", errno.EXDEV)  # by a link of /proc, /proc/PID/root
    if real == "/":
        raise StepError(name, "mount", errno.EINVAL)
    if S_ISREG(status.st_mode):
        return real
    if not S_ISDIR(status.st_mode):
        raise StepError(name, "mount", errno.EOPNOTSUPP)  # a read may wait, or never end
    own = next((cover for cover in (*OWN, *covers) if is_in(real, cover)), None)
    if own is not None:
        raise StepError(name, "mount", errno.EBUSY, f"{own} is each test's own")
    if not os.access(real, os.R_OK | os.X_OK):
        raise StepError(name, "mount", errno.EACCES)
    below = next((point for point in sorted(mounts) if point.startswith(f"{real}/")), None)
    if below is not None:
        raise StepError(name, "mount", errno.EBUSY, f"{below} is mounted in it")
    return real


def is_layout(folder: str) -> bool:
    """It is an OCI image layout, and no root itself."""
    return os.path.isfile(f"{folder}/oci-layout") and os.path.isfile(f"{folder}/index.json")


def not_of(path: str, ids: Ids) -> frozenset[str]:
    """Top-level directories, at paths inside, whose owner or group is none of these."""
    found = set()
    with failing(f"look into {path}", "mount"), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not ids.have(
                entry.stat(follow_symlinks=False)
            ):
                found.add(f"/{entry.name}")
    return frozenset(found)


def flags_of(path: str, mounts: dict[str, Mounted]) -> int:
    """``MS_*`` of the mount that a real path is in."""
    while path not in mounts and path != "/":
        path = os.path.dirname(path)
    return mounts[path].flags if path in mounts else 0


def shown(tree: Tree, stays: tuple[str, ...], in_use: InUse) -> list[Shown]:
    """What of the host's is in the root, in the order in which it is mounted.

    :param stays: real paths that stay the host's, and writable.
    :raises StepError: ``look into PATH``.
    """
    folders = [path for path in in_use.shown() if path and os.path.isabs(path)]
    both = {name for path in folders for name in (os.path.normpath(path), os.path.realpath(path))}
    outer = covered.outermost(
        path for path in both if not interpreter.is_shared(path) and os.path.exists(path)
    )
    found = [Shown(path, tree.resolve(path), writable=False) for path in outer]
    found = [one for one in found if not any(is_in(one.path, path) for path in stays)]
    if folders:
        found += [
            Shown(path, target, writable=False)
            for path in _files(tree)
            if os.path.isfile(path)
            and not any(is_in(path, one.path) for one in found)
            and tree.status(target := tree.resolve(path)) is None
        ]
    found += [Shown(path, tree.resolve(path), writable=True) for path in stays]
    targets: dict[str, Shown] = {}
    for one in found:
        targets.setdefault(one.target, one)
    return sorted(targets.values(), key=lambda one: one.target.split("/"))


def _files(tree: Tree) -> Iterator[str]:
    yield from interpreter.programs()
    loader = interpreter.loader()
    if loader is not None and tree.status(tree.resolve(loader)) is None:
        yield loader
        yield from interpreter.libraries()


def plan(
    tree: Tree,
    path: str,
    *,
    size: str,
    flags: int,
    whole_proc: bool,
    shown: list[Shown],
    owners: overlays.Owners,
    contents: list[overlays.Content],
) -> overlays.OverlayRoot:
    """The calls that make it the root.

    :param path: as messages name it.
    :param flags: of its overlay.
    :param contents: at paths that the tree has resolved.
    """
    skeleton = _Skeleton(tree, owners)
    for name in OWN:
        skeleton.folder(name)
    if tree.status("/tmp") is None:  # noqa: S108
        skeleton.folder("/tmp", 0o1777)  # noqa: S108
    for one in shown:
        if any(is_in(one.target, other.target) for other in shown if other is not one):
            continue  # it is there in what is mounted before
        if os.path.isdir(one.path):
            skeleton.folder(one.target)
        elif tree.status(one.target) is None:
            skeleton.content(overlays.Content(one.target, b""))
    for content in contents:
        skeleton.content(content)
    binds = [whole_root.bind_host(one.path, one.target, writable=one.writable) for one in shown]
    root = tree.status("/")
    assert root is not None
    return whole_root.plan_whole_root(
        path,
        top=(owners.mode(root, tree.top), owners.owner(root)),
        folders=skeleton.folders.values(),
        contents=skeleton.contents,
        binds=(
            *whole_root.bind_proc(whole=whole_proc),
            *(overlays.bind(name) for name in OWN[1:]),
            *binds,
        ),
        layered=bool(owners.layered),
        flags=flags,
        size=size,
    )


class _Skeleton:
    """What lies on top of the folder, at paths inside; no link is among them."""

    def __init__(self, tree: Tree, owners: overlays.Owners) -> None:
        self.folders: dict[str, overlays.Folder] = {}
        self.contents: list[overlays.Content] = []
        self._tree = tree
        self._owners = owners

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A directory to mount on, if there is none."""
        status = self._tree.status(path)
        if status is None or not S_ISDIR(status.st_mode):
            self._make(path, mode)

    def content(self, content: overlays.Content) -> None:
        """A file, or a whiteout, in directories that are merged with those below."""
        self._make(os.path.dirname(content.path))
        self.contents.append(content)

    def _make(self, path: str, mode: int = 0o755) -> None:
        if path == "/" or path in self.folders:
            return
        self._make(os.path.dirname(path))
        status, where = self._tree.status(path), self._tree.top + path
        if status is None or not S_ISDIR(status.st_mode):
            # A directory that leads to what is the host's has the host's mode.
            status, where = status_of(path), path
        owner = None
        if status is not None and S_ISDIR(status.st_mode) and mode != 0o1777:
            mode, owner = self._owners.mode(status, where), self._owners.owner(status)
        self.folders[path] = overlays.Folder(path, mode, owner)


def contents(
    tree: Tree,
    shown: list[Shown],
    files: tuple[tuple[str, bytes], ...],
    hide: tuple[str, ...],
    owner: Callable[[os.stat_result], tuple[int, int] | None],
) -> list[overlays.Content]:
    """What ``files=`` and ``hide=`` say, at paths in the root.

    :raises StepError: ``place PATH``, ``hide PATH``.
    """
    found = []
    targets = [*OWN, *(one.target for one in shown)]
    hidden = []
    for path in hide:
        with failing(f"hide {path}", "mount"):
            # A link is hidden itself, and not what it means: all programs of busybox are links.
            folder = tree.resolve(os.path.dirname(path))
        target = os.path.join(folder, os.path.basename(path))
        if any(is_in(other, target) or is_in(target, other) for other in targets):
            raise StepError(f"hide {path}", "mount", errno.EBUSY)
        if tree.status(target) is not None:
            hidden.append(target)
            found.append(overlays.Content(target, None))
    for path, content in files:
        name = f"place {path}"
        with failing(name, "mount"):
            target = tree.resolve(path)
        if any(is_in(target, other) for other in (*targets, *hidden)):
            raise StepError(name, "mount", errno.EBUSY)
        status = tree.status(target)
        if status is not None and S_ISDIR(status.st_mode):
            raise StepError(name, "mount", errno.EISDIR)
        for parent in _above(target):
            above = tree.status(parent)
            if above is not None and not S_ISDIR(above.st_mode):
                raise StepError(name, "mount", errno.ENOTDIR)
        mode, whose = 0o644, None
        if status is not None:
            mode, whose = status.st_mode & 0o7777, owner(status)
        found.append(overlays.Content(target, content, mode, whose))
    return found


def _above(path: str) -> list[str]:
    found = []
    while path != "/":
        path = os.path.dirname(path)
        found.append(path)
    return found
