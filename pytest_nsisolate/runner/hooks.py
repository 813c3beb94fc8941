# SPDX-License-Identifier: MIT
"""The hooks of a run that isolates something; a run without an isolated test never loads them.

Fact: of two wrappers that are both ``tryfirst`` the one that was registered last is the outermost
(pluggy), and conftests are registered as late as during collection.

Consequence: these are registered when the run loop starts. Outside of all others they can keep the
runner's part of a phase from the other plugins, and the child from returning to pytest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from pytest_nsisolate.child import strays
from pytest_nsisolate.integrations import plugins
from pytest_nsisolate.integrations.pytest import tracebacks
from pytest_nsisolate.kernel import huge_pages
from pytest_nsisolate.process import after_fork, job_control
from pytest_nsisolate.request.options import jobs_now
from pytest_nsisolate.runner import phases, summary
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.runner.streams import StandardStreams
from pytest_nsisolate.view import origin

#: Isolated tests for which it pays to have huge pages made: some 40 win back what that takes.
_MANY: Final = 200


@contextmanager
def registered(session: pytest.Session, run: Run) -> Iterator[None]:
    """While this lasts, the marked tests are isolated."""
    config, hooks = session.config, OutermostHooks(run)
    plugins.register(config)
    run.home = origin.prepare(run.requests)
    run.keeps_calls = plugins.keeps_calls(config)
    run.notes.losing = plugins.losing(config)
    run.preload()
    if len(run.requests) >= _MANY:
        huge_pages.collapse()
    run.streams = StandardStreams(config)
    if config.getoption("setupshow", False):
        config.pluginmanager.register(SetupShowHooks(run), "nsisolate-setup-show")
    # Now, when every conftest has been loaded: the last one registered is the outermost.
    config.pluginmanager.register(hooks, "nsisolate-outermost")
    try:
        with _looking_ahead(session, run):
            yield
    finally:
        if run.in_child is not None:
            run.in_child.barrier(None)
        try:
            if run.worlds:
                from pytest_nsisolate.runner import worlds

                worlds.close_all(run)
        finally:
            config.pluginmanager.unregister(hooks)
            run.notes.hand_over(config)
            run.close()


@contextmanager
def _looking_ahead(session: pytest.Session, run: Run) -> Iterator[None]:
    """While this lasts, several isolated tests run at a time, if that was asked for."""
    count = jobs_now(session.config, run.settings).count
    if count == 1:
        yield
        return
    from pytest_nsisolate.runner.jobs import AheadHooks, Jobs  # one job needs nothing of it

    run.jobs = jobs = Jobs(run, session, count)
    with ExitStack() as stack:
        if job_control.has_terminal():
            jobs.stopping.enter_context(job_control.stopping_with(jobs.hold, jobs.go_on))
            stack.callback(jobs.stopping.close)
        session.config.pluginmanager.register(hooks := AheadHooks(run), "nsisolate-ahead")
        stack.callback(session.config.pluginmanager.unregister, hooks)
        try:
            yield
        finally:
            if run.in_child is None:
                jobs.abandon()


class SetupShowHooks:
    """``--setup-show``: each line of a fixture says on which side of the clone it is."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            summary.show_side(request.config, self._run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_post_finalizer(
        self, fixturedef: Any, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        shown = fixturedef.cached_result is not None
        result = yield
        if shown:
            summary.show_side(request.config, self._run)
        return result


class OutermostHooks:
    """The hooks of a run that isolates something; registered last, so that they are outermost."""

    def __init__(self, run: Run) -> None:
        self._run = run
        #: In a copy of the runner that a plain test has forked: that test.
        self._stray = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        run = self._run
        run.nextitem = nextitem
        request = run.requests.get(item)
        if request is None:
            run.end_own_children()
        elif self._stray:
            strays.leave(self._stray)
        elif run.jobs is not None and run.in_child is None:
            run.jobs.come_to(item, nextitem)
        if request is not None and request.share is not None:
            run.filters = phases.warning_filters()
        process = after_fork.here()
        try:
            result = yield
        except BaseException as error:
            if run.in_child is not None:
                run.in_child.barrier(error)
            if run.current is not None and isinstance(error, KeyboardInterrupt):
                # It may have come while the runner did not wait for the child.
                job_control.Job(run.current).interrupt()
                phases.take_coverage(item)
            raise
        if run.in_child is not None:
            run.in_child.barrier(None)
        if after_fork.here() is not process:
            # A plain test's fork, which has come back from it: a second session, as elsewhere.
            self._stray = item.nodeid
        phases.finish(run)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        process = after_fork.here()
        try:
            with phases.cloning_in_setup(item, self._run):
                return (yield)
        finally:
            self._end_copy(item, process)
            self._mark(in_phase=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        if self._run.in_child is None:
            phases.call(item, self._run)
        self._mark(in_phase=True)
        try:
            return (yield)
        finally:
            self._mark(in_phase=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        in_child = self._run.in_child
        process = after_fork.here()
        try:
            if in_child is None:
                phases.tear_down(item, self._run, nextitem)
            self._mark(in_phase=True)
            result = yield
        except BaseException as error:
            if in_child is not None:
                in_child.look_round(error)
            raise
        finally:
            self._end_copy(item, process)
            self._mark(in_phase=False)
        if in_child is not None:
            in_child.look_round(None)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if self._run.in_child is None and self._run.keeper is not None:
            self._run.keeper.end_setup(item)
        in_child = self._run.in_child
        if in_child is None:
            return (yield from phases.make_report(item, call, self._run))
        if in_child.copies.stray:
            # Only then: the excinfo of a skipped subtest has no value yet with pytest-subtests.
            in_child.copies.leave_if_stray(None if call.excinfo is None else call.excinfo.value)
        if call.excinfo is not None and not in_child.in_phase:
            tracebacks.hide_machinery(call.excinfo.value)
        report = yield
        if self._run.trace is not None:
            self._run.trace.load(report)
        if in_child.in_phase:
            in_child.outgoing.note_subtest(call)
        else:
            in_child.end_phase(call, report)
        return report

    def _end_copy(self, item: pytest.Item, process: object) -> None:
        """In the runner: a hook of this phase has forked this copy, which has come back from it."""
        if self._run.in_child is not None or item not in self._run.requests:
            return
        if after_fork.here() is not process:
            strays.leave(item.nodeid)

    def _mark(self, *, in_phase: bool) -> None:
        if self._run.in_child is not None:
            self._run.in_child.copies.leave_if_stray()
            self._run.in_child.in_phase = in_phase

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._run.in_child is not None:
            self._run.in_child.hear_report(report)
        elif report.when == "teardown":
            phases.finish(self._run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_exception_interact(self) -> Generator[None, object, object]:
        if self._run.in_child is None:
            return (yield)
        with self._run.in_child.terminal.post_mortem():
            return (yield)

    def pytest_enter_pdb(self, pdb: object) -> None:
        if self._run.in_child is not None:
            self._run.in_child.terminal.watch(pdb)

    def pytest_leave_pdb(self) -> None:
        if self._run.in_child is not None:
            self._run.in_child.terminal.unwatch()
