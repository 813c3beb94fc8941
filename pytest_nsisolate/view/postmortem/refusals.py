# SPDX-License-Identifier: MIT
"""Which connections an exception is about.

Fact: ``connect(2)`` does not put the address into its error. asyncio and most clients write it into
their text, and ``socket.create_connection`` has it in a local variable; where a test calls
``connect`` itself it is a constant, a variable or an attribute of that line's function.

Consequence: the address is looked for in all of these, and what was found is only a question: the
runner says something if a socket listens there, and nothing otherwise. Nothing of the test's is
called but ``str()`` of its exceptions; attributes are read from the instance's dictionary.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Final

from pytest_nsisolate.kernel.originals import re

#: How an unreachable host looks: no listener, no route, no answer.
UNREACHABLE: Final = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH})

_MOST_ERRORS: Final = 60
_MOST_TRIED: Final = 16
_MOST_FRAMES: Final = 3
_MOST_NAMES: Final = 60
_MOST_TEXT: Final = 4000

#: Not every exception that means it is an OSError (psycopg's), or has a number (trio's).
_SAYS_SO: Final = re.compile(
    r"connection refused|network is unreachable|no route to host|connect call failed"
    r"|all attempts to connect",
    re.IGNORECASE,
)

_ADDRESSES: Final = (
    re.compile(r"\('(?P<host>[^'\s]{1,100})', (?P<port>\d{1,5})\b"),  # a tuple's repr
    re.compile(r"host='(?P<host>[^'\s]{1,100})', port=(?P<port>\d{1,5})\b"),  # urllib3
    re.compile(r"\"?(?P<host>[\w.:\[\]-]{1,100})\"?,? port (?P<port>\d{1,5})\b"),  # libpq, curl
    re.compile(r"(?P<host>\[[0-9a-fA-F:]{2,45}\]|[\w.-]{1,100}):(?P<port>\d{1,5})\b"),
)

Tried = list[tuple[str | None, int]]


def chain(error: BaseException | None) -> list[BaseException]:
    """An exception and all that it wraps: causes, contexts, groups, reasons, arguments."""
    found: list[BaseException] = []
    todo: list[Any] = [error]
    while todo and len(found) < _MOST_ERRORS:
        one = todo.pop(0)
        # By type: isinstance() asks an object, which may lie or raise.
        if not issubclass(type(one), BaseException) or any(one is other for other in found):
            continue
        found.append(one)
        todo += [one.__cause__, one.__context__, attribute(one, "reason")]
        todo += _some(attribute(one, "exceptions")) + _some(one.args)
    return found


def numbers(errors: Iterable[BaseException]) -> frozenset[int]:
    """The errno of each; of a MemoryError ENOMEM, of a thread that cannot start EAGAIN."""
    found = set()
    for error in errors:
        number = attribute(error, "errno")
        if type(number) is int:
            found.add(number)
        if issubclass(type(error), MemoryError):
            found.add(errno.ENOMEM)
        if "can't start new thread" in text(error):
            found.add(errno.EAGAIN)
    return frozenset(found)


def tried(errors: Iterable[BaseException]) -> Tried:
    """Addresses to which a connection may have failed; none if the failure has another cause."""
    errors = list(errors)
    if not any(map(_is_refusal, errors)):
        return []
    found: list[tuple[str | None, int]] = []
    for error in errors:
        # An assertion's text may be about anything, but not what has caused it.
        if not issubclass(type(error), AssertionError):
            found += _in_text(text(error))
    for error in errors:
        if _is_refusal(error):
            found += _in_frames(error)
    # A number by itself is a guess, and none is needed where a whole address is known.
    whole = [pair for pair in found if pair[0] is not None]
    return list(dict.fromkeys(whole or found))[:_MOST_TRIED]


def _is_refusal(error: BaseException) -> bool:
    if attribute(error, "errno") in UNREACHABLE:
        return True
    return not issubclass(type(error), AssertionError) and bool(_SAYS_SO.search(text(error)))


def attribute(error: BaseException, name: str) -> Any:
    """An attribute of an exception; None for one that raises."""
    try:
        return getattr(error, name, None)
    except Exception:  # a property that raises
        return None


def _some(values: object) -> list[Any]:
    return list(values[:_MOST_ERRORS]) if type(values) in (tuple, list) else []  # type: ignore[index]


def text(error: BaseException) -> str:
    """What an exception says of itself, as far as it can be told."""
    try:
        return str(error)[:_MOST_TEXT]
    except Exception:
        return ""


def _in_text(text: str) -> Iterator[tuple[str, int]]:
    for pattern in _ADDRESSES:
        for match in pattern.finditer(text):
            port = int(match["port"])
            if _is_port(port):
                yield match["host"].strip("[]"), port


def _is_port(value: object) -> bool:
    return type(value) is int and 0 < value < 65536


# Frames ------------------------------------------------------------------------------------------


def _in_frames(error: BaseException) -> Tried:
    """Whole addresses of the innermost frame that has any, or numbers of the very innermost.

    That is the one which has called ``connect``, because a function in C has no frame.
    """
    traceback, frames = error.__traceback__, []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    numbers: Tried = []
    for frame in frames[: -_MOST_FRAMES - 1 : -1]:
        found = list(_in_frame(frame))
        if whole := [pair for pair in found if pair[0] is not None]:
            return whole
        numbers = numbers or found
    return numbers


def _in_frame(frame: FrameType) -> Iterator[tuple[str | None, int]]:
    code, local = frame.f_code, frame.f_locals
    used = code.co_names[:_MOST_NAMES]
    values = [*list(local.values())[:_MOST_NAMES], *code.co_consts[:_MOST_NAMES]]
    values += [frame.f_globals.get(name) for name in used]
    for owner in list(local.values())[:_MOST_NAMES]:
        attributes = own_attributes(owner)
        values += [attributes[name] for name in used if name in attributes]
    for value in values:
        if type(value) is tuple and 2 <= len(value) <= 4:
            host, port = value[:2]
            if type(host) is str and len(host) <= 100 and _is_port(port):
                yield host, port
        elif _is_port(value):
            yield None, value


def own_attributes(owner: object) -> dict[str, object]:
    """What is in an object's own dictionary, without asking the object."""
    try:
        found = object.__getattribute__(owner, "__dict__")
    except Exception:  # it has none
        return {}
    return found if type(found) is dict else {}
