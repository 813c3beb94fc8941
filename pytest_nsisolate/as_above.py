# SPDX-License-Identifier: MIT
"""The cause and the remedy of refusals, each once in the summary of a run.

Fact: a host that refuses one test refuses a hundred, with the same words, and pytest shows the
report of each.

Consequence: in what the terminal shows at the end, the second report with the same cause and remedy
refers to the first. That is done where the terminal is, at the end of the session: there the
reports of all workers of pytest-xdist have come together, and every other plugin (junit, html,
json) has read them. The text of a failure is left as it is, and only shows less of itself; a skip
reason, which is nothing but a text, is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.outcome import REFUSED

#: Two lines of a failure, in pytest's own style or as they are, with what stands before them.
_CAUSE: Final = re.compile(r"(?P<margin>E? *)cause: (?P<text>.*)\n?")
_REMEDY: Final = re.compile(r"E? *remedy: (?P<text>.*)\n?")


def shorten(stats: Mapping[str, Iterable[Any]]) -> None:
    """Shorten what the terminal is going to show, in its order.

    :param stats: the reports by their category, as the terminal reporter has them.
    """
    told: dict[tuple[str, str], str] = {}
    for category in ("error", "failed"):
        for report in stats.get(category, ()):
            _shorten_failure(report, told)
    reasons: dict[str, str] = {}
    for report in stats.get("skipped", ()):
        _shorten_skip(report, reasons)


def _shorten_failure(report: Any, told: dict[tuple[str, str], str]) -> None:
    for entry in _entries(report.longrepr):
        lines = [*entry.lines]
        for at, (above, below) in enumerate(pairwise(lines)):
            cause, remedy = _CAUSE.fullmatch(above), _REMEDY.fullmatch(below)
            if cause is None or remedy is None or REFUSED not in "".join(lines[:at]):
                continue
            first = told.setdefault((cause["text"], remedy["text"]), report.nodeid)
            if first != report.nodeid:
                words = f"{cause['margin']}cause and remedy: as above (first at {first})"
                end = "\n" if above.endswith("\n") else ""
                lines[at : at + 2] = [words + end]
                report.longrepr.toterminal = _Shortened(report.longrepr, entry, lines)
            break


def _entries(longrepr: Any) -> Iterator[Any]:
    """The parts of a failure that have lines of text (``ReprEntry``)."""
    for traceback, *_ in getattr(longrepr, "chain", ()):
        yield from (entry for entry in traceback.reprentries if hasattr(entry, "lines"))


class _Shortened:
    """In place of the method of a failure's text; an object, so that it can be pickled."""

    def __init__(self, longrepr: Any, entry: Any, lines: list[str]) -> None:
        self._show = longrepr.toterminal
        self._entry = entry
        self._lines = lines

    def __call__(self, tw: Any) -> None:
        whole, self._entry.lines = self._entry.lines, self._lines
        try:
            self._show(tw)
        finally:
            self._entry.lines = whole


def _shorten_skip(report: Any, reasons: dict[str, str]) -> None:
    if not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    before, found, rest = reason.partition(REFUSED)
    if not found:
        return
    first = reasons.setdefault(rest, report.nodeid)
    step = rest.partition(": ")[0]
    short = f"{before}{found}{step}, as above (first at {first})"
    if first != report.nodeid and len(short) < len(reason):
        report.longrepr = (path, line, short)
