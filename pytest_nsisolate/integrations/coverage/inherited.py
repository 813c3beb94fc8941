# SPDX-License-Identifier: MIT
"""The usual strategy: the child goes on with the measurement that it has inherited.

Fact: a clone inherits a measurement that works: tracer, cache of decisions, plugins, the frames on
the stack. But it must not inherit where the data goes: coverage's data object sees a new process
number, takes the runner's file for its own, and erases it; or, where runner and child share a
number, writes into it.

Consequence: nothing is stopped, configured or imported in the child. The dict in which the tracers
collect is replaced by an empty one (made in the runner), and the data object by one in memory that
is never written. What a flush would have written becomes a :class:`Part`, in coverage's raw form.
The runner adds it to the dict of its own collector, in the order and under the contexts in which
the child had it: for coverage it is as if the runner had executed those lines. There is no write
to a database that an un-isolated run would not have had.

Two things keep sets of their own that an empty dict does not reach: a frame that is on the stack at
the moment of the clone, and the core ``sysmon``, for all code that it has seen. Of these files a
copy of what was known in the runner is compared, and the difference sent.

What still fails: all of this is private to coverage. :func:`.insides.is_known` looks whether each
part is as it was in the versions 7.10 to 7.17; where it is not, :mod:`.fresh` does without.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.integrations.coverage.insides import on_stack, savers
from pytest_nsisolate.integrations.coverage.measurement import Measurement
from pytest_nsisolate.integrations.coverage.parts import Form, Part
from pytest_nsisolate.kernel.originals import of_the_suite, os, threading


class Inherited(Measurement):
    """The measurement of a Coverage object that :func:`~.insides.is_known`."""

    def __init__(self, cov: Any) -> None:
        super().__init__(cov)
        self._collector: Any = cov._collector
        self._original: Any = cov._data
        data_class = type(self._original)
        self._sink: Any = data_class(no_disk=True)
        self._sink.write = self.hand_over
        self._mute: Any = data_class(no_disk=True)
        self._mute.write = _write_nothing
        core = self._collector.core
        self._swaps = core.systrace
        self._form: Form = "line"
        if self._collector.branch:
            self._form = "packed" if core.packed_arcs else "pair"
        self._context: str | None = None
        self._data: dict[str, set[Any]] = {}
        #: The runner's; held here, or the child would free it, and copy every page of it for that.
        self._before: dict[str, set[Any]] = {}
        #: Of each file what need not be sent (again); absent: nothing.
        self._known: dict[str, set[Any]] = {}
        self._tracers = 0
        self._unmatched: list[str] = []
        self._started: list[Any] = []
        self._restarts = False
        self._others: list[tuple[Any, Any]] = []
        self._staged: list[Part] = []
        self._plugins = {
            getattr(plugin, "_coverage_plugin_name", "") for plugin in getattr(cov, "_plugins", ())
        }

    def fits(self, cov: Any) -> bool:
        return (
            cov is self.cov
            and getattr(cov, "_collector", None) is self._collector
            and getattr(cov, "_data", None) is self._original
        )

    # In the runner ------------------------------------------------------------------------------

    @property
    def form(self) -> Form:
        return self._form

    def prepare(self) -> None:
        collector = self._collector
        if self._context != self._original._current_context:
            self._known = {}  # the sets have been emptied since
            self._context = self._original._current_context
        self._tracers = len(collector.file_tracers)
        self._unmatched = [*self.cov._inorout.source_pkgs_unmatched]
        self._started = [*type(self.cov)._instances]
        self._restarts = "fork" in (getattr(self.cov.config, "patch", None) or ())
        self._others = [
            (cov, other)
            for cov in (*savers(of_the_suite("os")._exit), *self._started)
            if cov is not self.cov and (other := getattr(cov, "_collector", None)) is not None
        ]
        if self._sink._current_context != self._context:
            self._sink.set_context(self._context)
        self._before = collector.data
        if self._swaps:
            names = on_stack(collector.should_trace_cache, sys._getframe(1))
            self._data = {name: collector.data[name] for name in names if name in collector.data}
            self._known = {name: found.copy() for name, found in self._data.items()}
            return
        self._data = collector.data
        for name, found in list(self._data.items()):
            if len(found) != len(self._known.get(name, ())):
                self._known[name] = found.copy()

    def _add(self, part: Part) -> None:
        collector = self._collector
        for name, plugin in part.tracers.items():
            if plugin not in self._plugins or collector.file_tracers.get(name, plugin) != plugin:
                raise BrokenStream(f"coverage of a plugin that does not trace {name!r}")
        if part.context != self._original._current_context:
            self._switch(part.context)
        for name, numbers in part.files.items():
            read = zip(*[iter(numbers)] * 2, strict=True) if self._form == "pair" else numbers
            collector.data.setdefault(name, set()).update(read)
        collector.file_tracers.update(part.tracers)
        self._match(part.packages)
        if not self._swaps and part.files:
            for tracer in collector.tracers:
                # Or the next flush would find nothing to do: this core sees a line once only.
                tracer._activity = True

    def _switch(self, context: str | None) -> None:
        """As ``Collector.switch_context``, with a label that has its static part already."""
        self._collector.flush_data()
        self._original.set_context(context)

    def _match(self, packages: dict[str, str]) -> None:
        """Parts of ``source`` that only a child imports: no warning, and all their files count.

        The name of the folder says nothing: an editable install maps a package to any, and so does
        a link. A folder that is no package is refused and stays unmatched: another child may know
        better, and if none does, coverage warns of it.
        """
        inorout = self.cov._inorout
        for package, path in packages.items():
            if package not in inorout.source_pkgs_unmatched or _is_mere_folder(path):
                continue
            inorout.source_pkgs_unmatched.remove(package)
            # Else nothing to look through: gone with the test, or in a ZIP file.
            if os.path.exists(path) and path not in inorout.source_dirs:
                inorout.source_dirs.append(path)

    def forget_context(self) -> None:
        if self._collector.should_start_context is None:
            return  # pytest-cov's hooks, or the test suite's own calls: they last as un-isolated
        if self._original._current_context != self._context:
            self._switch(self._context)

    # In the child -------------------------------------------------------------------------------

    def _enter(self) -> None:
        cov, collector = self.cov, self._collector
        if self._restarts:
            self._restart()
        for bystander, other in self._others:
            bystander._data = other.covdata = self._mute
            bystander._data_to_close = []
        for other in type(collector)._collectors:
            other.pid = os.getpid()
        cov._data = collector.covdata = self._sink
        cov._data_to_close = []
        if collector.data_lock is not None:
            collector.data_lock = threading.Lock()
        collector.data = self._data
        for tracer in collector.tracers:
            tracer.data = self._data
        collector.flush_data = self._flush

    def _restart(self) -> None:
        """``patch = fork`` has stopped the measurement in this copy and begun another one."""
        cov = self.cov
        if type(cov).current() is cov:
            return
        while (other := type(cov).current()) is not None and other not in self._started:
            other._auto_save = False
            other.stop()
        if not cov._started:
            self._collector.start()
            cov._started = True
            cov._instances.append(cov)

    def _flush(self) -> bool:
        """``Collector.flush_data`` in the child, at a change of context or a look at the data."""
        with self._lock:
            self._stage()
            for found in self._data.values():
                found.clear()
            self._known.clear()
        return False  # nothing for coverage to look after

    def _take(self) -> list[Part]:
        self._stage()
        staged, self._staged = self._staged, []
        return staged

    def _stage(self) -> None:
        """Make a part of what is new in the current context."""
        context = self._sink._current_context
        part = Part(context)
        for name, found in list(self._data.items()):
            known = self._known.get(name)
            if not found or (known is not None and len(found) == len(known)):
                continue
            now = found.copy()
            part.files[name] = self._pack(now - known if known else now)
            self._known[name] = now
        tracers = self._collector.file_tracers
        if len(tracers) > self._tracers:
            part.tracers = dict([*tracers.items()][self._tracers :])
            self._tracers += len(part.tracers)
        if self._unmatched:
            part.packages = dict(self._newly_matched())
        if part.files or part.tracers or part.packages or context != self._context:
            self._context = context
            self._staged.append(part)

    def _pack(self, numbers: set[Any]) -> array[int]:
        if self._form == "pair":
            return array("q", [number for pair in numbers for number in pair])
        return array("q", numbers)

    def _newly_matched(self) -> Iterator[tuple[str, str]]:
        """Each with its path; a namespace package has none, and is no matter of coverage's."""
        unmatched = self.cov._inorout.source_pkgs_unmatched
        for package in self._unmatched:
            module = sys.modules.get(package)
            if package in unmatched:
                if _is_namespace(module):
                    unmatched.remove(package)
                    yield package, ""
            elif file := getattr(module, "__file__", None):
                path = os.path.realpath(file)
                folder = os.path.basename(path) == "__init__.py"
                yield package, os.path.dirname(path) if folder else path
        self._unmatched = [*unmatched]

    def _exit(self) -> None:
        collector = self._collector
        del collector.flush_data
        # By number alone it might be taken for the runner, and its data for this process's own.
        self._original._pid = -1
        self._original._current_context = self._sink._current_context
        self.cov._data = collector.covdata = self._original
        self.cov._warn_no_data = False  # un-isolated it would have the runner's as well


def _is_mere_folder(path: str) -> bool:
    """Whether it is a folder, and for the runner no package.

    A child may name any, ``/`` for one, and coverage would count every file that it finds there.
    """
    return os.path.isdir(path) and not os.path.isfile(os.path.join(path, "__init__.py"))


def _is_namespace(module: object) -> bool:
    """Whether it is a namespace package; asking a lazy module would load it."""
    if type(module) is not ModuleType:
        return False
    names = vars(module)
    return "__path__" in names and names.get("__file__") is None


def _write_nothing() -> None:
    """Instead of ``CoverageData.write``, for data that is the runner's."""
