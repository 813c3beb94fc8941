# SPDX-License-Identifier: MIT
"""Objects for talking between processes: System V's and those of POSIX (sysvipc(7),
shm_overview(7), mq_overview(7), sem_overview(7)).

POSIX shared memory and semaphores are files in ``/dev/shm``. POSIX message queues are seen where
``/dev/mqueue`` is mounted, which an isolated test has if the host has that directory.

Fact: programs keep whole directories in ``/dev/shm`` (joblib does), FIFOs and symbolic links, and
these outlive them like any other file. Consequence: all of it is listed, of any kind.

What still fails: of a tree with more than :data:`MOST_FILES` files the rest is not seen. The
directory where the count was reached, and those behind it, are ``unread``.
"""

from __future__ import annotations

import stat
from collections import deque
from dataclasses import dataclass
from stat import S_IFMT, S_IMODE, S_ISDIR, S_ISREG
from typing import Final, Literal

from pytest_nsisolate.kernel.originals import open, os

#: Kind, file, and the column that tells its size.
_SYSV: Final = (("shm", "size"), ("sem", "nsems"), ("msg", "cbytes"))
_SYSV_IDS: Final = {"shm": "shmid", "sem": "semid", "msg": "msqid"}

#: Files in ``/dev/shm`` that are looked at; the ones at the top come first.
MOST_FILES: Final = 10_000

_SHARED: Final = "/dev/shm"  # noqa: S108
_QUEUES: Final = "/dev/mqueue"

Kind = Literal["shm", "sem", "msg", "directory", "unread", "fifo", "symlink", "socket", "device"]

#: What lies in ``/dev/shm`` and is neither shared memory nor a semaphore.
_OTHERS: Final[dict[int, Kind]] = {
    stat.S_IFIFO: "fifo",
    stat.S_IFLNK: "symlink",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


@dataclass(frozen=True, slots=True)
class IpcObject:
    """A shared memory segment, a set of semaphores, a message queue, or another file in
    ``/dev/shm``.

    :param api: ``sysv`` or ``posix``.
    :param kind: ``shm`` (any regular file in ``/dev/shm``), ``sem`` or ``msg``; or what else lies
        there: ``directory``, ``fifo``, ``symlink``, ``socket``, ``device``. A directory is
        ``unread`` if not all that is in it was looked at: it belongs to another file system or to
        another user, or there are too many files.
    :param id: System V's number; None for POSIX.
    :param key: System V's key; None for POSIX.
    :param name: of POSIX, with its slash; a path for a file in a directory; None for System V.
    :param mode: the permission bits.
    :param uid: the owner.
    :param size: bytes of a segment, number of System V semaphores, bytes in a queue; otherwise 0.
    """

    api: Literal["sysv", "posix"]
    kind: Kind
    id: int | None
    key: int | None
    name: str | None
    mode: int
    uid: int
    size: int

    def __str__(self) -> str:
        where = self.name if self.name is not None else f"{self.id} (key {self.key:#x})"
        return f"{self.api} {self.kind} {where}"


def read_ipc() -> tuple[IpcObject, ...]:
    """Every object that can be seen from here: System V's, then those of POSIX."""
    return (*_read_sysv(), *_read_shared_files(), *_read_queues())


def _read_sysv() -> list[IpcObject]:
    found = []
    for kind, size in _SYSV:
        try:
            with open(f"/proc/sysvipc/{kind}", encoding="utf-8") as file:
                names = next(file).split()
                rows = [dict(zip(names, line.split(), strict=False)) for line in file]
        except (FileNotFoundError, StopIteration):  # a kernel without them
            continue
        for row in rows:
            found.append(
                IpcObject(
                    api="sysv",
                    kind=kind,  # type: ignore[arg-type]
                    id=int(row[_SYSV_IDS[kind]]),
                    key=int(row["key"]) & 0xFFFFFFFF,
                    name=None,
                    mode=int(row["perms"], 8) & 0o777,
                    uid=int(row["uid"]),
                    size=int(row[size]),
                )
            )
    return found


def _read_shared_files() -> list[IpcObject]:
    try:
        top = os.stat(_SHARED)
    except OSError:  # there is no such folder
        return []
    found = []
    left = MOST_FILES
    # Level by level, so that no deep tree hides what lies at the top.
    todo = deque([("", top)])
    while todo:
        folder, entry = todo.popleft()
        names = _names(f"{_SHARED}{folder}") if left and entry.st_dev == top.st_dev else None
        whole = names is not None and len(names) <= left
        if folder or not whole:
            found.append(_shared_file("directory" if whole else "unread", folder or "/", entry))
        for name in (names or [])[:left]:
            left -= 1
            path = f"{folder}/{name}"
            try:
                entry = os.lstat(f"{_SHARED}{path}")
            except OSError:  # gone
                continue
            if S_ISDIR(entry.st_mode):
                todo.append((path, entry))
            elif S_ISREG(entry.st_mode) and path.startswith("/sem."):
                found.append(_shared_file("sem", f"/{path.removeprefix('/sem.')}", entry))
            else:
                kind = _OTHERS.get(S_IFMT(entry.st_mode), "shm")
                found.append(_shared_file(kind, path, entry))
    return sorted(found, key=lambda file: file.name or "")


def _names(folder: str) -> list[str] | None:
    """What is in it; None if this test may not know."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:  # it has just gone, and will not be there at the next look
        return []
    except OSError:
        return None


def _shared_file(kind: Kind, name: str, entry: os.stat_result) -> IpcObject:
    size = entry.st_size if kind in ("shm", "sem") else 0
    mode = S_IMODE(entry.st_mode)
    return IpcObject("posix", kind, None, None, name, mode, entry.st_uid, size)


def _read_queues() -> list[IpcObject]:
    found = []
    for name in _names(_QUEUES) or ():
        try:
            entry = os.lstat(f"{_QUEUES}/{name}")
        except OSError:  # gone
            continue
        if not S_ISREG(entry.st_mode):
            continue
        try:
            with open(f"{_QUEUES}/{name}", encoding="utf-8") as file:
                size = int(file.read().partition("QSIZE:")[2].split()[0])
        except (OSError, IndexError, ValueError):  # not ours to read, or not a queue
            size = 0
        mode = S_IMODE(entry.st_mode)
        found.append(IpcObject("posix", "msg", None, None, f"/{name}", mode, entry.st_uid, size))
    return found
