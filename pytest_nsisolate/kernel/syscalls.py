# SPDX-License-Identifier: MIT
"""System calls that ``os`` does not have, as thin typed functions.

Each raises :class:`OSError` with the errno of the call and the path, if it has one. Those named
``prepare_…`` only build the call: the runner does that, and its child makes the call.
"""

from __future__ import annotations

import errno
import functools
import struct
import sys
from struct import pack
from typing import Final

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.libc import Prepared, by_number, function, last_error
from pytest_nsisolate.kernel.originals import ctypes, os, signal, time

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

AT_FDCWD: Final = -100
AT_RECURSIVE: Final = 0x8000
AT_EMPTY_PATH: Final = 0x1000
AT_NO_AUTOMOUNT: Final = 0x800
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = 0o2000000
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
MOUNT_ATTR_RDONLY: Final = 1

# Since Linux 5.1 a new call has one number on every architecture.
_SYS_CLOSE_RANGE: Final = 436
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_SYS_PIDFD_GETFD: Final = 438

# Version 3, the calling thread; then two words of each of the three sets, low words first.
_CAPABILITY_HEADER: Final = pack("=Ii", 0x20080522, 0)
_CAPABILITY_DATA: Final = struct.Struct("=6I")
_CAPABILITY_BUFFER: Final = ctypes.create_string_buffer(_CAPABILITY_DATA.size)
_LOW_WORD: Final = 0xFFFFFFFF

_PTRACE_DETACH: Final = 17
_PTRACE_SEIZE: Final = 0x4206
_PTRACE_INTERRUPT: Final = 0x4207
_PTRACE_SETSIGMASK: Final = 0x420B
_WAIT_ALL: Final = 0x40000000  # __WALL
_PTRACE_PATIENCE: Final = 0.3  # seconds


def preload() -> None:
    """Look up in the runner everything that a child will call."""
    for name in ("mount", "umount2", "syscall", "prctl", "unshare", "setns", "capget", "capset"):
        function(name)
    supports_mount_setattr()


def unshare(flags: int) -> None:
    """unshare(2)."""
    if sys.version_info >= (3, 12):
        os.unshare(flags)
    elif function("unshare")(ctypes.c_long(flags)) < 0:
        raise last_error()


def prepare_mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None
) -> Prepared:
    """mount(2), ready to be called."""
    arguments = (_text(source), _text(target), _text(fstype), ctypes.c_ulong(flags), _text(data))
    return Prepared(function("mount"), arguments, target)


def prepare_umount2(target: str, flags: int) -> Prepared:
    """umount2(2), ready to be called."""
    return Prepared(function("umount2"), (_text(target), ctypes.c_long(flags)), target)


def prepare_pivot_root(new_root: str, put_old: str) -> Prepared:
    """pivot_root(2), ready to be called."""
    return Prepared(function("pivot_root"), (_text(new_root), _text(put_old)), new_root)


def open_tree(path: str, flags: int, dirfd: int = AT_FDCWD) -> int:
    """open_tree(2): a descriptor of the mount tree at ``path``; Linux 5.2."""
    return prepare_open_tree(path, flags, dirfd)()


def prepare_open_tree(path: str, flags: int, dirfd: int = AT_FDCWD) -> Prepared:
    """The same, ready to be called."""
    arguments = (ctypes.c_long(dirfd), _text(path), ctypes.c_ulong(flags))
    return by_number(_SYS_OPEN_TREE, *arguments, path=path)


def move_mount(fd: int, target: str) -> None:
    """move_mount(2): attach the detached tree ``fd`` at ``target``; Linux 5.2."""
    prepare_move_mount(fd, target)()


def prepare_move_mount(fd: int, target: str) -> Prepared:
    """The same, ready to be called."""
    source = (ctypes.c_long(fd), b"")
    to = (ctypes.c_long(AT_FDCWD), _text(target), ctypes.c_ulong(MOVE_MOUNT_F_EMPTY_PATH))
    return by_number(_SYS_MOVE_MOUNT, *source, *to, path=target)


def prepare_mount_setattr(
    path: str, attr_set: int, attr_clr: int = 0, *, recursive: bool
) -> Prepared:
    """mount_setattr(2), ready to be called; Linux 5.12."""
    attributes = pack("=QQQQ", attr_set, attr_clr, 0, 0)
    where = (ctypes.c_long(AT_FDCWD), _text(path))
    flags = ctypes.c_ulong(AT_RECURSIVE if recursive else 0)
    size = ctypes.c_ulong(len(attributes))
    return by_number(_SYS_MOUNT_SETATTR, *where, flags, attributes, size, path=path)


def make_tree_read_only(fd: int) -> None:
    """mount_setattr(2) of a whole detached tree; Linux 5.12."""
    attributes = pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = ctypes.c_ulong(AT_EMPTY_PATH | AT_RECURSIVE)
    size = ctypes.c_ulong(len(attributes))
    by_number(_SYS_MOUNT_SETATTR, ctypes.c_long(fd), b"", flags, attributes, size)()


def close_range(first: int, last: int) -> None:
    """close_range(2): every descriptor from the first to the last; Linux 5.9."""
    by_number(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0))()


def setns(fd: int, flags: int) -> None:
    """setns(2): with a pidfd, into those of its namespaces that the flags name; Linux 5.8."""
    Prepared(function("setns"), (ctypes.c_int(fd), ctypes.c_int(flags)))()


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a copy of a descriptor of another process, close-on-exec; Linux 5.6."""
    copied = (ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0))
    return by_number(_SYS_PIDFD_GETFD, *copied)()


@functools.cache
def supports_mount_setattr() -> bool:
    """Does this host have mount_setattr(2)? It answers EINVAL to a structure of no size.

    ENOSYS is an old kernel, EPERM a filter: for either there is still mount(2).
    """
    zero = ctypes.c_ulong(0)
    try:
        by_number(_SYS_MOUNT_SETATTR, ctypes.c_long(AT_FDCWD), b"", zero, None, zero)()
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


def capget() -> tuple[int, int, int]:
    """capget(2) of the calling thread: effective, permitted, inheritable, as bit masks."""
    # One buffer for all: it is read before another thread can have the GIL.
    if function("capget")(_CAPABILITY_HEADER, _CAPABILITY_BUFFER) < 0:
        raise last_error()
    e, p, i, e_high, p_high, i_high = _CAPABILITY_DATA.unpack(_CAPABILITY_BUFFER)
    return e | e_high << 32, p | p_high << 32, i | i_high << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for the calling thread: bit masks; the permitted set can only shrink."""
    e, p, i = effective, permitted, inheritable
    low = _LOW_WORD
    data = _CAPABILITY_DATA.pack(e & low, p & low, i & low, e >> 32, p >> 32, i >> 32)
    if function("capset")(_CAPABILITY_HEADER, data) < 0:
        raise last_error()


def unblock_signals(tid: int) -> None:
    """Empty the signal mask of a thread of another process (ptrace(2), PTRACE_SETSIGMASK).

    It must not be traced already. It stops for a moment and goes on.

    :raises OSError: EPERM if tracing is not allowed; :class:`TimeoutError` if the thread does
        not stop within 0.3 s (it sleeps uninterruptibly). Then it is killed, because a thread
        that is still traced when it ends stays a zombie until its tracer has waited for it.
    """
    _ptrace(_PTRACE_SEIZE, tid)
    _ptrace(_PTRACE_INTERRUPT, tid)
    if not _waited_for(tid):
        os.kill(tid, signal.SIGKILL)
        _waited_for(tid)
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    mask = pack("=Q", 0)
    _ptrace(_PTRACE_SETSIGMASK, tid, len(mask), mask)
    _ptrace(_PTRACE_DETACH, tid)


def _waited_for(tid: int) -> bool:
    """Whether a traced thread stops, or ends, before patience is over."""
    deadline = monotonic() + _PTRACE_PATIENCE
    while os.waitpid(tid, os.WNOHANG | _WAIT_ALL) == (0, 0):
        if monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _ptrace(request: int, tid: int, address: int = 0, data: bytes | None = None) -> None:
    arguments = (ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_ulong(address), data)
    Prepared(function("ptrace"), arguments)()


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)
