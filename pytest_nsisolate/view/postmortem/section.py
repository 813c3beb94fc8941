# SPDX-License-Identifier: MIT
"""The section of a report: put on it, bounded; at a terminal the last one, and coloured.

Fact: what stands in ``report.sections`` is captured output to pytest: ``--show-capture`` hides it,
and junit leaves out what it does not know. The text of a failure has sections of its own
(``ExceptionRepr.addsection``), which every reporter shows, xdist sends, and ``--tb`` leaves alone.

Consequence: it is one of those, as plain text. A report whose failure has no such text (a missing
fixture, a doctest, a strict xfail that passed) has it beside its captured output.

Fact: a failure's text is shown before what was captured, and what a test has printed is nearer to
its assertion than the state of its world.
Consequence: while the terminal shows the report, the text is without this section, which follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from pytest_nsisolate.kernel.originals import re

#: The titles of the whole and of hints alone.
TITLE: Final = "PID 1's view at the failure"
HINT_TITLE: Final = "a matter of isolation"

#: A report has no more than this of what a child sends.
MOST_LINES: Final = 120
MOST_COLUMNS: Final = 200
_MOST_HINTS: Final = 6

_TITLES: Final = (TITLE, HINT_TITLE)
_HINT: Final = "hint:"

#: States that tell something, by the columns that have them.
_STATES: Final = {
    "zombie": "red",
    "dead": "red",
    "stopped": "yellow",
    "tracing-stop": "yellow",
    "disk-sleep": "yellow",
    "running": "green",
    "listen": "green",
    "unconn": "green",
    "up": "green",
    "down": "red",
}
_STATE_COLUMNS: Final = ("STATE", "SET")


def attach(report: pytest.TestReport, view: object, hints: object, *own: str) -> None:
    """Add the section, if there is anything to say.

    :param view: the text that a child has sent; anything but a text is nothing.
    :param hints: the lines that it has sent; likewise.
    :param own: the runner's own hints; empty ones are none.
    """
    text = bounded(view) if isinstance(view, str) else ""
    sent = hints[:_MOST_HINTS] if isinstance(hints, list) else []
    lines = [*own, *(bounded(hint) for hint in sent if isinstance(hint, str)), text]
    title, content = TITLE if text else HINT_TITLE, "\n".join(filter(None, lines))
    if not content:
        return
    told: Any = report.longrepr
    if callable(getattr(told, "addsection", None)):
        told.addsection(title, content)
    else:
        report.sections.append((title, content))


def bounded(text: str) -> str:
    """No more lines and columns than are read, and nothing that a terminal would act on."""
    lines = text.split("\n", MOST_LINES + 1)
    if len(lines) > MOST_LINES:
        left = text.count("\n") + 1 - MOST_LINES
        lines = [*lines[:MOST_LINES], f"... and {left} more lines"]
    return "\n".join(map(_shortened, lines))


def _shortened(line: str) -> str:
    left = len(line) - MOST_COLUMNS
    if left > 0:
        line = f"{line[:MOST_COLUMNS]}... ({left} more characters)"
    return "".join(letter if letter.isprintable() else "?" for letter in line)


# At the terminal ---------------------------------------------------------------------------------


@contextmanager
def shown_last(told: Any, writer: Any) -> Iterator[None]:
    """While this lasts a report is shown, and then the sections of its text that are ours.

    :param told: a failure's text with sections.
    :param writer: the terminal's.
    """
    every = told.sections
    told.sections = [part for part in every if part[0] not in _TITLES]
    try:
        yield
    finally:
        told.sections = every
    for title, content, separator in every:
        if title in _TITLES:
            writer.sep(separator, title)
            for line in _marked(content.split("\n")):
                for text, markup in line:
                    writer.write(text, **markup)
                writer.line()


_Piece = tuple[str, dict[str, bool]]


def _marked(lines: Iterable[str]) -> Iterator[list[_Piece]]:
    column: slice | None = None
    for line in lines:
        if line.startswith(_HINT):
            yield [(line, {"yellow": True})]
        elif not line.startswith(" "):
            column = None
            yield [(line, {"bold": True})]
        elif (found := _state_column(line)) is not None:
            column = found
            yield [(line, {})]
        else:
            yield _row(line, column)


def _state_column(line: str) -> slice | None:
    """Where the states stand below this line, if it has the names of columns."""
    names = list(re.finditer(r"\S+(?: \S+)*", line))
    if not all(name[0].isupper() for name in names):
        return None
    for at, name in enumerate(names):
        if name[0] in _STATE_COLUMNS:
            end = names[at + 1].start() if at + 1 < len(names) else None
            return slice(name.start(), end)
    return None


def _row(line: str, column: slice | None) -> list[_Piece]:
    colour = None if column is None else _STATES.get(line[column].strip())
    if column is None or colour is None:
        return [(line, {})]
    end = len(line) if column.stop is None else column.stop
    return [(line[: column.start], {}), (line[column], {colour: True}), (line[end:], {})]
