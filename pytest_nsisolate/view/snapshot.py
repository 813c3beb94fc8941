# SPDX-License-Identifier: MIT
"""The whole world at one moment, and what two of these differ in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from pytest_nsisolate.view.ipc import IpcObject
from pytest_nsisolate.view.mounts import Mount
from pytest_nsisolate.view.network import Interface, Route
from pytest_nsisolate.view.processes import Process
from pytest_nsisolate.view.sockets import Socket
from pytest_nsisolate.view.tables import counted, indented, noun, table


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there was at one moment. ``later - earlier`` is a :class:`Difference`."""

    processes: tuple[Process, ...] = ()
    sockets: tuple[Socket, ...] = ()
    mounts: tuple[Mount, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    ipc: tuple[IpcObject, ...] = ()

    def __sub__(self, earlier: Snapshot) -> Difference:
        if not isinstance(earlier, Snapshot):
            return NotImplemented
        appeared: dict[str, Any] = {}
        gone: dict[str, Any] = {}
        changed: list[Change] = []
        for name in _NAMES:
            before, now = getattr(earlier, name), getattr(self, name)
            identity = _IDENTITIES[name]
            appeared[name] = _missing(now, before, identity)
            gone[name] = _missing(before, now, identity)
            if name in _CHANGING:
                changed += _changes(before, now, identity)
        return Difference(Snapshot(**appeared), Snapshot(**gone), tuple(changed))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _NAMES)

    def __str__(self) -> str:
        parts = (getattr(self, name) for name in _NAMES)
        return "\n".join(_section("", rows) for rows in parts if rows) or "nothing"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is still there, but not as it was: an interface or a mount.

    :param fields: the names of what has changed.
    """

    before: Interface | Mount
    after: Interface | Mount
    fields: tuple[str, ...]

    def __str__(self) -> str:
        pairs = (
            f"{name} {_short(getattr(self.before, name))} -> {_short(getattr(self.after, name))}"
            for name in self.fields
        )
        return f"{self.after}: {', '.join(pairs)}"


@dataclass(frozen=True, slots=True, repr=False)
class Difference:
    """What appeared and what went between two snapshots; false if nothing did.

    :param appeared: is there only in the later one.
    :param gone: was there only in the earlier one.
    :param changed: interfaces and mounts that are in both, but otherwise.
    """

    appeared: Snapshot = Snapshot()
    gone: Snapshot = Snapshot()
    changed: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.appeared or self.gone or self.changed)

    def __str__(self) -> str:
        parts = []
        for word, side in (("appeared", self.appeared), ("gone", self.gone)):
            parts += [_section(word, getattr(side, n)) for n in _NAMES if getattr(side, n)]
        if self.changed:
            parts.append("changed:\n" + "\n".join(f"  {change}" for change in self.changed))
        return "\n".join(parts) or "no difference"

    __repr__ = __str__


def _section(word: str, rows: tuple[Any, ...]) -> str:
    head = counted(len(rows), noun(rows))
    return "\n".join([f"{head}{' ' + word if word else ''}:", *indented(table(rows))])


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


_NAMES: Final = tuple(field.name for field in fields(Snapshot))

#: Of these it is worth telling what has changed; a process changes its state all the time.
_CHANGING: Final = ("mounts", "interfaces")


def _identity(*attributes: str) -> Any:
    def key(row: Any) -> Hashable:
        return tuple(getattr(row, attribute) for attribute in attributes)

    return key


#: What makes two of a kind the same one.
_IDENTITIES: Final = {
    "processes": _identity("pid", "started"),
    "sockets": _identity("proto", "type", "state", "local", "peer", "pids"),
    "mounts": _identity("id", "target"),
    "interfaces": _identity("index", "name"),
    "routes": _identity(
        "version", "table", "destination", "kind", "gateway", "interface", "metric"
    ),
    "ipc": _identity("api", "kind", "id", "key", "name"),
}


def _missing(rows: Iterable[Any], others: Iterable[Any], identity: Any) -> tuple[Any, ...]:
    """Those without a counterpart; of several alike, as many as there are more."""
    left = Counter(map(identity, others))
    found = []
    for row in rows:
        key = identity(row)
        if left[key] > 0:
            left[key] -= 1
        else:
            found.append(row)
    return tuple(found)


def _changes(before: Iterable[Any], now: Iterable[Any], identity: Any) -> list[Change]:
    earlier = {identity(row): row for row in before}
    found = []
    for row in now:
        old = earlier.get(identity(row))
        if old is not None and old != row:
            names = tuple(
                field.name
                for field in fields(row)
                if getattr(old, field.name) != getattr(row, field.name)
            )
            found.append(Change(old, row, names))
    return found
