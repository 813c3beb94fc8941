# SPDX-License-Identifier: MIT
"""What ``limits=`` may say: how much memory, time, processes and files a test may have.

The values are checked here, at collection. In the child this module finds out whether a failure is
about one. :mod:`pytest_nsisolate.process.limit_mechanisms` decides before each launch which
mechanism holds them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.request.wording import short, suggestion


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one test; None is no bound of ours.

    :param memory: bytes of memory, beyond what the test inherits from the runner.
    :param cpu: seconds of processor time, of each process.
    :param processes: processes and threads at the same time, the test's own among them.
    :param files: open files, of each process: the soft and the hard limit of descriptors.
    :param file_size: bytes of each file that is written.
    """

    memory: int | None = None
    cpu: int | None = None
    processes: int | None = None
    files: int | None = None
    file_size: int | None = None

    def given(self) -> dict[str, int]:
        """The bounds that there are, by name."""
        pairs = ((name, getattr(self, name)) for name in NAMES)
        return {name: value for name, value in pairs if value is not None}


NO_LIMITS: Final = Limits()

NAMES: Final = tuple(field.name for field in fields(Limits))

#: Those in bytes, which may have a unit.
_SIZES: Final = frozenset({"memory", "file_size"})

#: Below these no interpreter gets anywhere.
_LEAST: Final = {"memory": 1 << 20, "cpu": 1, "processes": 1, "files": 16, "file_size": 1}

#: The kernel holds sizes and numbers as signed 64 bit, and process numbers as 22 bit.
_MOST: Final = {"processes": 1 << 22, "files": 1 << 30, "cpu": 1 << 32}
_MOST_BYTES: Final = (1 << 62) - 1

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,20})?) ?([KMGT]?)(iB)?", re.IGNORECASE | re.ASCII)
_DECIMAL_UNIT: Final = re.compile(r".*\d ?[KMGT]B", re.IGNORECASE | re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,20}", re.ASCII)


class LimitError(ValueError):
    """A limit is not allowed; the argument is the rest of the sentence."""


def check(value: object) -> dict[str, int | None]:
    """The value of ``limits=``, checked and in bytes and numbers; None lifts an inherited one.

    :raises LimitError: for the first thing that is wrong with it.
    """
    if value is None:
        return dict.fromkeys(NAMES)
    if not isinstance(value, Mapping):
        raise LimitError(f"takes a dict of {', '.join(NAMES)}, or None to lift them all")
    return {_known(name): _amount(str(name), amount) for name, amount in value.items()}


def parse(given: object) -> Limits:
    """The defaults, as an option or an ini key has them.

    :param given: ``"memory=256M,processes=64"``, a list of such, a table, or ``"none"``.
    :raises LimitError: see :func:`check`.
    """
    if isinstance(given, Mapping):
        return Limits(**check(given))
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Iterable):
        raise LimitError(f"takes a table or text like memory=256M, not {short(given)}")
    words = " ".join(map(str, given)).replace(",", " ").split()
    if words == ["none"]:
        return Limits()
    found: dict[str, int | None] = {}
    for word in words:
        name, equals, amount = word.partition("=")
        if not equals:
            raise LimitError(f"takes words like memory=256M, not {word!r}")
        known = _known(name)
        found[known] = _amount(known, _typed(known, amount))
    return Limits(**found)


def merged(default: Limits, said: Mapping[str, int | None]) -> Limits | None:
    """The defaults with what the markers say on top, key by key; None where nothing is left."""
    limits = replace(default, **said)
    return limits if limits.given() else None


def spelled(name: str, value: int) -> str:
    """A bound as you would write it: ``"256M"``, ``"64"``."""
    if name in _SIZES:
        for unit in ("T", "G", "M", "K"):
            if value % _UNITS[unit] == 0:
                return f"{value // _UNITS[unit]}{unit}"
    return str(value)


def _known(name: object) -> str:
    if not isinstance(name, str) or name not in NAMES:
        raise LimitError(f"knows no {short(name)}, {suggestion(str(name), NAMES)}")
    return name


def _typed(name: str, text: str) -> Any:
    """A word of an option or ini key as the marker would have it."""
    if text == "none":
        return None
    return int(text) if name not in _SIZES and _NUMBER.fullmatch(text) else text


def _amount(name: str, value: object) -> int | None:
    if value is None:
        return None
    amount = _size(name, value) if name in _SIZES else _count(name, value)
    least, most = _LEAST[name], _MOST.get(name, _MOST_BYTES)
    if amount < least:
        raise LimitError(f"takes {name} from {spelled(name, least)} on, not {short(value)}")
    if amount > most:
        raise LimitError(f"takes {name} up to {spelled(name, most)}, not {short(value)}")
    return amount


def _count(name: str, value: object) -> int:
    # True is 1 for Python, but is not meant as a number.
    if isinstance(value, bool) or not isinstance(value, int):
        what = "whole seconds" if name == "cpu" else "a whole number"
        raise LimitError(f"takes {what} for {name}, or None, not {short(value)}")
    return value


def _size(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or (found[3] and not found[2]):
        if isinstance(value, str) and _DECIMAL_UNIT.fullmatch(value.strip()):
            raise LimitError(f"takes {name} in K, M, G, T or KiB, MiB, ..., not {short(value)}")
        raise LimitError(f'takes a size for {name}, bytes or "256M", or None, not {short(value)}')
    unit = _UNITS[found[2].upper()]
    return int(found[1]) * unit if found[1].isdecimal() else int(float(found[1]) * unit)


# How a failure tells of a limit ------------------------------------------------------------------

#: Names by which code starts a process or a thread. EAGAIN of anything else is another matter.
_STARTERS: Final = frozenset(
    {
        *("fork", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp"),
        *("spawnv_passfds", "start_new_thread", "_start_new_thread", "_start_joinable_thread"),
    }
)

#: Causes and contexts that are followed.
_MOST_CAUSES: Final = 20


def errnos(error: BaseException) -> list[int]:
    """The numbers of errors by which the kernel may have told of a limit, causes included."""
    found: set[int] = set()
    waiting: list[BaseException | None] = [error]
    for _ in range(_MOST_CAUSES):
        one = waiting.pop() if waiting else None
        if one is not None:
            with suppress(Exception):  # an exception's own attributes may raise
                found.update(_number(one))
                waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return sorted(found)


def _number(error: BaseException) -> Iterable[int]:
    if isinstance(error, MemoryError):
        yield errno.ENOMEM
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        yield errno.EAGAIN
    elif isinstance(error, OSError) and error.errno is not None:
        number = error.errno
        if number != errno.EAGAIN or _starts_something(error):
            yield number


def _starts_something(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        return not _STARTERS.isdisjoint(trace.tb_frame.f_code.co_names)
    # Of a call by isolate: the child's traceback is a note.
    notes = "\n".join(map(str, getattr(error, "__notes__", ())))
    return not _STARTERS.isdisjoint(re.findall(r"\w+", notes))
