# SPDX-License-Identifier: MIT
"""Which parts of ``/proc`` and ``/sys`` a child may not write to, and the calls that see to it.

Fact: uid 0 of the host owns ``/proc/sys`` and ``/sys`` even inside a user namespace, so a test
could change the host there (``kernel.panic``, cgroup trees were written in a trial).
What we do: they are read-only, but for what belongs to the child's own namespaces. A bind mount
inherits the flags of the mount it copies, so those parts are bound onto themselves first, then
the mount around them becomes read-only: one call for each part. A child that cannot become the
owner needs none of this in ``/proc``: the owner's mode bits refuse it everything of the host's.

Fact: some sysctls lie in a table of their namespace: those of IPC since Linux 5.19,
``kernel.pid_max`` since 6.14. A process in another namespace looks such a name up in its own table,
and so never gets to what is mounted on it; but its mountinfo lists the mount. A program that
remounts all that is listed gets EINVAL there: bubblewrap with ``--unshare-pid --ro-bind / /``.
What we do: nothing is mounted on them. Where ``/proc/sys`` is protected they are read-only.

Fact: flags that a mount had when it was copied into a new user namespace are locked there, and a
remount has to repeat them; mount_setattr(2) changes only the flag that it is given.
What we do: mount_setattr; without it (Linux < 5.12) remounts with every flag that can be locked.

What still fails: where ``/proc/sys`` was read-only before, without a PID namespace its net part
is read-only too. To bind the host's own files in ``/proc/sys/kernel`` read-only, one by one, would
leave those of IPC writable; but there are 96, and all mounts would take 1.8 ms instead of 0.5.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Iterator
from stat import S_ISREG
from typing import Final, NamedTuple

from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import Step
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC

SAFE: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC

# What below /proc/sys belongs to a namespace of each kind, under a name that all namespaces share.
_OWN_SYSCTLS: Final[dict[str, tuple[str, ...]]] = {
    "net": ("net",),
    "user": ("user",),
    "uts": ("kernel/hostname", "kernel/domainname"),
    "pid": ("kernel/ns_last_pid",),
}

_CAP_SETUID: Final = 7


def read_only(path: str, below: tuple[str, ...] = ()) -> Iterator[Step]:
    """Make the mount at ``path`` read-only, and those at the points ``below`` it."""
    name = f"make {path} read-only"
    if syscalls.supports_mount_setattr():
        call = syscalls.prepare_mount_setattr(
            path, syscalls.MOUNT_ATTR_RDONLY, recursive=bool(below)
        )
        yield Step(name, "mount", call)
        return
    # The flags of access times need not be repeated: a remount that has none keeps them.
    flags = syscalls.MS_REMOUNT | MS_BIND | syscalls.MS_RDONLY | SAFE
    for point in (path, *below):
        yield Step(name, "mount", syscalls.prepare_mount(None, point, None, flags))


def may_write_the_hosts() -> bool:
    """Whether a child can be the owner of ``/proc/sys``, the host's root.

    It has this process's effective uid; that of a process with CAP_SETUID may have any.

    :raises OSError: without a ``/proc``.
    """
    if os.stat("/proc/sys").st_uid == os.geteuid():
        return True
    return bool(syscalls.capget()[0] >> _CAP_SETUID & 1)


def protect_proc(own: frozenset[str], below: tuple[str, ...]) -> Iterator[Step]:
    """The calls that make ``/proc`` harmless where :func:`may_write_the_hosts`.

    :param own: the kinds of namespace whose sysctls stay writable.
    :param below: mount points below ``/proc``; none below a fresh one. Those that belong to a
        namespace of the child's (LXC mounts ``/proc/sys/net``) stay as they are.
    """
    own_paths = _own_sysctls(own)
    yield _bind_onto_itself("/proc/sys")
    for path in own_paths:
        yield _bind_onto_itself(path)
    yield from read_only("/proc/sys")
    for point in below:
        if point.startswith("/proc/sys/") and not point.startswith(own_paths):
            yield from read_only(point)
    for name in _writable_in_proc():
        path = f"/proc/{name}"
        yield _bind_onto_itself(path)
        yield from read_only(path, tuple(p for p in below if p.startswith(f"{path}/")))


class SysctlWays(NamedTuple):
    """The calls around writing one sysctl of the child's own, which is left read-only.

    :param seal: after the write, where ``/proc/sys`` is not protected.
    :param unlock: before the write, where it is protected.
    :param lock: after the write, where it is protected.
    """

    seal: tuple[Step, ...] = ()
    unlock: tuple[Step, ...] = ()
    lock: tuple[Step, ...] = ()


def sysctl_ways(path: str) -> SysctlWays:
    """The calls for this sysctl, prepared in the runner."""
    # A mount on such a name after all; but it is read-only, so no program has to remount it.
    seal = (_bind_onto_itself(path), *read_only(path))
    return SysctlWays(seal, (_writable("/proc/sys"),), tuple(read_only("/proc/sys")))


def _writable(path: str) -> Step:
    if syscalls.supports_mount_setattr():
        call = syscalls.prepare_mount_setattr(path, 0, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
    else:
        call = syscalls.prepare_mount(None, path, None, syscalls.MS_REMOUNT | MS_BIND | SAFE)
    return Step(f"make {path} writable", "mount", call)


def _bind_onto_itself(path: str) -> Step:
    # MS_REC, because in a user namespace what is mounted below must not be uncovered (EINVAL).
    call = syscalls.prepare_mount(path, path, None, MS_BIND | MS_REC)
    return Step(f"bind {path}", "mount", call)


@functools.cache
def _own_sysctls(own: frozenset[str]) -> tuple[str, ...]:
    return tuple(
        f"/proc/sys/{name}"
        for namespace, names in _OWN_SYSCTLS.items()
        if namespace in own
        for name in names
        if os.path.exists(f"/proc/sys/{name}")
    )


@functools.cache
def _writable_in_proc() -> tuple[str, ...]:
    """Entries of ``/proc`` where root can change the machine, without processes and ``sys``.

    ``sysrq-trigger``, ``irq`` and ``bus`` above all, but also what drivers put there (``acpi``,
    ``scsi``, ``dynamic_debug``).
    """
    harmless = {"net", "pressure", "sys"}  # symlink; a descriptor's own trigger; done apart
    with os.scandir("/proc") as entries:
        return tuple(
            entry.name
            for entry in entries
            if not entry.name.isdigit() and entry.name not in harmless and _has_writable(entry)
        )


def _has_writable(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_dir(follow_symlinks=False):
            with os.scandir(entry) as below:
                return any(map(_has_writable, below))
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return False  # what cannot be looked at cannot be written
    return S_ISREG(mode) and bool(mode & stat.S_IWUSR)
