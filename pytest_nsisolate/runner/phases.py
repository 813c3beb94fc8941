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
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal, NoReturn

import pytest

from pytest_nsisolate.child import fixtures, output
from pytest_nsisolate.child.ahead import AheadChild
from pytest_nsisolate.child.leftovers import LeftoverCheck
from pytest_nsisolate.child.main import Child
from pytest_nsisolate.child.terminal import Turns
from pytest_nsisolate.errors import failing
from pytest_nsisolate.host.refusal import RefusedError
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import faulthandler
from pytest_nsisolate.process import job_control, outcome
from pytest_nsisolate.process.channel import Output
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner import reports, tracebacks
from pytest_nsisolate.runner.attempt import Attempt
from pytest_nsisolate.runner.run import SHOWN, Run
from pytest_nsisolate.view.origin import make_view
from pytest_nsisolate.view.postmortem import at_failure
from pytest_nsisolate.wire.frames import FrameWriter

if TYPE_CHECKING:
    pass

#: The attempt at an item that is going on.
ATTEMPT = pytest.StashKey[Attempt]()


class Elsewhere(BaseException):
    """The phase has run in the child: unwinds what is left of it in the runner.

    A BaseException, so that no ``except Exception`` of a hook takes it for a failure of the test.

    :param report: the child's report; None lets pytest make one of the runner's own part.
    :param error: what stands for the child's exception, if it had one.
    """

    def __init__(
        self, report: pytest.TestReport | None = None, error: BaseException | None = None
    ) -> None:
        super().__init__("this phase has run in a child")
        self.report = report
        self.error = error


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
    if run.in_child is not None:
        _set_up_ahead(item, run, original)
        return
    finish(run)  # whoever repeats a test need not have logged its last attempt
    try:
        request = _configured(item, request, run)
        inside = _inside(item, request, run)
        fixtures.set_up_higher_scopes(item, inside, before=run.end_own_children)
    except BaseException:
        # The item's own setup has not run, and its teardown may rely on it (unittest's does).
        internals.disown(item)
        raise
    if run.jobs is not None and (found := run.jobs.adopt(item, request)) is not None:
        _take_over(item, run, found)
    run.notes.look_at(item)
    attempt = item.stash[ATTEMPT] = Attempt(item, request, run)
    if run.jobs is not None:
        run.jobs.current = attempt
    announced = _is_announced(item)
    try:
        attempt.request = run.launcher.admit(request)
        child, writer = _clone(item, run, attempt, inside)
    except RefusedError as error:
        if run.jobs is not None and run.jobs.abandon():
            # Perhaps they have what this one needs: descriptors, processes, memory.
            _set_up(item, run, request, original)
            return
        # No child was born: the test is an error, or by policy a skip.
        internals.disown(item)
        report = attempt.refuse(error.refusal)
        raise Elsewhere(report, None if report.skipped else reports.crash_of(report)) from None
    if writer is None:
        internals.disown(item)
        raise Elsewhere(*attempt.await_phase("setup"))
    run.in_child, run.request = child, attempt.request
    if run.jobs is not None:
        run.jobs.let_go_of_others()
    child.settle_in(writer)
    if announced:
        _announce(item, run)
    original()


def _set_up_ahead(item: pytest.Item, run: Run, original: Callable[[], None]) -> None:
    """In a child that went ahead: it has come as far as an ordinary one at its clone."""
    assert isinstance(run.in_child, AheadChild)
    run.in_child.begin_own_setup()
    if _is_announced(item):
        _announce(item, run)
    original()


def _configured(item: pytest.Item, request: IsolationRequest, run: Run) -> IsolationRequest:
    """What the hook makes of a request; asked once for each attempt."""
    if run.jobs is not None and (before := run.jobs.request_of(item)) is not None:
        return before
    changed = item.ihook.pytest_nsisolate_configure(item=item, request=request)
    return request if changed is None else changed


def _inside(item: pytest.Item, request: IsolationRequest, run: Run) -> frozenset[str]:
    """The wider fixtures that are left to the child."""
    if run.jobs is not None:
        return run.jobs.inside(item, request)
    return fixtures.left_to_child(item, request.inside)


def _is_announced(item: pytest.Item) -> bool:
    """Whether anybody asks for it; to make a view imports what shows it."""
    return bool(item.ihook.pytest_nsisolate_ready.get_hookimpls())


def _announce(item: pytest.Item, run: Run) -> None:
    assert run.request is not None
    view = make_view(run.request, run.home, run.helpers)
    item.ihook.pytest_nsisolate_ready(item=item, pid1=view)


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
    inside = _inside(item, request, run)
    try:
        attempt.request = run.launcher.admit(request)
        child, writer = _clone(item, run, attempt, inside, ahead_of=nextitem)
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
    return attempt


def _take_over(item: pytest.Item, run: Run, attempt: Attempt) -> NoReturn:
    """The item's child is at work already, or has ended: its set-up phase."""
    assert attempt.child is not None
    item.stash[ATTEMPT] = attempt
    run.current = attempt.child
    attempt.child.allow(run.budgets.get(item))
    internals.disown(item)
    output.forget_moved(item.config)  # the same hooks have written it in the child
    raise Elsewhere(*attempt.await_phase("setup"))


def _clone(
    item: pytest.Item,
    run: Run,
    attempt: Attempt,
    inside: frozenset[str],
    *,
    ahead_of: pytest.Item | Literal[False] | None = False,
) -> tuple[Child, FrameWriter | None]:
    """The child's side, made before the clone, where it costs no page, and the clone.

    :param ahead_of: its item's turn is still to come, and this is the one after it.
    :returns: in the runner no writer, and the attempt has its child then.
    :raises RefusedError: when there cannot be a child.
    """
    request = attempt.request
    config = item.config
    ahead = ahead_of is not False
    # A watchdog costs more than it saves one test.
    watched = ahead or run.nextitem in run.requests
    with run.launcher.preparing(request, watchdog=watched) as launch:
        files = launch.files
        with failing("open what all children share", None):
            run.turns.forget()
        child = _make_child(item, run, attempt, files, inside, ahead_of)
        if child.post_mortem is not None:
            child.post_mortem.note_plan(launch.plan.mounts)
        with failing("prepare the launch", None):
            moved = not ahead and output.move_to(files, config)
        output.flush_to_terminal(config)
        if internals.fault_timeout(config) > 0:
            # The child has a watchdog of its own; this one could end the runner. Before the fork:
            # to cancel it afterwards, as arming another does, waits for a thread that the fork
            # has not taken along.
            faulthandler.cancel_dump_traceback_later()

        def take_on(born: ChildProcess) -> None:
            attempt.child = born
            if run.jobs is not None:
                born.meanwhile = run.jobs.wait_with
            if ahead:
                assert attempt.turns is not None
                born.end.word = attempt.turns.hand_over()
                return
            run.current = born
            born.debugged = bool(config.getoption("usepdb", False))
            if job_control.has_terminal():
                # Also while nobody waits for the child: it may be at a prompt already.
                run.stopping.enter_context(job_control.stopping_with(born.hold, born.go_on))

        measured = attempt.measurement
        cloning = nullcontext() if measured is None else measured.cloning()
        # No thread of the suite's may end a call now: its descriptors' numbers would be taken anew.
        with run.launcher.lock, cloning:
            writer = launch.fork(
                take_on, budget=_budget(item, run, request), measured=measured is not None
            )
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
    attempt.measurement = run.measurement()
    make = Child if ahead_of is False else AheadChild
    child = make(
        item,
        run.nextitem if ahead_of is False else ahead_of,
        files,
        inside=inside,
        own_pid=own_pid,
        leftover_check=LeftoverCheck(item, request.leftovers, own_pid=own_pid, init=request.init),
        turns=attempt.turns or run.turns,
        measurement=attempt.measurement,
    )
    if isinstance(child, AheadChild):
        assert run.jobs is not None
        child.inside, child.warning_filters = inside, run.jobs.warning_filters
    child.limited = request.limits is not None
    child.post_mortem = attempt.post_mortem = at_failure.opened(
        item,
        request,
        run.settings.postmortem,
        run.home,
        run.first_mounts,
        run.launcher.host.euid,
    )
    return child


def _budget(item: pytest.Item, run: Run, request: IsolationRequest) -> float | None:
    given = [seconds for seconds in (request.timeout, run.budgets.get(item)) if seconds]
    return min(given, default=None)


# Call and tear-down ------------------------------------------------------------------------------


def call(item: pytest.Item, run: Run) -> None:
    """The call phase in the runner: it waits, and none of its hooks runs here."""
    attempt = item.stash.get(ATTEMPT, None)
    if attempt is not None:
        attempt.let_setup_show()
        with launching(run):
            waited = attempt.await_phase("call")
        raise Elsewhere(*waited)


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
    if fixtures.ends_wider_fixtures(item, nextitem):
        run.end_own_children()
    try:
        with attempt.more_time():
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
        child.let_go()
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
        attempt.take_coverage()


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
        times = attempt.times or (call_info.start, call_info.stop, lasted)
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
        if not run.keeps_calls:
            # pytest_exception_interact has run in the child, where there is something to look at.
            call_info.excinfo = None
        item.stash[SHOWN] = None
        if call_info.when == "teardown":
            del item.stash[ATTEMPT]
    if report is None or result is not shown:
        return result
    reports.adopt_attributes(report, result)
    return report
