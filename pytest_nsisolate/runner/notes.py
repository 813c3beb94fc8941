# SPDX-License-Identifier: MIT
"""What cannot be the same in another process, where we can see it: one sentence at the end.

Fact: a fork takes one thread along, copies event loops, and nothing that a child leaves in memory
comes back. A test that relies on one of these fails elsewhere and later, or passes for nothing.

Consequence: the runner looks for threads and loops of its own before a clone, the child for new
entries of the stashes before its end, and the summary names each kind once. It is no warning:
under ``-W error`` a suite must run as it does un-isolated.

Threads that work for the run as a whole, and for no test, are passed over: a plugin's server for
its workers, a debugger's. Nothing of theirs is missing in a test.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import threading

THREADS: Final = (
    "threads of the runner do not run in isolated tests "
    "(a fixture of function scope, or inside=, starts them in the test)"
)
LOOP: Final = (
    "an event loop of a wider scope is copied into each isolated test "
    "(a loop of function scope, or inside=, gives the test its own)"
)
STASH: Final = "what a test adds to session.stash or config.stash ends with its process"
GATHERED: Final = "reports of these plugins lack what they have gathered in isolated tests"

UNDEBUGGED: Final = (
    "the debugger did not stop in isolated tests (--pdb does; --nsisolate=none --nsisolate-unsafe "
    "runs them in pytest's own process)"
)

_KINDS: Final = (THREADS, LOOP, STASH, GATHERED, UNDEBUGGED)

#: Packages whose threads no test misses: of the plugins of ``docs/plugins.md``, and of debuggers.
_HELPERS: Final = frozenset(
    {
        *("execnet", "xdist", "pytest_rerunfailures", "pytest_retry", "pytest_timeout"),
        *("debugpy", "pydevd", "_pydev_bundle", "_pydevd_bundle"),
    }
)

#: Under this name a worker of pytest-xdist tells the controller.
_WORKER_NOTES: Final = "nsisolate_run_notes"


class Notes:
    """The notes of a run: each with the tests that it is about, and with details."""

    def __init__(self) -> None:
        self._tests: dict[str, list[str]] = {}
        self._details: dict[str, list[str]] = {}
        #: Names of the plugins that :data:`GATHERED` is about.
        self.losing: tuple[str, ...] = ()

    def look_at(self, item: pytest.Item) -> None:
        """In the runner, after the wider fixtures were set up and before the clone."""
        if threading.active_count() > 1 and (names := sorted(_threads())):
            self.add(THREADS, item.nodeid, *names)
        if "asyncio" in sys.modules and _has_wide_loop(item):
            self.add(LOOP, item.nodeid)
        if self.losing:
            self.add(GATHERED, item.nodeid, *self.losing)

    def add(self, note: str, nodeid: str, *details: str) -> None:
        """Note one test, and what is worth naming about it."""
        tests = self._tests.setdefault(note, [])
        if nodeid not in tests[-1:]:
            tests.append(nodeid)
        known = self._details.setdefault(note, [])
        known += [detail for detail in details if detail not in known]

    def lines(self) -> list[str]:
        """One sentence for each kind."""
        return [
            _sentence(note, self._tests[note], self._details[note])
            for note in _KINDS
            if note in self._tests
        ]

    def hand_over(self, config: pytest.Config) -> None:
        """In a worker of pytest-xdist, at the end of its loop."""
        output: dict[str, Any] | None = getattr(config, "workeroutput", None)
        if output is not None and self._tests:
            output[_WORKER_NOTES] = [
                [note, tests, self._details[note]] for note, tests in self._tests.items()
            ]

    def take_over(self, node: Any) -> None:
        """In the controller, when a worker has ended."""
        for note, tests, details in getattr(node, "workeroutput", {}).get(_WORKER_NOTES, ()):
            for nodeid in tests:
                self.add(note, nodeid, *details)


def _threads() -> set[str]:
    """Every other thread that a test may miss, by name and by the module of what it runs."""
    here = threading.current_thread()
    found = set()
    for thread in threading.enumerate():
        module = _module(thread)
        if thread is not here and module.partition(".")[0] not in _HELPERS:
            found.add(f"{thread.name} from {module}" if module else thread.name)
    return found


def _module(thread: threading.Thread) -> str:
    """The module of what it runs; empty where that is not known (a thread of a C library)."""
    runs: Any = type(thread).run
    if isinstance(thread, threading.Timer):
        runs = thread.function
    elif runs is threading.Thread.run:
        runs = getattr(thread, "_target", None)  # no public neighbour; gone when it has ended
    while isinstance(runs, functools.partial):
        runs = runs.func
    try:
        module = getattr(runs, "__module__", None) or type(runs).__module__
    except Exception:  # a property that raises
        return ""
    return module if isinstance(module, str) and runs is not None else ""


def _has_wide_loop(item: pytest.Item) -> bool:
    asyncio: Any = sys.modules["asyncio"]
    kinds = (asyncio.AbstractEventLoop, asyncio.Runner)
    values: dict[str, object] = getattr(item, "funcargs", None) or {}
    return any(isinstance(values.get(name), kinds) for name in internals.higher_scope_names(item))


def _sentence(note: str, tests: list[str], details: list[str]) -> str:
    count = "1 test" if len(tests) == 1 else f"{len(tests)} tests, first"
    named = f": {', '.join(details[:5])}{', ...' if len(details) > 5 else ''}" if details else ""
    return f"nsisolate: {note}{named} ({count}: {tests[0]})"
