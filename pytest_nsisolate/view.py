# SPDX-License-Identifier: MIT
"""The world as the isolated test's own process sees it: plain data, read when asked."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from pytest_nsisolate.kernel import namespaces


@dataclass(frozen=True, slots=True)
class Pid1View:
    """What the child can say about itself; given to ``pytest_nsisolate_ready``.

    Every attribute reads the kernel's answer of that moment.
    """

    @property
    def pid(self) -> int:
        """The process number inside, which is 1, or more behind a reaper."""
        return os.getpid()

    @property
    def hostname(self) -> str:
        """The UTS name (uts_namespaces(7))."""
        return socket.gethostname()

    @property
    def namespaces(self) -> dict[str, int]:
        """Kind of namespace to its inode number (namespaces(7))."""
        return dict(namespaces.identities())

    @property
    def uid_map(self) -> tuple[tuple[int, int, int], ...]:
        """(first inside, first outside, count) of each extent (user_namespaces(7))."""
        return _extents("/proc/self/uid_map")

    @property
    def gid_map(self) -> tuple[tuple[int, int, int], ...]:
        """As :attr:`uid_map`, for group ids."""
        return _extents("/proc/self/gid_map")


def _extents(path: str) -> tuple[tuple[int, int, int], ...]:
    with open(path, encoding="ascii") as file:
        rows = [tuple(map(int, line.split())) for line in file]
    return tuple((first, outside, count) for first, outside, count in rows)
