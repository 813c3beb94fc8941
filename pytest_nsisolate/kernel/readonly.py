# SPDX-License-Identifier: MIT
"""Which parts of ``/proc`` and ``/sys`` a child may not write to, and the calls that see to it.

Fact: uid 0 of the host owns ``/proc/sys`` and ``/sys`` even inside a user namespace, so a test
could change the host there (``kernel.panic``, cgroup trees were written in a trial).
What we do: they are read-only, but for what belongs to the child's own namespaces. A bind mount
inherits the flags of the mount it copies, so those parts are bound onto themselves first, then
the mount around them becomes read-only: one call for each part.

Fact: flags that a mount had when it was copied into a new user namespace are locked there, and a
remount has to repeat them; mount_setattr(2) changes nothing but the flag it is told.
What we do: mount_setattr; without it (Linux < 5.12) remounts with every flag that can be locked.

What still fails: where ``/proc/sys`` was read-only before, without a PID namespace its net part
is so too.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Iterator
from stat import S_ISREG
from typing import Final

from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import Step
from pytest_nsisolate.kernel.originals import os, re
from pytest_nsisolate.kernel.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC

SAFE: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC

# What below /proc/sys belongs to a namespace of each kind: the kernel looks these up by the
# process that opens them, not by the mount.
_OWN_SYSCTLS: Final[dict[str, tuple[str, ...]]] = {
    "net": ("net",),
    "user": ("user",),
    "uts": ("kernel/hostname", "kernel/domainname"),
    "pid": ("kernel/pid_max", "kernel/ns_last_pid"),
    "ipc": (
        *("kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"),
        *("kernel/sem", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni"),
        *("kernel/shm_next_id", "kernel/sem_next_id", "kernel/msg_next_id", "fs/mqueue"),
    ),
}
_FIRST_OWN_PID_MAX: Final = (6, 14)  # before, a write to pid_max changes the host


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


def protect_proc(own: frozenset[str], below: tuple[str, ...]) -> Iterator[Step]:
    """The calls that make ``/proc`` harmless.

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


def _bind_onto_itself(path: str) -> Step:
    # MS_REC, because in a user namespace what is mounted below must not be uncovered (EINVAL).
    call = syscalls.prepare_mount(path, path, None, MS_BIND | MS_REC)
    return Step(f"bind {path}", "mount", call)


@functools.cache
def _own_sysctls(own: frozenset[str]) -> tuple[str, ...]:
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return tuple(
        f"/proc/sys/{name}"
        for namespace, names in _OWN_SYSCTLS.items()
        if namespace in own
        for name in names
        if os.path.exists(f"/proc/sys/{name}")
        and not (name == "kernel/pid_max" and release < _FIRST_OWN_PID_MAX)
    )


@functools.cache
def _writable_in_proc() -> tuple[str, ...]:
    """Entries of ``/proc``, but processes and ``sys``, where this user can change the machine.

    ``sysrq-trigger``, ``irq`` and ``bus`` above all, but also what drivers put there (``acpi``,
    ``scsi``, ``dynamic_debug``). For an ordinary user there are none: they are root's.
    """
    if os.stat("/proc/sys").st_uid != os.geteuid():
        return ()
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
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False  # what cannot be looked at cannot be written
    return (
        S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and bool(status.st_mode & stat.S_IWUSR)
    )
