# SPDX-License-Identifier: MIT
"""What the plugin keeps for one run of pytest, under one stash key.

Everything is made, and most of the package imported, when the first isolated test needs it, so
that a run without one pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.runner.notes import Notes

if TYPE_CHECKING:
    from pytest_nsisolate.child.keeper import Keeper
    from pytest_nsisolate.child.main import Child
    from pytest_nsisolate.child.terminal import Turns
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.isolate.per_process import PerProcess
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.request.model import IsolationRequest
    from pytest_nsisolate.request.options import Settings
    from pytest_nsisolate.request.worlds import Place
    from pytest_nsisolate.runner.jobs import Jobs
    from pytest_nsisolate.runner.streams import StandardStreams
    from pytest_nsisolate.runner.telling import Telling
    from pytest_nsisolate.runner.worlds import World


@dataclass(slots=True)
class Run:
    """State of one run.

    :param launcher: the runner's.
    :param requests: what each collected item asked for; absent: not isolated.
    :param current: the attempt whose child is at work.
    :param outstanding: a child that finished alone and has not been reaped yet; one at most.
    :param in_child: in a child, and only there: its side of things.
    :param nextitem: what pytest is going to run after the current item.
    :param request: in a child: what its test asked for.
    :param unfinished: called when the last report has been logged: the user is at a prompt inside.
    :param budgets: seconds that another plugin's timeout gives an item.
    :param keeps_calls: another plugin reads a phase's exception after its report.
    :param home: the runner's namespaces.
    :param notes: what cannot be the same in isolated tests, as far as the run has seen it.
    :param stopping: what Ctrl-Z does while there is a current attempt.
    :param calls: what the fixture ``isolate`` keeps, once it is set up.
    :param streams: what a test must not have changed.
    :param last_words: what isolated tests have written at the end of their processes (standard
        output, standard error).
    :param trace: writes when what ran (``--nsisolate-trace``).
    :param jobs: children of items whose turn is still to come; None where there is one job.
    :param worlds: those that tests share, and that have begun.
    :param keeper: in the process that holds such a world, and in its tests: it.
    :param settled: in such a test: the processes that were there before it.
    :param filters: of warnings, as they were before a test that shares a world.
    :param first_mounts: by a plan's id: the plan, and what is mounted when it has been followed.
    """

    config: pytest.Config
    settings: Settings
    launcher: Launcher
    requests: dict[pytest.Item, IsolationRequest] = field(default_factory=dict)
    current: ChildProcess | None = None
    outstanding: ChildProcess | None = None
    in_child: Child | None = None
    trace: Telling | None = None
    nextitem: pytest.Item | None = None
    request: IsolationRequest | None = None
    unfinished: Callable[[], None] | None = None
    budgets: dict[pytest.Item, float] = field(default_factory=dict)
    keeps_calls: bool = False
    home: Mapping[str, int] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    stopping: ExitStack = field(default_factory=ExitStack)
    calls: PerProcess | None = None
    streams: StandardStreams | None = None
    first_mounts: dict[int, tuple[object, str]] = field(default_factory=dict)
    last_words: list[tuple[str, str]] = field(default_factory=list)
    jobs: Jobs | None = None
    worlds: dict[Place, World] = field(default_factory=dict)
    keeper: Keeper | None = None
    settled: frozenset[int] = frozenset()
    filters: list[object] = field(default_factory=list)
    _measurement: Measurement | None = None
    _turns: Turns | None = None

    @property
    def turns(self) -> Turns:
        """The word that a child waits for where both sides write to the terminal.

        :raises OSError: when no descriptor is left.
        """
        if self._turns is None:
            from pytest_nsisolate.child.terminal import Turns

            self._turns = Turns()
        return self._turns

    def preload(self) -> None:
        """Import and make once what no child is to make; before a fixture can be in the way."""
        try:
            self.launcher.sharing.preload()
        except (ImportError, StepError, OSError):
            pass  # the host check says so
        try:
            internals.create_base_temp(self.config)
        except OSError:
            pass  # tmp_path will say so in the test that asks for it, as in plain pytest

    def begin_as_keeper(self, keeper: Keeper, launcher: Launcher) -> None:
        """In the keeper of a world: what the runner has begun is none of its business."""
        self.keeper, self.launcher = keeper, launcher
        self.current = self.outstanding = self.jobs = self.unfinished = None
        self.worlds = {}
        self.stopping.close()
        self._measurement = None

    def end_own_children(self) -> None:
        """Before code of the suite runs in the runner: it may wait for any child. Bounded.

        ``os.wait()`` would block on the watchdog, and "kill all my children" would hit it.
        """
        if self.jobs is not None:
            self.jobs.abandon()
        self.reap_outstanding()
        self.launcher.dismiss_watchdog()

    def measurement(self) -> Measurement | None:
        """What coverage measures in this runner, ready for a clone; None if it does not run."""
        if "coverage" not in sys.modules:
            return None
        from pytest_nsisolate.integrations import coverage

        self._measurement = coverage.current(self.config, self._measurement)
        return self._measurement

    def helpers(self) -> dict[int, str]:
        """Processes that this one's calls keep beside their functions, and what to call them."""
        return {} if self.calls is None else self.calls.helpers()

    def reap_outstanding(self) -> None:
        """Reap the child that was not waited for. Bounded."""
        if self.outstanding is not None:
            child, self.outstanding = self.outstanding, None
            child.reap()

    def close(self) -> None:
        """At the end of the run: nothing is left behind."""
        self.stopping.close()
        self.current = self.outstanding = None
        self.launcher.close()
        if self._turns is not None:
            self._turns.close()
            self._turns = None


#: The state of a run; absent before ``pytest_configure`` and after ``pytest_unconfigure``.
RUN = pytest.StashKey[Run]()

#: The report that ``pytest_runtest_makereport`` gives the other plugins in the runner.
SHOWN = pytest.StashKey[pytest.TestReport | None]()
