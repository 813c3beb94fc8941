# SPDX-License-Identifier: MIT
"""Which ids of the outer user namespace appear inside as which (user_namespaces(7)).

Fact: a map of more than one id may be written only by a process with CAP_SETUID (CAP_SETGID)
over the outer namespace. Another process may map its own id alone, and its group only after
it gave up setgroups(2). After ``unshare(CLONE_NEWUSER)`` the ids read 65534 until they are mapped.
What we do: the maps are made in the runner, before the unshare; a runner with the capabilities
writes those of its child, over exactly the ids that it has itself, else the child writes its own.
What still fails: as soon as the process is not dumpable its files in ``/proc`` belong to root
(EACCES), and a ``/proc`` mounted read-only is EROFS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import open, os

#: A map has to be shorter than a page; no page is smaller.
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class IdMaps:
    """The two maps, as the kernel reads them, and whether setgroups(2) is given up first.

    :param writer: writes them in this process's stead, which has not the right to; it gets the maps
        and the number of a process.
    """

    uid_map: bytes
    gid_map: bytes
    deny_setgroups: bool
    writer: Callable[[IdMaps, int], None] | None = None

    @property
    def extents(self) -> tuple[tuple[range, ...], tuple[range, ...]]:
        """The users and the groups that exist inside, by their numbers outside."""
        return _outside(self.uid_map), _outside(self.gid_map)

    def inside(self, status: os.stat_result) -> tuple[int, int] | None:
        """Owner and group of a file by their numbers inside; None where one has none."""
        uid = _inside(self.uid_map, status.st_uid)
        gid = _inside(self.gid_map, status.st_gid)
        return None if uid is None or gid is None else (uid, gid)


def identity_maps() -> IdMaps:
    """Every id that this process has, as itself.

    :raises StepError: ``read uid_map`` or ``read gid_map``, if there is no ``/proc``.
    """
    return IdMaps(_identity("uid_map"), _identity("gid_map"), deny_setgroups=False)


def single_maps(*, inside_uid: int, inside_gid: int, outside_uid: int, outside_gid: int) -> IdMaps:
    """One user and one group: all that a process without capabilities may map."""
    return IdMaps(
        f"{inside_uid} {outside_uid} 1\n".encode(),
        f"{inside_gid} {outside_gid} 1\n".encode(),
        deny_setgroups=True,
    )


def write_maps(maps: IdMaps, pid: int | None) -> None:
    """Give a new user namespace its maps; each can be written once.

    :param pid: a process in that namespace, by its number in this process's ``/proc``;
        None: this process itself.
    :raises StepError: ``write setgroups``, ``write uid_map`` or ``write gid_map``; or the writer's.
    """
    if maps.writer is not None and pid is not None:
        maps.writer(maps, pid)
        return
    process = "self" if pid is None else str(pid)
    if maps.deny_setgroups:
        _write(process, "setgroups", b"deny")
    _write(process, "uid_map", maps.uid_map)
    _write(process, "gid_map", maps.gid_map)


def _write(process: str, name: str, content: bytes) -> None:
    try:
        fd = os.open(f"/proc/{process}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
    except OSError as error:
        raise step_error(f"write {name}", "user", error) from error


def _outside(content: bytes) -> tuple[range, ...]:
    return tuple(range(first, first + count) for _, first, count in proc.id_map(content))


def _inside(content: bytes, number: int) -> int | None:
    for inside, first, count in proc.id_map(content):
        if first <= number < first + count:
            return inside + number - first
    return None


def _identity(name: str) -> bytes:
    with failing(f"read {name}", "user"), open(f"/proc/self/{name}", "rb") as file:
        extents = sorted((first, count) for first, _, count in proc.id_map(file.read()))
    # Neighbours must not be joined: what is mapped has to lie in one extent of the outer map
    # (EPERM), and those of a rootless container are neighbours: 0, and the range from 1 on.
    lines = [b"%d %d %d\n" % (first, first, count) for first, count in extents]
    while sum(map(len, lines)) >= _PAGE:
        lines.pop()
    return b"".join(lines)
