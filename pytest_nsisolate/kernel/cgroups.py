# SPDX-License-Identifier: MIT
"""Control groups that bound memory and processes, version 2 and version 1 (cgroups(7)).

Fact: with version 2 only a group that has no process of its own hands controllers to its children,
so a process cannot make a bounded group below its own without leaving its own first.
What we do: the runner stays where it is. From its own group upwards we take the first one that
hands out the controller and lets us make a child; below a user's systemd that is its slice. With
version 1 a child of the runner's own group will do.

Fact: a group is removed when nothing is in it (rmdir, EBUSY before), and a runner that is killed
removes nothing.
What we do: a group's name holds the runner's PID namespace, number and start time. The next run
that comes to the same place removes the groups of runners that are gone.

Fact: the kernel checks the rights of the process that opened ``cgroup.procs``, not of the writer.
What we do: the runner opens it, and the child writes ``0``, itself, before it runs code of a user.

What still fails: in a container the runner's group is at the top and cannot be left; with version 2
there is no group then, and the next mechanism has to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, re, select

#: How long a group may stay busy after its last process was seen to end, in seconds.
_BUSY_SECONDS: Final = 1.0

#: The controllers that we use.
CONTROLLERS: Final = ("memory", "pids")

_PREFIX: Final = "nsisolate"

#: What bounds a resource, in the words of each version; the second file may not be there.
_BOUNDS: Final = {
    (2, "memory"): (("memory.max", None), ("memory.swap.max", "0")),
    (1, "memory"): (("memory.limit_in_bytes", None), ("memory.memsw.limit_in_bytes", None)),
    (2, "pids"): (("pids.max", None),),
    (1, "pids"): (("pids.max", None),),
}

#: Where the kernel counts how often the bound was hit.
_COUNTERS: Final = {
    (2, "memory"): ("memory.events", "oom_kill"),
    (1, "memory"): ("memory.oom_control", "oom_kill"),
    (2, "pids"): ("pids.events", "max"),
    (1, "pids"): ("pids.events", "max"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A group below which the runner can make others that bound one resource.

    :param version: of cgroups, 1 or 2.
    :param controller: ``"memory"`` or ``"pids"``.
    :param folder: its directory.
    """

    version: int
    controller: str
    folder: str

    @property
    def name(self) -> str:
        """As reports name the mechanism: ``"cgroup v2"``."""
        return f"cgroup v{self.version}"


@dataclass(slots=True)
class Group:
    """One group of one attempt, made by the runner.

    :param place: where it is.
    :param folder: its directory.
    :param door: a descriptor of ``cgroup.procs``, until :meth:`shut`.
    """

    place: Place
    folder: str
    door: int | None = field(default=None)

    def shut(self) -> None:
        """In the runner, when the child has been born: it has a copy of the descriptor."""
        if self.door is not None:
            os.close(self.door)
            self.door = None

    def bound(self, controller: str, value: int) -> None:
        """Write a bound.

        :raises StepError: ``write cgroup``.
        """
        for name, fixed in _BOUNDS[self.place.version, controller]:
            path = f"{self.folder}/{name}"
            try:
                _write(path, fixed or str(value))
            except FileNotFoundError as error:
                if name == _BOUNDS[self.place.version, controller][0][0]:
                    raise StepError("write cgroup", None, errno.ENOENT, path) from error
                # swap is not counted here
            except OSError as error:
                raise StepError("write cgroup", None, error.errno or 0, path) from error

    def hits(self, controller: str) -> int:
        """How often the bound was hit: processes killed for memory, forks refused."""
        name, key = _COUNTERS[self.place.version, controller]
        for line in _read(f"{self.folder}/{name}").decode().splitlines():
            word, _, number = line.partition(" ")
            if word == key and number.isdecimal():
                return int(number)
        return 0

    def remove(self) -> bool:
        """Remove it, with what the test has made below it; waits a moment for what is dying.

        :returns: whether it is gone.
        """
        self.shut()
        until = monotonic() + _BUSY_SECONDS
        nothing = select.poll()
        while not (gone := _removed(self.folder)) and monotonic() < until:
            nothing.poll(5)
        return gone


def places(controller: str) -> list[Place]:
    """Where groups with this controller may be possible, version 2 first; not tried yet."""
    found = [Place(2, controller, folder) for folder in _folders_v2(controller)]
    found += [Place(1, controller, folder) for folder in _folders_v1(controller)]
    return found


def make(place: Place, serial: int) -> Group:
    """A new group; removed by :meth:`Group.remove`.

    :param serial: tells the groups of one runner apart.
    :raises StepError: ``mkdir cgroup``, ``join the cgroup``.
    """
    folder = f"{place.folder}/{_PREFIX}-{_runner()}-{serial}"
    try:
        os.mkdir(folder)
    except OSError as error:
        raise StepError("mkdir cgroup", None, error.errno or 0, place.folder) from error
    group = Group(place, folder)
    try:
        group.door = os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        group.remove()
        raise StepError("join the cgroup", None, error.errno or 0, folder) from error
    return group


def sweep() -> None:
    """Remove the groups of runners of this PID namespace that are gone."""
    pattern = re.compile(rf"{_PREFIX}-{_pid_namespace()}-(\d+)-(\d+)-\d+")
    for folder in {place.folder for name in CONTROLLERS for place in places(name)}:
        for entry in _directories(folder):
            found = pattern.fullmatch(entry.name)
            if found is not None and _start_time(found[1]) != found[2]:
                _removed(entry.path)


def _removed(folder: str) -> bool:
    """Whether the group is gone; those below it go first."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        below = [entry.path for entry in _directories(folder)]
        return bool(below) and all(map(_removed, below)) and _removed(folder)
    return True


def _directories(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


# Who and where --------------------------------------------------------------------------------


def _runner() -> str:
    return f"{_pid_namespace()}-{os.getpid()}-{_start_time('self')}"


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_time(pid: str) -> str | None:
    """In ticks since the start of the machine; None if there is no such process."""
    content = _read(f"/proc/{pid}/stat")
    return str(proc.stat(content).began) if content else None


def _own_groups() -> dict[str, str]:
    """The runner's group by controller, ``""`` for version 2 (``/proc/self/cgroup``)."""
    found = {}
    for controllers, path in proc.cgroups(_read("/proc/self/cgroup")):
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _mounted(fstype: str) -> Iterator[proc.Mount]:
    """Every mount of cgroups of this version."""
    for mount in proc.mounts(_read("/proc/self/mountinfo")):
        if mount.fstype == fstype:
            yield mount


def _reached(root: str, point: str, path: str) -> str | None:
    """The directory of a group below a mount; None where the mount does not show it."""
    if path == root:
        return point
    below = path.removeprefix(root.rstrip("/"))
    if below == path and root != "/":
        return None
    return None if "/.." in below else f"{point}{below}"


def _folders_v1(controller: str) -> Iterator[str]:
    path = _own_groups().get(controller)
    for mount in _mounted("cgroup"):
        if controller in mount.super_options.split(",") and path is not None:
            folder = _reached(mount.root, mount.point, path)
            if folder is not None and os.path.isdir(folder):
                yield folder
                return


def _folders_v2(controller: str) -> Iterator[str]:
    path = _own_groups().get("")
    for mount in _mounted("cgroup2"):
        folder = None if path is None else _reached(mount.root, mount.point, path)
        while folder is not None and folder.startswith(mount.point):
            handed_out = _read(f"{folder}/cgroup.subtree_control").decode().split()
            # To move a process takes the right to write here too, cgroups(7).
            if controller in handed_out and os.access(f"{folder}/cgroup.procs", os.W_OK):
                yield folder
                return
            folder = os.path.dirname(folder)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
