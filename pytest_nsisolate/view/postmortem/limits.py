# SPDX-License-Identifier: MIT
"""Limits that a failed test has hit, or is about to: only those that can be shown."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pytest_nsisolate.kernel import proc, rlimits
from pytest_nsisolate.kernel.originals import open, os, resource

#: From this part of a limit on it is worth a line.
_NEAR: Final = 0.9

#: Descriptors that are tried one by one where ``/proc`` cannot be opened.
_MOST_DESCRIPTORS: Final = 1 << 16


def lines(numbers: frozenset[int], open_files: int, *, own_pids: bool, own_ipc: bool) -> list[str]:
    """One line for each limit; none, if nothing is near and the failure is about none.

    :param numbers: errno of the failure's exceptions.
    :param open_files: the soft limit that the test has.
    :param own_pids: whether the processes of ``/proc`` are the test's.
    :param own_ipc: whether ``/dev/shm`` is the test's.
    """
    readings: list[Callable[[], Iterable[str]]] = [
        lambda: _files(numbers, open_files),
        lambda: _processes(numbers, own_pids=own_pids),
        lambda: _memory(numbers),
        lambda: _file_size(numbers),
        lambda: _shared_memory(numbers) if own_ipc else (),
    ]
    found: list[str] = []
    kept_back: OSError | None = None
    for read in readings:
        try:
            found += read()
        except OSError as error:
            kept_back = error
    return found if kept_back is None else [*found, f"others could not be read ({kept_back})"]


def _soft(name: str) -> int | None:
    """A soft limit (getrlimit(2)), None for no limit."""

    found = resource.getrlimit(getattr(resource, name))[0]
    return None if found == resource.RLIM_INFINITY else found


def _files(numbers: frozenset[int], limit: int) -> Iterator[str]:
    count = _descriptors(limit)
    if errno.EMFILE in numbers or count >= limit * _NEAR:
        yield f"open files: {count} of {limit} (RLIMIT_NOFILE)"


def _descriptors(limit: int) -> int:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # but for its own
    except OSError:  # no /proc, or no descriptor left to look at it with
        count = 0
        for fd in range(min(limit, _MOST_DESCRIPTORS)):
            try:
                os.get_inheritable(fd)
            except OSError:
                continue
            count += 1
        return count


def _processes(numbers: frozenset[int], *, own_pids: bool) -> Iterator[str]:
    failed = errno.EAGAIN in numbers
    if not own_pids and not failed:
        return
    with open("/proc/sys/kernel/pid_max", encoding="utf-8") as file:
        most = int(file.read())
    if own_pids:
        count = sum(map(_threads, proc.pids()))
        if failed or count >= most * _NEAR:
            yield f"processes and threads: {count} of {most} (kernel.pid_max)"
    per_user = _soft("RLIMIT_NPROC")
    if failed and per_user is not None:
        yield f"processes and threads of this user: at most {per_user} (RLIMIT_NPROC)"


def _threads(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


def _memory(numbers: frozenset[int]) -> Iterator[str]:
    most = _soft("RLIMIT_AS")
    if most is None:
        return
    used = rlimits.address_space()
    if errno.ENOMEM in numbers or used >= most * _NEAR:
        yield f"address space: {_size(used)} of {_size(most)} (RLIMIT_AS)"


def _file_size(numbers: frozenset[int]) -> Iterator[str]:
    most = _soft("RLIMIT_FSIZE")
    if errno.EFBIG in numbers and most is not None:
        yield f"size of a file: at most {_size(most)} (RLIMIT_FSIZE)"


def _shared_memory(numbers: frozenset[int]) -> Iterator[str]:
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return
    used = found.f_blocks - found.f_bfree
    if found.f_blocks and (errno.ENOSPC in numbers or used >= found.f_blocks * _NEAR):
        size, most = used * found.f_frsize, found.f_blocks * found.f_frsize
        if used >= found.f_blocks * _NEAR:
            yield f"/dev/shm: {_size(size)} of {_size(most)}"  # noqa: S108


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
