# SPDX-License-Identifier: MIT
"""A minimal private ``/dev``: what every program expects there, and no hardware.

Fact: the nodes in ``/dev`` belong to uid 0 of the host, and a user namespace does not change that:
under the host's root a test could write to its disks, to ``/dev/mem`` and into its kernel's log,
and make files there that stay.
Consequence: what is dangerous there is an open list, so it is not covered piece by piece.
What we do: a new tmpfs has the few nodes that do no harm. In a user namespace no node can be made
(mknod(2): EPERM), so they are the host's, bound on empty files; terminals are a new devpts, whose
numbers are its own. A tmpfs that will cover ``/dev`` itself is built over ``/proc`` and then moved,
so that the host's nodes can be named until the end: ``/proc`` is always there, and nothing looks
at it meanwhile.
Terminals have the group of the process: ``gid=5`` is EINVAL where that id is not mapped.

What still fails: a terminal of the host's that is inherited works by its descriptor, but has no
name any more (``os.ttyname`` raises). There is no ``/dev/log``: the host's log is not the test's.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from stat import S_ISBLK, S_ISCHR
from typing import Final

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import Step, step_error
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.syscalls import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REC,
)

#: What is there without being asked for, where the host has it.
HARMLESS: Final = ("null", "zero", "full", "random", "urandom", "tty")

#: What is there besides, as links and directories; no name of a device that can be asked for.
LINKS: Final = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)

#: First parts of names that are made anew for each test.
OWN: Final = (*(name for _, name in LINKS), "pts", "shm", "mqueue")

_SIZE: Final = "64m"  # for files that a test writes there by mistake
_HOST: Final = "/dev"


def plan_devices(
    target: str = _HOST, *, more: Iterable[str] = (), own_ipc: bool = True
) -> tuple[Step, ...]:
    """The calls that make a minimal ``/dev`` at ``target``, worked out in the runner.

    They are run in a private mount namespace where the host's ``/dev`` is still in its place.

    :param target: an existing directory; ``/dev`` itself is covered at the end.
    :param more: names below ``/dev`` of further nodes (``"net/tun"``), none of them in ``OWN``.
    :param own_ipc: the child has an IPC namespace: ``shm`` and ``mqueue`` are new. Otherwise they
        are the host's.
    :raises StepError: ``find /dev/NAME`` for one of ``more`` that is not there (ENOENT), or that
        is no device (ENOTBLK).
    """
    more = tuple(more)
    for name in more:
        _find(f"{_HOST}/{name}")
    place = "/proc" if target == _HOST else target
    names = [name for name in (*HARMLESS, *more) if os.path.exists(f"{_HOST}/{name}")]
    shared = [name for name in ("shm", "mqueue") if os.path.isdir(f"{_HOST}/{name}")]
    steps = [_mount("tmpfs", place, target, MS_NOSUID | MS_NOEXEC, f"mode=0755,size={_SIZE}")]
    covered = {"pts", *shared, *(["shm"] if own_ipc else [])}
    steps.append(Step(f"fill {target}", "mount", _fill(place, names, sorted(covered))))
    for name in names:
        call = syscalls.prepare_mount(f"{_HOST}/{name}", f"{place}/{name}", None, MS_BIND)
        steps.append(Step(f"bind {_HOST}/{name}", "mount", call))
    options = "newinstance,ptmxmode=0666,mode=0620"
    steps.append(_mount("devpts", f"{place}/pts", "devpts", MS_NOSUID | MS_NOEXEC, options))
    steps += _ipc(place, target, shared, own_ipc=own_ipc)
    if place != target:
        call = syscalls.prepare_mount(place, target, None, MS_MOVE)
        steps.append(Step(f"move {target}", "mount", call))
    return tuple(steps)


def provides(path: str) -> bool:
    """Whether a minimal ``/dev`` at its own place has this path of the host's, or a new one."""
    first, _, _ = path.removeprefix(_HOST).lstrip("/").partition("/")
    return first in ("", *OWN, *HARMLESS)


def is_device(path: str) -> bool:
    """Whether a path leads to the node of a device.

    :raises OSError: if it leads nowhere.
    """
    mode = os.stat(path).st_mode
    return S_ISCHR(mode) or S_ISBLK(mode)


def _find(path: str) -> None:
    step = f"find {path}"
    try:
        if not is_device(path):
            raise StepError(step, "mount", errno.ENOTBLK)
    except OSError as error:
        raise step_error(step, "mount", error) from error


@dataclass(frozen=True, slots=True)
class _Fill:
    """The empty directories and files to mount on, and the links, in an empty directory.

    :param covered: directories that something is mounted on at once.
    :param folders: others, with their modes, whatever the umask is.
    """

    covered: tuple[str, ...]
    folders: tuple[tuple[str, int], ...]
    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    def __call__(self) -> int:
        """
        :raises OSError: naming the path.
        """
        for path in self.covered:
            os.mkdir(path)
        for path, mode in self.folders:
            os.mkdir(path)
            os.chmod(path, mode)
        for path in self.files:
            os.mknod(path)
        for to, path in self.links:
            os.symlink(to, path)
        return 0


def _fill(place: str, names: Iterable[str], covered: Iterable[str]) -> _Fill:
    files = tuple(f"{place}/{name}" for name in names)
    parents = {folder for file in files for folder in _parents(file, place)}
    folders = [(folder, 0o755) for folder in sorted(parents)]
    if "shm" not in covered:
        folders.append((f"{place}/shm", 0o1777))
    links = tuple((to, f"{place}/{name}") for to, name in LINKS)
    return _Fill(tuple(f"{place}/{name}" for name in covered), tuple(folders), files, links)


def _parents(path: str, place: str) -> Iterator[str]:
    while (path := os.path.dirname(path)) != place:
        yield path


def _ipc(place: str, target: str, shared: Iterable[str], *, own_ipc: bool) -> Iterator[Step]:
    if not own_ipc:
        for name in shared:
            flags = MS_BIND | MS_REC
            call = syscalls.prepare_mount(f"{_HOST}/{name}", f"{place}/{name}", None, flags)
            yield Step(f"bind {_HOST}/{name}", "mount", call)
        return
    flags = MS_NOSUID | MS_NODEV
    call = syscalls.prepare_mount("tmpfs", f"{place}/shm", "tmpfs", flags, "mode=1777")
    yield Step(f"mount {target}/shm", "ipc", call)
    if "mqueue" in shared:
        call = syscalls.prepare_mount("mqueue", f"{place}/mqueue", "mqueue", flags | MS_NOEXEC)
        yield Step(f"mount {target}/mqueue", "ipc", call)


def _mount(fstype: str, path: str, name: str, flags: int, options: str) -> Step:
    call = syscalls.prepare_mount(fstype, path, fstype, flags, options)
    return Step(f"mount {name}", "mount", call)
