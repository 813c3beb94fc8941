# SPDX-License-Identifier: MIT
"""How usage errors are said: one clear sentence each, and every offending test by name."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import pytest

from pytest_nsisolate.errors import NsisolateError

#: Where to read on, as ``--help``, ``--markers`` and ``--fixtures -v`` say it.
DOCS = "docs/reference.md of pytest-nsisolate"

#: More tests of one function than this are listed side by side.
ONE_PER_LINE = 10
WIDTH = 100

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


class MarkerProblem(NsisolateError):
    """Markers of one test that cannot be followed.

    :param problems: one sentence each, at least one.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


def short(value: object) -> str:
    """The repr of a value, cut to what a sentence can carry; never raises."""
    return _SHORT.repr(value)


def spelled(keywords: Mapping[str, object]) -> str:
    """A marker as it would be written, long values shortened."""
    inner = ", ".join(f"{key}={short(value)}" for key, value in keywords.items())
    return f"isolated({inner})"


def suggestion(word: str, choices: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: a guess, or what there is to choose from."""
    known = sorted(choices)
    close = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}"


def listing(problems: Mapping[str, Sequence[pytest.Item]]) -> str:
    """The text of one usage error: each problem once, and below it every test that has it."""
    tests = {item.nodeid for items in problems.values() for item in items}
    head = f"{_tests(len(tests))} cannot be isolated as marked, nothing was run"
    lines = [head]
    for problem, items in problems.items():
        lines += ["", f"{problem} ({_tests(len(items))})", *_named(items)]
    return "\n".join(lines)


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _named(items: Sequence[pytest.Item]) -> list[str]:
    functions: dict[tuple[str, str], list[str]] = {}
    for item in items:
        # Not by a search for "[" or "::": file names and parameters may contain both.
        parent = item.nodeid.removesuffix(item.name)
        function = getattr(item, "originalname", None) or item.name
        functions.setdefault((parent, function), []).append(item.name)
    lines: list[str] = []
    for (parent, function), names in functions.items():
        if len(names) <= ONE_PER_LINE:
            lines += [f"  {parent}{name}" for name in names]
        else:
            lines += [f"  {parent}{function}, {len(names)} times:", *_side_by_side(names)]
    return lines


def _side_by_side(names: Sequence[str]) -> list[str]:
    lines = [""]
    for name in names:
        # Wrapped between names only: a parameter may contain blanks.
        if lines[-1] and len(lines[-1]) + len(name) + 2 > WIDTH:
            lines.append("")
        lines[-1] += f"  {name}" if lines[-1] else f"    {name}"
    return lines
