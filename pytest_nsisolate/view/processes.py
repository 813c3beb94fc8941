# SPDX-License-Identifier: MIT
"""Processes, as psutil and ``/proc/PID/stat`` show them (proc(5)).

Fact: some of what psutil says is wrong in a fresh world. It finds the terminal in a map of ``/dev``
that it makes once, in the process that asks first, so a terminal opened later has no name. It adds
the boot time in whole seconds to the start of a process. Its ``process_iter`` remembers processes
by number, and a fresh world has the runner's numbers again. Of the arguments it makes text, in
which a carriage return is a newline, and splits a single one at its blanks. It knows the whole of a
long name by the first argument only, which for a script is its interpreter.

Consequence: parents, states, users and folders are psutil's, from objects made anew each time;
names, arguments, session, group, terminal and start are read here, and the age is counted on the
boot clock, which a time namespace moves for both ends alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_nsisolate.child import leftovers
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open, os, package, time


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Two of them are equal if all but their ages are equal.

    :param pid: its number here.
    :param ppid: its parent's; 0 for PID 1, and for a parent outside.
    :param state: ``running``, ``sleeping``, ``disk-sleep``, ``stopped``, ``tracing-stop``,
        ``zombie``, ``idle``...
    :param name: of the program, whole where the arguments tell what the kernel has cut off.
    :param argv: its arguments; empty for a zombie.
    :param uid: the effective user id.
    :param pgid: its process group.
    :param sid: its session.
    :param tty: its controlling terminal (``/dev/pts/3``), if it has one.
    :param cwd: its working directory; None for a zombie, or if this test may not know.
    :param started: seconds on the boot clock.
    :param age: seconds since then.
    """

    pid: int
    ppid: int
    state: str
    name: str
    argv: tuple[str, ...]
    uid: int
    pgid: int
    sid: int
    tty: str | None
    cwd: str | None
    started: float
    age: float = field(compare=False)

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended, and its parent has not waited for it."""
        return self.state == "zombie"

    @property
    def command(self) -> str:
        """The arguments in one line; the name in brackets where there are none, as in ``ps``."""
        return " ".join(self.argv) or f"[{self.name}]"

    @property
    def is_infrastructure(self) -> bool:
        """Whether it is multiprocessing's resource tracker or fork server."""
        return leftovers.is_infrastructure(self.argv)

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProcessTree:
    """A process and everything below it; ``str()`` draws it.

    :param process: the one at the top.
    :param children: by number.
    """

    process: Process
    children: tuple[ProcessTree, ...]

    # Nothing here calls itself for a child: a chain may be longer than Python's stack.

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Process]]:
        """Each process with its depth, parents before children."""
        todo = [(depth, self)]
        while todo:
            depth, tree = todo.pop()
            yield depth, tree.process
            todo += [(depth + 1, child) for child in reversed(tree.children)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProcessTree):
            return NotImplemented
        # The depths in this order give the shape.
        return list(self.walk()) == list(other.walk())

    def __hash__(self) -> int:
        return hash(tuple(self.walk()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.process}, {sum(1 for _ in self.walk())} in all>"

    def __str__(self) -> str:
        return "\n".join(
            f"{'  ' * depth}{process.pid} {process.command}" for depth, process in self.walk()
        )


def read_processes() -> tuple[Process, ...]:
    """Every process that ``/proc`` shows, by number.

    :raises OSError: if that is not this PID namespace's.
    """
    psutil = package("psutil")
    proc.check_own()
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = (_read(pid, now) for pid in sorted(psutil.pids()))
    return tuple(process for process in seen if process is not None)


_EXEC_TRIES: Final = 5
_EXEC_PAUSE: Final = 0.001
_FROM_PSUTIL: Final = ("ppid", "status", "uids", "cwd")

#: Bytes of a name that the kernel keeps (``TASK_COMM_LEN`` less its NUL).
_LONGEST_NAME: Final = 15


def _read(pid: int, now: float) -> Process | None:
    """Whole: in the middle of an exec a process has no arguments for a moment (execve(2)).

    ``Popen`` returns in that moment, because the kernel closes its pipe a bit earlier.
    """
    found = _look(pid, now)
    for _ in range(_EXEC_TRIES):
        if found is None or found.argv or found.is_zombie or _is_kernel_s(pid):
            break
        time.sleep(_EXEC_PAUSE)
        found = _look(pid, now)
    return found


def _is_kernel_s(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return proc.stat(file.read()).is_kernel_thread
    except OSError:
        return True


def _look(pid: int, now: float) -> Process | None:
    psutil = package("psutil")
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            found = proc.stat(file.read())
        facts = psutil.Process(pid).as_dict(_FROM_PSUTIL)
        argv = _arguments(pid)
    except (OSError, psutil.NoSuchProcess):
        return None
    zombie = facts["status"] == psutil.STATUS_ZOMBIE
    return Process(
        pid=pid,
        ppid=facts["ppid"],
        state=facts["status"],
        name=os.fsdecode(_whole_name(found.name, argv)) or "?",
        argv=() if zombie else tuple(map(os.fsdecode, argv)),
        uid=facts["uids"].effective,
        pgid=found.pgid,
        sid=found.sid,
        tty=_terminal(found.terminal),
        cwd=None if zombie else facts["cwd"] or None,
        started=found.started,
        age=max(now - found.started, 0.0),
    )


def _arguments(pid: int) -> list[bytes]:
    """What it was started with; nothing for a zombie and for a thread of the kernel's.

    :raises OSError: if it is gone.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return proc.arguments(file.read())
    except PermissionError:
        return []


def _whole_name(name: bytes, argv: list[bytes]) -> bytes:
    """What the kernel has cut off is in the first argument; for a script, which its interpreter
    gets as an argument, it is in the second one, or behind an option of the interpreter's in the
    third (execve(2))."""
    if len(name) == _LONGEST_NAME:
        for argument in argv[:3]:
            whole = os.path.basename(argument)
            if whole.startswith(name):
                return whole
    return name


def parent_of(pid: int) -> int:
    """The parent's number (``/proc/PID/stat``); 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return proc.stat(file.read()).ppid
    except OSError:
        return 0


def _terminal(device: int) -> str | None:
    """The file of a terminal's device number (Documentation/admin-guide/devices.txt)."""
    if device == 0:
        return None
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"/dev/pts/{minor + (major - 136) * 256}"
    if major == 4:
        return f"/dev/tty{minor}" if minor < 64 else f"/dev/ttyS{minor - 64}"
    return f"{major}:{minor}"


def below(processes: Iterable[Process], top: int) -> tuple[Process, ...]:
    """Those that descend from a process, which itself is left out."""
    processes = tuple(processes)
    inside = {top}
    # A child may have a lower number than its parent, so one pass is not enough.
    while True:
        more = {p.pid for p in processes if p.ppid in inside} - inside
        if not more:
            return tuple(p for p in processes if p.pid in inside and p.pid != top)
        inside |= more


def as_trees(processes: Iterable[Process]) -> tuple[ProcessTree, ...]:
    """The forest; on top those whose parent is not among them."""
    children: dict[int, list[Process]] = {}
    processes = tuple(processes)
    known = {process.pid for process in processes}
    for process in processes:
        parent = process.ppid if process.ppid in known else 0
        children.setdefault(parent, []).append(process)

    order = [process for process in children.get(0, ()) if process.pid != 0]
    todo = list(order)
    while todo:
        below_it = children.get(todo.pop().pid, [])
        order += below_it
        todo += below_it
    # Each stands behind its parent here, so that its children are trees before it is one.
    trees: dict[int, ProcessTree] = {}
    for process in reversed(order):
        below_it = children.get(process.pid, [])
        trees[process.pid] = ProcessTree(process, tuple(trees[child.pid] for child in below_it))
    return tuple(trees[process.pid] for process in children.get(0, ()) if process.pid != 0)


def orphans_of_test(processes: Iterable[Process], test: int) -> tuple[Process, ...]:
    """Children of PID 1, the test itself, that it cannot have started.

    The kernel does not note which process started a child of PID 1. But a session or group that is
    led by neither the child nor PID 1 shows another process, and a child that is older than a
    sibling before it had another parent first.
    """
    processes = tuple(processes)
    adopted = [process for process in processes if process.ppid == test]
    by_pid = {process.pid: process for process in processes}
    late = _adopted_late(test, by_pid)
    parent = by_pid.get(test)
    theirs = {0, test} | (set() if parent is None else {parent.sid, parent.pgid})
    return tuple(
        p
        for p in adopted
        if p.pid in late or p.sid not in theirs | {p.pid} or p.pgid not in theirs | {p.pid}
    )


def _adopted_late(parent: int, by_pid: dict[int, Process]) -> set[int]:
    """Children stand in the order in which they became children (``/proc/PID/task/TID/children``):
    an older one behind a younger one had another parent first."""
    try:
        with open(f"/proc/{parent}/task/{parent}/children", "rb") as file:
            order = proc.children(file.read())
    except OSError:
        return set()
    late = set()
    youngest = (0.0, 0)
    for pid in order:
        if pid in by_pid:
            birth = (by_pid[pid].started, pid)
            if birth < youngest:
                late.add(pid)
            youngest = max(youngest, birth)
    return late
