# SPDX-License-Identifier: MIT
"""Assertions on processes: who is there, who is not, and who has become a daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from pytest_nsisolate.child.leftovers import infrastructure
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.view.assertions import waiting
from pytest_nsisolate.view.assertions.failures import bound, failure, number_of
from pytest_nsisolate.view.processes import Process
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.view.tables import counted


class HasPid(Protocol):
    """``subprocess.Popen``, ``multiprocessing.Process`` and the like."""

    @property
    def pid(self) -> int | None: ...


#: A way to say which process: its number, something that has one, its name, or a condition.
Which: TypeAlias = "int | str | Process | HasPid | Callable[[Process], bool]"


class ProcessAssertions(Readings):
    """Assertions on processes."""

    __slots__ = ()

    def assert_pid1(self) -> None:
        """The test's own process is PID 1 of a PID namespace of its own."""
        __tracebackhide__ = True
        if self.pid == 1 and "pid" in self.isolated:
            return
        if "pid" not in self.isolated:
            hint = "add pid=True to its marker, @pytest.mark.isolated"
        else:
            hint = "with init=True an init is PID 1, and the test its child"
        raise failure(
            "this test is not PID 1",
            expected="process number 1 of a PID namespace of its own",
            seen=f"process number {self.pid}"
            + ("" if "pid" in self.isolated else " of the runner's PID namespace"),
            hint=hint,
        )

    def assert_alone(self, *, within: float = 0) -> None:
        """There is no process but the test and its init, not even a zombie.

        What ``isolate`` and ``testbed`` keep does not count: PID 1 of a box or a host.

        :param within: seconds to wait for that.
        """
        __tracebackhide__ = True
        own = self._own_pids.union(self._origin.helpers())
        others = self._until_none(lambda: [p for p in self.processes if p.pid not in own], within)
        if not others:
            return
        ended = all(process.is_zombie for process in others)
        raise failure(
            "this test is not alone",
            expected=f"no process but this test{bound(within)}",
            seen=f"{number_of(others, 'process')} more",
            rows=others,
            labels=self._labels,
            hint="these have ended; wait for them, or use init=True" if ended else None,
        )

    def assert_no_zombies(self, *, within: float = 0) -> None:
        """Every process that has ended has been waited for.

        :param within: seconds to wait for that.
        """
        __tracebackhide__ = True
        zombies = self._until_none(lambda: list(self.zombies), within)
        if not zombies:
            return
        mine = [process for process in zombies if process.ppid == self.pid]
        parent = "their parent" if len(mine) == len(zombies) else f"the parent of {len(mine)}"
        hint = f"{parent}, this test, has not waited for them: Popen.wait(), os.waitpid(-1, 0)"
        if mine and self.pid == 1:
            hint += "; with init=True an init waits for orphans"
        raise failure(
            f"{number_of(zombies, 'process')} ended without being waited for",
            expected=f"no zombies{bound(within)}",
            seen=number_of(zombies, "process"),
            rows=zombies,
            hint=hint if mine else "their parent has not waited for them",
        )

    def assert_no_leftovers(self, *, within: float = 0) -> None:
        """Nothing that the test has started is still running.

        multiprocessing's resource tracker and fork server are no leftovers; they end with the test.

        :param within: seconds to wait for that.
        """
        __tracebackhide__ = True
        found = self._until_none(lambda: list(self.leftovers), within)
        if found:
            raise failure(
                f"{number_of(found, 'process')} still running",
                expected=f"nothing alive but this test{bound(within)}",
                seen=number_of(found, "process"),
                rows=found,
                labels=self._labels,
            )

    def assert_process(
        self, which: Which, *, count: int | None = None, within: float = 0
    ) -> Process:
        """There is such a process, alive.

        :param which: its name, number, a condition (``lambda p: p.uid == 33``), or an object that
            has a ``pid``. A name is that of the program or of the file that was started, without
            its folder. A name or a condition never means the test itself, its init, or a helper
            of multiprocessing.
        :param count: there are exactly so many, one or more.
        :param within: seconds to wait for it.
        :returns: the first one, by number.
        """
        __tracebackhide__ = True
        if count is not None and count < 1:
            raise ValueError(f"count is 1 or more, not {count}; none is assert_no_process")
        everybody: tuple[Process, ...] = ()
        found: list[Process] = []

        def look() -> bool:
            nonlocal everybody
            everybody = self.processes
            found[:] = self._alive(everybody, which)
            return bool(found) if count is None else len(found) == count

        if waiting.until(look, within):
            return found[0]
        wanted = "a process" if count is None else f"exactly {count}"
        raise failure(
            f"{counted(len(found), 'process') if found else 'no process'} {_described(which)}",
            expected=f"{wanted} {_described(which)}{bound(within)}",
            seen=number_of(everybody, "process"),
            rows=everybody,
            labels=self._labels,
            hint=self._why_absent(everybody, which),
        )

    def assert_no_process(self, which: Which, *, within: float = 0) -> None:
        """There is no such process, or it has ended.

        :param which: as for :meth:`assert_process`.
        :param within: seconds to wait for its end.
        """
        __tracebackhide__ = True
        found = self._until_none(lambda: self._alive(self.processes, which), within)
        if found:
            raise failure(
                f"there is a process {_described(which)}",
                expected=f"none{bound(within)}",
                seen=number_of(found, "process"),
                rows=found,
                labels=self._labels,
            )

    def assert_daemon(self, which: Which, *, cwd: str | None = "/", within: float = 0) -> Process:
        """A process has become a daemon: a session that is not the test's, no terminal, PID 1 (or
        without a PID namespace, the test's supervisor) for a parent, ``/`` for a directory.

        :param which: as for :meth:`assert_process`.
        :param cwd: its directory; None if that does not matter.
        :param within: seconds to wait for it.
        :returns: the daemon.
        """
        __tracebackhide__ = True
        adopter = self._adopter
        session = os.getsid(0)
        wrong: list[str] = []
        everybody: tuple[Process, ...] = ()
        found: list[Process] = []

        def look() -> Process | None:
            nonlocal everybody
            everybody = self.processes
            found[:] = self._alive(everybody, which)
            for process in found:
                wrong[:] = _short_of_daemon(process, adopter, session, cwd)
                if not wrong:
                    return process
            return None

        daemon = waiting.until(look, within)
        if daemon is not None:
            return daemon
        raise failure(
            f"no daemon {_described(which)}" if not found else f"{found[-1]} is no daemon",
            expected=f"a daemon {_described(which)}{bound(within)}",
            seen="; ".join(wrong) if found else "no such process",
            rows=found or everybody,
            labels=self._labels,
            hint=None if found else self._why_absent(everybody, which),
        )

    # Shared --------------------------------------------------------------------------------------

    def _meant(self, everybody: tuple[Process, ...], which: Which) -> list[Process]:
        """Those that are meant. A name or a condition never means the test, or the machinery.

        The test's name is that of the interpreter, and so is that of much of what it starts: a
        ``SharedMemory`` has multiprocessing start its resource tracker.
        """
        # Each is asked first: the argument may be wrong.
        found = [process for process in everybody if matches(process, which)]
        if not found or _is_definite(which):
            return found
        aside = self._machinery(everybody) | infrastructure(everybody)
        return [process for process in found if process.pid not in aside]

    def _alive(self, everybody: tuple[Process, ...], which: Which) -> list[Process]:
        return [process for process in self._meant(everybody, which) if not process.is_zombie]

    def _why_absent(self, everybody: tuple[Process, ...], which: Which) -> str | None:
        meant = self._meant(everybody, which)
        if any(process.is_zombie for process in meant):
            return "it has ended, and its parent has not waited for it"
        if not meant and any(matches(process, which) for process in everybody):
            return (
                "only this test, its init or a helper of multiprocessing is such a process; "
                "a number means them: pid1.pid"
            )
        return None

    def _until_none(self, look: Callable[[], list[Process]], within: float) -> list[Process]:
        last: list[Process] = []

        def none() -> bool:
            last[:] = look()
            return not last

        waiting.until(none, within)
        return last


def matches(process: Process, which: Which) -> bool:
    """Whether a process is the one that is meant.

    :raises ValueError: for a name that no process has.
    """
    if isinstance(which, Process):
        return (process.pid, process.started) == (which.pid, which.started)
    if isinstance(which, str):
        if "/" in which:
            raise ValueError(
                f"{which!r} is no name but a path; the name is {os.path.basename(which)!r}, "
                f"and a condition asks for more: lambda p: p.argv[:1] == ({which!r},)"
            )
        started = os.path.basename(process.argv[0]) if process.argv else ""
        return which in (process.name, started)
    if isinstance(which, int):
        return process.pid == which
    pid = getattr(which, "pid", None)
    if pid is not None:
        return bool(process.pid == pid)
    if callable(which):
        return bool(which(process))
    raise TypeError(f"no name, number, object with a pid, or condition: {which!r}")


def _is_definite(which: Which) -> bool:
    """Whether it names one process, by its number, and not any that fits."""
    return isinstance(which, int | Process) or getattr(which, "pid", None) is not None


def _described(which: Which) -> str:
    if isinstance(which, str):
        return f"named {which!r}"
    pid = which if isinstance(which, int) else getattr(which, "pid", None)
    return "that meets the condition" if pid is None else f"with number {pid}"


def _short_of_daemon(process: Process, adopter: int, session: int, cwd: str | None) -> list[str]:
    found = []
    if process.sid == session:
        found.append(f"its session is this test's ({session})")
    if process.ppid != adopter:
        found.append(f"its parent is {process.ppid}, not {adopter}")
    if process.tty is not None:
        found.append(f"it has the terminal {process.tty}")
    if cwd is not None and process.cwd != cwd:
        found.append(f"its directory is {process.cwd}, not {cwd}")
    return found
