# SPDX-License-Identifier: MIT
"""``assert pid1.processes == (...)``: which rows are missing and which are too many, as tables.

pytest's own comparison of two tuples of dataclasses prints them whole, twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from pytest_nsisolate.view.mapping import ReadOnlyMapping
from pytest_nsisolate.view.snapshot import Difference, Snapshot
from pytest_nsisolate.view.tables import counted, indented, kinds, noun, table


def explain(operator: str, left: object, right: object) -> list[str] | None:
    """The lines for ``pytest_assertrepr_compare``; None if neither side is of this package."""
    if operator != "==":
        return None
    if isinstance(left, Difference | Snapshot) and isinstance(right, Difference | Snapshot):
        return _whole(left, right)
    if isinstance(left, ReadOnlyMapping) or isinstance(right, ReadOnlyMapping):
        return _mappings(left, right)
    if _is_ours(left, right) or _is_ours(right, left):
        assert isinstance(left, Sequence)
        assert isinstance(right, Sequence)
        return _rows(left, right)
    return None


def _is_ours(rows: object, other: object) -> bool:
    """A sequence of our rows, compared with a sequence of these, or with an empty one."""
    if not isinstance(rows, tuple | list) or not isinstance(other, tuple | list) or not rows:
        return False
    ours = type(rows[0])
    return ours in kinds() and all(type(row) is ours for row in (*rows, *other))


def _rows(left: Sequence[Any], right: Sequence[Any]) -> list[str]:
    word = noun(left or right)
    lines = [f"<{counted(len(left), word)}> == <{counted(len(right), word)}>"]
    more = [row for row in left if row not in right]
    less = [row for row in right if row not in left]
    alike = not more and not less
    lines += _differing(more, less)
    if more:
        lines += ["", f"Only on the left, {counted(len(more), word)}:", *indented(table(more))]
    if less:
        lines += ["", f"Only on the right, {counted(len(less), word)}:", *indented(table(less))]
    if alike:
        lines += ["", "The same, in another order or number; on the left:"]
        lines += indented(table(left))
    return lines


def _differing(more: list[Any], less: list[Any]) -> list[str]:
    """Pairs with the same first field, which names them: field by field."""
    lines: list[str] = []
    for row in list(more):
        name = fields(row)[0].name
        twins = [other for other in less if getattr(other, name) == getattr(row, name)]
        if len(twins) == 1 and sum(getattr(r, name) == getattr(row, name) for r in more) == 1:
            more.remove(row)
            less.remove(twins[0])
            lines += ["", f"{row} differs:"]
            for field in fields(row):
                values = getattr(row, field.name), getattr(twins[0], field.name)
                if field.compare and values[0] != values[1]:
                    lines.append(f"  {field.name}: {values[0]!r} != {values[1]!r}")
    return lines


def _mappings(left: object, right: object) -> list[str] | None:
    if not isinstance(left, ReadOnlyMapping | dict) or not isinstance(
        right, ReadOnlyMapping | dict
    ):
        return None
    pairs = counted(len(left), "item"), counted(len(right), "item")
    lines = [f"<{pairs[0]}> == <{pairs[1]}>"]
    nothing = object()
    for key in {**left, **right}:
        values = left.get(key, nothing), right.get(key, nothing)
        if values[0] != values[1]:
            shown = ["(missing)" if value is nothing else repr(value) for value in values]
            lines.append(f"  {key!r}: {shown[0]} != {shown[1]}")
    return lines


def _whole(left: Difference | Snapshot, right: Difference | Snapshot) -> list[str]:
    names = type(left).__name__, type(right).__name__
    return [
        f"<{names[0]}> == <{names[1]}>",
        *("", "left:", *indented(str(left))),
        *("", "right:", *indented(str(right))),
    ]
