# SPDX-License-Identifier: MIT
"""The phases of an isolated item, as the runner lives through them.

Fact: a plugin that owns ``pytest_runtest_protocol`` is bypassed by every other one that does
(pytest-rerunfailures calls ``runtestprotocol`` itself), and then the test runs un-isolated.

Consequence: the clone happens at the innermost place of set-up, in the item's own ``setup``, after
every set-up hook, every collector and every higher-scope fixture. From there on each phase of the
runner's waits for the same phase of the child's and is unwound by :class:`Elsewhere`; the report of
the child takes the place of the one that pytest would have made.

``pytest_runtest_makereport`` runs on both sides: in the child, where the exception lives and where
fixtures look at the result, and in the runner, where the memory of the session lives (the
"incremental" recipe, pytest-rerunfailures). There it sees a stand-in for the exception and a copy
of the report, and the child's report stands.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_nsisolate import (
    debuggers,
    jobcontrol,
    launch,
    outcome,
    output,
    ownership,
    remarks,
    replay,
    strays,
    tracebacks,
)
from pytest_nsisolate import pytest_internals as internals
from pytest_nsisolate.channel import Output, RunnerEnd
from pytest_nsisolate.child import Child
from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.isolation import Isolation
from pytest_nsisolate.leftovers import Lookout
from pytest_nsisolate.plan import plan_launch
from pytest_nsisolate.postmortem import inquest
from pytest_nsisolate.remedies import Explanation
from pytest_nsisolate.request import IsolationRequest
from pytest_nsisolate.run import SHOWN, Run
from pytest_nsisolate.sight import make_view
from pytest_nsisolate.supervise import Attempt
from pytest_nsisolate.wire import FrameWriter

if TYPE_CHECKING:
    from pytest_nsisolate.limits.enforcement import Enforcement

#: The attempt at an item that is going on.
ISOLATION = pytest.StashKey[Isolation]()


class Elsewhere(BaseException):
    """The phase has run in the child: unwinds what is left of it in the runner.

    A BaseException, so that no ``except Exception`` of a hook takes it for a failure of the test.

    :param report: the child's report; None lets pytest make one of the runner's own part.
    :param error: what stands for the child's exception, if it had one.
    :param made_here: the report is the runner's, because no child could make one.
    """

    def __init__(
        self,
        report: pytest.TestReport | None = None,
        error: BaseException | None = None,
        made_here: bool = False,
    ) -> None:
        super().__init__("this phase has run in a child")
        self.report = report
        self.error = error
        self.made_here = made_here


# Set-up -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def cloning_in_setup(item: pytest.Item, run: Run) -> Generator[None]:
    """While this lasts, the item's own ``setup`` clones first."""
    request = run.requests.get(item)
    if request is None:
        yield
        return
    original = item.setup
    item.setup = lambda: _set_up(item, run, request, original)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del item.setup


def _set_up(
    item: pytest.Item, run: Run, request: IsolationRequest, original: Callable[[], None]
) -> None:
    """Higher scopes in the runner, the clone, function scope in the child."""
    finish(run)  # whoever repeats a test need not have logged its last attempt
    try:
        changed = item.ihook.pytest_nsisolate_configure(item=item, request=request)
        request = request if changed is None else changed
        inside = ownership.left_to_child(item, request.inside)
        ownership.set_up_higher_scopes(item, inside, before=run.end_own_children)
    except BaseException:
        # The item's own setup has not run, and its teardown may rely on it (unittest's does).
        internals.disown(item)
        raise
    run.remarks.look_at(item)
    isolation = item.stash[ISOLATION] = Isolation(item, request, run)
    announced = bool(item.ihook.pytest_nsisolate_ready.get_hookimpls())
    files, child = _prepare(item, run, isolation, inside)
    child.inquest = isolation.inquest = inquest.opened(
        item, isolation.request, run.settings.postmortem, run.home, run.first_mounts
    )
    if debuggers.is_active():
        child.connection = isolation.connection = debuggers.connect()
        if child.connection is None:
            run.remarks.add(remarks.UNDEBUGGED, item.nodeid, debuggers.why())
    writer = None
    try:
        writer = _clone(item, run, isolation, files)
    finally:
        if writer is None and child.connection is not None:
            child.connection.close()
    if writer is None:
        internals.disown(item)
        raise Elsewhere(*isolation.await_phase("setup"))
    run.child, run.request = child, isolation.request
    child.settle_in(writer)
    if announced:
        item.ihook.pytest_nsisolate_ready(item=item, pid1=make_view(isolation.request, run.home))
    child.guarded(original)()


def _prepare(
    item: pytest.Item, run: Run, isolation: Isolation, inside: frozenset[str]
) -> tuple[Output, Child]:
    """The host check, and everything that is better made before the clone than after it."""
    request = isolation.request
    try:
        with failing("examine this host", None):
            verdict = run.host_check.probe(request.namespaces, request.user, request.named)
    except StepError as error:
        _refuse(item, isolation, outcome.refused_by(error))
    if verdict.refusal is not None:
        found = verdict.refusal
        why = Explanation(found.cause, found.remedy)
        _refuse(item, isolation, outcome.refused_by(found), why)
    if verdict.leave_out_user:
        request = isolation.request = request.without_user_namespace()
    try:
        with failing("open what all children share", None):
            run.turns.forget()
        files = Output.create()
    except StepError as error:
        _refuse(item, isolation, outcome.refused_by(error))
    own_pid = "pid" in request.namespaces
    lookout = Lookout(item, request.leftovers, own_pid=own_pid, init=request.init)
    isolation.measurement = measurement = run.measurement(item.config)
    child = Child(
        item,
        run.nextitem,
        files,
        inside=inside,
        own_pid=own_pid,
        lookout=lookout,
        turns=run.turns,
        measurement=measurement,
    )
    child.limited = request.limits is not None
    return files, child


def _clone(item: pytest.Item, run: Run, isolation: Isolation, files: Output) -> FrameWriter | None:
    """The forks. None in the runner, where the isolation has its attempt then."""
    request = isolation.request
    limits: Enforcement | None = None
    try:
        with failing("prepare the launch", None):
            # A warden costs more than it saves one test.
            shared = run.shared(item.config, warden=run.nextitem in run.requests)
            plan = plan_launch(item.config, request, run)
            limits = plan.limits
            if isolation.inquest is not None:
                isolation.inquest.note_plan(plan.mounts)
            moved = output.move_to(files, item.config)
        output.flush_to_terminal(item.config)
        if internals.fault_timeout(item.config) > 0:
            # The child has a watchdog of its own; this one could end the runner. Before the fork:
            # to cancel it afterwards, as arming another does, waits for a thread that the fork
            # has not taken along.
            faulthandler.cancel_dump_traceback_later()

        def register(end: RunnerEnd) -> None:
            debugged = isolation.connection is not None
            budget = None if debugged else _budget(item, run, request)
            run.current = isolation.attempt = Attempt(
                end,
                maps=plan.maps,
                budget=budget,
                init=plan.init,
                measured=isolation.measurement is not None,
                limits=limits,
            )
            run.current.patient = debugged
            run.current.debugged = bool(item.config.getoption("usepdb", False))
            if jobcontrol.has_terminal():
                # Also while nobody waits for the child: it may be at a prompt already.
                run.stopping.enter_context(
                    jobcontrol.stopping_with(run.current.hold, run.current.go_on)
                )

        measurement = isolation.measurement
        cloning = contextlib.nullcontext() if measurement is None else measurement.cloning()
        # No thread of the suite's may end a call now: its descriptors' numbers would be taken anew.
        with run.calls_lock, cloning:
            writer = launch.launch(plan, files, shared, run.held(), register)
    except StepError as error:
        if isolation.attempt is None:
            files.close()
            if limits is not None:
                limits.release()
        _refuse(item, isolation, outcome.refused_by(error))
    if writer is None:
        # Now, while the new child is busy: the exit of the last one is over by then.
        run.bury_outstanding()
        if moved:
            output.forget_moved(item.config)
    return writer


def _refuse(
    item: pytest.Item,
    isolation: Isolation,
    refused: outcome.Refused,
    why: Explanation | None = None,
) -> NoReturn:
    """No child was born: the test is an error, or by policy a skip."""
    internals.disown(item)
    report = isolation.refuse(refused, why)
    raise Elsewhere(report, None if report.skipped else replay.crash_of(report), made_here=True)


def _budget(item: pytest.Item, run: Run, request: IsolationRequest) -> float | None:
    given = [seconds for seconds in (request.timeout, run.budgets.get(item)) if seconds]
    return min(given, default=None)


# Call and tear-down ------------------------------------------------------------------------------


def call(item: pytest.Item) -> None:
    """The call phase in the runner: it waits, and none of its hooks runs here."""
    isolation = item.stash.get(ISOLATION, None)
    if isolation is not None:
        isolation.let_setup_show()
        raise Elsewhere(*isolation.await_phase("call"))


def tear_down(item: pytest.Item, run: Run, nextitem: pytest.Item | None) -> None:
    """The tear-down phase: the child's part first, then that of the runner's own nodes."""
    isolation = item.stash.get(ISOLATION, None)
    if isolation is None:
        return
    isolation.let_setup_show()
    elsewhere = Elsewhere()
    try:
        if isolation.attempt is not None and not isolation.over:
            elsewhere = Elsewhere(*isolation.await_phase("teardown"))
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException:
        # A timer of the suite's: the child has been ended, and the next test begins as ever.
        isolation.over = True
        _release(run, isolation)
        internals.tear_down_runner(item, nextitem)
        raise
    _release(run, isolation)
    captured = len(internals.report_sections(item))
    guard: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if ownership.ends_wider_fixtures(item, nextitem):
        run.end_own_children()
        guard = strays.caught(item)
    try:
        with guard:
            internals.tear_down_runner(item, nextitem)
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException as error:
        if elsewhere.report is None or not elsewhere.report.failed:
            # Alone, it is an ordinary error of this phase; what the child captured is in the item.
            replay.join_captured(internals.report_sections(item), captured)
            raise
        replay.add_error(elsewhere.report, pytest.ExceptionInfo.from_exception(error), item)
    if elsewhere.report is not None:
        replay.merge_sections(elsewhere.report, internals.report_sections(item)[captured:])
    raise elsewhere


def _release(run: Run, isolation: Isolation) -> None:
    """The child has nothing more to say: reap it, now or when the next one is launched."""
    if isolation.unfinished:
        run.unfinished = functools.partial(_finish, run, isolation)
        return
    attempt, run.current = isolation.attempt, None
    run.stopping.close()
    if attempt is None:
        return
    if attempt.outcome == outcome.Finished(alone=True):
        attempt.let_go()
        run.outstanding = attempt
    else:
        attempt.kill()
        attempt.bury()


def finish(run: Run) -> None:
    """When the report of a failed tear-down has been logged: what ``--pdb`` has to show of it.

    :raises pytest.exit.Exception: when the debugger is left by "quit".
    """
    unfinished, run.unfinished = run.unfinished, None
    if unfinished is not None:
        unfinished()


def _finish(run: Run, isolation: Isolation) -> None:
    try:
        isolation.finish()
    finally:
        isolation.unfinished = False
        _release(run, isolation)


def take_coverage(item: pytest.Item) -> None:
    """A Ctrl-C has ended the child: what it had measured is all that still counts."""
    isolation = item.stash.get(ISOLATION, None)
    if isolation is not None:
        isolation.take_coverage()


# Reports ----------------------------------------------------------------------------------------


def make_report(
    item: pytest.Item, call_info: pytest.CallInfo[None], run: Run
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In the runner: the other plugins see a copy and a stand-in; the child's report stands."""
    value = None if call_info.excinfo is None else call_info.excinfo.value
    if not isinstance(value, Elsewhere):
        if value is not None:
            tracebacks.hide_machinery(value)
        return (yield)
    report = value.report
    error = value.error
    call_info.excinfo = None if error is None else replay.raised(error)
    if report is not None:
        report.duration = call_info.duration - item.stash[ISOLATION].seconds_aside
        report.start = call_info.start
        report.stop = call_info.stop
        item.stash[SHOWN] = replay.copied(report)
    if call_info.when == "setup":
        item.stash[ISOLATION].hush_setup_show()
    shown = item.stash.get(SHOWN, None)
    try:
        result = yield
    except Exception as failure:
        if shown is None or isinstance(failure, pytest.exit.Exception):
            raise
        replay.warn_of_hook(item, failure)
        result = shown
    finally:
        if not (run.keeps_calls or value.made_here):
            # pytest_exception_interact has run in the child, where there is something to look at.
            call_info.excinfo = None
        item.stash[SHOWN] = None
        if call_info.when == "teardown":
            del item.stash[ISOLATION]
    if value.made_here:
        internals.let_interact(item, call_info, result)
    if report is None or result is not shown:
        return result
    replay.adopt_attributes(report, result)
    return report
