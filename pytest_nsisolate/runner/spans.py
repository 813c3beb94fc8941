# SPDX-License-Identifier: MIT
"""What a trace has heard, as events of the Trace Event Format: spans, moments, and their lanes.

Fact: spans of one lane lie in one another or apart. Several jobs overlap, and the runner reports a
test, or learns of its crash, when its turn comes. What we do: a job's lane is taken when its child
is launched and free when that is known to have ended, and no span of the test goes beyond. A worker
says nothing of its jobs: what overlaps there goes to the next lane that is free. Calls and
processes overlap as their test likes: they have lanes of their own.

Nothing here trusts a test's process, whose reports bring some of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from math import inf, isfinite
from typing import Any, Final, TypeAlias

import pytest

from pytest_nsisolate.kernel.originals import json
from pytest_nsisolate.runner.attempt import Attempt
from pytest_nsisolate.runner.sightings import Sighting
from pytest_nsisolate.wire import steps as wire_steps

#: A complete event, a moment, or the name of a lane.
Event: TypeAlias = "dict[str, Any]"

#: What ran within a test: its name and category, when it began (None: it is a moment) and ended,
#: what came of it, the steps of its way in, and the numbers of processes that served it or others.
Within: TypeAlias = "tuple[str, str, float | None, float, dict[str, str], object, Sequence[int]]"

#: What a report takes along at most.
MOST: Final = 1000

#: An attribute of reports, while they are under way.
CARRIED: Final = "nsisolate_trace"

#: Of the viewers' palette.
_COLOURS: Final = {"failed": "terrible", "skipped": "grey"}

PROCESS: Final = 1

#: What a worker does for a test before the first of its phases.
_AHEAD: Final = ("fixture", "launch")

#: What all steps have in common.
_STEP: Final = f'"cat": "step", "ph": "X", "pid": {PROCESS}, "args": {{}}'


@dataclass(slots=True)
class Job:
    """The lane of one attempt: from its launch until another one is launched there."""

    attempt: Attempt
    lane: int
    start: float
    end: float = inf

    @property
    def is_over(self) -> bool:
        """Also where no child was born."""
        return self.attempt.child is None or self.attempt.child.outcome is not None


class Spans:
    """Makes events of what is heard.

    :param began: the moment that is 0 in the file, in seconds of the epoch.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        #: Those that are to be written, and the steps, of which there are most, as JSON.
        self.events: list[Event] = []
        self.steps: list[str] = []
        self._lanes: dict[str, int] = {}
        #: Of tests that are under way: their spans.
        self._pending: dict[str, list[Event]] = {}
        #: Of these: the numbers of processes that stand for calls and boxes, which have spans.
        self._told: dict[str, set[int]] = {}
        #: By worker, and of what overlaps in a lane: when each of its lanes is free.
        self._free_from: dict[str, list[float]] = {}
        #: By lane: when the runner heard that the last child stood in its namespaces.
        self._entered: dict[int, float] = {}

    def lane(self, name: str) -> int:
        """The number of a lane."""
        if name not in self._lanes:
            self._lanes[name] = lane = len(self._lanes) + 1
            named: Event = {"name": "thread_name", "ph": "M", "pid": PROCESS, "tid": lane}
            self.events.append({**named, "args": {"name": name}})
        return self._lanes[name]

    # Tests ----------------------------------------------------------------------------------------

    def add_phase(
        self, report: pytest.TestReport, heard: float, job: Job | None, over: bool
    ) -> None:
        """Of a test, when its report has been heard."""
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
            lane = self.lane("runner")
        args = {"nodeid": nodeid, "outcome": report.outcome}
        event = self._span(str(report.when), "phase", lane, start, end, args)
        event["worker"] = getattr(report, "worker_id", None)
        before.append(event)
        carried = _read(vars(report).pop(CARRIED, ()))
        if lane:
            for within in carried:
                self.add_within(within, lane, start, end, nodeid)
        else:
            event["carried"] = [(within, start, end) for within in carried]

    def finish(self, nodeid: str, job: Job | None, seen: Sequence[Sighting]) -> None:
        """A test is over: its span is that of its phases.

        :param seen: the processes that it has started.
        """
        events = self._pending.pop(nodeid, [])
        if not events:
            self._told.pop(nodeid, None)
            return
        worker = [event.pop("worker") for event in events][-1]
        carried = [part for event in events for part in event.pop("carried", ())]
        start = min(event["ts"] for event in events)
        end = max(event["ts"] + event["dur"] for event in events)
        outcomes = {event["args"]["outcome"] for event in events}
        worst = next((o for o in ("failed", "skipped") if o in outcomes), "passed")
        launch = self._ahead_launch(nodeid, job, self._began + start / 1e6)
        start = launch[0]["ts"] if launch else start
        whole = {**events[-1], "name": nodeid.rpartition("::")[2] or nodeid, "cat": "test"}
        whole |= {"ts": start, "dur": end - start, "args": {"nodeid": nodeid, "outcome": worst}}
        whole.pop("cname", None)
        if worst in _COLOURS:
            whole["cname"] = _COLOURS[worst]
        if worker is not None:
            seen = self._place(worker, carried, whole, events)
        self.events += [whole, *launch, *events]
        told = self._told.pop(nodeid, set())
        for process in seen:
            if process.pid not in told:
                self._add_process(process, whole)

    def _place(
        self,
        worker: str,
        carried: Sequence[tuple[Within, float, float]],
        whole: Event,
        phases: Sequence[Event],
    ) -> list[Sighting]:
        """A test of a worker is over, and its lane is known; what its reports have brought.

        :returns: its processes.
        """
        seen: list[Sighting] = []
        first = self._began + whole["ts"] / 1e6
        last = first + whole["dur"] / 1e6
        begins = [within[2] for within, _, _ in carried if within[1] in _AHEAD]
        start = min([first, *(begin for begin in begins if begin is not None)])
        lane = self._free_lane(worker, start, last)
        whole |= {"ts": (start - self._began) * 1e6, "dur": (last - start) * 1e6}
        for event in (whole, *phases):
            event["tid"] = lane
        nodeid = whole["args"]["nodeid"]
        for within, begin, end in carried:
            name, category, started, ended, args, steps, _ = within
            if category == "process" and started is not None:
                number = int(args["pid"]) if args.get("pid", "").isdecimal() else 0
                seen.append(Sighting(number, name, args.get("command", ""), started, ended))
            elif category == "launch" and started is not None:
                namespaces = args.get("namespaces", "").split()
                ended = min(ended, begin if started < begin else end)
                self.add_launch(nodeid, namespaces, lane, started, ended, steps)
            elif category == "fixture" and started is not None and started < begin:
                told = {"nodeid": nodeid, **args}
                span = self._span(name, category, lane, started, min(ended, begin), told)
                self.events.append(span)
            else:
                self.add_within(within, lane, begin, end, nodeid)
        return seen

    def _ahead_launch(self, nodeid: str, job: Job | None, until: float) -> list[Event]:
        """The launch of a test before its turn."""
        if job is None or job.attempt.turns is None:
            return []
        child, args = job.attempt.child, _launch_args(nodeid, job.attempt.request.namespaces)
        span = self._span("enter namespaces", "launch", job.lane, job.start, until, args)
        said = None if child is None else child.inbox.steps
        self._add_steps(said, job.lane, job.start, until)
        return [span]

    def _add_process(self, process: Sighting, test: Event) -> None:
        """On a lane beside that of its test, of which it is a part."""
        first, last = (self._began + ts / 1e6 for ts in (test["ts"], test["ts"] + test["dur"]))
        start = min(max(process.start, first), last)
        end = min(max(process.last, start), last)
        lane = self._free_lane(f"{self._name(test['tid'])}, processes", start, end)
        args = {"nodeid": test["args"]["nodeid"], "pid": process.pid, "command": process.command}
        self.events.append(self._span(process.name, "process", lane, start, end, args))

    # Launches, and what runs in the runner and within tests ---------------------------------------

    def add_launch(
        self,
        nodeid: str,
        namespaces: Iterable[str],
        lane: int,
        start: float,
        end: float,
        steps: object,
    ) -> None:
        """From the clone until the child stood in its namespaces, and the steps of that way."""
        args = _launch_args(nodeid, namespaces)
        self.events.append(self._span("enter namespaces", "launch", lane, start, end, args))
        self._add_steps(steps, lane, start, end)
        self._entered[lane] = end

    def add_within(self, within: Within, lane: int, first: float, last: float, nodeid: str) -> None:
        """A fixture and a moment are on the lane of their test, a call is on one of its own.

        :param first: when its phase began; it ended at ``last``.
        :param nodeid: of the test; empty: it ran in the runner.
        """
        name, category, start, end, args, steps, numbers = within
        if nodeid:
            args = {"nodeid": nodeid, **args}
            self._told.setdefault(nodeid, set()).update(numbers)
        first = max(first, self._entered.get(lane, 0.0))
        end = max(first, min(end, last))
        if start is None:
            event = self._span(name, category, lane, end, end, args)
            del event["dur"]
            event |= {"ph": "i", "s": "t"}
            self.events.append(event)
        elif category == "fixture":
            start = min(max(start, first), end)
            self.events.append(self._span(name, category, lane, start, end, args))
        else:
            end = within[3]
            lane = self._free_lane(f"{self._name(lane)}, calls", start, end)
            self.events.append(self._span(name, category, lane, start, end, args))
            self._add_steps(steps, lane, start, end)

    def add_fixture(self, name: str, start: float, end: float, args: dict[str, Any]) -> None:
        """One that was set up in the runner."""
        self.events.append(self._span(name, "fixture", self.lane("runner"), start, end, args))

    def _add_steps(self, said: object, lane: int, start: float, end: float) -> None:
        """Each begins where the one before it has ended."""
        for name, ended in wire_steps.read(said):
            until = min(max(ended, start), end)
            times = f'"ts": {(start - self._began) * 1e6}, "dur": {(until - start) * 1e6}'
            self.steps.append(f'{{"name": {_quoted(name)}, "tid": {lane}, {times}, {_STEP}}}')
            start = until

    # Events ---------------------------------------------------------------------------------------

    def _span(
        self, name: str, category: str, lane: int, start: float, end: float, args: dict[str, Any]
    ) -> Event:
        event = {"name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": lane}
        event |= {"ts": (start - self._began) * 1e6, "dur": (end - start) * 1e6, "args": args}
        if args.get("outcome") in _COLOURS:
            event["cname"] = _COLOURS[args["outcome"]]
        return event

    def _name(self, lane: int) -> str:
        return next(name for name, number in self._lanes.items() if number == lane)

    def _free_lane(self, owner: str, start: float, end: float) -> int:
        """Where things of one owner overlap: the first of its lanes on which nothing ends later."""
        ends = self._free_from.setdefault(owner, [])
        number = next((n for n, free in enumerate(ends) if free <= start), len(ends))
        ends[number : number + 1] = [end]
        word = "" if owner.endswith(("calls", "processes")) else "job "
        return self.lane(owner if number == 0 else f"{owner}, {word}{number + 1}")


def _read(found: object) -> Iterator[Within]:
    """What a report has brought; the test's process is not trusted."""
    if not isinstance(found, list | tuple):
        return
    for one in islice(found, MOST):
        match one:
            case [str(name), str(category), float() | None as start, float(end), dict(args), *more]:
                if isfinite(end) and (start is None or -inf < start <= end):
                    texts = {str(key): str(value) for key, value in args.items()}
                    steps, numbers = more if len(more) == 2 else (None, ())
                    known = islice(numbers, MOST) if isinstance(numbers, list | tuple) else ()
                    ours = [number for number in known if isinstance(number, int)]
                    yield name, category, start, end, texts, steps, ours


@lru_cache(maxsize=100)
def _quoted(name: str) -> str:
    return json.dumps(name)


def _launch_args(nodeid: str, namespaces: Iterable[str]) -> dict[str, Any]:
    return {"nodeid": nodeid, "namespaces": sorted(namespaces)}
