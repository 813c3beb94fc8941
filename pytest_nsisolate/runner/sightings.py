# SPDX-License-Identifier: MIT
"""The processes of a test, as the runner sees them while it waits; for a trace of the run.

Fact: the kernel tells of the end of a process to its parent alone, and the parent is the test, or a
program that it has started. What tells others asks for rights on the whole machine (the process
connector, acct(2)), or stops each process at each of its beginnings and ends (ptrace(2), seccomp).

Consequence: the runner, which waits in any case, looks at what is below the test. The kernel says
when a process has begun, to a hundredth of a second; its end is the last look that has found it.
The test's process has no part in it, and a test that starts nothing pays for one look, if it takes
longer than :data:`PERIOD`.

What still fails: a process that begins and ends between two looks is not seen, and one that was
seen just after its fork only has the name of what has forked it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, select, time

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess

#: Seconds from the birth of a test to the first look, and between two looks.
PERIOD: Final = 0.01

#: A look that takes long, for there are many processes, is followed by so many times the processor
#: time that it has taken.
_REST: Final = 20

#: Of one test.
_MOST: Final = 1000

_MOST_CHARACTERS: Final = 200
_ENDED: Final = "ZXx"


@dataclass(slots=True)
class Sighting:
    """A process of a test.

    :param pid: its number in the test's PID namespace.
    :param name: of its program.
    :param command: its arguments in one line.
    :param start: when it has begun, seconds of the epoch.
    :param last: when it was seen for the last time, likewise.
    """

    pid: int
    name: str
    command: str
    start: float
    last: float


@dataclass(slots=True)
class _Watched:
    """A test that is under way.

    :param first_look: on the monotonic clock.
    :param depth: of its PID namespace; 0: not known yet.
    :param own: the test's process, and those that stand beside it.
    :param alive: what the last look has found.
    :param seen: by number in the runner's PID namespace and start; None: it is not the test's.
    """

    child: ChildProcess
    first_look: float
    depth: int = 0
    own: frozenset[int] = frozenset()
    alive: set[int] = field(default_factory=set)
    seen: dict[tuple[int, int], Sighting | None] = field(default_factory=dict)


class Sightings:
    """What has been seen of the tests of one run."""

    def __init__(self) -> None:
        self._of: dict[str, list[_Watched]] = {}
        self._due = 0.0

    def watch(self, nodeid: str, child: ChildProcess) -> None:
        """The child of a test has just been born."""
        self._of.setdefault(nodeid, []).append(_Watched(child, monotonic() + PERIOD))

    def wait_with(self, child: ChildProcess, seconds: float | None) -> None:
        """Until this child may have an answer, or so many seconds are over; looks round meanwhile.

        For :attr:`~pytest_nsisolate.process.child_process.ChildProcess.meanwhile`, where no other
        child is waited for.
        """
        until = inf if seconds is None else monotonic() + seconds
        poller = select.poll()
        for fd in child.watched():
            poller.register(fd, select.POLLIN)
        while not poller.poll(min(self.look(), max(until - monotonic(), 0)) * 1000):
            if monotonic() >= until:
                return

    def is_over(self, nodeid: str) -> bool:
        """Whether the last child of a test has ended."""
        return nodeid in self._of and self._of[nodeid][-1].child.outcome is not None

    def take(self, nodeid: str) -> list[Sighting]:
        """A test is over: what has been seen of it, the first one first."""
        found = (s for one in self._of.pop(nodeid, ()) for s in one.seen.values())
        return sorted((s for s in found if s is not None), key=lambda s: s.start)

    def look(self) -> float:
        """Look round, if it is time.

        :returns: seconds until it is time again.
        """
        now = monotonic()
        if now >= self._due:
            began = time.thread_time()
            for watched in self._of.values():
                for one in watched:
                    if one.first_look <= now and one.child.outcome is None:
                        _look_at(one)
            self._due = now + max(PERIOD, _REST * (time.thread_time() - began))
        return max(self._due - monotonic(), 0)


def _look_at(one: _Watched) -> None:
    end = one.child.end
    if end.pid1 is None or not end.is_born:
        return
    try:
        if not one.depth:
            one.depth = len(_numbers(end.pid1))
            # An init has forked the test before it can have adopted another process.
            test = proc.children_of(end.pid1)[:1] if one.child.init else ()
            one.own = frozenset((end.forked, end.pid1, *test))
        # The supervisor adopts, where there is no PID namespace; a keeper has its own processes.
        top = end.forked if end.keeper is None else end.pid1
        # Those that are known may have become another's children.
        pids = one.alive.union(proc.descendants(top)) - one.own
    except OSError:
        return  # it has ended
    one.alive = {pid for pid in pids if _note(one, pid)}


def _note(one: _Watched, pid: int) -> bool:
    """Whether it is alive."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = proc.stat(file.read())
        if stat.state in _ENDED:
            return False
        key = (pid, stat.began)
        if key not in one.seen:
            if len(one.seen) >= _MOST:
                return False
            one.seen[key] = _first_sight(one, pid, stat)
        if (found := one.seen[key]) is not None:
            found.last = time.time()
            name = stat.name.decode(errors="replace")
            if name != found.name or not found.command:  # none: in the middle of an exec
                found.name = name
                found.command = _command(pid)
    except OSError:
        return False
    return True


def _first_sight(one: _Watched, pid: int, stat: proc.Stat) -> Sighting | None:
    numbers = _numbers(pid)
    if len(numbers) != one.depth:
        return None  # in a box or a call of the test, which has a span, or in a container of its
    now = time.time()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - stat.started
    return Sighting(numbers[-1], "", "", now - max(age, 0), now)


def _numbers(pid: int) -> list[int]:
    """Of a process in each PID namespace from the one of ``/proc`` on down."""
    with open(f"/proc/{pid}/status", "rb") as file:
        return [int(number) for number in proc.status(file.read())["NSpid"].split()]


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        text = b" ".join(proc.arguments(file.read())).decode(errors="replace")
    return text[:_MOST_CHARACTERS]
