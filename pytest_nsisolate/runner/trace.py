# SPDX-License-Identifier: MIT
"""``--nsisolate-trace``: when what ran, as a file for Perfetto and ``chrome://tracing``.

The Trace Event Format, its JSON array: a complete event (``"ph": "X"``) for each span, in
microseconds, and a lane (``tid``) for the runner or for each worker of pytest-xdist.

Fact: a run may end at any moment, and half a JSON file is none. What we do: each write replaces the
closing bracket and ends with another one. The file is opened for each, so that no child holds it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Final

import pytest

from pytest_nsisolate.kernel.originals import json, open, os, time
from pytest_nsisolate.runner.run import Run

_PROCESS: Final = 1
_END: Final = b"\n]\n"

#: Of the viewers' palette.
_COLOURS: Final = {"failed": "terrible", "skipped": "grey"}


class Trace:
    """Writes what it hears to one file. In the runner, or in the controller of pytest-xdist.

    :raises OSError: if the file cannot be written.
    """

    def __init__(self, path: str, run: Run) -> None:
        self._path = os.path.abspath(path)
        self._run = run
        self._lanes: dict[str, int] = {}
        #: Of tests that are under way: their spans.
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._began = time.time()
        head = {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": "pytest"}}
        text = b"[\n" + json.dumps(head).encode()
        self._size = len(text)
        with open(self._path, "wb") as file:
            file.write(text + _END)

    # What pytest says ----------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase is over, or a subtest."""
        if self._run.in_child is not None:
            return
        duration = max(report.duration, 0)
        start = getattr(report, "start", None) or time.time() - duration
        args = {"nodeid": report.nodeid, "outcome": report.outcome}
        lane = self._lane(getattr(report, "worker_id", "runner"))
        event = self._span(str(report.when), "phase", lane, start, start + duration, args)
        self._pending.setdefault(report.nodeid, []).append(event)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over: its span is that of its phases."""
        events = self._pending.pop(nodeid, [])
        if self._run.in_child is not None or not events:
            return
        start = min(event["ts"] for event in events)
        end = max(event["ts"] + event["dur"] for event in events)
        outcomes = {event["args"]["outcome"] for event in events}
        worst = next((o for o in ("failed", "skipped") if o in outcomes), "passed")
        whole = {**events[0], "name": nodeid.rpartition("::")[2] or nodeid, "cat": "test"}
        whole |= {"ts": start, "dur": end - start, "args": {"nodeid": nodeid, "outcome": worst}}
        whole.pop("cname", None)
        if worst in _COLOURS:
            whole["cname"] = _COLOURS[worst]
        self._write([whole, *events])

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: Any, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture of the runner's side."""
        args = {"scope": fixturedef.scope, "for": request.node.nodeid}
        start = time.time()
        try:
            return (yield)
        finally:
            if self._run.in_child is None:
                self._add(f"fixture {fixturedef.argname}", "fixture", start, args)

    # What the plugin says ------------------------------------------------------------------------

    def now(self) -> float:
        """For :meth:`add_launch`. Of no namespace: a child's reports have the same clock."""
        return time.time()

    def add_launch(self, nodeid: str, start: float, namespaces: Iterable[str]) -> None:
        """From the clone until the child stood in its namespaces."""
        args = {"nodeid": nodeid, "namespaces": sorted(namespaces)}
        self._add("enter namespaces", "launch", start, args)

    def _add(self, name: str, category: str, start: float, args: dict[str, Any]) -> None:
        self._write([self._span(name, category, self._lane("runner"), start, time.time(), args)])

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
            self._write([{**named, "args": {"name": name}}])
        return self._lanes[name]

    def _write(self, events: list[dict[str, Any]]) -> None:
        text = b"".join(b",\n" + json.dumps(event).encode() for event in events)
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
