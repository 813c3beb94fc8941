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
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NoReturn

import pytest

from pytest_nsisolate.child import fixtures, output, strays
from pytest_nsisolate.child.ahead import AheadChild
from pytest_nsisolate.host.refusal import RefusedError
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.integrations.pytest import tracebacks
from pytest_nsisolate.kernel.originals import of_the_suite
from pytest_nsisolate.process import after_fork, outcome
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner import notes, reports
from pytest_nsisolate.runner.attempt import Attempt
from pytest_nsisolate.runner.cloning import budget_of, clone, inside_of
from pytest_nsisolate.runner.run import SHOWN, Run
from pytest_nsisolate.view.origin import make_view

#: The attempt at an item that is going on.
ATTEMPT = pytest.StashKey[Attempt]()


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
    original, process = item.setup, after_fork.here()

    def set_up() -> None:
        if after_fork.here() is not process:
            strays.leave(item.nodeid)  # a set-up hook has forked this copy, which has come back
        announced = _is_announced(item)
        if run.in_child is None:
            if run.keeper is not None:
                run.keeper.set_up(item)
            else:
                _enter_child(item, run, request)
        else:
            assert isinstance(run.in_child, AheadChild)
            run.in_child.begin_own_setup()
        if announced:
            _announce(item, run)
        assert run.in_child is not None
        run.in_child.copies.guarded(original)()

    item.setup = set_up  # type: ignore[method-assign]
    try:
        yield
    finally:
        del item.setup


def _enter_child(item: pytest.Item, run: Run, request: IsolationRequest) -> None:
    """Higher scopes in the runner, and the clone: returns in the child, for function scope."""
    finish(run)  # a plugin that repeats a test need not have logged its last attempt
    if request.share is not None:
        _enter_world(item, run, request)
    try:
        request = _configured(item, request, run)
        inside = inside_of(item, request, run)
        fixtures.set_up_higher_scopes(item, inside, before=run.end_own_children)
    except BaseException:
        # The item's own setup has not run, and its teardown may rely on it (unittest's does).
        internals.disown(item)
        raise
    if run.jobs is not None and (found := run.jobs.adopt(item, request)) is not None:
        _take_over(item, run, found)
    attempt = _begin_attempt(item, request, run)
    connection = _connect(item, run) if debuggers.is_active() else None
    writer = None
    try:
        attempt.request = run.launcher.admit(request)
        began = 0.0 if run.trace is None else run.trace.now()
        child, writer = clone(item, run, attempt, inside, debugged=connection is not None)
    except RefusedError as error:
        if run.jobs is not None and run.jobs.abandon():
            # Perhaps they have what this one needs: descriptors, processes, memory.
            _enter_child(item, run, request)
            return
        raise _refused(attempt, error) from None
    finally:
        if writer is None and connection is not None:
            connection.close()
    if writer is None:
        _trace_launch(attempt, run, began)
        internals.disown(item)
        raise Elsewhere(*attempt.await_phase("setup"))
    run.in_child, run.request = child, attempt.request
    child.connection = connection
    if run.jobs is not None:
        run.jobs.let_go_of_others()
    child.settle_in(writer)


def _enter_world(item: pytest.Item, run: Run, request: IsolationRequest) -> NoReturn:
    """The item's child is a fork of the keeper of a world."""
    from pytest_nsisolate.runner import worlds  # few suites share any

    try:
        request = _configured(item, request, run)
        world, place = worlds.prepare(item, run, request)
    except BaseException:
        internals.disown(item)
        raise
    if run.jobs is not None:
        run.jobs.adopt(item, request)  # waits for room
    attempt = _begin_attempt(item, request, run)
    try:
        world = world or worlds.opened(item, run, request, place)
        worlds.begin(world, attempt, run, budget=budget_of(item, run, request))
    except RefusedError as error:
        raise _refused(attempt, error) from None
    except BaseException:
        internals.disown(item)
        raise
    internals.disown(item)
    if run.trace is not None:
        assert attempt.child is not None
        run.trace.watch(item.nodeid, attempt.child)
        run.trace.write_in_wait()
    raise Elsewhere(*attempt.await_phase("setup"))


def _refused(attempt: Attempt, error: RefusedError) -> Elsewhere:
    """No child was born: the test is an error, or by policy a skip."""
    internals.disown(attempt.item)
    report = attempt.refuse(error.refusal)
    crash = None if report.skipped else reports.crash_of(report)
    return Elsewhere(report, crash, made_here=True)


def _configured(item: pytest.Item, request: IsolationRequest, run: Run) -> IsolationRequest:
    """What the hook makes of a request; asked once for each attempt."""
    if run.jobs is not None and (before := run.jobs.request_of(item)) is not None:
        return before
    changed = item.ihook.pytest_nsisolate_configure(item=item, request=request)
    return request if changed is None else changed


def _is_announced(item: pytest.Item) -> bool:
    """Whether anybody asks for it; to make a view imports what shows it."""
    return bool(item.ihook.pytest_nsisolate_ready.get_hookimpls())


def _announce(item: pytest.Item, run: Run) -> None:
    assert run.request is not None
    view = make_view(run.request, run.home, run.helpers, settled=run.settled)
    item.ihook.pytest_nsisolate_ready(item=item, pid1=view)


def _take_over(item: pytest.Item, run: Run, attempt: Attempt) -> NoReturn:
    """The item's child is at work already, or has ended: its set-up phase."""
    assert attempt.child is not None
    item.stash[ATTEMPT] = attempt
    run.current = attempt.child
    attempt.child.inbox.allow(run.budgets.get(item))
    if run.trace is not None:
        run.trace.write_in_wait()
    internals.disown(item)
    # The same hooks have written in the child, whose text counts.
    output.forget_moved(item.config)
    internals.report_sections(item)[:] = attempt.incoming.captured
    raise Elsewhere(*attempt.await_phase("setup"))


def _begin_attempt(item: pytest.Item, request: IsolationRequest, run: Run) -> Attempt:
    run.notes.look_at(item)
    attempt = item.stash[ATTEMPT] = Attempt(item, request, run)
    if run.jobs is not None:
        run.jobs.current = attempt
    return attempt


def _trace_launch(attempt: Attempt, run: Run, began: float) -> None:
    if run.trace is not None and attempt.child is not None:
        run.trace.watch(attempt.item.nodeid, attempt.child)
        run.trace.write_in_wait()
        attempt.child.get_ready()
        namespaces = attempt.request.namespaces
        run.trace.add_launch(attempt.item.nodeid, began, namespaces, attempt.child)


def _connect(item: pytest.Item, run: Run) -> debuggers.Connection | None:
    """To the editor that debugs the runner, for the child; without one, the run notes why."""
    connection = debuggers.connect()
    if connection is None:
        run.notes.add(notes.UNDEBUGGED, item.nodeid, debuggers.why())
    return connection


# Call and tear-down ------------------------------------------------------------------------------


def call(item: pytest.Item, run: Run) -> None:
    """The call phase in the runner: it waits, and none of its hooks runs here."""
    attempt = item.stash.get(ATTEMPT, None)
    if attempt is not None:
        attempt.let_setup_show()
        with launching(run):
            waited = attempt.await_phase("call")
        raise Elsewhere(*waited)


def warning_filters() -> list[object]:
    """Those in force now, in the module that the suite has."""
    return [*getattr(of_the_suite("warnings"), "filters")]  # noqa: B009


def launching(run: Run) -> AbstractContextManager[None]:
    """While this lasts no hook of another plugin is at work: other items may be launched."""
    return nullcontext() if run.jobs is None else run.jobs.launching()


def tear_down(item: pytest.Item, run: Run, nextitem: pytest.Item | None) -> None:
    """The tear-down phase: the child's part first, then that of the runner's own nodes."""
    attempt = item.stash.get(ATTEMPT, None)
    if attempt is None:
        return
    attempt.let_setup_show()
    elsewhere = Elsewhere()
    try:
        if attempt.child is not None and not attempt.over:
            with launching(run):
                elsewhere = Elsewhere(*attempt.await_phase("teardown"))
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException:
        # A timer of the suite's: the child has been ended, and the next test begins as ever.
        attempt.over = True
        _release(run, attempt)
        internals.tear_down_runner(item, nextitem)
        raise
    _release(run, attempt)
    captured = len(internals.report_sections(item))
    guard: contextlib.AbstractContextManager[None] = nullcontext()
    if fixtures.ends_wider_fixtures(item, nextitem):
        run.end_own_children()
        guard = strays.caught(item)
    try:
        with guard, attempt.incoming.more_time():
            internals.tear_down_runner(item, nextitem)
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException as error:
        if elsewhere.report is None or not elsewhere.report.failed:
            # Alone, it is an ordinary error of this phase; what the child captured is in the item.
            reports.join_captured(internals.report_sections(item), captured)
            raise
        reports.add_error(elsewhere.report, pytest.ExceptionInfo.from_exception(error), item)
    if elsewhere.report is not None:
        reports.merge_sections(elsewhere.report, internals.report_sections(item)[captured:])
    raise elsewhere


def _release(run: Run, attempt: Attempt) -> None:
    """The child has nothing more to say: reap it, now or when the next one is launched."""
    if attempt.unfinished:
        run.unfinished = partial(_finish, run, attempt)
        return
    child, run.current = attempt.child, None
    run.stopping.close()
    if child is None:
        return
    if child.outcome == outcome.Finished(alone=True):
        child.end.let_go()
        run.reap_outstanding()  # the next one may have been launched long ago
        run.outstanding = child
    else:
        child.kill()
        child.reap()


def finish(run: Run) -> None:
    """When the report of a failed tear-down has been logged: what ``--pdb`` has to show of it.

    :raises pytest.exit.Exception: when the debugger is left by "quit".
    """
    unfinished, run.unfinished = run.unfinished, None
    if unfinished is not None:
        unfinished()


def _finish(run: Run, attempt: Attempt) -> None:
    try:
        attempt.finish()
    finally:
        attempt.unfinished = False
        _release(run, attempt)


def take_coverage(item: pytest.Item) -> None:
    """A Ctrl-C has ended the child: what it had measured is all that still counts."""
    attempt = item.stash.get(ATTEMPT, None)
    if attempt is not None:
        attempt.incoming.take_coverage_of(attempt.child)


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
    assert run.streams is not None
    run.streams.restore()
    report = value.report
    error = value.error
    call_info.excinfo = None if error is None else reports.raised(error)
    if report is not None:
        attempt = item.stash[ATTEMPT]
        lasted = call_info.duration - attempt.seconds_aside
        times = attempt.incoming.times or (call_info.start, call_info.stop, lasted)
        report.start, report.stop, report.duration = times
        item.stash[SHOWN] = reports.copied(report)
    if call_info.when == "setup":
        item.stash[ATTEMPT].hush_setup_show()
    shown = item.stash.get(SHOWN, None)
    try:
        result = yield
    except Exception as failure:
        if shown is None or isinstance(failure, pytest.exit.Exception):
            raise
        reports.warn_of_hook(item, failure)
        result = shown
    finally:
        if not (run.keeps_calls or value.made_here):
            # pytest_exception_interact has run in the child, where there is something to look at.
            call_info.excinfo = None
        item.stash[SHOWN] = None
        if call_info.when == "teardown":
            del item.stash[ATTEMPT]
    if value.made_here:
        internals.let_interact(item, call_info, result)
    if report is None or result is not shown:
        return result
    reports.adopt_attributes(report, result)
    return report
