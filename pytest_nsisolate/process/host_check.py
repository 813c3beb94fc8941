# SPDX-License-Identifier: MIT
"""What this host gives: a process with an empty body is launched for real.

Fact: whether a namespace can be had, and used, is only known after the call. A sysctl may say yes
and a filter no; Ubuntu's AppArmor grants the user namespace and refuses the id map; a container
grants both and refuses ``/proc``.

Consequence: before the first isolated test of each kind an ordinary launch goes the whole way and
runs nothing (:meth:`~pytest_nsisolate.process.launcher.Launcher.start`), so the check cannot drift
from a launch. It costs about 5 ms, once per kind and run.
Calls and boxes, of which most tests have one, do without: their own launch tells
(:meth:`~pytest_nsisolate.process.launcher.Launcher.start_admitted`).

Where the user namespace was only implied and the runner has the capabilities to do without it, a
refused request is tried again without. That also serves a container with CAP_SYS_ADMIN and a
masked ``/proc``: there the user namespace works, but ``/proc`` can only be mounted without it.

What still fails: a limit that is reached later (max_net_namespaces, pids.max) is not foreseen; the
launch itself reports that, by the same table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host import facts
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.kernel import cgroups, rlimits
from pytest_nsisolate.kernel.originals import os, posix, re
from pytest_nsisolate.process import outcome
from pytest_nsisolate.process.limits import CONTROLLERS, HeldLimits
from pytest_nsisolate.request.model import IsolationRequest, TimeOffsets, UserMode
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.launcher import Launcher

#: What a body opens before its first fixture.
Opening: TypeAlias = Callable[[FrameWriter], object]

#: Requests with the same verdict: namespaces, how the user namespace is wanted, and if by name.
_Kind: TypeAlias = tuple[frozenset[str], UserMode, bool]

#: The step of a process that could not even say how far it came.
START: Final = "start the host check"

#: Not for ever: descriptors, processes or memory were short.
_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request can be had here.

    :param refusal: why not; None if it can.
    :param user_refusal: why it can be had without its user namespace only; None otherwise.
    """

    refusal: Refusal | None = None
    user_refusal: Refusal | None = None

    @property
    def ok(self) -> bool:
        """Every step worked, if need be without the user namespace."""
        return self.refusal is None

    @property
    def leave_out_user(self) -> bool:
        """Run without the user namespace, which was only implied and is refused."""
        return self.ok and self.user_refusal is not None


class HostCheck:
    """The verdicts of one launcher: each kind of request is tried once."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._verdicts: dict[_Kind, Verdict] = {}
        self._notes: dict[str, None] = {}

    def probe(self, namespaces: frozenset[str], user: UserMode, named: frozenset[str]) -> Verdict:
        """The verdict on a request; forks for the first one of its kind.

        :param namespaces: what the request enters, ``"user"`` included.
        :param user: how it wants its user namespace.
        :param named: what the marker named; a user namespace named there is never left out.
        """
        kind = (namespaces, user, "user" in named)
        verdict = self._verdict(kind)
        if verdict is None:
            verdict = self._verdicts[kind] = self._judge(namespaces, user, named)
            refusal = verdict.user_refusal
            if refusal is not None:
                note = f"nsisolate: without user: {refusal.headline()}: {refusal.cause}"
                self._notes[note] = None
        return verdict

    def _verdict(self, kind: _Kind) -> Verdict | None:
        """What is known of this kind of request for good."""
        verdict = self._verdicts.get(kind)
        return None if verdict is None or _may_pass(verdict) else verdict

    def knows(self, request: IsolationRequest) -> bool:
        """Whether there is a verdict on requests of this kind."""
        return self._verdict(_kind(request)) is not None

    def note_success(self, request: IsolationRequest) -> None:
        """A child stands in everything that this request names."""
        self._verdicts[_kind(request)] = Verdict()

    def look_at_caller(self) -> None:
        """Refuse what would only seem to work.

        :raises StepError: on another kernel, or if a program answers our calls in the kernel's
            place.
        """
        if not self._launcher.host.linux:
            raise StepError("clone", None, errno.ENOSYS)
        pretender = facts.pretender()
        if pretender is not None:
            raise StepError("look at the runner", None, errno.EPERM, pretender)

    def notes(self) -> tuple[str, ...]:
        """What no report says: why tests ran without their user namespace; one line each."""
        return tuple(self._notes)

    def _judge(self, namespaces: frozenset[str], user: UserMode, named: frozenset[str]) -> Verdict:
        refusal = self._try(namespaces, user)
        if refusal is None or not self._may_leave_out_user(refusal, user, named):
            return Verdict(refusal)
        if self._try(namespaces - {"user"}, "none") is None:
            return Verdict(user_refusal=refusal)
        return Verdict(refusal)

    def _may_leave_out_user(self, refusal: Refusal, user: UserMode, named: frozenset[str]) -> bool:
        """The user namespace is refused, or takes away a right that the runner has without it."""
        if user == "none" or "user" in named or not self._launcher.host.privileged:
            return False
        if refusal.step == "drop capabilities":
            return False
        return refusal.namespace == "user" or refusal.errno in (errno.EPERM, errno.EACCES)

    def _try(
        self,
        namespaces: frozenset[str],
        user: UserMode,
        limits: HeldLimits | None = None,
        open_up: Opening | None = None,
        reach: tuple[str, ...] = (),
    ) -> Refusal | None:
        request = IsolationRequest(
            namespaces=namespaces,
            user=user,
            hostname=os.uname().nodename if "uts" in namespaces else None,
            time=TimeOffsets() if "time" in namespaces else None,
            reach=reach,
        )
        try:
            self.look_at_caller()
            refusal = _carry_out(self._launcher, request, limits, open_up)
        except StepError as error:
            refusal = Refusal.of(error)
        except RefusedError as error:
            refusal = error.refusal
        if refusal is None:
            return None
        return _neutral(self._launcher.explained(refusal, user))

    def try_opening(
        self,
        namespaces: frozenset[str],
        user: UserMode,
        open_up: Opening,
        reach: tuple[str, ...] = (),
    ) -> Refusal | None:
        """Whether a test can have something opened before its first fixture; forks each time.

        :param open_up: is called in the child, and asks for its helper outside.
        :param reach: what that is allowed to reach.
        """
        return self._try(namespaces, user, open_up=open_up, reach=reach)

    # What limits can be held ---------------------------------------------------------------------

    def try_limit(self, namespaces: frozenset[str], user: UserMode) -> Refusal | None:
        """Whether a PID namespace of its own can have a limit of processes; forks each time."""
        try:
            if self._launcher.host.kernel < rlimits.FIRST_OWN_PID_MAX:
                # There a write would change the host.
                raise StepError("write pid_max", "pid", errno.ENOSYS)
            with failing("write pid_max", "pid"):
                own = rlimits.plan_pid_max(rlimits.least_processes())
        except StepError as error:
            return self._launcher.explained(Refusal.of(error), user)
        return self._try(namespaces, user, HeldLimits([], {}, pid_max=own))

    def try_cgroups(self) -> tuple[tuple[cgroups.Place, ...], Refusal | None]:
        """Make, join and remove a cgroup for each controller.

        That depends on the owner of the directory, on read-only mounts, and on the common
        ancestor of the old and the new group (cgroups(7)); no file says it.

        :returns: the places where that worked, and the first refusal of the others.
        """
        usable: list[cgroups.Place] = []
        refusal: Refusal | None = None
        for limit, controller in CONTROLLERS.items():
            for place in cgroups.places(controller):
                refused = self._try_place(limit, place)
                if refused is None:
                    usable.append(place)
                    break
                refusal = refusal or refused
        if not usable and refusal is None:
            error = StepError("find a cgroup", None, errno.ENODEV)
            refusal = self._launcher.explained(Refusal.of(error), "none")
        return tuple(usable), refusal

    def _try_place(self, limit: str, place: cgroups.Place) -> Refusal | None:
        try:
            group = cgroups.make(place, 0)
        except StepError as error:
            return self._launcher.explained(Refusal.of(error), "none")
        return self._try(frozenset(), "none", HeldLimits([], {limit: group}))


def _kind(request: IsolationRequest) -> _Kind:
    return request.namespaces, request.user, "user" in request.named


def _may_pass(verdict: Verdict) -> bool:
    """Whether it is refused for want of something that the next test may have; then ask again."""
    refusal = verdict.refusal or verdict.user_refusal
    return refusal is not None and refusal.errno in _TRANSIENT


def _carry_out(
    launcher: Launcher,
    request: IsolationRequest,
    limits: HeldLimits | None,
    open_up: Opening | None,
) -> Refusal | None:
    """Launch it with a body that is empty but for this.

    :raises RefusedError: for a step on this side.
    """
    body = partial(_nothing, open_up)
    child = launcher.start(request, lambda _: body, budget=None, limits=limits)
    child.inbox.reach = request.reach
    try:
        while (frame := child.next_frame()) is not None:
            if frame.kind is Kind.BROKEN:
                # A defect of ours, with its traceback.
                what = str(frame.data["text"]).strip().rpartition("\n")[2]
                return Refusal("launch", None, errno.EPROTO, what)
    finally:
        child.end_and_reap()
    match child.outcome:
        case outcome.Finished():
            return None
        case Refusal() as refusal:
            return refusal
        case _:
            return _lost(child)


def _lost(child: ChildProcess) -> Refusal:
    """The process ended, or was ended, before it could say how far it came."""
    status = child.forked_status
    helpers = child.inbox.helpers
    if helpers is not None and helpers.refused is not None:
        return Refusal.of(helpers.refused)
    match child.outcome:
        case outcome.Broken(reason=reason) if reason.startswith("not ready"):
            return Refusal(START, None, errno.ETIMEDOUT, reason)
        case outcome.Broken(reason=reason) if status is None or os.WIFEXITED(status):
            return Refusal(START, None, errno.EPIPE, reason)
        case outcome.Crashed() as ended:
            return Refusal(START, None, errno.EPIPE, f"PID 1 was killed by {ended.name}")
        case outcome.Exited(status=number):
            return Refusal(START, None, errno.EPIPE, f"PID 1 ended with status {number}")
    assert status is not None
    match outcome.from_wait_status(status):
        case outcome.Crashed() as ended:
            return Refusal(START, None, errno.EPIPE, f"the child was killed by {ended.name}")
        case outcome.Exited(status=number):
            return Refusal(START, None, errno.EPIPE, f"the child ended with status {number}")


def _nothing(open_up: Opening | None, writer: FrameWriter) -> NoReturn:
    """The empty body."""
    try:
        if open_up is not None:
            open_up(writer)
        writer.send_ready()
        writer.send(Kind.DONE, {"phases": [], "alone": False})
    finally:
        posix._exit(0)


def _neutral(refusal: Refusal) -> Refusal:
    """Without the number of a process that is gone."""
    return replace(refusal, detail=re.sub(r"^/proc/\d+/", "/proc/PID/", refusal.detail))
