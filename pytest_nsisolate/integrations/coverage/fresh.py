# SPDX-License-Identifier: MIT
"""The strategy for a coverage that is built in a way we do not know: its public interface only.

The child stops what it has inherited, without asking it for its data (that would open the runner's
file, and erase it), and starts a new measurement with the same settings, in memory. The runner adds
what crosses through ``CoverageData``. That costs some milliseconds for each test, and a write to
coverage's database.

What still fails: ``[run] plugins`` that keep state, and the label of the runner's own tear-down,
which keeps that of its set-up.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Final

from pytest_nsisolate.integrations.coverage.measurement import Measurement
from pytest_nsisolate.integrations.coverage.parts import Form, Part
from pytest_nsisolate.kernel.originals import posix

#: Settings that the API or a command line may have given without a file.
_SETTINGS: Final = (
    "branch",
    "concurrency",
    "context",
    "core",
    "cover_pylib",
    "dynamic_context",
    "include",
    "omit",
    "plugins",
    "relative_files",
    "source",
    "source_dirs",
    "source_pkgs",
    "timid",
)

#: Warnings that are off: a child measures a part of the run, so something is always missing.
_HUSHED: Final = (
    "already-imported",
    "module-not-imported",
    "module-not-measured",
    "module-not-python",
    "no-data-collected",
)


class Fresh(Measurement):
    """The measurement of any Coverage object."""

    def __init__(self, cov: Any) -> None:
        super().__init__(cov)
        self._static = cov.get_option("run:context") or None
        self._form: Form = "pair" if cov.get_option("run:branch") else "line"
        self._fresh: Any = None
        self._sent: dict[tuple[str, str], set[Any]] = {}
        self._traced: set[str] = set()
        self._controller: Any = None

    def fits(self, cov: Any) -> bool:
        return cov is self.cov

    # In the runner ------------------------------------------------------------------------------

    @property
    def form(self) -> Form:
        return self._form

    def prepare(self) -> None:
        """Nothing: a second Coverage object here could keep the first from being saved."""

    def _add(self, part: Part) -> None:
        data = self.cov.get_data()
        before = data.set_context(part.context) if part.context else None
        files = part.files.items()
        if self._form == "pair":
            arcs = {name: [*zip(*[iter(pairs)] * 2, strict=True)] for name, pairs in files}
            data.add_arcs(arcs)
        else:
            data.add_lines({name: [*lines] for name, lines in files})
        data.add_file_tracers(part.tracers)
        if part.context:
            # Before version 7.16 coverage does not say what it was.
            data.set_context(before or self._static)

    def forget_context(self) -> None:
        """Each part brings its own, and the runner's is put back after each."""

    # In the child -------------------------------------------------------------------------------

    def follow(self, controller: Any) -> None:
        """Have pytest-cov's controller, if there is one, work on the child's own measurement."""
        self._controller = controller

    def _enter(self) -> None:
        cov = self.cov
        cov.stop()
        file = getattr(getattr(cov, "config", None), "config_file", None)
        self._fresh = fresh = type(cov)(data_file=None, config_file=file or False)
        for name in _SETTINGS:
            try:
                fresh.set_option(f"run:{name}", cov.get_option(f"run:{name}"))
            except Exception:  # noqa: S112 (no such setting in this version)
                continue
        hushed = cov.get_option("run:disable_warnings") or []
        fresh.set_option("run:disable_warnings", [*hushed, *_HUSHED])
        fresh.start()
        if getattr(self._controller, "cov", None) is cov:
            self._controller.cov = fresh

    def _take(self) -> list[Part]:
        data = self._fresh.get_data()
        parts = []
        for context in sorted(data.measured_contexts()):
            data.set_query_context(context)
            # None: whatever the runner's is now, which the child has not changed.
            part = Part(context if context != (self._static or "") else None)
            for name in data.measured_files():
                found = (data.arcs if self._form == "pair" else data.lines)(name) or ()
                new = {*found} - self._sent.get((context, name), set())
                if new:
                    self._sent.setdefault((context, name), set()).update(new)
                    flat = [n for pair in new for n in pair] if self._form == "pair" else new
                    part.files[name] = array("q", flat)
                plugin = data.file_tracer(name)
                if plugin and name not in self._traced and new:
                    self._traced.add(name)
                    part.tracers[name] = plugin
            if part.files:
                parts.append(part)
        data.set_query_contexts(None)
        return parts

    def _last_exit(self) -> Callable[[int], Any]:
        """Not coverage's patch: it would save the runner's object, over the runner's file."""
        module = getattr(self._exit_of_others, "__module__", None) or ""
        return posix._exit if module.startswith("coverage.") else self._exit_of_others

    def _exit(self) -> None:
        """The new measurement stays the current one: in memory, so that nothing is written."""
