# SPDX-License-Identifier: MIT
"""Values of a function that ran in a child: plain data, whole or not at all.

Fact: :mod:`pytest_nsisolate.wire.tagged_json` sends any other object as its texts, which is right
for a report and wrong for a value: a caller would compute with a description.

Consequence: a value is taken apart here first, by exact types, and what is not plain is an error
that names the type and the place. Lists, dicts, sets and scalars are themselves on the wire; a
tuple there begins with a letter that says what it was, so that no value can pass for another.

Enums, dataclasses and named tuples cross as the name of their class and their parts. The class is
looked up by its name among the imported modules, on both sides, checked by its kind, and filled
without ``__init__``: nothing is imported, and nothing of the sender's is executed.

What still fails: attributes of a dataclass that are no fields stay behind; objects that two places
of the value share are two afterwards; sizes and depths that :mod:`tagged` does not send are errors.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Final

from pytest_nsisolate.wire import tagged_json, type_names

#: Containers inside containers; some need two levels on the wire.
MAX_DEPTH: Final = tagged_json.MAX_DEPTH // 2 - 2

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})


class UnfitError(Exception):
    """A value does not cross.

    :param where: its place, as an expression of the whole.
    """

    def __init__(self, type_name: str, where: str, why: str) -> None:
        super().__init__(type_name, where, why)
        self.type_name = type_name
        self.where = where
        self.why = why


def pack(value: object, name: str = "result") -> object:
    """What :func:`unpack` makes the value of again, for a frame.

    :param name: how the value is called in messages.
    :raises UnfitError: for the first thing that does not cross.
    """
    return _Packer().pack(value, name, 0)


class _Packer:
    def __init__(self) -> None:
        self._active: set[int] = set()
        self._left = tagged_json.MAX_VALUES - 100  # the frame has some of its own

    def pack(self, value: object, where: str, depth: int) -> object:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is complex:
            return ("c", value.real, value.imag)  # type: ignore[attr-defined]
        if issubclass(kind, enum.Enum):
            return self._enum(value, kind, where)  # type: ignore[arg-type]
        parts = self._parts(value, kind)
        if parts is None:
            raise UnfitError(_name(kind), where, "which is not plain data")
        if id(value) in self._active:
            raise UnfitError(_name(kind), where, "and contains itself")
        if depth >= MAX_DEPTH:
            raise UnfitError(_name(kind), where, f"below {MAX_DEPTH} others, which is too deep")
        self._active.add(id(value))
        try:
            return parts(value, where, depth + 1)
        finally:
            self._active.discard(id(value))

    def _parts(self, value: object, kind: type) -> Callable[[Any, str, int], object] | None:
        by_type: dict[type, Callable[[Any, str, int], object]] = {
            list: self._list,
            tuple: self._tuple,
            dict: self._dict,
            set: self._set,
            frozenset: self._set,
        }
        if kind in by_type:
            return by_type[kind]
        if is_dataclass(value):
            return self._dataclass
        return self._named_tuple if _is_named_tuple(kind) else None

    def _spend(self, count: int, value: object, where: str) -> None:
        self._left -= count
        if self._left < 0:
            raise UnfitError(
                _name(type(value)),
                where,
                f"with which it is more than {tagged_json.MAX_VALUES} values",
            )

    def _list(self, value: list[object], where: str, depth: int) -> object:
        self._spend(len(value), value, where)
        return [self.pack(item, f"{where}[{at}]", depth) for at, item in enumerate(list(value))]

    def _tuple(self, value: tuple[object, ...], where: str, depth: int) -> object:
        self._spend(len(value) + 1, value, where)
        return ("t", *(self.pack(item, f"{where}[{at}]", depth) for at, item in enumerate(value)))

    def _set(self, value: set[object], where: str, depth: int) -> object:
        self._spend(len(value), value, where)
        items = [self.pack(item, f"an item of {where}", depth) for item in list(value)]
        return self._hashed(lambda: type(value)(items), value, where)

    def _dict(self, value: dict[object, object], where: str, depth: int) -> object:
        self._spend(2 * len(value), value, where)
        pairs = [
            (self.pack(key, f"a key of {where}", depth), self.pack(item, _at(where, key), depth))
            for key, item in list(value.items())
        ]
        return self._hashed(lambda: dict(pairs), value, where)

    def _hashed(self, make: Callable[[], object], value: object, where: str) -> object:
        try:
            return make()
        except TypeError:  # a dataclass with a list in it and a __hash__ of its own
            why = "with a key that plain data cannot be"
            raise UnfitError(_name(type(value)), where, why) from None

    def _enum(self, value: enum.Enum, kind: type[enum.Enum], where: str) -> object:
        module, name = self._class(kind, where)
        if isinstance(value, enum.Flag):
            # A combination has no name of its own.
            return ("f", module, name, value._value_)
        return ("e", module, name, value._name_)

    def _named_tuple(self, value: tuple[object, ...], where: str, depth: int) -> object:
        module, name = self._class(type(value), where)
        self._spend(len(value) + 3, value, where)
        fields: Any = type(value)
        items = zip(fields._fields, value, strict=True)
        return ("n", module, name, *(self.pack(v, f"{where}.{f}", depth) for f, v in items))

    def _dataclass(self, value: Any, where: str, depth: int) -> object:
        module, name = self._class(type(value), where)
        found = fields(value)
        self._spend(3 * len(found) + 3, value, where)
        packed = [self._field(value, field.name, where, depth + 1) for field in found]
        return ("d", module, name, *packed)

    def _field(self, value: object, name: str, where: str, depth: int) -> tuple[str, object]:
        try:
            found = object.__getattribute__(value, name)
        except AttributeError:
            raise UnfitError(_name(type(value)), where, f"which has no {name!r}") from None
        return (name, self.pack(found, f"{where}.{name}", depth))

    def _class(self, kind: type, where: str) -> tuple[str, str]:
        module, name = type_names.lineage(kind)[0]
        if type_names.find(module, name) is not kind:
            raise UnfitError(_name(kind), where, "which is not found by its name in sys.modules")
        return module, name


def unpack(data: object) -> object:
    """The value that :func:`pack` has taken apart, somewhere else.

    :raises UnfitError: for anything that it does not make, or a class that is not here.
    """
    return _unpack(data, "result")


def _unpack(data: object, where: str) -> object:
    kind = type(data)
    if kind in _SCALARS:
        return data
    if kind is list or kind is set or kind is frozenset:
        return kind(_unpack(item, where) for item in data)  # type: ignore[attr-defined]
    if kind is dict:
        pairs: Any = data
        return {_unpack(key, where): _unpack(item, where) for key, item in pairs.items()}
    if kind is tuple:
        return _rebuild(data, where)  # type: ignore[arg-type]
    raise UnfitError(_name(kind), where, "which no child sends")


def _rebuild(data: tuple[object, ...], where: str) -> object:
    match data:
        case ("t", *items):
            return tuple(_unpack(item, where) for item in items)
        case ("c", float(real), float(imaginary)):
            return complex(real, imaginary)
        case ("e", str(module), str(name), str(member)):
            return _member(_known(module, name, where, _is_enum), member, where)
        case ("f", str(module), str(name), int(value)):
            return _flags(_known(module, name, where, _is_flag), value, where)
        case ("n", str(module), str(name), *items):
            found = _known(module, name, where, _is_named_tuple)
            if len(items) == len(found._fields):
                return tuple.__new__(found, [_unpack(item, where) for item in items])
        case ("d", str(module), str(name), *fields):
            return _fill(_known(module, name, where, _is_dataclass), fields, where)
    raise UnfitError("tuple", where, "of a shape that no child sends")


def _known(module: str, name: str, where: str, fits: Callable[[type], bool]) -> Any:
    found = type_names.find(module, name)
    if found is None or not fits(found):
        raise UnfitError(f"{module}.{name}", where, "which this process has not imported")
    return found


def _member(kind: Any, name: str, where: str) -> object:
    members: dict[str, object] = enum.EnumMeta.__members__.fget(kind)  # type: ignore[attr-defined]
    if name not in members:
        raise UnfitError(_name(kind), where, f"which has no member {name!r}")
    return members[name]


def _flags(kind: Any, value: int, where: str) -> object:
    try:
        found = kind(value)
    except ValueError:
        found = None
    if found is None or found._value_ != value:  # the default of some versions is to drop bits
        raise UnfitError(_name(kind), where, f"which has no value {value}")
    return found


def _fill(kind: Any, pairs: list[object], where: str) -> object:
    values = dict(_pairs(pairs, where))
    names = {field.name for field in fields(kind)}
    try:
        if values.keys() != names:
            raise TypeError
        made = object.__new__(kind)
        for name, value in values.items():
            object.__setattr__(made, name, value)
    except (TypeError, AttributeError):
        raise UnfitError(_name(kind), where, "with other fields than here") from None
    return made


def _pairs(fields: list[object], where: str) -> Iterator[tuple[str, object]]:
    for field in fields:
        match field:
            case (str(name), value):
                yield name, _unpack(value, f"{where}.{name}")
            case _:
                raise UnfitError("tuple", where, "of a shape that no child sends")


def _is_enum(kind: type) -> bool:
    return issubclass(kind, enum.Enum)


def _is_flag(kind: type) -> bool:
    return issubclass(kind, enum.Flag)


def _is_dataclass(kind: type) -> bool:
    return is_dataclass(kind)


def _is_named_tuple(kind: type) -> bool:
    fields = getattr(kind, "_fields", None)
    return (
        issubclass(kind, tuple)
        and type(fields) is tuple
        and all(type(name) is str for name in fields)
    )


def _name(kind: type) -> str:
    module, name = type_names.lineage(kind)[0] if kind is not object else ("builtins", "object")
    return name if module == "builtins" else f"{module}.{name}"


def _at(where: str, key: object) -> str:
    text = repr(key) if type(key) in _SCALARS else type(key).__name__
    return f"{where}[{text if len(text) <= 60 else text[:57] + '...'}]"
