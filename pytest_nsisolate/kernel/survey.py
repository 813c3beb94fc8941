# SPDX-License-Identifier: MIT
"""How the host's root is taken apart, where overlays lie on it (:mod:`.overlays`).

Fact: in a user namespace an overlay must not lie on a directory that has mounts below it.
What we do: a directory with mounts below becomes a part of the skeleton, and what is in it is
treated alike. Every other directory is a place for an overlay of its own. What no overlay can lie
on is bound as it is, or read-only.

Fact: to list an automount, or to bind it by mount(2), asks its daemon to mount something, and waits
for that. stat(2) does neither.
What we do: what is one by mountinfo is not listed, and bound without asking (AT_NO_AUTOMOUNT).

What still fails: the files of a directory of the skeleton are copied for each test. More than 4,096
would cost it too much, and are refused (E2BIG).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel.originals import open, os, re
from pytest_nsisolate.kernel.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID

#: No overlay can lie on these file systems, whose names have no case (``ovl_dentry_weird()``), or
#: they have no files: they are bound read-only.
_NO_LAYERS: Final = frozenset(
    {
        *("adfs", "affs", "exfat", "hfs", "hfsplus", "msdos", "vfat"),
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore"),
        *("ramfs", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)

#: Files of the skeleton in one directory; each costs each test about 30 microseconds.
_MOST_FILES: Final = 4096

_FLAGS: Final = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}


def read_mounts() -> dict[str, Mounted]:
    """What is mounted for this process.

    :raises StepError: ``read mountinfo``.
    """
    with failing("read mountinfo", "mount"), open("/proc/self/mountinfo", "rb") as file:
        return mounted(file.read())


@dataclass(frozen=True, slots=True)
class Mounted:
    """What is mounted at a path.

    :param flags: ``MS_*`` of the mount that its overlay has too.
    """

    fstype: str
    flags: int


def mounted(content: bytes) -> dict[str, Mounted]:
    """What is mounted where, topmost of each point, by a mountinfo (proc_pid_mountinfo(5))."""
    found = {}
    line = rb"^\d+ \d+ \S+ \S+ (\S+) (\S+) .*?- (\S+) "
    for point, options, fstype in re.findall(line, content, re.MULTILINE):
        path = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), point))
        flags = sum(_FLAGS.get(option, 0) for option in options.decode().split(","))
        found[path] = Mounted(fstype.decode(), flags)
    return found


@dataclass(slots=True)
class Survey:
    """How the host's root is taken apart; made in the runner.

    :param places: directories with an overlay of their own.
    :param folders: directories that are a part of the skeleton, ``/`` itself left out: those that
        have mounts below, and those that are empty or cannot be looked into.
    :param through: paths that are bound as they are.
    :param sealed: paths that are bound read-only.
    """

    places: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    sealed: list[str] = field(default_factory=list)

    def place_of(self, path: str) -> str | None:
        """The place that a real path is in; None: the skeleton, or what is bound."""
        return next((place for place in self.places if is_in(path, place)), None)

    def is_bound(self, path: str) -> bool:
        """It is in what is bound as it is."""
        return any(is_in(path, bound) for bound in (*self.through, *self.sealed))


def take_apart(
    points: Mapping[str, Mounted], through: Iterable[str], hidden: Iterable[str]
) -> Survey:
    """Take the host's root apart.

    :param through: real paths that are bound as they are, with all that is mounted below.
    :param hidden: real paths that are left out.
    :raises StepError: ``take / apart``, for what cannot be read.
    """
    found = Survey()
    bound = frozenset(through)
    left_out = frozenset(hidden)
    reachable = [point for point in points if _is_there(point)]
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        step = f"take {folder or '/'} apart"
        before = len(found.files)
        with failing(step, "mount"):
            entries = _entries(folder or "/")
            if entries is None:
                continue  # it is empty inside, too
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if path in left_out:
                    continue
                if path in bound:
                    found.through.append(path)
                elif path in points and points[path].fstype in _NO_LAYERS:
                    found.sealed.append(path)
                elif entry.is_symlink():
                    with suppress(FileNotFoundError):
                        found.links.append((os.readlink(path), path))
                elif not entry.is_dir(follow_symlinks=False):
                    if entry.is_file(follow_symlinks=False):
                        found.files.append(path)
                elif any(point.startswith(f"{path}/") for point in reachable) or _is_empty(path):
                    found.folders.append(path)
                    waiting.append(path)
                else:
                    found.places.append(path)
        if len(found.files) - before > _MOST_FILES:
            raise StepError(step, "mount", errno.E2BIG)
    found.folders.sort()
    return found


def _is_there(point: str) -> bool:
    try:
        os.stat(point)
    except FileNotFoundError:
        return False  # something further up covers it
    except OSError:
        pass
    return True


def status_of(path: str) -> os.stat_result | None:
    """None for what has gone since: a directory that is taken apart may be a busy one."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def mark_of(status: os.stat_result | None) -> tuple[int, ...]:
    """Another one as soon as a file or a directory has changed, or another has its place.

    The time of the content (``st_mtime``) can be set (utimensat(2)), as ``cp -p``, ``rsync`` and
    ``tar`` do. That of the inode (``st_ctime``) cannot.
    """
    if status is None:
        return ()
    place = (status.st_dev, status.st_ino, status.st_size)
    return (*place, status.st_ctime_ns, status.st_mtime_ns)


def _is_empty(path: str) -> bool:
    """Nothing is in it that an overlay could show; one that cannot be looked into counts."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except (PermissionError, FileNotFoundError):
        return True


def _entries(folder: str) -> list[os.DirEntry[str]] | None:
    """By name; None where this user cannot look, or where it is gone."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (PermissionError, FileNotFoundError):
        return None


def is_in(path: str, folder: str) -> bool:
    """It is this folder, or below it."""
    return path == folder or path.startswith(f"{folder}/")
