# SPDX-License-Identifier: MIT
"""The whole world at one moment, and what two of these differ in.

Fact: a socket changes while it lives. Workers that share it come and go, its peer closes it, it
begins to listen. Consequence: it is known by its inode. Where that finds none it is known by its
holders and addresses, so that one which they have closed and opened again is no new one; and a
connection by both its ends, because it has no inode until it is accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from pytest_nsisolate.view.ipc import IpcObject
from pytest_nsisolate.view.mounts import Mount
from pytest_nsisolate.view.network import Interface, Route
from pytest_nsisolate.view.processes import Process
from pytest_nsisolate.view.sockets import Socket
from pytest_nsisolate.view.tables import counted, indented, noun, table


@dataclass(frozen=True, slots=True, repr=False)
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
            identities = _IDENTITIES[name]
            appeared[name] = _missing(now, before, identities)
            gone[name] = _missing(before, now, identities)
            if name in _CHANGING:
                changed += _changes(before, now, identities[0])
        return Difference(Snapshot(**appeared), Snapshot(**gone), tuple(changed))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _NAMES)

    def __repr__(self) -> str:
        # Short, because the message of a plain assert shows both sides of a difference.
        parts = (counted(len(rows), noun(rows)) for n in _NAMES if (rows := getattr(self, n)))
        return f"<{type(self).__name__} of {', '.join(parts) or 'nothing'}>"

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

#: Kinds of which changes are shown; a process changes its state all the time.
_CHANGING: Final = ("mounts", "interfaces")


Identity = Callable[[Any], Hashable]


def _identity(*attributes: str) -> Identity:
    def key(row: Any) -> Hashable:
        return tuple(getattr(row, attribute) for attribute in attributes)

    return key


def _connection(row: Socket) -> Hashable:
    return (row.proto, row.version, row.local, row.peer) if row.peer else None


#: Keys by which two of a kind are the same one, the first that fits; None is equal to no other.
_IDENTITIES: Final[dict[str, tuple[Identity, ...]]] = {
    "processes": (_identity("pid", "started"),),
    "sockets": (
        lambda row: row.inode,
        _identity("proto", "type", "state", "local", "peer", "pids"),
        _connection,
    ),
    "mounts": (_identity("id", "target"),),
    "interfaces": (_identity("index", "name"),),
    "routes": (
        _identity("version", "table", "destination", "kind", "gateway", "interface", "metric"),
    ),
    "ipc": (_identity("api", "kind", "id", "key", "name"),),
}


def _missing(
    rows: Iterable[Any], others: Iterable[Any], identities: Iterable[Identity]
) -> tuple[Any, ...]:
    """Those without a counterpart; of several alike, as many as there are more."""
    rows, others = tuple(rows), tuple(others)
    for identity in identities:
        rows, others = _without(rows, others, identity), _without(others, rows, identity)
    return rows


def _without(rows: tuple[Any, ...], others: tuple[Any, ...], identity: Identity) -> tuple[Any, ...]:
    left = Counter(map(identity, others))
    found = []
    for row in rows:
        key = identity(row)
        if key is not None and left[key] > 0:
            left[key] -= 1
        else:
            found.append(row)
    return tuple(found)


def _changes(before: Iterable[Any], now: Iterable[Any], identity: Identity) -> list[Change]:
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
