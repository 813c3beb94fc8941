# SPDX-License-Identifier: MIT
"""What a run tells its trace, wherever it is told: in the runner, in a worker, in a test's process.

Fact: what runs within an isolated test is known in its own process only, and what a worker of
pytest-xdist does in that worker only; both are heard by their reports alone. What we do: a report
takes along what has ended since the one before it, as plain data; of a crash's phase the test's
process sends none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_nsisolate.kernel.originals import time
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.runner.sightings import Sightings
from pytest_nsisolate.runner.spans import CARRIED, MOST, Within

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.runner.attempt import Attempt

#: Seconds of a fixture that is told with a report: most tests have some that do next to nothing,
#: and a report that says nothing but "passed" costs next to nothing.
_SHORTEST: Final = 0.001


class Telling(ABC):
    """What the plugin tells of, and what of it a test's process keeps for its next report."""

    #: Seconds that a fixture takes at least, which is told of in the process that has made this.
    shortest = _SHORTEST

    def __init__(self, run: Run) -> None:
        self._run = run
        self._of = here()
        #: In a test's process, or that which keeps a world: what the next report takes along.
        self._within: list[Within] = []
        #: Of the processes of tests that are under way.
        self.sightings = Sightings()

    @property
    def _in_runner(self) -> bool:
        """And in no process of a test or a call, nor in one that keeps a world for several."""
        run = self._run
        return run.trace is self and run.in_child is None and self._of is here()

    @property
    def _tells_later(self) -> bool:
        """In the process of a test, or of a world that tests share."""
        return self._run.in_child is not None or self._run.keeper is not None

    @abstractmethod
    def _take(self, within: Within) -> None:
        """In the runner: something has ended."""

    @abstractmethod
    def begin(self, attempt: Attempt) -> None:
        """Several jobs: a child is about to be launched."""

    @abstractmethod
    def add_launch(
        self, nodeid: str, start: float, namespaces: Iterable[str], child: ChildProcess
    ) -> None:
        """From the clone until the child stood in its namespaces, or was refused them."""

    @abstractmethod
    def write_in_wait(self) -> None:
        """The runner is about to wait for a child: time that costs none."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture is set up, in the runner or in the test's process."""
        start = time.time()
        try:
            return (yield)
        finally:
            end = time.time()
            in_runner = self._in_runner
            least = self.shortest if in_runner else _SHORTEST
            if end - start >= least and (in_runner or self._tells_later):
                args = {"scope": fixturedef.scope, "for": request.node.nodeid}
                name = f"fixture {fixturedef.argname}"
                self._tell((name, "fixture", start, end, args, None, ()))

    def now(self) -> float:
        """For :meth:`add_launch`. Of no namespace: a child's reports have the same clock."""
        return time.time()

    def within(
        self,
        name: str,
        category: str,
        start: float | None,
        outcome: str = "",
        steps: object = None,
        ours: Sequence[int] = (),
    ) -> None:
        """Something of a test has just ended, in its process or in the runner.

        :param start: by :meth:`now`; None: it was a moment.
        :param steps: of its way into its namespaces, as its child has told.
        :param ours: the numbers of processes that were forked for this, or before it.
        """
        args = {"outcome": outcome} if outcome else {}
        self._tell((name, category, start, time.time(), args, steps, ours))

    def _tell(self, within: Within) -> None:
        if self._in_runner:
            self._take(within)
        else:
            self._within.append(within)

    def load(self, report: pytest.TestReport) -> None:
        """In a test's process: its report takes along what has ended."""
        if self._within:
            vars(report)[CARRIED], self._within = self._within[:MOST], []

    def forget(self) -> None:
        """In the keeper of a world: a test has taken along what has ended."""
        self._within = []

    def watch(self, nodeid: str, child: ChildProcess) -> None:
        """The child of a test has been born."""
        self.sightings.watch(nodeid, child)
        child.meanwhile = child.meanwhile or self.sightings.wait_with


class WorkerTrace(Telling):
    """In a worker of pytest-xdist: its reports take along what it has heard itself, too."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._heard: list[Within] = []
        #: With several jobs: when the launch of a test began, which is told with its set-up.
        self._ahead: dict[str, tuple[Attempt, float]] = {}

    def _take(self, within: Within) -> None:
        self._heard.append(within)

    def begin(self, attempt: Attempt) -> None:
        """See :class:`Telling`."""
        if self._run.jobs is not None:
            self._ahead[attempt.item.nodeid] = attempt, time.time()

    def add_launch(
        self, nodeid: str, start: float, namespaces: Iterable[str], child: ChildProcess
    ) -> None:
        """See :class:`Telling`."""
        del nodeid  # it is that of the next report
        self._add_launch(start, time.time(), namespaces, child)

    def _add_launch(
        self, start: float, end: float, namespaces: Iterable[str], child: ChildProcess | None
    ) -> None:
        args = {"namespaces": " ".join(sorted(namespaces))}
        steps = None if child is None else child.inbox.steps
        self._heard.append(("enter namespaces", "launch", start, end, args, steps, ()))

    def write_in_wait(self) -> None:
        """The controller writes."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A report is about to be sent to the controller."""
        nodeid = report.nodeid
        attempt, began = self._ahead.pop(nodeid, (None, 0.0))
        if attempt is not None and attempt.turns is not None:
            until = getattr(report, "start", None) or time.time()
            self._add_launch(began, until, attempt.request.namespaces, attempt.child)
        if report.when == "teardown" or self.sightings.is_over(nodeid):
            for seen in self.sightings.take(nodeid):
                args = {"pid": str(seen.pid), "command": seen.command}
                self._heard.append((seen.name, "process", seen.start, seen.last, args, None, ()))
        if self._heard:
            told = vars(report).get(CARRIED)
            told = told if isinstance(told, list | tuple) else ()
            vars(report)[CARRIED] = [*self._heard, *told][:MOST]
            self._heard = []
