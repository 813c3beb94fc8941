# SPDX-License-Identifier: MIT
"""The cause and the remedy of refusals, each once in the summary of a run.

Fact: a host that refuses one test refuses a hundred, with the same words, and pytest shows the
report of each.

Consequence: in what the terminal shows at the end, the second report with the same cause and remedy
refers to the first. That is done where and when the terminal shows them: there the reports of all
workers of pytest-xdist have come together, and every other plugin (junit, html, json) has the whole
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, Final

from pytest_nsisolate.host.refusal import REFUSED
from pytest_nsisolate.kernel.originals import re

#: Two lines of a failure, in pytest's own style or as they are, with what stands before them.
_CAUSE: Final = re.compile(r"(?P<margin>E? *)cause: (?P<text>.*)\n?")
_REMEDY: Final = re.compile(r"E? *remedy: (?P<text>.*)\n?")


class Causes:
    """What the terminal has shown so far."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], str] = {}

    @contextmanager
    def shown_once(self, report: Any) -> Iterator[None]:
        """While this lasts, a report shows its cause and remedy only if no other has shown them.

        The text of the failure is left as it is, and only shows less of itself.
        """
        with ExitStack() as stack:
            for entry in _entries(report.longrepr):
                lines = self._shortened(entry.lines, report.nodeid)
                stack.callback(setattr, entry, "lines", entry.lines)
                entry.lines = lines
            yield

    def _shortened(self, whole: Sequence[str], nodeid: str) -> list[str]:
        lines = [*whole]
        for at, (above, below) in enumerate(pairwise(lines)):
            cause, remedy = _CAUSE.fullmatch(above), _REMEDY.fullmatch(below)
            if cause is None or remedy is None or REFUSED not in "".join(lines[:at]):
                continue
            first = self._told.setdefault((cause["text"], remedy["text"]), nodeid)
            if first != nodeid:
                words = f"{cause['margin']}cause and remedy: as above (first at {first})"
                lines[at : at + 2] = [words + ("\n" if above.endswith("\n") else "")]
            break
        return lines


def shorten_skips(reports: Iterable[Any]) -> None:
    """Shorten the reasons of skips, in the order in which the terminal is going to show them.

    A reason is only a text, so it is replaced.
    """
    reasons: dict[str, str] = {}
    for report in reports:
        _shorten_skip(report, reasons)


def _entries(longrepr: Any) -> Iterator[Any]:
    """The parts of a failure that have lines of text (``ReprEntry``)."""
    for traceback, *_ in getattr(longrepr, "chain", ()):
        yield from (entry for entry in traceback.reprentries if hasattr(entry, "lines"))


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
