# SPDX-License-Identifier: MIT
"""Which calls a fault is for, and which of them it hits."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .callers import UnreadableError, addresses, basename, files, number, pid_namespace, program
from .listener import Notification

if TYPE_CHECKING:
    from random import Random

#: Calls that are told one by one; more are counted.
_MOST_TOLD: Final = 20


@dataclass
class Fault:
    """What happens to some calls, from its request to its end.

    :param calls: by number of the call: its name, which arguments are paths (with the position of
        the descriptor that a relative one starts at, or -1), which are descriptors, and where a
        socket address is, or -1.
    :param error: the errno; 0 lets the call go on.
    :param delay: seconds before that.
    :param after: so many matching calls go through first.
    :param times: so many calls are hit, and then none; 0 is no bound.
    :param path: a pattern (fnmatch) for a path, or for the file of a descriptor.
    :param fd: a descriptor's number.
    :param arguments: position and value, 64 bits unsigned.
    :param process: a process's number in the test's PID namespace, or a pattern for its program.
    :param within: the inode of the PID namespace that a caller is in; 0 for any.
    """

    calls: dict[int, tuple[str, list[list[int]], list[int], int]]
    error: int = 0
    delay: float = 0.0
    after: int = 0
    times: int = 0
    path: str | None = None
    address: str | None = None
    fd: int | None = None
    arguments: list[list[int]] = field(default_factory=list)
    process: int | str | None = None
    within: int = 0
    probability: float = 1.0
    seed: int = 0
    #: So many calls had its name, so many matched, so many were hit, of so many it is not known.
    seen: int = 0
    matched: int = 0
    count: int = 0
    unreadable: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    chance: Random | None = None

    def __post_init__(self) -> None:
        self.calls = {int(number): call for number, call in self.calls.items()}
        if self.probability < 1:
            from random import Random

            self.chance = Random(self.seed)  # noqa: S311 (it guards nothing)

    def applies(self, call: Notification, test_level: int) -> bool:
        """Whether a call is one of those that it is for."""
        self.seen += 1
        if self.times and self.count >= self.times:
            return False
        _, paths, descriptors, address = self.calls[call.number]
        given = call.arguments
        if any(given[position] != value for position, value in self.arguments):
            return False
        if self.fd is not None and all(given[n] & 0xFFFFFFFF != self.fd for n in descriptors):
            return False
        try:
            if not self._is_of(call.pid, test_level):
                return False
            if self.path is not None:
                found = files(call, paths, descriptors)
                return any(fnmatch.fnmatchcase(name, self.path) for name in found)
            if self.address is not None:
                found = addresses(call, address)
                return any(fnmatch.fnmatchcase(name, self.address) for name in found)
        except UnreadableError:
            self.unreadable += 1
            return False
        return True

    def hits(self) -> bool:
        """Whether a call that it is for is the one, and counts it."""
        self.matched += 1
        if self.matched <= self.after:
            return False
        if self.chance is not None and self.chance.random() >= self.probability:
            return False
        self.count += 1
        return True

    def tell(self, call: Notification, test_level: int) -> None:
        """Write down one that was hit."""
        if len(self.told) >= _MOST_TOLD:
            return
        name, paths, descriptors, address = self.calls[call.number]
        try:
            about = [*files(call, paths, descriptors), *addresses(call, address)]
        except UnreadableError:
            about = []
        whole = [text for text in about if text.startswith("/")]
        found = {"call": name, "about": next(filter(None, [*whole, *about]), "")}
        found |= {"name": program(call.pid)}
        self.told.append({**found, "pid": number(call.pid, test_level)})

    def state(self) -> dict[str, Any]:
        """What has become of it."""
        names = ("seen", "matched", "count", "unreadable")
        return {**{name: getattr(self, name) for name in names}, "calls": self.told}

    def _is_of(self, pid: int, test_level: int) -> bool:
        if self.within and pid_namespace(pid) != self.within:
            return False
        if self.process is None:
            return True
        if isinstance(self.process, int):
            return number(pid, test_level) == self.process
        names = (program(pid), basename(pid))
        return any(name and fnmatch.fnmatchcase(name, self.process) for name in names)
