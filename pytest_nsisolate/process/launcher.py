# SPDX-License-Identifier: MIT
"""The one way into namespaces: for tests, for ``isolate``, for the command line and the host check.

One launcher serves one process. It knows what this process may do here, asks the host check,
has the plan made, forks, keeps a list of what it has started, and gives back what was made for a
process that was not born. Each refusal on the way is a
:class:`~pytest_nsisolate.host.refusal.RefusedError` with its cause and its remedy.

Everything is made, and most of it imported, at the first launch that needs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host import Host, examine
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.kernel.originals import threading
from pytest_nsisolate.wire.steps import Steps

if TYPE_CHECKING:
    from pytest_nsisolate.process.channel import Output, RunnerEnd, Shared
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.fellows import Fellows
    from pytest_nsisolate.process.host_check import HostCheck
    from pytest_nsisolate.process.limit_mechanisms import LimitMechanisms
    from pytest_nsisolate.process.limits import HeldLimits
    from pytest_nsisolate.process.place import Place
    from pytest_nsisolate.process.plan import InUse, LaunchPlan, OwnRoot
    from pytest_nsisolate.process.planner import Planner
    from pytest_nsisolate.process.sharing import Sharing
    from pytest_nsisolate.request.model import IsolationRequest, UserMode
    from pytest_nsisolate.wire.frames import FrameWriter

_MOST_LAUNCHED: Final = 1000


class Launcher:
    """What launches need, in the process that launches; see the module.

    :param in_use: paths that must stay reachable in every child.
    :param foreign: gives descriptors that no child may have; asked once, at the first launch.
    """

    def __init__(self, in_use: InUse, foreign: Callable[[], tuple[int, ...]] = tuple) -> None:
        self._in_use = in_use
        self._foreign = foreign
        #: Held while a child is forked, and while a thread closes what it holds of its child.
        self.lock = threading.RLock()
        self._children: list[ChildProcess] = []
        self._planner: Planner | None = None
        self._limit_mechanisms: LimitMechanisms | None = None
        #: In one of several workers of a run: what it has to do with the others.
        self.fellows: Fellows | None = None
        #: There is a trace: its children note their steps on the way in.
        self.traced = False
        #: The last of them, until the trace has asked.
        self.launched: deque[RunnerEnd] = deque(maxlen=_MOST_LAUNCHED)

    # What this process is on this host -----------------------------------------------------------

    @cached_property
    def host(self) -> Host:
        """The standing of this process, examined at the first use."""
        return examine()

    @cached_property
    def check(self) -> HostCheck:
        """The verdicts on this host."""
        from pytest_nsisolate.process.host_check import HostCheck

        return HostCheck(self)

    def notes(self) -> tuple[str, ...]:
        """What the host check has to say, if it was asked; one line each."""
        check: HostCheck | None = vars(self).get("check")
        return () if check is None else check.notes()

    def explained(self, refusal: Refusal, user: UserMode = "map") -> Refusal:
        """The same refusal, with its cause and its remedy.

        :param user: how the request wanted its user namespace.
        """
        if refusal.cause:
            return refusal
        from pytest_nsisolate.host.remedies import explained

        return explained(refusal, self.host, user=user)

    # The way in ----------------------------------------------------------------------------------

    def admit(self, request: IsolationRequest) -> IsolationRequest:
        """What this host gives of a request: everything, except perhaps an implied user namespace.

        :raises RefusedError: if it refuses.
        """
        with self._refusing(request), failing("examine this host", None):
            verdict = self.check.probe(request.namespaces, request.user, request.named)
        if verdict.refusal is not None:
            raise RefusedError(verdict.refusal)
        return request.without_user_namespace() if verdict.leave_out_user else request

    @contextmanager
    def preparing(
        self,
        request: IsolationRequest,
        *,
        watchdog: bool = False,
        lean: bool = False,
        supervised: bool = False,
        join: Place | None = None,
        cwd: str | None = None,
        limits: HeldLimits | None = None,
        looks: bool = False,
    ) -> Iterator[Launch]:
        """A launch, to be carried out in this block by :meth:`Launch.fork`.

        If no child is born in it, what was made for it is given back.

        :param request: as :meth:`admit` has given it.
        :param watchdog: whether one may be started, for this child and those that come.
        :param lean: see :class:`~pytest_nsisolate.process.plan.LaunchPlan`.
        :param supervised: likewise.
        :param join: a process whose namespaces the child joins; those of the request are these.
        :param cwd: where the child starts, seen from inside; None: where this process stands.
        :param limits: what holds limits that the request does not have.
        :param looks: with a root of its own, the child is to see the host's files as they were.
        :raises RefusedError: for every step that fails on this side.
        """
        from pytest_nsisolate.process.channel import Output

        under_way: Launch | None = None
        files: Output | None = None
        own: OwnRoot | None = None
        held = limits
        try:
            with self._refusing(request):
                with failing("prepare the launch", None):
                    shared = self.sharing.get(watchdog=watchdog)
                    files = Output.create()
                    if held is None and join is None and request.limits is not None:
                        held = self.limit_mechanisms.enforce(
                            request.limits, request.namespaces, init=request.init
                        )
                    plan = self.planner.plan(request, join, cwd, looks=looks)
                    own = plan.root
                    if lean or held is not None:
                        plan = replace(plan, lean=lean, supervised=supervised, limits=held)
                under_way = Launch(self, plan, files, shared)
                yield under_way
        finally:
            if under_way is None or not under_way.born:
                if files is not None:
                    files.close()
                if held is not None:
                    held.release()
                if own is not None:
                    own.close()

    def start(
        self,
        request: IsolationRequest,
        prepare: Callable[[Output], Callable[[FrameWriter], NoReturn]],
        *,
        budget: float | None,
        measured: bool = False,
        interruptible: bool = False,
        patient: bool = False,
        ready: bool = False,
        **options: Any,
    ) -> ChildProcess:
        """Start a process that runs a body. If this is interrupted, nothing of it is left.

        :param prepare: makes the body, where that costs no page, of the files of its output.
        :param budget: seconds that the body has; None is no limit.
        :param measured: coverage is under way.
        :param interruptible: a Ctrl-C that comes meanwhile is passed on, for the body has begun
            perhaps, and has something to tear down.
        :param patient: a debugger may hold it at its end.
        :param ready: wait until it stands in its namespaces, or has ended.
        :param options: those of :meth:`preparing`.
        :raises RefusedError: as :meth:`preparing`.
        """
        born: list[ChildProcess] = []
        try:
            with self.preparing(request, lean=True, **options) as launch:
                body = prepare(launch.files)
                writer = launch.fork(born.append, budget=budget, measured=measured)
            if writer is None:
                born[0].inbox.patient = patient
                if ready:
                    born[0].get_ready()
        except BaseException as error:
            for child in born:
                # A Ctrl-C that has waited for the end of the fork: no caller gets this child.
                # Once its number is known the supervisor reaps it; else it would be an orphan,
                # and a zombie for ever where this process is PID 1.
                try:
                    child.get_ready()
                    if interruptible and isinstance(error, KeyboardInterrupt):
                        from pytest_nsisolate.process import job_control

                        job_control.Job(child).interrupt()
                finally:
                    child.end_and_reap()
            raise
        if writer is not None:
            body(writer)
        return born[0]

    def start_admitted(
        self,
        request: IsolationRequest,
        prepare: Callable[[Output], Callable[[FrameWriter], NoReturn]],
        **options: Any,
    ) -> tuple[ChildProcess, IsolationRequest]:
        """:meth:`admit` and :meth:`start` in one, and what was admitted.

        Where nothing is known yet, this child is the trial, which spares the time of another one.
        The host check is asked only if it does not get ready.

        :param options: those of :meth:`start`.
        :raises RefusedError: as both.
        """
        if self.check.knows(request):
            request = self.admit(request)
            return self.start(request, prepare, **options), request
        with self._refusing(request), failing("examine this host", None):
            self.check.look_at_caller()
        child = self.start(request, prepare, ready=True, **options)
        if child.inbox.ready:
            self.check.note_success(request)
            return child, request
        try:
            admitted = self.admit(request)
        except BaseException:
            child.end_and_reap()
            raise
        if admitted == request:
            return child, request  # refused for what the host check does not ask
        child.end_and_reap()
        return self.start(admitted, prepare, **options), admitted

    @contextmanager
    def _refusing(self, request: IsolationRequest) -> Iterator[None]:
        try:
            yield
        except StepError as error:
            raise RefusedError(self.explained(Refusal.of(error), request.user)) from None

    # What is held here, for children and of them ------------------------------------------------

    @property
    def planner(self) -> Planner:
        """What makes plans."""
        if self._planner is None:
            from pytest_nsisolate.process.planner import Planner

            self._planner = Planner(self, self._in_use)
        return self._planner

    @property
    def limit_mechanisms(self) -> LimitMechanisms:
        """What holds limits here."""
        if self._limit_mechanisms is None:
            from pytest_nsisolate.process.limit_mechanisms import LimitMechanisms

            self._limit_mechanisms = LimitMechanisms(self)
        return self._limit_mechanisms

    @cached_property
    def sharing(self) -> Sharing:
        """What all children inherit."""
        from pytest_nsisolate.process.sharing import Sharing

        return Sharing(self._foreign)

    def dismiss_watchdog(self) -> None:
        """``os.wait()`` in code of the suite's would block on it."""
        if "sharing" in vars(self):
            self.sharing.dismiss_watchdog()

    def held(self) -> tuple[int, ...]:
        """Descriptors that the next child must not have: of other children, and of the mounts."""
        self._children = [child for child in self._children if not child.reaped]
        own = () if self._planner is None else self._planner.descriptors()
        if self.fellows is not None:
            own += self.fellows.descriptors()
        return (*own, *(fd for child in self._children for fd in child.descriptors()))

    def take_on(self, child: ChildProcess) -> None:
        """A child has been born, and is this launcher's until it is reaped."""
        self._children.append(child)
        if self.traced:
            self.launched.append(child.end)

    def close(self) -> None:
        """End and reap what is left, and give everything back."""
        for child in self._children:
            child.end_and_reap()
        self._children.clear()
        if self._limit_mechanisms is not None:
            self._limit_mechanisms.close()
        self.dismiss_watchdog()
        if self._planner is not None:
            self._planner.close()
            self._planner = None
        if self.fellows is not None:
            self.fellows.close()
            self.fellows = None
        if "sharing" in vars(self):
            self.sharing.close()


class Launch:
    """One launch under way; made by :meth:`Launcher.preparing`."""

    def __init__(self, launcher: Launcher, plan: LaunchPlan, files: Output, shared: Shared) -> None:
        self.plan = plan
        #: Where the child's output goes; the child's from its birth on.
        self.files = files
        #: Whether there is a child; in the child itself too.
        self.born = False
        self._launcher = launcher
        self._shared = shared

    def fork(
        self,
        take_on: Callable[[ChildProcess], None],
        *,
        budget: float | None,
        measured: bool = False,
    ) -> FrameWriter | None:
        """Clone this process into new namespaces. Returns twice.

        In this process: None, after ``take_on`` got the child. In the child: the way to this
        process, when everything in the plan stands.

        :param budget: seconds that the child has; None is no limit.
        :param measured: coverage is under way, so a child that is late is asked for what it has.
        :raises StepError: when no process can be started.
        """
        from pytest_nsisolate.process import launch
        from pytest_nsisolate.process.child_process import ChildProcess

        plan = self.plan

        def register(end: RunnerEnd) -> None:
            child = ChildProcess(
                end,
                maps=plan.maps,
                budget=budget,
                init=plan.init,
                measured=measured,
                limits=plan.limits,
            )
            self.born = True
            if plan.root is not None:
                plan.root.launched()
                child.root = plan.root
            self._launcher.take_on(child)
            take_on(child)

        held = self._launcher.held()
        if plan.root is not None:
            held += plan.root.descriptors()
        steps = Steps() if self._launcher.traced else None
        writer = launch.launch(plan, self.files, self._shared, held, register, steps)
        self.born = True
        return writer
