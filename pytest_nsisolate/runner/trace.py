# SPDX-License-Identifier: MIT
"""``--nsisolate-trace``: when what ran, as a file for Perfetto and ``chrome://tracing``.

The Trace Event Format, its JSON array: a complete event (``"ph": "X"``) for each span, in
microseconds, and a lane (``tid``) for the runner, for each of several jobs, or for each worker of
pytest-xdist.

Fact: spans of one lane lie in one another or apart. Several jobs overlap, and the runner reports a
test, or learns of its crash, when its turn comes. What we do: a job's lane is taken when its child
is launched and free when that is known to have ended, and no span of the test goes beyond. A worker
says nothing of its jobs: what overlaps there goes to the next lane that is free.

Fact: what runs within an isolated test is known in its own process only, which the runner hears of
by reports. What we do: a report takes along what has ended since the one before it, as plain data;
of a crash's phase there is none. Calls overlap as their test likes: they have lanes of their own.

Fact: a run may end at any moment, and half a JSON file is none. What we do: each write replaces the
closing bracket and ends with another one. The file is opened for each, so that no child holds it.

Fact: an isolated test takes some milliseconds, in which the runner waits. What we do: what is heard
is kept until then, and becomes spans and text while the child works, ten times a second at most:
memory that is written to after a clone is copied, for one test as for ten. A test of the runner's
own has its write before it begins, the controller of workers one a second.
What still fails: a SIGKILL takes along what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest

from pytest_nsisolate.kernel.originals import json, open, os, time
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.runner.run import Run

if TYPE_CHECKING:
    from pytest_nsisolate.runner.attempt import Attempt

_PROCESS: Final = 1
_END: Final = b"\n]\n"

#: Seconds between two writes while the runner waits; and elsewhere, and what is kept at most.
_EVERY_WAIT: Final = 0.1
_EVERY: Final = 1.0
_KEPT: Final = 500

#: An attribute of reports, while they are under way.
_CARRIED: Final = "nsisolate_trace"
_MOST: Final = 1000

#: Seconds of a fixture that is told with a report: most tests have some that do next to nothing,
#: and a report that says nothing but "passed" costs next to nothing.
_SHORTEST: Final = 0.001

#: What ran within a test: its name and category, when it began (None: it is a moment) and ended,
#: and what came of it.
Within: TypeAlias = "tuple[str, str, float | None, float, dict[str, str]]"

#: Of the viewers' palette.
_COLOURS: Final = {"failed": "terrible", "skipped": "grey"}


@dataclass(slots=True)
class _Job:
    """The lane of one attempt: from its launch until another one is launched there."""

    attempt: Attempt
    lane: int
    start: float
    end: float = float("inf")

    @property
    def is_over(self) -> bool:
        """Also where no child was born."""
        return self.attempt.child is None or self.attempt.child.outcome is not None


class Trace:
    """Writes what it hears to one file. In the runner, or in the controller of pytest-xdist.

    :raises OSError: if the file cannot be written.
    """

    def __init__(self, path: str, run: Run) -> None:
        self._path = os.path.abspath(path)
        self._run = run
        self._lanes: dict[str, int] = {}
        #: In a test's process: what the next report takes along.
        self._within: list[Within] = []
        #: Of tests that are under way: their spans.
        self._pending: dict[str, list[dict[str, Any]]] = {}
        #: The last one of each job's lane, and by test the one that its reports belong to.
        self._on_lanes: list[_Job] = []
        self._jobs: dict[str, _Job] = {}
        #: By worker, and of what overlaps in a lane: when each of its lanes is free.
        self._free_from: dict[str, list[float]] = {}
        #: By lane: when the runner heard that the last child stood in its namespaces.
        self._entered: dict[int, float] = {}
        self._of = here()
        #: What was heard and is to become events, the events, and when some were written.
        self._kept: list[Callable[[], None]] = []
        self._events: list[dict[str, Any]] = []
        self._began = self._written = time.time()
        head = {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": "pytest"}}
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
        self._keep(partial(self._add_phase, report, time.time(), job, over))

    def _add_phase(
        self, report: pytest.TestReport, heard: float, job: _Job | None, over: bool
    ) -> None:
        nodeid = report.nodeid
        duration = max(report.duration, 0)
        start = getattr(report, "start", None) or heard - duration
        end = start + duration
        before = self._pending.setdefault(nodeid, [])
        lane = 0  # a worker's is known when its test is over
        if job is not None:
            lane = job.lane
            start, end = max(start, job.start), min(end, job.end)
            if before and over:
                # Its end came between this phase's begin and the moment when the runner looked.
                start = min(start, self._began + (before[-1]["ts"] + before[-1]["dur"]) / 1e6)
            start = min(start, end)
        elif not hasattr(report, "worker_id"):
            lane = self._lane("runner")
        args = {"nodeid": nodeid, "outcome": report.outcome}
        event = self._span(str(report.when), "phase", lane, start, end, args)
        event["worker"] = getattr(report, "worker_id", None)
        before.append(event)
        for within in _read(vars(report).pop(_CARRIED, ())):
            self._add_within(within, lane, start, end, nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over: its span is that of its phases."""
        if self._in_runner:
            self._keep(partial(self._finish, nodeid, self._jobs.pop(nodeid, None)))

    def _finish(self, nodeid: str, job: _Job | None) -> None:
        events = self._pending.pop(nodeid, [])
        if not events:
            return
        worker = [event.pop("worker") for event in events][-1]
        start = min(event["ts"] for event in events)
        end = max(event["ts"] + event["dur"] for event in events)
        outcomes = {event["args"]["outcome"] for event in events}
        worst = next((o for o in ("failed", "skipped") if o in outcomes), "passed")
        if job is not None and job.attempt.turns is not None:  # launched before its turn
            args = _launch_args(nodeid, job.attempt.request.namespaces)
            until = self._began + start / 1e6
            launch = self._span("enter namespaces", "launch", job.lane, job.start, until, args)
            start = launch["ts"]
            events.insert(0, launch)
        whole = {**events[-1], "name": nodeid.rpartition("::")[2] or nodeid, "cat": "test"}
        whole |= {"ts": start, "dur": end - start, "args": {"nodeid": nodeid, "outcome": worst}}
        whole.pop("cname", None)
        if worst in _COLOURS:
            whole["cname"] = _COLOURS[worst]
        if worker is not None:
            lane = self._free_lane(worker, start, end)
            for event in (whole, *events):
                event["tid"] = lane
        self._events += [whole, *events]

    def _free_lane(self, worker: str, start: float, end: float) -> int:
        """Of a worker with several jobs: the first lane on which nothing ends later."""
        ends = self._free_from.setdefault(worker, [])
        number = next((n for n, free in enumerate(ends) if free <= start), len(ends))
        ends[number : number + 1] = [end]
        word = "" if worker.endswith("calls") else "job "
        return self._lane(worker if number == 0 else f"{worker}, {word}{number + 1}")

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
            if in_runner or (self._run.in_child is not None and end - start >= _SHORTEST):
                args = {"scope": fixturedef.scope, "for": request.node.nodeid}
                name = f"fixture {fixturedef.argname}"
                if in_runner:
                    self._keep(partial(self._add_fixture, name, start, end, args))
                else:
                    self._within.append((name, "fixture", start, end, args))

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

    def now(self) -> float:
        """For :meth:`add_launch`. Of no namespace: a child's reports have the same clock."""
        return time.time()

    def within(self, name: str, category: str, start: float | None, outcome: str = "") -> None:
        """Something of a test has just ended, in its process or in the runner.

        :param start: by :meth:`now`; None: it was a moment.
        """
        args = {"outcome": outcome} if outcome else {}
        within: Within = (name, category, start, time.time(), args)
        if self._in_runner:
            lane = self._lane("runner")
            self._keep(partial(self._add_within, within, lane, 0.0, inf, ""))
        else:
            self._within.append(within)

    def load(self, report: pytest.TestReport) -> None:
        """In a test's process: its report takes along what has ended."""
        if self._within:
            vars(report)[_CARRIED], self._within = self._within[:_MOST], []

    def begin(self, attempt: Attempt) -> None:
        """Several jobs: a child is about to be launched. It has a lane until it is over."""
        if self._run.jobs is None:
            return
        nodeid, start = attempt.item.nodeid, time.time()
        if (before := self._jobs.get(nodeid)) is not None:  # an attempt before this one
            self._keep(partial(self._finish, nodeid, before))
        on = self._on_lanes
        place = next((n for n, job in enumerate(on) if job.is_over), len(on))
        job = self._jobs[nodeid] = _Job(attempt, self._lane(f"job {place + 1}"), start)
        if place < len(on):
            on[place].end = start
        on[place : place + 1] = [job]

    def add_launch(self, nodeid: str, start: float, namespaces: Iterable[str]) -> None:
        """From the clone until the child stood in its namespaces."""
        job = self._jobs.get(nodeid)
        lane = self._lane("runner")
        if job is not None:
            lane, start = job.lane, max(start, job.start)
        end = time.time()
        self._keep(partial(self._add_launch, nodeid, namespaces, lane, start, end))

    def _add_launch(
        self, nodeid: str, namespaces: Iterable[str], lane: int, start: float, end: float
    ) -> None:
        args = _launch_args(nodeid, namespaces)
        self._events.append(self._span("enter namespaces", "launch", lane, start, end, args))
        self._entered[lane] = end

    @property
    def _in_runner(self) -> bool:
        """And in no process of a test or a call, nor in one that keeps a world for several."""
        run = self._run
        return run.trace is self and run.in_child is None and self._of is here()

    def _add_within(
        self, within: Within, lane: int, first: float, last: float, nodeid: str
    ) -> None:
        """A fixture and a moment are on the lane of their test, a call is on one of its own."""
        name, category, start, end, args = within
        if nodeid:
            args = {"nodeid": nodeid, **args}
        first = max(first, self._entered.get(lane, 0.0))
        end = max(first, min(end, last))
        if start is None:
            event = self._span(name, category, lane, end, end, args)
            del event["dur"]
            event |= {"ph": "i", "s": "t"}
        elif category == "fixture":
            event = self._span(name, category, lane, min(max(start, first), end), end, args)
        else:
            names = {number: name for name, number in self._lanes.items()}
            lane = self._free_lane(f"{names[lane]}, calls", start, within[3])
            event = self._span(name, category, lane, start, within[3], args)
        self._events.append(event)

    def _add_fixture(self, name: str, start: float, end: float, args: dict[str, Any]) -> None:
        lane = self._lane("runner")
        self._events.append(self._span(name, "fixture", lane, start, end, args))

    def _span(
        self, name: str, category: str, lane: int, start: float, end: float, args: dict[str, Any]
    ) -> dict[str, Any]:
        event = {"name": name, "cat": category, "ph": "X", "pid": _PROCESS, "tid": lane}
        event |= {"ts": (start - self._began) * 1e6, "dur": (end - start) * 1e6, "args": args}
        if args.get("outcome") in _COLOURS:
            event["cname"] = _COLOURS[args["outcome"]]
        return event

    def _lane(self, name: str) -> int:
        if name not in self._lanes:
            self._lanes[name] = lane = len(self._lanes) + 1
            named: dict[str, Any] = {"name": "thread_name", "ph": "M", "pid": _PROCESS, "tid": lane}
            self._events.append({**named, "args": {"name": name}})
        return self._lanes[name]

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
        events, self._events = self._events, []
        self._written = time.time()
        if not events:
            return
        text = b",\n" + json.dumps(events)[1:-1].encode()
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


def _read(found: object) -> Iterator[Within]:
    """What a report has brought; the test's process is not trusted."""
    if not isinstance(found, list | tuple):
        return
    for one in islice(found, _MOST):
        match one:
            case [str(name), str(category), float() | None as start, float(end), dict(args)]:
                if isfinite(end) and (start is None or -inf < start <= end):
                    texts = {str(key): str(value) for key, value in args.items()}
                    yield name, category, start, end, texts


def _launch_args(nodeid: str, namespaces: Iterable[str]) -> dict[str, Any]:
    return {"nodeid": nodeid, "namespaces": sorted(namespaces)}
