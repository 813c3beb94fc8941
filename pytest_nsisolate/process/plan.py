# SPDX-License-Identifier: MIT
"""What the forks of one launch do, worked out in the process that launches.

Fact: a plan of mounts depends on the launching process's own mounts, and a fixture may change
those between two tests; but reading ``/proc/self/mountinfo`` for each test touches pages that the
last clone has made expensive.

Consequence: such a plan is kept until ``poll`` on an open mountinfo says that something was mounted
or unmounted (proc_pid_mountinfo(5)), or until one of the paths that must stay reachable changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import CAP_SETPCAP, Host
from pytest_nsisolate.kernel import idmap, mounts, namespaces
from pytest_nsisolate.kernel.originals import os, select
from pytest_nsisolate.request import grants
from pytest_nsisolate.request.model import IsolationRequest, TimeOffsets

if TYPE_CHECKING:
    from pytest_nsisolate.process.limits import HeldLimits
    from pytest_nsisolate.process.place import Place
    from pytest_nsisolate.process.root import Written

_EVERY: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What the forks do.

    :param namespaces: the namespaces to create.
    :param maps: the id map of the user namespace, None without one.
    :param maps_by_runner: the runner holds the capabilities and writes the map, or has a program
        that does; else the supervisor.
    :param add_addresses: gives ``lo`` those that it has besides its own.
    :param keep_capabilities: drop all but these when the namespaces stand (permitted, bounding);
        None keeps what is.
    :param no_new_privs: afterwards no program gains rights by its file.
    :param sheltered: the host's powers are not for the test: it leaves the runner's session
        keyring, and can never write a core file.
    :param cwd: where the test starts; entered again by path where mounts cover something.
    :param lean: the processes beside the test keep no descriptor that is not theirs: another
        process may wait for the end of a pipe that the caller has passed on.
    :param supervised: how it ends is to be known, whoever else waits for this process's children.
    :param join: no new namespaces, but those of this process; the test is not PID 1.
    :param root: what gives the child another root.
    :param limits: what holds those of the test.
    """

    namespaces: frozenset[str]
    maps: idmap.IdMaps | None
    maps_by_runner: bool
    mounts: mounts.MountPlan | None
    time: TimeOffsets | None
    hostname: str | None
    keep_capabilities: tuple[int, int | None] | None
    init: bool
    cwd: str
    lean: bool = False
    supervised: bool = False
    join: Place | None = None
    root: OwnRoot | None = None
    no_new_privs: bool = False
    sheltered: bool = True
    add_addresses: Callable[[], None] | None = None
    limits: HeldLimits | None = None

    @property
    def flags(self) -> int:
        """``CLONE_NEW*`` of every namespace that can be entered at birth (clone(2))."""
        return namespaces.flags_at_birth(self.namespaces)

    @property
    def made(self) -> object | None:
        """Identifies the mounts that are made; None: none are."""
        return self.mounts if self.root is None else self.root.mounts

    @property
    def may_go_direct(self) -> bool:
        """Nothing in this plan needs a supervisor."""
        rare = self.time is not None or self.join is not None or self.supervised
        return "pid" in self.namespaces and not rare


class OwnRoot(Protocol):
    """What one child does for files of its own."""

    @property
    def mounts(self) -> object:
        """The same object for every child that makes the same mounts."""

    def enter(self) -> None:
        """In the child, when its other mounts are made; it stands in ``/`` then.

        :raises StepError: naming the call and the path.
        """

    def launched(self) -> None:
        """In the launching process: there is a child, which has everything."""

    def close(self) -> None:
        """In the launching process: there will be no child."""

    def release(self) -> None:
        """In the launching process: the child has been reaped."""

    def descriptors(self) -> tuple[int, ...]:
        """In the launching process: what no child must have."""

    def written(self) -> Written | None:
        """In the launching process: how to look at what the test has written, if that is known."""


class InUse(Protocol):
    """Paths that must stay reachable, whatever private mounts cover."""

    def mark(self) -> tuple[object, ...]:
        """Changes as soon as the paths may have changed; cheap, asked for each launch."""

    def paths(self) -> Iterable[str]:
        """The paths, absolute or not, in any order."""

    def stays(self) -> tuple[str, ...]:
        """Those that stay the host's and writable, whatever the root of a child is.

        Real paths, none below another.
        """

    def shown(self) -> Iterable[str]:
        """Those that a root which is not the host's has too, read-only; none: nor Python."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Paths in use that do not change."""

    these: tuple[str, ...]

    def mark(self) -> tuple[object, ...]:
        """The paths themselves."""
        return self.these

    def paths(self) -> Iterable[str]:
        """As given."""
        return self.these

    def stays(self) -> tuple[str, ...]:
        """None."""
        return ()

    def shown(self) -> tuple[str, ...]:
        """None: a command is not Python."""
        return ()


class MountPlans:
    """Plans by what is asked for; see the module.

    :raises StepError: without a ``/proc``.
    """

    def __init__(self, in_use: InUse) -> None:
        self._in_use = in_use
        self._plans: dict[tuple[object, ...], mounts.MountPlan] = {}
        try:
            self.watched = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StepError("read mountinfo", "mount", error.errno or 0) from error
        self._poller = select.poll()
        self._poller.register(self.watched, select.POLLPRI | select.POLLERR)
        #: How often something was mounted or unmounted, as far as :meth:`plan` has seen it.
        self.generation = 0

    def plan(
        self,
        wanted: frozenset[str],
        devices: tuple[str, ...] | None,
        writable: tuple[str, ...] | None = None,
    ) -> mounts.MountPlan:
        """The plan for these namespaces, as things stand now.

        :param devices: what a minimal ``/dev`` has besides; None: the host's ``/dev``.
        :param writable: what alone stays writable; None: everything.
        :raises StepError: when the mounts cannot be read.
        """
        if self._poller.poll(0):
            self._plans.clear()
            self.generation += 1
        key = (wanted, devices, writable, *self._in_use.mark())
        if key not in self._plans:
            self._plans[key] = mounts.plan_mounts(
                own=wanted,
                in_use=self._in_use.paths(),
                more_devices=devices,
                writable=writable,
            )
        return self._plans[key]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.watched)


def own_maps(request: IsolationRequest, host: Host) -> idmap.IdMaps:
    """For a launcher without the right to write more: its own id alone.

    :param host: the launcher's standing.
    """
    same = request.user == "same"
    return idmap.single_maps(
        inside_uid=host.euid if same else 0,
        inside_gid=host.egid if same else 0,
        outside_uid=host.euid,
        outside_gid=host.egid,
    )


def kept_capabilities(
    request: IsolationRequest, host: Host, held: tuple[int, int]
) -> tuple[int, int | None] | None:
    """Which ones stay, permitted and in the bounding set; None: all of them.

    ``user="same"``: no more than the launcher itself holds. Where the host refuses a user namespace
    that was not given up by ``user=False``, none of those that reach beyond the test.

    :param held: the launcher's permitted and bounding set.
    """
    if request.caps is not None:
        mask = grants.mask(request.caps)
    elif request.guarded:
        mask = ~grants.mask(grants.HOST_WIDE) & _EVERY
    elif request.user == "same":
        return held
    else:
        return None
    # Without CAP_SETPCAP nothing leaves the bounding set; asked for by name, that is a refusal.
    if request.caps is None and not host.holds(CAP_SETPCAP):
        return mask, None
    return (mask & held[0], mask) if request.user == "same" else (mask, mask)


def current_directory() -> str:
    """Where this process stands; ``/`` if that has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
