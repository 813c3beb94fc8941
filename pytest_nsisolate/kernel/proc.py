# SPDX-License-Identifier: MIT
"""What the files of ``/proc`` about processes and mounts say (proc(5)).

The parsers take the bytes of a file, and their callers read it: each caller decides what a missing
file means. The few functions that read raise what the kernel answers.

Fact: the kernel separates by blanks and newlines, and escapes these in a name or a path at most. A
carriage return, a form feed or a no-break space stands there as it is.
Consequence: nothing here is read in text mode or split by ``splitlines()``, which know others too.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final, NamedTuple

from pytest_nsisolate.kernel.originals import open, os, re

#: ``PF_KTHREAD`` of linux/sched.h.
_KERNEL_THREAD: Final = 0x200000

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


class Stat(NamedTuple):
    """A process, as ``/proc/PID/stat`` describes it (proc_pid_stat(5)).

    :param name: its first 15 bytes.
    :param state: one letter.
    :param terminal: the number of its device.
    :param ticks: processor time of its own, and of the children that it has waited for.
    :param began: its start on the boot clock, in ticks.
    """

    name: bytes
    state: str
    ppid: int
    pgid: int
    sid: int
    terminal: int
    flags: int
    ticks: int
    threads: int
    began: int

    @property
    def cpu_seconds(self) -> float:
        """Processor time."""
        return self.ticks / os.sysconf("SC_CLK_TCK")

    @property
    def started(self) -> float:
        """Its start on the boot clock, in seconds."""
        return self.began / os.sysconf("SC_CLK_TCK")

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it is a thread of the kernel's, which never has arguments."""
        return bool(self.flags & _KERNEL_THREAD)


def stat(content: bytes) -> Stat:
    """Of ``/proc/PID/stat``; a name may have blanks and parentheses in it."""
    before, _, after = content.rpartition(b")")
    state, *fields = after.split(maxsplit=20)
    ppid, pgid, sid, terminal = map(int, fields[:4])
    return Stat(
        *(before.partition(b"(")[2], state.decode()),
        *(ppid, pgid, sid, terminal, int(fields[5])),
        *(sum(map(int, fields[10:14])), int(fields[16]), int(fields[18])),
    )


def status(content: bytes) -> dict[str, str]:
    """The fields of ``/proc/PID/status`` (proc_pid_status(5))."""
    lines = content.decode(errors="replace").split("\n")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def arguments(content: bytes) -> list[bytes]:
    """Of ``/proc/PID/cmdline``; a zombie and a thread of the kernel's have none."""
    return content.removesuffix(b"\0").split(b"\0") if content else []


def children(content: bytes) -> list[int]:
    """Of ``/proc/PID/task/TID/children``: in the order in which they became children."""
    return [int(pid) for pid in content.split()]


def children_of(pid: int) -> list[int]:
    """Those of all threads of a process.

    :raises OSError: when it is gone.
    """
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += children(file.read())
        except (FileNotFoundError, ProcessLookupError):
            pass  # that thread has just ended
    return found


def child_by_number_inside(parent: int, number: int) -> int:
    """The child that has this number in its own PID namespace (``NSpid``).

    :raises ProcessLookupError: when there is none.
    """
    try:
        pids = children_of(parent)
    except FileNotFoundError:
        pids = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                found = status(file.read()).get("NSpid", "")
        except (FileNotFoundError, ProcessLookupError):
            continue  # another child, which has been reaped meanwhile
        if found.split()[-1:] == [str(number)]:
            return pid
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def descendants(pid: int) -> Iterator[int]:
    """All below a process, each before those below it; without those that have ended."""
    ahead = [pid]
    while ahead:
        parent = ahead.pop()
        if parent != pid:
            yield parent
        try:
            ahead += reversed(children_of(parent))
        except OSError:
            continue


def pids() -> list[int]:
    """Every process that ``/proc`` shows, by number.

    :raises OSError: without a ``/proc``.
    """
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def name_of(pid: int) -> str:
    """What a process is called (proc_pid_comm(5)).

    :raises OSError: when it is gone.
    """
    with open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().removesuffix(b"\n").decode(errors="replace")


def descriptors(pid: int | str) -> Iterator[tuple[str, str]]:
    """The open descriptors of a process, and what each leads to (proc_pid_fd(5)).

    :raises OSError: when it is gone, or another user's.
    """
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{number}")
        except FileNotFoundError:
            continue  # closed meanwhile
        yield number, target


def check_own() -> None:
    """Make sure that ``/proc`` shows the processes of this PID namespace.

    Below the ``/proc`` of an isolated test lies that of the namespace around it. After the test's
    own ``umount -l /proc`` the numbers there are the host's, and its PID 1 would be taken for the
    test. So call this before you look up a process by its number.

    :raises OSError: ENOENT if there is none, ESTALE if it is another PID namespace's.
    """
    try:
        shown = os.readlink("/proc/self")
    except OSError as error:
        message = "no /proc of this PID namespace is mounted: has the test covered it?"
        raise FileNotFoundError(errno.ENOENT, message, "/proc") from error
    if shown != str(os.getpid()):
        message = "/proc is that of another PID namespace: has the test unmounted its own?"
        raise OSError(errno.ESTALE, message, "/proc")


class Mount(NamedTuple):
    """A line of ``mountinfo`` (proc_pid_mountinfo(5)).

    :param number: its own.
    :param parent: of the mount that it lies on.
    :param root: the folder of the file system that is mounted.
    :param point: where.
    :param options: of this mount, with commas between them.
    :param tags: ``shared:7``...
    :param super_options: of the file system, likewise; each is still to be :func:`unescaped`.
    """

    number: int
    parent: int
    device: str
    root: str
    point: str
    options: str
    tags: tuple[str, ...]
    fstype: str
    source: str
    super_options: str


def mounts(content: bytes) -> Iterator[Mount]:
    """Of ``mountinfo``: each mount, in the order in which they were made."""
    for line in os.fsdecode(content).split("\n"):
        front, found, back = line.partition(" - ")
        if found:
            number, parent, device, root, point, options, *tags = front.split(" ")
            fstype, source, super_options = back.split(" ", 2)
            yield Mount(
                *(int(number), int(parent), device, unescaped(root), unescaped(point), options),
                *(tuple(tags), unescaped(fstype), unescaped(source), super_options),
            )


def unescaped(text: str) -> str:
    """Without the kernel's escapes; a blank is ``\\040``."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text) if "\\" in text else text


def id_map(content: bytes) -> list[tuple[int, int, int]]:
    """Of ``uid_map`` and ``gid_map``: first id inside, first id outside, how many."""
    rows = (map(int, line.split()) for line in content.splitlines())
    return [(inside, outside, count) for inside, outside, count in rows]


def cgroups(content: bytes) -> list[tuple[str, str]]:
    """Of ``/proc/PID/cgroup``: controllers, ``""`` for version 2, and the path (cgroups(7))."""
    rows = (line.split(":", 2) for line in os.fsdecode(content).split("\n") if line)
    return [(controllers, path) for _, controllers, path in rows]
