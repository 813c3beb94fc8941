# SPDX-License-Identifier: MIT
"""The limits of one attempt: the child puts them into force, the runner asks which it has met.

Fact: the kernel tells of a limit in three ways. A group counts how often it was met; a signal ends
the process; or a call fails with an error number, which the test may catch, or turn into anything.

Consequence: what a group has counted is said of every failing phase. A signal is one of a limit if
that fits the signal, and the processor time that was used. An error number counts if it is that of
the failure's exception or of what that came from (:func:`pytest_nsisolate.request.limits.errnos`).

What still fails: without a group, a failure that only says so in its text is not recognised.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import cgroups, rlimits
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.process import diagnosis, outcome
from pytest_nsisolate.request.limits import spelled

#: What bounds it among cgroups.
CONTROLLERS: Final = {"memory": "memory", "processes": "pids"}

#: The error number by which a process learns of a limit (errno(3)).
_ERRNOS: Final = {
    "memory": errno.ENOMEM,
    "processes": errno.EAGAIN,
    "files": errno.EMFILE,
    "file_size": errno.EFBIG,
}


class Bound(NamedTuple):
    """One limit, and what holds it.

    :param name: of :data:`pytest_nsisolate.request.limits.NAMES`.
    :param value: in bytes, seconds or a number.
    :param mechanism: in the words of reports: ``"cgroup v1"``, ``"RLIMIT_AS"``.
    """

    name: str
    value: int
    mechanism: str

    def __str__(self) -> str:
        said = spelled(self.name, self.value)
        match self.name:
            case "memory":
                return f"out of memory: limits memory={said} ({self.mechanism})"
            case "processes":
                return f"process limit {said} reached ({self.mechanism})"
            case "cpu":
                return f"cpu limit of {said} s used up ({self.mechanism})"
            case "files":
                return f"file limit {said} reached ({self.mechanism})"
        return f"file size limit {said} reached ({self.mechanism})"


@dataclass(slots=True)
class HeldLimits:
    """The limits of one attempt. The runner makes it, the child applies it, the runner asks it.

    :param bounds: every limit that was asked for, each exactly once.
    :param groups: those of this attempt, by the name of the limit that each holds.
    :param pid_max: written by PID 1.
    :param own: what the test's process sets for itself.
    """

    bounds: list[Bound]
    groups: dict[str, cgroups.Group]
    pid_max: rlimits.PidMax | None = None
    own: tuple[rlimits.Rlimit, ...] = ()
    _met: frozenset[str] | None = None
    _cpu_seconds: float | None = None

    # In the child ---------------------------------------------------------------------------------

    def join_groups(self) -> None:
        """Put this process into its groups.

        :raises StepError: ``join the cgroup``.
        """
        doors = {group.door for group in self.groups.values()} - {None}
        for door in doors:
            assert door is not None
            try:
                os.write(door, b"0")
                os.close(door)
            except OSError as error:
                raise StepError("join the cgroup", None, error.errno or 0) from error

    def bound_namespace(self) -> None:
        """In PID 1, once its ``/proc`` is its own.

        :raises StepError: ``write pid_max``.
        """
        if self.pid_max is not None:
            self.pid_max.apply()

    def bound_process(self, *, beside: int) -> None:
        """In the test's process, before any code of the user's.

        :param beside: processes of ours in the same user namespace, which count too.
        :raises StepError: ``setrlimit(RLIMIT_...)``.
        """
        for rlimit in self.own:
            rlimit.apply(beside if rlimit.name == "RLIMIT_NPROC" else 0)

    # In the runner --------------------------------------------------------------------------------

    def launched(self) -> None:
        """The child has been born."""
        for group in self.groups.values():
            group.shut()

    def note_use(self, pid: int) -> None:
        """Keep what processor time a process has had; to be asked before it is reaped."""
        if self._cpu_seconds is None:
            self._cpu_seconds = diagnosis.cpu_seconds(pid)

    def release(self) -> None:
        """Remove what was made for this attempt; may be called again."""
        if self._met is None:
            self._met = self._counted()
        # One group may hold two limits.
        gone = {folder: group.remove() for folder, group in self._by_folder().items()}
        self.groups = {name: one for name, one in self.groups.items() if not gone[one.folder]}

    def met_by_end(self, ended: outcome.Outcome | None, *, pid: int, init: bool) -> list[Bound]:
        """The limits that have ended the test before it was finished.

        :param pid: of what was forked, which has reaped the test, or is the test.
        :param init: the test was not PID 1, so it got the signal of the soft limit.
        """
        number = ended.signal if isinstance(ended, outcome.Crashed) else 0
        if isinstance(ended, outcome.Broken) and "MemoryError" in ended.reason:
            return self.met_by_failure((errno.ENOMEM,))
        found = self.met_by_failure(())
        used = self._cpu_seconds
        if used is None:
            used = diagnosis.cpu_seconds(pid)
        for bound in self.bounds:
            enough = bound.value * (_SURELY if init else _PROBABLY)
            used_up = used is not None and used >= enough
            if (
                (bound.name == "cpu" and number == _SIGXCPU and init)
                or (bound.name == "cpu" and number == _SIGKILL and used_up)
                or (bound.name == "file_size" and number == _SIGXFSZ)
            ):
                found.append(bound)
        return found

    def met_by_failure(self, errnos: Iterable[int]) -> list[Bound]:
        """The limits that a failing phase has met.

        :param errnos: of the exception and what it came from, as the child names them.
        """
        known, counted = {*errnos}, self._counted()
        return [
            bound
            for bound in self.bounds
            if bound.name in counted
            or (not bound.mechanism.startswith("cgroup") and _ERRNOS.get(bound.name) in known)
        ]

    def _counted(self) -> frozenset[str]:
        """Those of which the kernel itself says that they were hit."""
        if self._met is not None:
            return self._met
        groups = self.groups.items()
        return frozenset(name for name, group in groups if group.hits(CONTROLLERS[name]) > 0)

    def _by_folder(self) -> dict[str, cgroups.Group]:
        return {group.folder: group for group in self.groups.values()}


# The signal module has no SIGXCPU on every platform.
_SIGKILL: Final = 9
_SIGXCPU: Final = 24
_SIGXFSZ: Final = 25

#: RLIMIT_CPU counts ticks, each for the process that happens to run, ``/proc`` the time that was
#: really used: on a busy machine 0.8 s of it were a second. No process inside can kill PID 1.
_PROBABLY: Final = 0.5
_SURELY: Final = 0.9
