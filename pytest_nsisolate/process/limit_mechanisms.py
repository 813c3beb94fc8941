# SPDX-License-Identifier: MIT
"""Which mechanism holds each limit of a test.

Fact: no mechanism is everywhere. A group needs a cgroup file system that the runner may write to;
RLIMIT_NPROC does not bind root; a ``pid_max`` of one's own needs Linux 6.14 and is at least 301.

Consequence: before each launch the runner goes through the mechanisms in a fixed order and takes
the first one that works, tried for real. Where none works the test is refused, with what was wrong
with each: a limit that does not hold is worse than none.

``pid_max`` needs no group and works without any right, so it comes first; but a namespace that has
given out the number 300 has 299 numbers fewer (:mod:`.kernel.rlimits`). Below twice that many
processes it comes last.

What still fails: RLIMIT_AS and the limits of processor time, files and file sizes are each
process's own; a test that starts others has as much for each. Memory that the runner had before
counts in none of them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, NoReturn

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host.refusal import RefusedError
from pytest_nsisolate.kernel import cgroups, rlimits
from pytest_nsisolate.kernel.originals import os, posix
from pytest_nsisolate.process.channel import STEP_SECONDS
from pytest_nsisolate.process.limits import CONTROLLERS, Bound, HeldLimits
from pytest_nsisolate.process.outcome import Exited
from pytest_nsisolate.request.limits import Limits, spelled
from pytest_nsisolate.request.model import IsolationRequest

if TYPE_CHECKING:
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.wire.frames import FrameWriter

#: From here on a ``pid_max`` leaves at least half of the processes that were asked for.
_ENOUGH_FOR_PID_MAX: Final = 2 * rlimits.RESERVED_PIDS

#: Descriptors that a test process needs beside those that are open in the runner.
_SPARE_FILES: Final = 16

#: How a report names it.
_PID_MAX: Final = "pid_max of its PID namespace"


class LimitMechanisms:
    """What a launcher knows of this host's mechanisms."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._serial = count()
        self._swept = False
        self._nproc: bool | None = None
        self._made: list[HeldLimits] = []

    def enforce(self, limits: Limits, namespaces: frozenset[str], *, init: bool) -> HeldLimits:
        """Decide and prepare: all of the limits, or none.

        :param namespaces: those of the test.
        :param init: the test is not PID 1.
        :raises StepError: ``limit NAME=VALUE`` where nothing here holds it; the detail says why.
        """
        self._made = [one for one in self._made if one.groups]
        made = HeldLimits([], {})
        self._made.append(made)
        try:
            for name, value in limits.given().items():
                self._bound(made, name, value, namespaces, init=init)
        except BaseException:
            made.release()
            raise
        return made

    def close(self) -> None:
        """At the end of a run: whatever it was interrupted in, no group is left."""
        for made in self._made:
            made.release()

    def _bound(
        self, made: HeldLimits, name: str, value: int, namespaces: frozenset[str], *, init: bool
    ) -> None:
        if name == "processes" and init and value == 1:
            detail = "the init is one already, and the test another"
            raise StepError(f"limit {name}={value}", None, errno.EINVAL, detail)
        failures: list[str] = []
        number = errno.EOPNOTSUPP
        for mechanism, attempt in self._mechanisms(made, name, value, namespaces, init=init):
            try:
                bound = attempt()
            except StepError as error:
                failures.append(f"{mechanism}: {error.detail or error.step}, {error.errno_name}")
                number = error.errno
            else:
                made.bounds.append(Bound(name, bound, mechanism))
                return
        step = f"limit {name}={spelled(name, value)}"
        raise StepError(step, None, number, "; ".join(failures))

    def _mechanisms(
        self, made: HeldLimits, name: str, value: int, namespaces: frozenset[str], *, init: bool
    ) -> Iterator[tuple[str, Callable[[], int]]]:
        """(its name, what tries it and gives the value that holds), the first choice first."""
        late = name == "processes" and value < _ENOUGH_FOR_PID_MAX

        def pid_max() -> int:
            return self._own_pid_max(made, value, namespaces)

        if name == "processes" and not late:
            yield _PID_MAX, pid_max
        if name in CONTROLLERS:
            places = cgroups.places(CONTROLLERS[name])
            for place in places:
                yield place.name, partial(self._group, made, place, name, value)
            if not places:
                yield "cgroups", _no_place
        yield rlimits.RESOURCES[name], lambda: self._rlimit(made, name, value, namespaces, init)
        if late:
            yield _PID_MAX, pid_max

    def _group(self, made: HeldLimits, place: cgroups.Place, name: str, value: int) -> int:
        group = next(
            (one for one in made.groups.values() if one.place.folder == place.folder), None
        )
        if group is None:
            if not self._swept:
                self._swept = True
                cgroups.sweep()
            group = cgroups.make(place, next(self._serial))
        try:
            group.bound(CONTROLLERS[name], value)
        except StepError:
            if group not in made.groups.values():
                group.remove()
            raise
        made.groups[name] = group
        return value

    def _own_pid_max(self, made: HeldLimits, value: int, namespaces: frozenset[str]) -> int:
        if "pid" not in namespaces:
            raise StepError("write pid_max", "pid", errno.ENOSYS, "without a PID namespace")
        if self._launcher.host.kernel < rlimits.FIRST_OWN_PID_MAX:
            raise StepError("write pid_max", "pid", errno.ENOSYS, "needs Linux 6.14")
        if value < (least := rlimits.least_processes()):
            detail = f"from {least} processes on"
            raise StepError("write pid_max", "pid", errno.EINVAL, detail)
        made.pid_max = rlimits.plan_pid_max(value)
        return value

    def _rlimit(
        self, made: HeldLimits, name: str, value: int, namespaces: frozenset[str], init: bool
    ) -> int:
        resource = rlimits.RESOURCES[name]
        step = f"setrlimit({resource})"
        if name == "processes" and not ("user" in namespaces and self._nproc_binds()):
            raise StepError(step, None, errno.EPERM, "does not bind this user here")
        if name == "files":
            used = len(os.listdir("/proc/self/fd"))
            if value < used + _SPARE_FILES:
                detail = f"the runner has {used} files open, so from {used + _SPARE_FILES} on"
                raise StepError(step, None, errno.EINVAL, detail)
        inherited = rlimits.address_space() if name == "memory" else 0
        before = rlimits.hard_limit(resource)
        soft = value + inherited
        # PID 1 does not hear of the soft limit; another process gets a second to react.
        hard = soft + 1 if name == "cpu" and init else soft
        if before is not None:
            # The runner's own limit is tighter: it holds, and cannot be raised.
            soft, hard = min(soft, before), min(hard, before)
            if soft <= inherited and inherited:
                raise StepError(step, None, errno.ENOMEM, "the runner's own limit is used up")
        made.own += (rlimits.Rlimit(resource, soft, hard, before),)
        return soft - inherited

    def _nproc_binds(self) -> bool:
        if self._nproc is None:
            self._nproc = False
            alone = IsolationRequest(frozenset(), user="none")
            with suppress(RefusedError):
                child = self._launcher.start(
                    alone, lambda _: _fork_at_the_limit, budget=STEP_SECONDS
                )
                try:
                    while child.next_frame() is not None:
                        pass
                finally:
                    child.end_and_reap()
                self._nproc = child.outcome == Exited(_REFUSED)
        return self._nproc


#: Exit status of the process that asks whether RLIMIT_NPROC binds: it does.
_REFUSED: Final = 1


def _fork_at_the_limit(_: FrameWriter) -> NoReturn:
    """The body of that process; it has nothing to say."""
    status = 0
    try:
        if rlimits.is_refused_a_fork():
            status = _REFUSED
    finally:
        posix._exit(status)


def _no_place() -> int:
    raise StepError("find a cgroup", None, errno.ENODEV, "none here is the runner's to divide")
