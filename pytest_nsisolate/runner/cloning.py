# SPDX-License-Identifier: MIT
"""The clone of an isolated test: the child's side is made before it, then one process is two.

Fact: in the child each object that is made or touched is a page to copy.
Consequence: everything that the child needs is made in the runner, just before the clone.

An ordinary child is cloned in its item's set-up (:mod:`.phases`), one that is launched ahead while
another item has its turn (:mod:`.jobs`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import pytest

from pytest_nsisolate.child import fixtures, output
from pytest_nsisolate.child.ahead import AheadChild
from pytest_nsisolate.child.leftovers import LeftoverCheck
from pytest_nsisolate.child.main import Child
from pytest_nsisolate.child.terminal import Turns
from pytest_nsisolate.errors import failing
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import faulthandler
from pytest_nsisolate.process.channel import Output
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner.attempt import Attempt
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.view.postmortem import at_failure
from pytest_nsisolate.wire.frames import FrameWriter


def inside_of(item: pytest.Item, request: IsolationRequest, run: Run) -> frozenset[str]:
    """The wider fixtures that are left to the child."""
    if run.jobs is not None:
        return run.jobs.inside(item, request)
    return fixtures.left_to_child(item, request.inside)


def launch_ahead(
    item: pytest.Item, nextitem: pytest.Item | None, request: IsolationRequest, run: Run
) -> Attempt:
    """Clone a child that goes through the whole protocol by itself. In the child: no return.

    :param nextitem: what comes after that item.
    :param request: what the item has asked for, as the hook has left it.
    :returns: an attempt that its item has to take over when its turn comes.
    :raises RefusedError: when there cannot be a child.
    """
    run.notes.look_at(item)
    attempt = Attempt(item, request, run)
    with failing("open what a child waits at", None):
        attempt.turns = Turns()
    inside = inside_of(item, request, run)
    try:
        attempt.request = run.launcher.admit(request)
        child, writer = clone(item, run, attempt, inside, ahead_of=nextitem)
    except BaseException:
        if attempt.child is None:
            attempt.turns.close()
        raise
    if writer is not None:
        assert isinstance(child, AheadChild)
        assert run.jobs is not None
        run.in_child, run.request = child, attempt.request
        run.jobs.let_go_of_others()
        child.run(writer)
    if run.trace is not None:
        assert attempt.child is not None
        run.trace.watch(item.nodeid, attempt.child)
    return attempt


def clone(
    item: pytest.Item,
    run: Run,
    attempt: Attempt,
    inside: frozenset[str],
    *,
    debugged: bool = False,
    ahead_of: pytest.Item | Literal[False] | None = False,
) -> tuple[Child, FrameWriter | None]:
    """The child's side, made before the clone, where it costs no page, and the clone.

    :param debugged: an editor may be debugging it: no time is too long.
    :param ahead_of: its item's turn is still to come, and this is the one after it.
    :returns: in the runner no writer, and the attempt has its child then.
    :raises RefusedError: when there cannot be a child.
    """
    request = attempt.request
    config = item.config
    ahead = ahead_of is not False
    # A watchdog costs more than it saves one test.
    watched = ahead or run.nextitem in run.requests
    # What it has changed is told beside what there was.
    looks = "pid1" in getattr(item, "fixturenames", ())
    if run.trace is not None:
        run.trace.begin(attempt)
    with run.launcher.preparing(request, watchdog=watched, looks=looks) as launch:
        files = launch.files
        with failing("open what all children share", None):
            run.turns.forget()
        child = _make_child(item, run, attempt, files, inside, ahead_of)
        if child.outgoing.post_mortem is not None:
            child.outgoing.post_mortem.note_plan(launch.plan.made)
        with failing("prepare the launch", None):
            moved = not ahead and output.move_to(files, config)
        output.flush_to_terminal(config)
        if internals.fault_timeout(config) > 0:
            # The child has a watchdog of its own; this one could end the runner. Before the fork:
            # to cancel it afterwards, as arming another does, waits for a thread that the fork
            # has not taken along.
            faulthandler.cancel_dump_traceback_later()

        def take_on(born: ChildProcess) -> None:
            born.inbox.reach = attempt.request.reach
            if ahead:
                attempt.child = born
                assert run.jobs is not None
                assert attempt.turns is not None
                born.meanwhile = run.jobs.wait_with
                born.end.word = attempt.turns.hand_over()
                return
            attempt.take_on(born)
            born.inbox.patient = debugged

        measured = attempt.incoming.measurement
        cloning = nullcontext() if measured is None else measured.cloning()
        # No thread of the suite's may end a call now: its descriptors' numbers would be taken anew.
        with run.launcher.lock, cloning:
            budget = None if debugged else budget_of(item, run, request)
            writer = launch.fork(take_on, budget=budget, measured=measured is not None)
    if writer is None:
        # Now, while the new child is busy: the exit of the last one is over by then.
        run.reap_outstanding()
        if moved:
            output.forget_moved(config)
    return child, writer


def _make_child(
    item: pytest.Item,
    run: Run,
    attempt: Attempt,
    files: Output,
    inside: frozenset[str],
    ahead_of: pytest.Item | Literal[False] | None,
) -> Child:
    request = attempt.request
    own_pid = "pid" in request.namespaces
    measurement = attempt.incoming.measurement = run.measurement()
    make = Child if ahead_of is False else AheadChild
    child = make(
        item,
        run.nextitem if ahead_of is False else ahead_of,
        files,
        inside=inside,
        own_pid=own_pid,
        leftover_check=LeftoverCheck(item, request.leftovers, own_pid=own_pid, init=request.init),
        turns=attempt.turns or run.turns,
        measurement=measurement,
    )
    if isinstance(child, AheadChild):
        assert run.jobs is not None
        child.inside, child.warning_filters = inside, run.jobs.warning_filters
    if request.reach or request.tty:
        from pytest_nsisolate.runner import openings  # few tests need them

        child.openings = openings.of(item, request)
    attempt.incoming.plain = child.outgoing.plain
    child.outgoing.limited = request.limits is not None
    child.outgoing.post_mortem = attempt.incoming.post_mortem = at_failure.opened(
        item,
        request,
        run.settings.postmortem,
        run.home,
        run.first_mounts,
        run.launcher.host.euid,
    )
    return child


def budget_of(item: pytest.Item, run: Run, request: IsolationRequest) -> float | None:
    """Seconds that the test has; None for no limit."""
    given = [seconds for seconds in (request.timeout, run.budgets.get(item)) if seconds]
    return min(given, default=None)
