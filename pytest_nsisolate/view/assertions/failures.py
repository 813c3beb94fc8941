# SPDX-License-Identifier: MIT
"""The message of a failed assertion: what was expected, what was seen, and what may help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytest_nsisolate.view.tables import Labels, counted, indented, noun, table

#: What a marker has to say for the test to have its own of each kind.
_MARKERS = {"user": "user=True", "time": "time=0"}

#: More names than these are counted.
_MOST_NAMES: Final = 8


def failure(
    what: str,
    *,
    expected: str,
    seen: str,
    rows: Iterable[object] = (),
    labels: Labels | None = None,
    text: str = "",
    hint: str | None = None,
) -> AssertionError:
    """The exception to raise.

    :param what: one line that says what is wrong.
    :param expected: what would have been right.
    :param seen: what was there instead.
    :param rows: what was there, as a table below.
    :param labels: see :func:`~pytest_nsisolate.view.tables.table`.
    :param text: what was there, as text.
    :param hint: an obvious cause, or what to do.
    """
    lines = [_clean(line) for line in (what, f"expected: {expected}", f"seen: {seen}")]
    lines += indented(text or table(rows, labels=labels))
    if hint is not None:
        lines.append(_clean(f"hint: {hint}"))
    return AssertionError("\n".join(lines))


def number_of(rows: Iterable[object], default: str) -> str:
    """``2 sockets``, ``no processes``."""
    rows = list(rows)
    return counted(len(rows), noun(rows, default))


def listed(names: Iterable[str]) -> str:
    """Names in order, the first few of many."""
    names = sorted(names)
    if len(names) > _MOST_NAMES:
        return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
    return ", ".join(names)


def no_own(kind: str) -> str:
    """The hint for a test that shares a namespace with the runner."""
    marker = _MARKERS.get(kind, f"{kind}=True")
    return (
        f"this test shares the runner's {kind} namespace: "
        f"add {marker} to its marker, @pytest.mark.isolated"
    )


def bound(within: float) -> str:
    """The time that was waited, as the end of what was expected."""
    return f" within {within:g} s" if within else ""


def _clean(line: str) -> str:
    # A program gives its process any name, and a control character would break the line.
    return "".join(c if c.isprintable() else "?" for c in line)
