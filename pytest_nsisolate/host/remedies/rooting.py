# SPDX-License-Identifier: MIT
"""Refusals of a root and of files of a test's own (pivot_root(2), mount(2), overlayfs)."""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EBADMSG,
    EBUSY,
    EINVAL,
    EIO,
    EISDIR,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    ETIME,
    EXDEV,
)
from typing import Final

from pytest_nsisolate.host.remedies.table import UNCONFINE, Row, always

_COPY: Final = "copy it to a folder of its own, cp -a, and name that"

ROOTS: Final = (
    Row(
        "take .* as root",
        (ENOENT,),
        always,
        "root= names a path that this host does not have",
        "name another one, seen from rootdir, or make it before the test: a fixture of wider scope"
        " can",
    ),
    Row(
        "take .* as root",
        (ENOTDIR,),
        always,
        "root= names a path below a file",
        "name a folder, an archive, or an image",
    ),
    Row(
        "take .* as root",
        (EOPNOTSUPP,),
        always,
        "root= names a device, a FIFO or a socket, and no folder or file",
        "name a folder, an archive or an image; save to a file what comes from a pipe",
    ),
    Row(
        "unpack ",
        (EBADMSG,),
        always,
        "what root= names is no archive or image, or one that is damaged or leads out of itself",
        "make it anew, by tar, docker save, or skopeo copy, and look at the name in the message",
    ),
    Row(
        "unpack ",
        (ENOSPC,),
        always,
        "it has more content than root_size= allows (half of the memory without it)",
        "raise root_size=, or unpack it to a folder and name that",
    ),
    Row(
        "unpack ",
        (EINVAL,),
        always,
        "a file in it belongs to an id that the ranges of this account do not reach",
        "give the account a longer range (/etc/subuid and /etc/subgid), or take user=True, where"
        " all of it is root's",
    ),
    Row(
        "unpack ",
        (ENOMEM,),
        always,
        "beside its content it takes more than 1 GiB of memory, by its names, its headers, or the"
        " dictionary of its compression; or this machine has no more",
        "compress it anew, with less than xz -9; or unpack it to a folder and name that",
    ),
    Row(
        "unpack ",
        (ETIME,),
        always,
        "it could not be unpacked in ten minutes",
        "unpack it to a folder and name that",
    ),
    Row(
        "make the ownership layer",
        (ENOSPC, ENOMEM),
        always,
        "this machine has no memory for a tree of the directories that belong to others, and for"
        " copies of the files of /etc",
        'free some (4 KiB for each directory), or take root="readonly"',
    ),
    Row(
        "take .* as root",
        (EINVAL,),
        always,
        "that is the root of this host already",
        'take root="overlay" or root="readonly"',
    ),
    Row(
        "take .* as root",
        (EXDEV,),
        always,
        "the path leads into another mount namespace (/proc/PID/root), where nothing can be bound",
        _COPY,
    ),
    Row(
        "take .* as root",
        (EBUSY,),
        always,
        "the folder is not the same in a test: one has its own /dev, /proc and /sys, and an overlay"
        " does not show what is mounted in a folder",
        f"unmount what is mounted in it; or {_COPY}",
    ),
    Row(
        "(take .* as root|look into |unpack )",
        (EACCES,),
        always,
        "this user ({euid}) may not read it",
        "chmod -R u+rX it, as its owner; or run pytest as root",
    ),
    Row(
        "mount overlay of",
        (EINVAL,),
        always,
        "overlays are nested more than two deep, or the folder is on a file system that overlay"
        " refuses",
        "copy it to another file system, cp -a: ext4, XFS, Btrfs and tmpfs are such; or run outside"
        " of the other overlays (a container's root is one)",
    ),
    Row(
        "place ",
        (EBUSY,),
        always,
        "files= names a path that is the host's in this root, or that hide= hides",
        "name another path",
    ),
    Row(
        "take .* apart",
        (E2BIG,),
        always,
        "something is mounted below that directory, so that it cannot have an overlay of its own,"
        " and it has more files than can be copied for each test",
        "remove what is not needed there (in /tmp, what has been left), name it in hide=, or in"
        ' writable= if the test may change it; or take root="readonly"',
    ),
    Row(
        "place ",
        (ENOENT,),
        always,
        "files= names a path that this host does not have, and nothing is made among its files",
        'add root="overlay", in which anything can be made',
    ),
    Row(
        "place ",
        (EISDIR,),
        always,
        "files= names a directory of this host",
        "name a file in it, or hide the directory with hide=",
    ),
    Row(
        "place ",
        (ENOTDIR,),
        always,
        "files= names a path below a file of this host",
        "name another path, or hide the file with hide=",
    ),
    Row(
        "hide ",
        (EBUSY,),
        always,
        "the run itself needs what lies there: Python, the suite, or the base temp",
        "hide less",
    ),
    Row(
        "leave .* writable",
        (ENOENT,),
        always,
        "writable= names a path that this host does not have",
        "make it before the test, or name a directory above it",
    ),
    Row(
        "(make / read-only|bind .* read-only)",
        (ENOSYS,),
        always,
        "this kernel ({kernel}) has no mount_setattr, or a filter hides it",
        "boot Linux 5.12 or newer, or leave root= out",
    ),
    Row(
        r"set user\.\* attributes",
        (EOPNOTSUPP,),
        always,
        "on this kernel ({kernel}) a tmpfs has no user.* attributes (before Linux 6.6), so that a"
        " directory could not be removed and made anew",
        'boot Linux 6.6 or newer, or take root="readonly"',
    ),
    Row(
        "mount overlay",
        (EINVAL,),
        always,
        "overlays are nested more than two deep, or the file system there is one that overlay"
        " refuses",
        "run outside of the other overlay (a container's root is one); name what the test does not"
        ' need in hide=, or what may be changed in writable=; or take root="readonly"',
    ),
    Row(
        "mount overlay",
        (EPERM, ENODEV),
        always,
        "this kernel ({kernel}) has no overlay, or none for ordinary users (before Linux 5.11)",
        "boot Linux 5.11 or newer (CONFIG_OVERLAY_FS), or run pytest as root",
    ),
    Row(
        "pivot_root",
        (EPERM,),
        always,
        "the seccomp filter of a container refuses pivot_root, which no capability opens",
        UNCONFINE,
    ),
    Row(
        "pivot_root",
        (EINVAL,),
        always,
        "/ is the initial ramdisk, or the root of a chroot, which cannot be exchanged",
        "mount --bind / /mnt and enter that by switch_root(8), or leave the root out",
    ),
    Row(
        "open a terminal",
        (ENOSPC, ENOENT, EIO),
        lambda case: case.namespace == "mount",
        "no pseudo-terminal can be opened: there are too many already, or no /dev/ptmx",
        "close some, raise kernel.pty.max, or leave user=False out: a test then has its own /dev",
    ),
    Row(
        "open a terminal",
        (ENOSPC, ENOENT, EIO),
        always,
        "no pseudo-terminal can be opened: there are too many already, or no /dev/ptmx",
        "close some, raise kernel.pty.max, or give an input that is no terminal (< /dev/null)",
    ),
)
