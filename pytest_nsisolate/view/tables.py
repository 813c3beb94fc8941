# SPDX-License-Identifier: MIT
"""Data as aligned text, for failure messages, differences and reports; bounded both ways."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pytest_nsisolate.view.ipc import IpcObject
from pytest_nsisolate.view.mounts import Mount
from pytest_nsisolate.view.network import Interface, Route
from pytest_nsisolate.view.processes import Process
from pytest_nsisolate.view.sockets import Socket

#: More rows than these are counted, not shown.
MOST_ROWS: Final = 20

#: A cell that is longer is cut.
_WIDEST: Final = 60


def table(rows: Iterable[object], *, most: int = MOST_ROWS, labels: Labels | None = None) -> str:
    """Objects of one type, one in each line, below the headings of that type.

    :param rows: of any type of this package; of another one, their ``repr``.
    :param most: how many lines; the rest is counted.
    :param labels: what to call processes, by number, instead of their command.
    :returns: an empty string for no rows.
    """
    rows = list(rows)
    if not rows:
        return ""
    headings, cells = _COLUMNS.get(type(rows[0]), ((), lambda row, _: (repr(row),)))
    lines = [cells(row, labels or {}) for row in rows[:most]]
    text = aligned([*([headings] if headings else []), *lines])
    more = len(rows) - most
    return f"{text}\n... and {more} more" if more > 0 else text


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of the same width; the last one ends where its text does."""
    rows = [[_cut(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def indented(text: str, by: str = "  ") -> list[str]:
    """The lines of a text, each with a margin."""
    return [f"{by}{line}" for line in text.splitlines()]


def counted(number: int, noun: str) -> str:
    """``1 process``, ``no processes``."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number or 'no'} {plural}"


Labels = dict[int, str]


def _cut(text: str) -> str:
    # A control character would break the line, or the terminal.
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _process(row: Process, labels: Labels) -> tuple[str, ...]:
    return (
        str(row.pid),
        str(row.ppid),
        row.state,
        str(row.uid),
        str(row.sid),
        (row.tty or "-").removeprefix("/dev/"),
        _age(row.age),
        labels.get(row.pid, row.command),
    )


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{int(seconds)} s"
    return f"{int(seconds) // 60} min" if seconds < 3600 else f"{int(seconds) // 3600} h"


def _interface(row: Interface, _: Labels) -> tuple[str, ...]:
    return (
        row.name,
        row.kind,
        "up" if row.up else "down",
        row.state,
        str(row.mtu),
        row.mac or "-",
        " ".join(map(str, row.addresses)) or "-",
    )


def _route(row: Route, _: Labels) -> tuple[str, ...]:
    return (
        row.destination,
        row.kind,
        row.gateway or "-",
        row.interface or "-",
        row.source or "-",
        "-" if row.metric is None else str(row.metric),
        row.table,
    )


def _socket(row: Socket, _: Labels) -> tuple[str, ...]:
    held = " ".join(map(str, row.pids)) or "-"
    return (
        row.proto,
        row.state,
        row.local or "-",
        row.peer or "-",
        f"{held} ({row.program})" if row.program else held,
    )


def _mount(row: Mount, _: Labels) -> tuple[str, ...]:
    return (row.target, row.fstype, row.source, row.propagation, ",".join(row.options))


def _ipc(row: IpcObject, _: Labels) -> tuple[str, ...]:
    return (
        row.api,
        row.kind,
        row.name if row.name is not None else str(row.id),
        "-" if row.key is None else f"{row.key:#010x}",
        f"{row.mode:04o}",
        str(row.uid),
        str(row.size),
    )


_COLUMNS: Final[dict[type, tuple[tuple[str, ...], Callable[[Any, Labels], tuple[str, ...]]]]] = {
    Process: (("PID", "PPID", "STATE", "UID", "SID", "TTY", "AGE", "COMMAND"), _process),
    Interface: (("NAME", "KIND", "SET", "STATE", "MTU", "MAC", "ADDRESSES"), _interface),
    Route: (("DESTINATION", "KIND", "VIA", "DEV", "SRC", "METRIC", "TABLE"), _route),
    Socket: (("PROTO", "STATE", "LOCAL", "PEER", "HELD BY"), _socket),
    Mount: (("TARGET", "FSTYPE", "SOURCE", "PROPAGATION", "OPTIONS"), _mount),
    IpcObject: (("API", "KIND", "NAME", "KEY", "MODE", "UID", "SIZE"), _ipc),
}

#: What one of each type is called.
_NOUNS: Final[dict[type, str]] = {
    Process: "process",
    Interface: "interface",
    Route: "route",
    Socket: "socket",
    Mount: "mount",
    IpcObject: "IPC object",
}


@functools.cache
def kinds() -> frozenset[type]:
    """The types that :func:`table` has columns for."""
    return frozenset(_COLUMNS)


def noun(rows: Sequence[object], default: str = "item") -> str:
    """What one of these rows is called."""
    return _NOUNS.get(type(rows[0]), default) if rows else default
