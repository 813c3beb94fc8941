# SPDX-License-Identifier: MIT
"""``--nsisolate-trace``: when what ran, as a file for Perfetto and ``chrome://tracing``.

The Trace Event Format, its JSON array: a complete event (``"ph": "X"``) for each span, in
microseconds, and a lane (``tid``) for the runner, for each of several jobs, or for each worker of
pytest-xdist.

Here is what is heard, and the file; :mod:`.spans` makes events of it, and says how lanes are used.

What runs within an isolated test, or in a worker, comes with reports (:mod:`.telling`), the steps
of a child's way in with the frame that says that it is ready (:mod:`.wire.steps`), the processes of
a test from the process that waits for it (:mod:`.sightings`).

Fact: a run may end at any moment, and half a JSON file is none. What we do: each write replaces the
closing bracket and ends with another one. The file is opened for each, so that no child holds it.

Fact: an isolated test takes some milliseconds, in which the runner waits. What we do: what is heard
is kept until then, and becomes spans and text while the child works, ten times a second at most:
memory that is written to after a clone is copied, for one test as for ten. A test of the runner's
own has its write before it begins, the controller of workers one a second.
What still fails: a SIGKILL takes along what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

import pytest

from pytest_nsisolate.kernel.originals import json, open, os, time
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.runner.spans import PROCESS, Job, Spans, Within
from pytest_nsisolate.runner.telling import Telling

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.runner.attempt import Attempt

_END: Final = b"\n]\n"

#: Seconds between two writes while the runner waits; and elsewhere, and what is kept at most.
_EVERY_WAIT: Final = 0.1
_EVERY: Final = 1.0
_KEPT: Final = 500


class Trace(Telling):
    """Writes what it hears to one file. In the runner, or in the controller of pytest-xdist.

    :raises OSError: if the file cannot be written.
    """

    shortest = 0.0

    def __init__(self, path: str, run: Run) -> None:
        super().__init__(run)
        self._path = os.path.abspath(path)
        #: The last one of each job's lane, and by test the one that its reports belong to.
        self._on_lanes: list[Job] = []
        self._jobs: dict[str, Job] = {}
        #: What was heard and is to become events, and when some were written.
        self._kept: list[Callable[[], None]] = []
        self._written = time.time()
        self._spans = Spans(self._written)
        head = {"name": "process_name", "ph": "M", "pid": PROCESS, "args": {"name": "pytest"}}
        text = b"[\n" + json.dumps(head).encode()
        self._size = len(text)
        with open(self._path, "wb") as file:
            file.write(text + _END)

    # What pytest says ----------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase is over, or a subtest."""
        if not self._in_runner:
            return
        job = self._jobs.get(report.nodeid)
        over = job is not None and job.attempt.over
        self._keep(partial(self._spans.add_phase, report, time.time(), job, over))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over: its span is that of its phases."""
        if self._in_runner:
            self._finish(nodeid, self._jobs.pop(nodeid, None))

    def _finish(self, nodeid: str, job: Job | None) -> None:
        seen = self.sightings.take(nodeid)
        self._keep(partial(self._spans.finish, nodeid, job, seen))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """A test begins; if it is the runner's own, it may end the runner."""
        if item not in self._run.requests:
            self.write()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Nothing more will come."""
        self.write()

    # What the plugin says ------------------------------------------------------------------------

    def _take(self, within: Within) -> None:
        name, category, start, end, args, _, _ = within
        if category == "fixture" and start is not None:
            self._keep(partial(self._spans.add_fixture, name, start, end, args))
        else:
            lane = self._spans.lane("runner")
            self._keep(partial(self._spans.add_within, within, lane, 0.0, inf, ""))

    def begin(self, attempt: Attempt) -> None:
        """Several jobs: a child is about to be launched. It has a lane until it is over."""
        if self._run.jobs is None:
            return
        nodeid, start = attempt.item.nodeid, time.time()
        if (before := self._jobs.get(nodeid)) is not None:  # an attempt before this one
            self._finish(nodeid, before)
        on = self._on_lanes
        place = next((n for n, job in enumerate(on) if job.is_over), len(on))
        job = self._jobs[nodeid] = Job(attempt, self._spans.lane(f"job {place + 1}"), start)
        if place < len(on):
            on[place].end = start
        on[place : place + 1] = [job]

    def add_launch(
        self, nodeid: str, start: float, namespaces: Iterable[str], child: ChildProcess
    ) -> None:
        """From the clone until the child stood in its namespaces, or was refused them."""
        job = self._jobs.get(nodeid)
        lane = self._spans.lane("runner")
        if job is not None:
            lane, start = job.lane, max(start, job.start)
        end, steps = time.time(), child.inbox.steps
        add = self._spans.add_launch
        self._keep(partial(add, nodeid, namespaces, lane, start, end, steps))

    def _keep(self, heard: Callable[[], None]) -> None:
        kept = self._kept
        kept.append(heard)
        if len(kept) >= _KEPT or time.time() - self._written >= _EVERY:
            self.write()

    def write_in_wait(self) -> None:
        """The runner is about to wait for a child: time to write that costs none."""
        if time.time() - self._written >= _EVERY_WAIT:
            self.write()

    def write(self) -> None:
        """What is kept goes to the file."""
        if not self._kept or not self._in_runner:
            return
        kept, self._kept = self._kept, []
        for heard in kept:
            heard()
        events, steps = self._spans.events, self._spans.steps
        self._spans.events, self._spans.steps = [], []
        self._written = time.time()
        if not events:
            return
        # Where there are steps, there is the launch that they belong to.
        text = ",\n".join(("", json.dumps(events)[1:-1], *steps)).encode()
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return  # the suite has taken it away: a picture of the run is no reason to end it
        try:
            os.pwrite(fd, text + _END, self._size)
            self._size += len(text)
        except OSError:
            pass
        finally:
            os.close(fd)
