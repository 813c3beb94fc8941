# SPDX-License-Identifier: MIT
"""Inner runs under coverage, and what they leave behind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import coverage

from tests.support import Result, run_suite

#: (file name, context) to the lines, or the arcs, that were executed.
Data: TypeAlias = dict[tuple[str, str], frozenset[Any]]

#: The outer run may be measured itself, and the inner one must not know.
_UNMEASURED: Final = (
    "env",
    *(f"-u{name}" for name in os.environ if name.startswith("COVERAGE_")),
)

#: Un-isolated: the marked tests in the runner.
PLAIN: Final = ("--nsisolate=none", "--nsisolate-unsafe")

PYTEST_COV: Final = ("-p", "pytest_cov", "--cov-report=")


@dataclass(frozen=True)
class Measured:
    """One inner run and its data.

    :param files: every measured file, with the plugin that traced it.
    :param left: what the run left in its folder of coverage's.
    """

    result: Result
    data: Data = field(repr=False)
    files: dict[str, str]
    left: list[str]

    def lines(self, name: str) -> set[int]:
        """Executed lines of one file, in any context."""
        found = {n for (file, _), numbers in self.data.items() if file == name for n in numbers}
        flat = {n for item in found for n in (item if isinstance(item, tuple) else (item,))}
        return {n for n in flat if n > 0}

    def as_lines(self) -> Data:
        """The same data as a run without branches would have it."""
        return {
            key: frozenset(line for arc in arcs for line in arc if line > 0)
            for key, arcs in self.data.items()
        }

    def without_contexts(self) -> Data:
        """The same data as a run without contexts would have it."""
        merged: dict[tuple[str, str], frozenset[Any]] = {}
        for (file, _), numbers in self.data.items():
            merged[file, ""] = merged.get((file, ""), frozenset()) | numbers
        return merged


def run_measured(
    folder: Path,
    *arguments: str,
    run: tuple[str, ...] = (),
    core: str = "ctrace",
    prefix: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    combine: bool = False,
    keep: bool = False,
) -> Measured:
    """An inner run, its data read and, unless kept, removed.

    :param run: options of ``coverage run -m pytest``; without any, ``arguments`` ask pytest-cov.
    :param combine: a user's ``coverage combine`` comes after it.
    """
    result = run_suite(
        folder,
        *arguments,
        plugins=("-p", "nsisolate"),
        python=("-m", "coverage", "run", *run) if run else (),
        prefix=(*_UNMEASURED, *prefix),
        env={"COVERAGE_CORE": core, **(env or {})},
    )
    left = sorted(path.name for path in folder.glob(".coverage*") if path.name != ".coveragerc")
    data_file = folder / ".coverage"
    data = coverage.CoverageData(str(data_file))
    if combine:
        for name in left:
            part = coverage.CoverageData(str(folder / name))
            part.read()
            data.update(part, map_path=str)
            _close(part)
    else:
        data.read()
    found = _read(data)
    files = {os.path.basename(name): data.file_tracer(name) or "" for name in data.measured_files()}
    _close(data)
    if not keep:
        for path in folder.glob(".coverage*"):
            if path.name != ".coveragerc":
                path.unlink()
    return Measured(result, found, files, left)


def _read(data: coverage.CoverageData) -> Data:
    found: Data = {}
    for context in sorted(data.measured_contexts()):
        data.set_query_context(context)
        for name in data.measured_files():
            numbers = (data.arcs if data.has_arcs() else data.lines)(name)
            if numbers:
                found[os.path.basename(name), context] = frozenset(numbers)
    data.set_query_contexts(None)
    return found


def _close(data: coverage.CoverageData) -> None:
    """Without a ResourceWarning; before version 7.11 there was none, and no such method."""
    if hasattr(data, "close"):
        data.close(force=True)


def differences(plain: Data, isolated: Data) -> list[str]:
    """What one run measured and the other did not."""
    found = []
    for key in sorted(plain.keys() | isolated.keys()):
        before, after = plain.get(key, frozenset()), isolated.get(key, frozenset())
        if before != after:
            found.append(f"{key}: lost {sorted(before - after)}, new {sorted(after - before)}")
    return found
