# SPDX-License-Identifier: MIT
"""Several isolated tests at the same time, in one session (``--nsisolate-jobs``).

Fact: an isolated test runs in a process of its own from its first function-scope fixture to its
last finalizer. The runner only waits for what it says.

Consequence: the runner launches children *ahead*, for items whose turn is still to come, and
pytest's loop goes on as ever, one item after the other. When the turn of such an item comes, its
child is at work already or has ended, and its reports are taken in as if it had just been
launched. There is one session, each wider fixture is set up once, and the reports come in the
order of one job.

A child goes ahead if its item could begin now: what it uses of wider scopes stands, nothing stands
that would be torn down before its turn, and every item in between is isolated too. The first item
that cannot is where the runner stops to look ahead, so no code of a wider fixture and no test that
is not isolated ever runs beside one of these children.

What still fails: between the set-up of a wider fixture and the first item's own set-up, and at the
border of scopes that own fixtures, one test runs alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

import pytest

from pytest_nsisolate.child import fixtures
from pytest_nsisolate.child.ahead import AheadChild
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os, resource, select, signal
from pytest_nsisolate.process.job_control import INTERRUPT_GRACE, Job
from pytest_nsisolate.runner import cloning
from pytest_nsisolate.runner.upcoming import Upcoming

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.request.model import IsolationRequest
    from pytest_nsisolate.runner.attempt import Attempt
    from pytest_nsisolate.runner.run import Run

#: Of the items to come so many are looked at for each job: a long test at its turn holds back what
#: is reported, not what runs.
_DEPTH: Final = 8

#: Descriptors that the runner holds for one child, at most, with what a launch needs.
_DESCRIPTORS: Final = 14

#: Descriptors that a runner has beside these, generously.
_OWN_FILES: Final = 64

#: Descriptors that the suite may need while these children are at work.
_RESERVE: Final = 64

#: Of the descriptors that it may have, the part that children that wait for their turn may take.
_PART: Final = 2


class _Descriptors:
    """What the descriptors of this process allow.

    :param children: as many as shall be held.
    :ivar children: as many as can be.
    """

    def __init__(self, children: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = soft - len(os.listdir("/proc/self/fd"))
        self.children = max(1, min(children, free // _DESCRIPTORS // _PART))
        #: The numbers from here on are left to the suite.
        self._last = soft - min(_RESERVE, soft // 4)

    def are_short(self, children: Iterable[ChildProcess | None]) -> bool:
        """Whether the suite has opened many since the run began.

        :param children: those that were launched ahead.
        """
        return any(
            child is not None and max(child.descriptors()) >= self._last for child in children
        )

    def exceed_limit_of(self, request: IsolationRequest) -> bool:
        """Whether its limit of files may be below what the runner holds for the others.

        Such a test has its turn when none of them is left.
        """
        files = None if request.limits is None else request.limits.files
        return files is not None and files < self.children * _DESCRIPTORS + _OWN_FILES


class Jobs:
    """The children that were launched ahead, in the runner.

    :param limit: how many isolated tests may be at work, the current one included.
    """

    def __init__(self, run: Run, session: pytest.Session, limit: int) -> None:
        self._run = run
        self._session = session
        self._descriptors = _Descriptors(_DEPTH * limit)
        self._limit = min(limit, self._descriptors.children)
        self._upcoming = Upcoming(session, self._descriptors.children)
        self._ahead: dict[pytest.Item, Attempt] = {}
        #: Of those that were asked for: what the hook has made of the request.
        self._requests: dict[pytest.Item, IsolationRequest] = {}
        #: These have their turn and nothing before it.
        self._not_ahead: set[pytest.Item] = set()
        self._may_launch = False
        self._leaves_no_trace = False
        #: The item that could not begin when it was last looked at; what stands has not changed.
        self._border: pytest.Item | None = None
        #: What Ctrl-Z does.
        self.stopping = ExitStack()
        #: The attempt at the item whose turn it is.
        self.current: Attempt | None = None
        #: As they are between two items.
        self.warning_filters: list[object] = []

    # The current item ---------------------------------------------------------------------------

    def come_to(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """It is this item's turn: wait for its child, if it has one.

        Until that has something to say; or until it has ended, if the runner must not launch others
        while hooks of the item are in force.
        """
        self._upcoming.come_to(item, nextitem)
        self._leaves_no_trace = all(
            internals.is_builtin(found.plugin) or _is_ours(found.plugin)
            for hook in (item.ihook.pytest_runtest_protocol, item.ihook.pytest_runtest_setup)
            for found in hook.get_hookimpls()
        )
        self.warning_filters = [*getattr(sys.modules["warnings"], "filters")]  # noqa: B009
        self._drop_missed(item)
        with self._launching():
            self._launch_more(first=item)
            while (attempt := self._ahead.get(item)) is not None:
                child = attempt.child
                assert child is not None
                if child.outcome is not None or (
                    child.inbox.frames if self._leaves_no_trace else child.deadline.paused
                ):
                    break
                self.wait_with(child, child.seconds_left)
                child.listen()

    def adopt(self, item: pytest.Item, request: IsolationRequest) -> Attempt | None:
        """The attempt that was launched ahead for this item, to be taken over now.

        None where there is none, or its child has left the decision to the runner; then there is
        room for an ordinary one when this returns.
        """
        attempt = self._ahead.pop(item, None)
        self._requests.pop(item, None)
        self.current = None
        if attempt is not None:
            child = attempt.child
            assert child is not None
            while not child.inbox.ready and child.outcome is None:
                self.wait_with(child, child.seconds_left)
                child.listen()
            if child.inbox.ready:
                self.current = attempt
                return attempt
            child.end_and_reap()
            self._not_ahead.add(item)
        while not self._has_room(request):
            self.wait_with(None, None)
        return None

    def request_of(self, item: pytest.Item) -> IsolationRequest | None:
        """What an item that was launched ahead has asked for."""
        return self._requests.get(item)

    def launching(self) -> AbstractContextManager[None]:
        """While this lasts, no hook of the current phase is at work, and others may be launched.

        Not where its set-up hooks are another plugin's: they may have changed this process for
        their item.
        """
        return self._launching() if self._leaves_no_trace else nullcontext()

    @contextmanager
    def _launching(self) -> Iterator[None]:
        before, self._may_launch = self._may_launch, True
        self._border = None
        try:
            yield
        finally:
            self._may_launch = before

    # While the runner waits ---------------------------------------------------------------------

    def wait_with(self, child: ChildProcess | None, seconds: float | None) -> None:
        """Until this child may have an answer, or so many seconds are over.

        Meanwhile the others are heard, bounded and replaced.

        :param child: None: until any other may have one.
        """
        until = None if seconds is None else monotonic() + seconds
        while True:
            if self._may_launch:
                self._launch_more()
            others = [other for other in self._unfinished() if other is not child]
            own = () if child is None else child.watched()
            owners = {fd: other for other in others for fd in other.watched()}
            poller = select.poll()
            for fd in (*own, *owners):
                poller.register(fd, select.POLLIN)
            left = None if until is None else max(until - monotonic(), 0)
            limits = [left, *(other.seconds_left for other in others)]
            if self._run.trace is not None:
                limits.append(self._run.trace.sightings.look())
            known = [limit for limit in limits if limit is not None]
            ready = {fd for fd, _ in poller.poll(min(known) * 1000 if known else None)}
            for other in others:
                if other.seconds_left == 0 or not ready.isdisjoint(other.watched()):
                    other.listen()
            if child is None or not ready.isdisjoint(own):
                return
            if until is not None and monotonic() >= until:
                return

    def hold(self) -> None:
        """Ctrl-Z: every child stops with the runner."""
        for child in self._unfinished():
            Job(child).hold()

    def go_on(self) -> None:
        """The runner goes on, and so do its children."""
        for child in self._unfinished():
            Job(child).go_on()

    def inside(self, item: pytest.Item, request: IsolationRequest) -> frozenset[str]:
        """The wider fixtures that the item's child sets up.

        Those of the request, and the one of a ``unittest`` class that does nothing: in the runner
        it would be a border, like any other of its scope.
        """
        inside = fixtures.left_to_child(item, request.inside)
        return inside | internals.idle_class_fixtures(item)

    def let_go_of_others(self) -> None:
        """In a child: close what has been covered of theirs, and nothing here will ever use.

        There may be hundreds, and a test with a limit of its own has the lowest numbers only.
        Nor does a Ctrl-Z concern them any more.
        """
        self.stopping.close()
        for attempt in (*self._ahead.values(), self.current):
            if attempt is not None and attempt.child is not None and not attempt.child.reaped:
                for fd in attempt.child.descriptors():
                    os.close(fd)

    def abandon(self) -> bool:
        """Nothing of what is at work counts any more: it may tear down for a while. Bounded.

        :returns: whether there was anything.
        """
        attempts, self._ahead = [*self._ahead.values()], {}
        self._requests.clear()
        children = [attempt.child for attempt in attempts if attempt.child is not None]
        try:
            waited = [child for child in children if child.outcome is None]
            for child in waited:
                child.end.send_signal(signal.SIGINT)
            until = monotonic() + INTERRUPT_GRACE
            for child in waited:
                while child.outcome is None and (left := until - monotonic()) > 0:
                    if not child.wait(left) or child.next_frame() is None:
                        break
        finally:
            for child in children:
                child.end_and_reap()
        return bool(children)

    # Ahead --------------------------------------------------------------------------------------

    def _drop_missed(self, item: pytest.Item) -> None:
        """Children whose item has been passed over: a hook has skipped it, or it was stolen."""
        for missed in self._ahead.keys() - {item, *self._upcoming}:
            attempt = self._ahead.pop(missed)
            self._requests.pop(missed, None)
            if attempt.child is not None:
                Job(attempt.child).interrupt()
                attempt.child.reap()

    def _launch_more(self, first: pytest.Item | None = None) -> None:
        session, requests = self._session, self._run.requests
        for item in (*(() if first is None else (first,)), *self._upcoming):
            if session.shouldfail or session.shouldstop or item not in requests:
                return
            if debuggers.is_active():
                return  # what is debugged is one test at a time
            if item in self._ahead or item in self._not_ahead:
                continue
            if item is self._border or len(self._running()) >= self._limit:
                return
            if self._descriptors.are_short(attempt.child for attempt in self._ahead.values()):
                return
            if requests[item].share is not None or internals.is_left_out(item):
                self._not_ahead.add(item)
                continue
            if not self._can_begin(item) or self._descriptors.exceed_limit_of(requests[item]):
                self._border = item
                return
            if self._has_room(requests[item]):
                self._launch(item, self._upcoming.behind(item))

    def _can_begin(self, item: pytest.Item) -> bool:
        if not internals.can_begin_in_copy(item):
            return False
        inside = self.inside(item, self._run.requests[item])
        names = [name for name in internals.higher_scope_names(item) if name not in inside]
        return all(internals.stands_for(item, name) for name in names)

    def _launch(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        run = self._run
        request = run.requests[item]
        try:
            changed = item.ihook.pytest_nsisolate_configure(item=item, request=request)
            request = request if changed is None else changed
            attempt = cloning.launch_ahead(item, nextitem, request, run)
        except Exception:
            # When its turn comes it is tried again, and told as ever.
            self._not_ahead.add(item)
            return
        self._ahead[item] = attempt
        self._requests[item] = request

    def _has_room(self, request: IsolationRequest) -> bool:
        """Whether a test with this request may begin beside those that are at work."""
        running = self._running()
        return len(running) < self._limit and not any(
            request.excludes(attempt.request) for attempt in running
        )

    def _running(self) -> list[Attempt]:
        """Those at work, without those that stand at a prompt."""
        return [
            attempt
            for attempt in (*self._ahead.values(), self.current)
            if attempt is not None
            and attempt.child is not None
            and attempt.child.outcome is None
            and not attempt.child.deadline.paused
        ]

    def _unfinished(self) -> list[ChildProcess]:
        """Those that have not ended."""
        attempts = (*self._ahead.values(), self.current)
        children = [attempt.child for attempt in attempts if attempt is not None]
        return [child for child in children if child is not None and child.outcome is None]


def _is_ours(plugin: object) -> bool:
    name = getattr(plugin, "__name__", None) or type(plugin).__module__
    return str(name).startswith("pytest_nsisolate.")


class AheadHooks:
    """In a child that was launched ahead: what stands for pytest's own loop over the phases.

    The wrappers of the protocol run round it. No other plugin's protocol does: one that repeats
    tests decides about that in the runner.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        """In the runner nothing, so that the next plugin is asked."""
        if isinstance(self._run.in_child, AheadChild):
            self._run.in_child.run_phases()
