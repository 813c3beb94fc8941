# SPDX-License-Identifier: MIT
"""What there is in the world of an isolated test, read when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_nsisolate.child.leftovers import infrastructure, settled_family
from pytest_nsisolate.kernel import namespaces, proc
from pytest_nsisolate.kernel.originals import os, socket
from pytest_nsisolate.process.root import written_here
from pytest_nsisolate.request.model import TimeOffsets
from pytest_nsisolate.view import identity
from pytest_nsisolate.view.files import NO_OVERLAY, Files, read_files
from pytest_nsisolate.view.identity import Capabilities, IdExtent, Limit
from pytest_nsisolate.view.ipc import IpcObject, read_ipc
from pytest_nsisolate.view.mapping import ReadOnlyMapping
from pytest_nsisolate.view.mounts import Mount, read_mounts
from pytest_nsisolate.view.network import Interface, Route, read_interfaces, read_routes
from pytest_nsisolate.view.processes import (
    Process,
    ProcessTree,
    as_trees,
    below,
    orphans_of_test,
    read_processes,
)
from pytest_nsisolate.view.snapshot import Snapshot
from pytest_nsisolate.view.sockets import Socket, read_sockets

if TYPE_CHECKING:
    from pytest_nsisolate.testbed.loopback import Loopback
    from pytest_nsisolate.view.fault_engine import Engine


@dataclass(frozen=True, slots=True)
class Origin:
    """What an isolated test cannot see itself: where it comes from.

    :param home: the runner's namespaces; empty if they are not known.
    :param asked: the kinds of namespaces that the test asked for.
    :param init: the one between the test and its supervisor or the kernel, if there is one.
    :param supervisor: without a PID namespace of its own: the process above everything that the
        test starts and leaves behind.
    :param helpers: gives the processes that the fixture ``isolate`` keeps beside its functions, by
        number, and what to call them.
    :param settled: in a world that tests share: the processes that were there before the test.
    :param faults: answers for the test's system calls; None where there is no runner to ask.
    :param loopback: gives what the test may do to its own ``lo``; None where that is not its own.
    """

    home: Mapping[str, int] = field(default_factory=lambda: ReadOnlyMapping({}))
    asked: frozenset[str] = frozenset()
    init: int | None = None
    supervisor: int | None = None
    helpers: Callable[[], Mapping[int, str]] = dict
    faults: Engine | None = None
    settled: frozenset[int] = frozenset()
    loopback: Callable[[], Loopback] | None = None


class Readings:
    """Every attribute asks the kernel anew, each time; what it returns cannot be changed."""

    __slots__ = ("_origin",)

    def __init__(self, origin: Origin | None = None) -> None:
        self._origin = origin or Origin()

    # Who and where -------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The number of the test's own process, which is 1, or more behind an init."""
        return os.getpid()

    @property
    def hostname(self) -> str:
        """The UTS name (uts_namespaces(7))."""
        return socket.gethostname()

    @property
    def namespaces(self) -> Mapping[str, int]:
        """Kind of namespace to its inode number (namespaces(7))."""
        return ReadOnlyMapping(namespaces.identities())

    @property
    def host_namespaces(self) -> Mapping[str, int]:
        """The same of the runner, as it was before the first test."""
        return self._origin.home

    @property
    def isolated(self) -> frozenset[str]:
        """The kinds of namespaces that are not the runner's."""
        home = self._origin.home
        return frozenset(k for k, inode in self.namespaces.items() if inode != home.get(k, inode))

    @property
    def uid_map(self) -> tuple[IdExtent, ...]:
        """The rows of the map of user ids (user_namespaces(7))."""
        return identity.read_extents("/proc/self/uid_map")

    @property
    def gid_map(self) -> tuple[IdExtent, ...]:
        """As :attr:`uid_map`, for group ids."""
        return identity.read_extents("/proc/self/gid_map")

    @property
    def capabilities(self) -> Capabilities:
        """The five sets of the test's process."""
        return identity.read_capabilities()

    def capabilities_of(self, process: Process | int) -> Capabilities:
        """The same of another process.

        :raises OSError: if there is no such process.
        """
        return identity.read_capabilities(process if isinstance(process, int) else process.pid)

    @property
    def seccomp(self) -> str:
        """``disabled``, ``strict`` or ``filter`` (seccomp(2))."""
        return identity.read_seccomp()

    @property
    def no_new_privs(self) -> bool:
        """Whether programs that it executes gain no privileges (PR_SET_NO_NEW_PRIVS(2const))."""
        return identity.read_no_new_privs()

    @property
    def clock_offsets(self) -> TimeOffsets:
        """Seconds added to the clocks (time_namespaces(7)); zeros without a time namespace."""
        return identity.read_clock_offsets()

    @property
    def limits(self) -> Mapping[str, Limit]:
        """Resource limits by the names of prlimit(1), like ``nofile``, ``nproc``, ``core``."""
        return identity.read_limits()

    @property
    def cgroup(self) -> str:
        """The path in the version 2 hierarchy (cgroups(7)); empty where there is none."""
        return self.cgroups.get("", "")

    @property
    def cgroups(self) -> Mapping[str, str]:
        """Hierarchy to path; ``""`` is version 2, those of version 1 are by their controllers."""
        return identity.read_cgroups()

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program that the test starts now inherits."""
        return ReadOnlyMapping(os.environ)

    def environment_of(self, process: Process | int) -> Mapping[str, str]:
        """What a process was started with, PID 1 for example.

        PID 1 has executed nothing since it was cloned, so that is what the runner was started with.

        :raises OSError: if there is no such process, or it is another user's.
        """
        return identity.read_environment(process if isinstance(process, int) else process.pid)

    # Processes -----------------------------------------------------------------------------------

    @property
    def processes(self) -> tuple[Process, ...]:
        """Every process in the test's world, itself and an init too, by number.

        Without a PID namespace (``pid=True``) the world is what the test has started, and itself.
        """
        return self._in_world(read_processes())

    @property
    def zombies(self) -> tuple[Process, ...]:
        """Those that have ended, and whose parent has not waited for them."""
        helpers = self._origin.helpers()
        return tuple(p for p in self.processes if p.is_zombie and p.pid not in helpers)

    @property
    def orphans(self) -> tuple[Process, ...]:
        """Those whose own parent has ended, so that they are PID 1's now.

        Exact behind an init (``init=True``). The kernel does not note which process started a
        child of PID 1. So where the test is PID 1 these are the ones that it cannot have started:
        another process began their session or process group, or an older one became its child
        later than a younger one. A ``sleep &`` of a shell that has just ended may be missing.
        """
        everybody, adopter = self.processes, self._adopter
        if adopter == os.getpid():
            return orphans_of_test(everybody, adopter)
        # It has started only the test, or the init.
        own = self._own_pids
        return tuple(p for p in everybody if p.ppid == adopter and p.pid not in own)

    @property
    def process_tree(self) -> tuple[ProcessTree, ...]:
        """The processes below their parents; with a PID namespace, one tree with PID 1 on top."""
        return as_trees(self.processes)

    @property
    def leftovers(self) -> tuple[Process, ...]:
        """Those alive besides the test and its init; in a shared world, those that are new.

        multiprocessing's resource tracker and fork server, which end with the test, are left out.
        """
        everybody = self.processes
        not_the_test_s = infrastructure(everybody) | self._own_pids
        if self._origin.settled:
            not_the_test_s |= settled_family(self._origin.settled)
        return tuple(p for p in everybody if p.pid not in not_the_test_s and not p.is_zombie)

    # Network -------------------------------------------------------------------------------------

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Network devices with their addresses, by index."""
        return read_interfaces()

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes of all tables, IPv4 first."""
        return read_routes()

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """TCP, UDP and Unix sockets of the test's network, listening or not, of any process."""
        return read_sockets()

    @property
    def listening(self) -> tuple[Socket, ...]:
        """Those that wait for connections; of UDP, those without a peer."""
        return tuple(socket for socket in self.sockets if socket.is_listening)

    @property
    def connections(self) -> tuple[Socket, ...]:
        """Those that have another side."""
        return tuple(socket for socket in self.sockets if socket.state == "established")

    # Files and memory ----------------------------------------------------------------------------

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Every mount, in the order of ``/proc/self/mountinfo``."""
        return read_mounts()

    @property
    def ipc(self) -> tuple[IpcObject, ...]:
        """System V and POSIX shared memory, semaphores and message queues.

        Other files in ``/dev/shm`` are among them, with what is in its directories.
        """
        return read_ipc()

    @property
    def files(self) -> Files:
        """What the test has created, modified and deleted among its files until now.

        :raises RuntimeError: without ``root="overlay"``.
        """
        written = written_here()
        if written is None:
            raise RuntimeError(NO_OVERLAY)
        return read_files(written)

    def snapshot(self) -> Snapshot:
        """All that comes and goes, at this moment; ``pid1.snapshot() - before`` is what did."""
        return Snapshot(
            processes=self.processes,
            sockets=self.sockets,
            mounts=self.mounts,
            interfaces=self.interfaces,
            routes=self.routes,
            ipc=self.ipc,
        )

    # What the assertions share -------------------------------------------------------------------

    @property
    def _adopter(self) -> int:
        """The process that gets the orphans of the test's world."""
        return self._supervisor or 1

    @property
    def _own_pids(self) -> frozenset[int]:
        """The test, and its init if it has one."""
        origin = self._origin
        known = origin.supervisor is None or self._supervisor is not None
        return frozenset({os.getpid(), (known and origin.init) or os.getpid()})

    @property
    def _is_alone(self) -> bool:
        """Whether there is no other process, told without psutil: a failure asks in each child."""
        proc.check_own()
        return self._own_pids.issuperset(proc.pids())

    @property
    def _supervisor(self) -> int | None:
        """That of the origin; None in a call by ``isolate`` with a PID namespace of its own."""
        supervisor = self._origin.supervisor
        return None if supervisor is None or "pid" in self.isolated else supervisor

    def _in_world(self, everybody: tuple[Process, ...]) -> tuple[Process, ...]:
        supervisor = self._supervisor
        return everybody if supervisor is None else below(everybody, supervisor)

    def _machinery(self, everybody: Iterable[Process]) -> frozenset[int]:
        """The test, and the processes that exist only because it is isolated.

        PID 1 is the test, its init or that of a box. Above the process that looks are the test,
        where this is a copy of it or a function of ``isolate``, and their inits.
        """
        parents = {process.pid: process.ppid for process in everybody}
        found = {1, *self._own_pids, *self._origin.helpers()}
        above = parents.get(os.getpid(), 0)
        while above and above not in found:
            found.add(above)
            above = parents.get(above, 0)
        return frozenset(found)

    @property
    def _labels(self) -> dict[int, str]:
        """What to call the machinery's own processes in a table."""
        own = dict.fromkeys(self._own_pids, "(the init)")
        return {**self._origin.helpers(), **own, os.getpid(): "(this test)"}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of process {self.pid}>"
