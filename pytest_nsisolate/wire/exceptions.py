# SPDX-License-Identifier: MIT
"""Exceptions of a function that ran in a child, made again in its caller.

Fact: an exception is its type, its ``args``, attributes, a traceback and other exceptions; its
``__init__`` may want other arguments than ``args``, or do anything. Some built-in types keep
attributes outside of ``__dict__`` which ``args`` does not tell.

Consequence: the type is found by its name, as :mod:`.values` finds classes, and the
instance is made by the constructor of the nearest built-in type. It counts if its texts are then
those of the child's. Otherwise an :class:`~pytest_nsisolate.IsolatedError` takes its place. The
traceback, with causes and contexts, comes as a note (PEP 678).

What still fails: attributes that are not plain data stay behind, which the note says. So do,
without a word, ``obj`` of an AttributeError, which may be anything, and ``name_from`` of an
ImportError, at which :mod:`traceback` would import a module that the child has named.

Of a Ctrl-C only the place crosses: pytest names the line that it has hit under its banner, and that
is the child's.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, NoReturn, TypeAlias

import pytest

from pytest_nsisolate.errors import IsolatedError
from pytest_nsisolate.kernel.originals import traceback
from pytest_nsisolate.wire import type_names, values

#: ``Py_TPFLAGS_HEAPTYPE``: a class that was made by Python code.
_HEAP_TYPE: Final = 1 << 9

_OUTCOMES: Final = {
    outcome.Exception.__name__: outcome.Exception
    for outcome in (pytest.skip, pytest.fail, pytest.xfail, pytest.exit)
}

#: The attributes of a built-in type that are neither in ``args`` nor in ``__dict__``.
_MEMBERS: Final[dict[type[BaseException], tuple[str, ...]]] = {
    ImportError: ("name", "path"),
    AttributeError: ("name",),
    NameError: ("name",),
}

_OBJ: Final[Any] = vars(AttributeError)["obj"]

#: Characters of a traceback that are sent, from its end.
_MOST_TEXT: Final = 200_000

#: A file and a line, from 1.
Place: TypeAlias = tuple[str, int]

_MANY_LINES: Final = 1 << 24


class _LeftThere:
    """What ``obj`` was: :mod:`traceback` looks among its names for the one that was meant."""

    def __dir__(self) -> list[str]:
        return []


def describe(error: BaseException, below: TracebackType | None) -> dict[str, object]:
    """In the child: the plain values that stand for an exception.

    :param below: its traceback without the frames that are ours.
    """
    text = "".join(traceback.format_exception(type(error), error, below))
    return {**_describe(error), "traceback": text[-_MOST_TEXT:]}


def _describe(error: BaseException) -> dict[str, object]:
    data: dict[str, object] = {
        "lineage": type_names.lineage(type(error)),
        "text": _text(error),
        "left": (),
    }
    if type(error) in (ExceptionGroup, BaseExceptionGroup):
        group: Any = error
        return {
            **data,
            "message": str(group.message),
            "members": [_describe(member) for member in group.exceptions],
        }
    try:
        data["args"] = values.pack(_arguments(error), "its arguments")
    except values.UnfitError as unfit:
        return {**data, "unfit": f"{unfit.where} has a value of type {unfit.type_name}"}
    kept, left = {}, []
    known = {name: member.__get__(error) for name, member in _members(type(error)).items()}
    set_there = {name: value for name, value in known.items() if value is not None}
    for name, value in {**vars(error), **set_there}.items():
        try:
            kept[name] = values.pack(value, name)
        except values.UnfitError:
            left.append(str(name))
    return {**data, "attributes": kept, "left": tuple(left)}


def _members(kind: type[BaseException]) -> dict[str, Any]:
    """The descriptors behind :data:`_MEMBERS`, for a class that hides them too."""
    return {
        name: vars(base)[name]
        for base, names in _MEMBERS.items()
        if issubclass(kind, base)
        for name in names
    }


def _arguments(error: BaseException) -> tuple[object, ...]:
    """``args``, or what the constructor of an OSError wants: its file names are not in ``args``."""
    if isinstance(error, OSError):
        reduced: Any = OSError.__reduce__(error)
        if type(reduced[1]) is tuple:
            return reduced[1]
    return error.args if type(error.args) is tuple else ()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as broken:
        return f"<str() raised {type(broken).__name__}>"


def remake(data: dict[str, Any]) -> BaseException:
    """In the caller: the exception, or what stands for it, with the child's traceback as a note."""
    text = str(data.get("traceback", ""))
    error = _remake(data, text)
    for note in error.__dict__.pop("__notes__", ()):
        if type(note) is str:
            error.add_note(note)
    error.add_note(f"In the isolated child:\n{text.rstrip()}")
    left = data.get("left")
    if isinstance(left, tuple) and left and not isinstance(error, IsolatedError):
        error.add_note(
            f"Attributes that are not plain data stayed there: {', '.join(map(str, left))}"
        )
    return error


def _remake(data: dict[str, Any], text: str) -> BaseException:
    lineage = data.get("lineage")
    module, name = type_names.first(lineage)
    said = str(data.get("text", ""))
    # What pytest's outcomes say of themselves, and where, are two things.
    kind = _OUTCOMES.get(name) if module == "builtins" else None
    kind = kind or type_names.find(module, name)
    made = None
    if kind is not None and issubclass(kind, BaseException):
        made = _group(kind, data) if "members" in data else _instance(kind, data)
    if made is None or _text(made) != said:
        full = name if module == "builtins" else f"{module}.{name}"
        return IsolatedError(full, said, text)
    return made


def _group(kind: type[BaseException], data: dict[str, Any]) -> BaseException | None:
    members = data["members"]
    if kind not in (ExceptionGroup, BaseExceptionGroup) or not isinstance(members, list):
        return None
    group: Any = kind
    try:
        made: BaseException = group(str(data.get("message")), [_remake(m, "") for m in members])
    except (TypeError, ValueError, AttributeError):  # no member, or not of this kind
        return None
    return made


def _instance(kind: type[BaseException], data: dict[str, Any]) -> BaseException | None:
    builtin: Any = next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)
    try:
        arguments = values.unpack(data.get("args"))
        if type(arguments) is not tuple:
            return None
        made: BaseException = builtin.__new__(kind, *arguments)
        builtin.__init__(made, *arguments)
        members = _members(kind)
        for name, value in data["attributes"].items():
            if name in members:
                members[name].__set__(made, values.unpack(value))
            else:
                object.__getattribute__(made, "__dict__")[name] = values.unpack(value)
        if issubclass(kind, AttributeError) and "name" in data["attributes"]:
            _OBJ.__set__(made, _LeftThere())
    except Exception:  # values that this type does not take, or a frame of the wrong shape
        return None
    return made


def place(error: BaseException) -> Place | None:
    """In the child: the last line of the traceback that pytest would show."""
    found = getattr(pytest.ExceptionInfo.from_exception(error).getrepr(), "reprcrash", None)
    return None if found is None else (str(found.path), found.lineno)


def raise_at(error: BaseException, where: object) -> NoReturn:
    """Raise it as if that line of that file had done so.

    :param where: what :func:`place` has found; anything else is taken for "not known".
    """
    match where:
        case (str(path), int(line)) if 0 < line < _MANY_LINES and "\0" not in path:
            code = compile("raise error", path, "exec").replace(co_firstlineno=line)
            exec(code, {"error": error})  # noqa: S102 (our own text; only its place is the child's)
    raise error
