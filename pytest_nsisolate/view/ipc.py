# SPDX-License-Identifier: MIT
"""Objects for talking between processes: System V's and those of POSIX (sysvipc(7),
shm_overview(7), mq_overview(7), sem_overview(7)).

POSIX shared memory and semaphores are files in ``/dev/shm``. POSIX message queues are seen where
``/dev/mqueue`` is mounted, which an isolated test has if the host has that directory.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final, Literal

#: Kind, file, and the column that tells its size.
_SYSV: Final = (("shm", "size"), ("sem", "nsems"), ("msg", "cbytes"))
_SYSV_IDS: Final = {"shm": "shmid", "sem": "semid", "msg": "msqid"}

Kind = Literal["shm", "sem", "msg"]


@dataclass(frozen=True, slots=True)
class IpcObject:
    """A shared memory segment, a set of semaphores or a message queue.

    :param api: ``sysv`` or ``posix``.
    :param kind: ``shm``, ``sem`` or ``msg``.
    :param id: System V's number; None for POSIX.
    :param key: System V's key; None for POSIX.
    :param name: of POSIX, with its slash; None for System V.
    :param mode: the permission bits.
    :param uid: the owner.
    :param size: bytes of a segment, number of System V semaphores, bytes in a queue.
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
            with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
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
    found = []
    for name, entry in _files("/dev/shm"):  # noqa: S108
        kind: Kind = "sem" if name.startswith("sem.") else "shm"
        shown = f"/{name.removeprefix('sem.')}"
        mode = stat.S_IMODE(entry.st_mode)
        found.append(IpcObject("posix", kind, None, None, shown, mode, entry.st_uid, entry.st_size))
    return found


def _read_queues() -> list[IpcObject]:
    found = []
    for name, entry in _files("/dev/mqueue"):
        try:
            with open(f"/dev/mqueue/{name}", encoding="ascii") as file:
                size = int(file.read().partition("QSIZE:")[2].split()[0])
        except (OSError, IndexError, ValueError):  # not ours to read, or not a queue
            size = 0
        mode = stat.S_IMODE(entry.st_mode)
        found.append(IpcObject("posix", "msg", None, None, f"/{name}", mode, entry.st_uid, size))
    return found


def _files(folder: str) -> list[tuple[str, os.stat_result]]:
    found = []
    try:
        for name in sorted(os.listdir(folder)):
            try:
                entry = os.lstat(f"{folder}/{name}")
            except FileNotFoundError:
                continue
            if stat.S_ISREG(entry.st_mode):
                found.append((name, entry))
    except OSError:  # there is no such folder
        pass
    return found
