# SPDX-License-Identifier: MIT
"""Which process this is, and what it needs to isolate calls.

Fact: the fixture ``isolate`` is one object, and every fork has a copy of it: an isolated test, a
function that ``isolate`` runs, a process that one of these forks. Numbers do not tell them apart:
runner and child may both be 1.

Consequence: an at-fork hook does. Each process makes its own state when it calls for the first
time; what it has inherited belongs to another process, and a lock perhaps to a thread that is not
there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_nsisolate.kernel.originals import os, threading
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.runner.surroundings import make_launcher

if TYPE_CHECKING:
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.isolate.unawaited import Awaitable, Unawaited
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.runner.run import Run
    from pytest_nsisolate.view.fault_engine import Engine

#: Held while the state of this process is made.
_making = [threading.RLock()]


def _after_fork() -> None:
    _making[0] = threading.RLock()


if hasattr(os, "register_at_fork"):  # nowhere else anything can be isolated
    os.register_at_fork(after_in_child=_after_fork)


class Helped(Protocol):
    """What keeps processes beside the test."""

    def helpers(self) -> dict[int, str]:
        """By number, what to call them."""


class Caller:
    """What one process needs to isolate calls.

    :param launcher: its own.
    :param measurement: gives what coverage measures in it, ready for a clone.
    """

    def __init__(self, launcher: Launcher, measurement: Callable[[], Measurement | None]) -> None:
        self.launcher = launcher
        self.measurement = measurement
        #: The calls and boxes that are at work.
        self.tasks: list[Awaitable] = []
        #: What else keeps processes beside it.
        self.beside: list[Helped] = []


class PerProcess:
    """What calls of one session have in common, in the process that looks."""

    def __init__(self, config: pytest.Config, run: Run, unawaited: Unawaited) -> None:
        self.config = config
        self.settings = run.settings
        self.notes = run.notes
        self.unawaited = unawaited
        self.calls = 0
        self._run = run
        self._caller = Caller(run.launcher, run.measurement)
        # In a child the run is still there, and it is the runner's.
        self._of = here() if run.in_child is None else None

    @property
    def caller(self) -> Caller:
        """The state of this process; made anew in each."""
        with _making[0]:
            if self._of is not here():
                self._caller = Caller(make_launcher(self.config), _Measured(self.config))
                self._caller.launcher.traced = self._run.trace is not None
                self._of = here()
                self.unawaited.forget()
            return self._caller

    def fault_engine(self) -> Engine | None:
        """What has faults of this test made; None outside of an isolated test."""
        from pytest_nsisolate.view.fault_engine import engine_of  # few tests need it

        child = self._run.in_child
        return None if child is None else engine_of(child.outgoing)

    def span(self, name: str, category: str) -> Callable[[str, ChildProcess], None]:
        """Something begins; what this gives is called with its outcome and its child at the end."""
        trace = self._run.trace
        return _unseen if trace is None else partial(self._end_span, name, category, trace.now())

    def _end_span(
        self, name: str, category: str, began: float, outcome: str, child: ChildProcess
    ) -> None:
        assert self._run.trace is not None
        launched = self._caller.launcher.launched
        ends = (child.end, *launched)
        launched.clear()
        ours = {pid for end in ends for pid in (end.forked, end.pid1) if pid is not None}
        self._run.trace.within(name, category, began, outcome, child.inbox.steps, [*ours])

    def note_moment(self, name: str, category: str) -> None:
        """Something has happened."""
        if self._run.trace is not None:
            self._run.trace.within(name, category, None)

    def helpers(self) -> dict[int, str]:
        """Processes that calls of this one keep beside their functions, and what to call them."""
        if self._of is not here():  # it has not called yet
            return {}
        keeping = [*self._caller.tasks, *self._caller.beside]
        return {pid: name for keeper in keeping for pid, name in keeper.helpers().items()}


def _unseen(_: str, __: ChildProcess) -> None:
    """There is no trace."""


class _Measured:
    """What coverage measures in a process that is not the runner."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._last: Measurement | None = None

    def __call__(self) -> Measurement | None:
        if "coverage" not in sys.modules:
            return None
        from pytest_nsisolate.integrations import coverage

        self._last = coverage.current(self._config, self._last)
        return self._last
