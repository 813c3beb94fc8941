# SPDX-License-Identifier: MIT
"""The hooks of a run that isolates something; a run without an isolated test never loads them.

Fact: of two wrappers that are both ``tryfirst`` the one that was registered last is the outermost
(pluggy), and conftests are registered as late as during collection.

Consequence: these are registered when the run loop starts. Outside of everybody else's they can
keep the runner's part of a phase from the other plugins, and the child from returning to pytest.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_nsisolate import copies, phases, reporting, strays, tracebacks
from pytest_nsisolate.run import Run


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
            reporting.show_side(request.config, self._run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_post_finalizer(
        self, fixturedef: Any, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        shown = fixturedef.cached_result is not None
        result = yield
        if shown:
            reporting.show_side(request.config, self._run)
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
        if item not in run.requests:
            run.end_own_children()
        elif self._stray:
            strays.leave(self._stray)
        process = copies.here()
        try:
            result = yield
        except BaseException as error:
            if run.child is not None:
                run.child.barrier(error)
            if run.current is not None and isinstance(error, KeyboardInterrupt):
                # It may have come while nobody waited for the child.
                run.current.interrupt()
                phases.take_coverage(item)
            raise
        if run.child is not None:
            run.child.barrier(None)
        if copies.here() is not process:
            # A plain test's fork, which has come back from it: a second session, as elsewhere.
            self._stray = item.nodeid
        phases.finish(run)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        process = copies.here()
        try:
            with phases.cloning_in_setup(item, self._run):
                return (yield)
        finally:
            self._end_copy(item, process)
            self._mark(in_phase=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        if self._run.child is None:
            phases.call(item)
        self._mark(in_phase=True)
        try:
            return (yield)
        finally:
            self._mark(in_phase=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        child = self._run.child
        process = copies.here()
        try:
            if child is None:
                phases.tear_down(item, self._run, nextitem)
            self._mark(in_phase=True)
            result = yield
        except BaseException as error:
            if child is not None:
                child.look_round(error)
            raise
        finally:
            self._end_copy(item, process)
            self._mark(in_phase=False)
        if child is not None:
            child.look_round(None)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        child = self._run.child
        if child is None:
            return (yield from phases.make_report(item, call, self._run))
        child.leave_if_stray(None if call.excinfo is None else call.excinfo.value)
        if call.excinfo is not None and not child.in_phase:
            tracebacks.hide_machinery(call.excinfo.value)
        report = yield
        if child.in_phase:
            child.note_subtest(call)
        else:
            child.end_phase(call, report)
        return report

    def _end_copy(self, item: pytest.Item, process: object) -> None:
        """In the runner: a hook of this phase has forked this copy, which has come back from it."""
        if self._run.child is None and item in self._run.requests and copies.here() is not process:
            strays.leave(item.nodeid)

    def _mark(self, *, in_phase: bool) -> None:
        if self._run.child is not None:
            self._run.child.leave_if_stray()
            self._run.child.in_phase = in_phase

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._run.child is not None:
            self._run.child.hear_report(report)
        elif report.when == "teardown":
            phases.finish(self._run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_exception_interact(self) -> Generator[None, object, object]:
        if self._run.child is None:
            return (yield)
        with self._run.child.stage.post_mortem():
            return (yield)

    def pytest_enter_pdb(self, pdb: object) -> None:
        if self._run.child is not None:
            self._run.child.stage.watch(pdb)

    def pytest_leave_pdb(self) -> None:
        if self._run.child is not None:
            self._run.child.stage.unwatch()
