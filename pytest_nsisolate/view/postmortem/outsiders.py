# SPDX-License-Identifier: MIT
"""A process that a failed test could not find, and that is one of the runner's.

Fact: what ``setUpClass``, a wider fixture or a module has started, or has looked up, lives in the
runner's PID namespace. In the test's own its number is free, or another process's.

Consequence: the child names the numbers that a failure may be about, as :mod:`.refusals` does with
addresses, and the runner says something if one of them is its own or that of a process below it.

What still fails: an assertion that asks for a process in words of its own. Its variables are looked
at only where the statement has a word of the usual libraries for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from linecache import getline
from types import FrameType, ModuleType, TracebackType
from typing import Any, Final

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open, os, re
from pytest_nsisolate.view.postmortem import refusals

_MOST_ASKED: Final = 16
_MOST_FRAMES: Final = 3
_MOST_NAMES: Final = 60
_MOST_LINES: Final = 10
_MOST_DIGITS: Final = 10

#: PID_MAX_LIMIT, proc_sys_kernel(5).
_MOST: Final = 1 << 22

#: As subprocess, multiprocessing, psutil and os ask whether a process is there.
_ASKS: Final = re.compile(
    r"\b(poll|returncode|exitcode|is_alive|is_running|pid_exists|kill)\b|/proc/"
)
_ANYTHING: Final = re.compile("")
_IN_TEXT: Final = re.compile(r"\bprocess with number (\d{1,7})\b")  # of pid1's assertions
_OTHERS_CHILD: Final = re.compile(r"can only \w+ a child process")  # of multiprocessing's
_IN_PROC: Final = re.compile(r"/proc/(\d{1,7})(?:/|$)")


# In the child ------------------------------------------------------------------------------------


def asked(errors: Iterable[BaseException]) -> list[int]:
    """Numbers of processes that a failure may be about; none if it is about something else."""
    found: list[int] = []
    for error in errors:
        kind = type(error)
        if any(base.__name__ == "NoSuchProcess" for base in kind.__mro__):  # psutil's
            found.append(refusals.attribute(error, "pid"))
        elif issubclass(kind, ProcessLookupError | ChildProcessError):
            found += _in_statements(error, _ANYTHING)
        elif issubclass(kind, FileNotFoundError):
            found += map(int, _IN_PROC.findall(str(refusals.attribute(error, "filename"))))
        elif issubclass(kind, AssertionError):
            said = refusals.text(error)
            found += map(int, _IN_TEXT.findall(said))
            found += _in_statements(error, _ANYTHING if _OTHERS_CHILD.search(said) else _ASKS)
    return list(dict.fromkeys(filter(_is_number, found)))[:_MOST_ASKED]


def _in_statements(error: BaseException, pattern: re.Pattern[str]) -> Iterator[int]:
    """Numbers behind the names of the innermost statements that fit."""
    entries = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    for entry in entries[-_MOST_FRAMES:]:
        statement = _statement(entry)
        if pattern.search(statement):
            yield from _behind(re.findall(r"\w+", statement)[:_MOST_NAMES], entry.tb_frame)


def _statement(entry: TracebackType) -> str:
    """The lines of the source that were at work."""
    code = entry.tb_frame.f_code
    first = last = entry.tb_lineno
    for start, end, *_ in islice(code.co_positions(), entry.tb_lasti // 2, None):
        first, last = start or first, end or last
        break
    lines = range(first, min(last, first + _MOST_LINES) + 1)
    return "".join(getline(code.co_filename, line) for line in lines)


def _behind(words: list[str], frame: FrameType) -> Iterator[int]:
    """What these names stand for: variables, and attributes of variables."""
    scopes: list[Mapping[str, object]] = [frame.f_locals, frame.f_globals]
    for owner in [scope[word] for scope in scopes for word in words if word in scope]:
        if type(owner) is not ModuleType:  # os.WNOHANG is no process
            # setUpClass keeps things in the class.
            scopes += [refusals.own_attributes(owner), *map(vars, type(owner).__mro__)]
    for word in words:
        if word.isdecimal():
            yield int(word[:_MOST_DIGITS])
        for value in [scope[word] for scope in scopes if word in scope]:
            if type(value) is int:
                yield value
            yield from _numbers_of(value)


def _numbers_of(value: object) -> Iterator[int]:
    """Of a Popen, a psutil.Process, a multiprocessing.Process and the like."""
    attributes = refusals.own_attributes(value)
    inner = refusals.own_attributes(attributes.get("_popen"))
    for number in (attributes.get("pid"), attributes.get("_pid"), inner.get("pid")):
        if type(number) is int:
            yield number


def _is_number(value: Any) -> bool:
    return type(value) is int and 1 < value <= _MOST


# In the runner -----------------------------------------------------------------------------------


def hint(item: pytest.Item, numbers: object) -> str:
    """The line for a test in a PID namespace of its own; empty where none of them is ours.

    :param numbers: what the child has sent.
    """
    for number in numbers[:_MOST_ASKED] if isinstance(numbers, list) else ():
        if type(number) is not int:
            continue
        if number == os.getpid():
            return (
                f"hint: process {number} is the runner itself, and not to be seen in this test's "
                "PID namespace: os.getpid() and psutil.Process(), called in the test, are its own"
            )
        name = _name_below_runner(number)
        if name is not None:
            return (
                f"hint: process {number} ({name}) is one of the runner's, and not to be seen in "
                f"this test's PID namespace: {_inside(item)}, isolated(pid=False) leaves the test "
                "in the runner's"
            )
    return ""


def _inside(item: pytest.Item) -> str:
    names = internals.wider_fixtures_of_suite(item)
    if len(names) == 1:
        return f'inside="{names[0]}" sets that fixture up in the test\'s process'
    return "inside=True sets wider fixtures, and setUpClass, up in the test's process"


def _name_below_runner(number: int) -> str | None:
    """The name of a process that descends from this one; None if it does not, or has ended."""
    own = os.getpid()
    name: str | None = None
    above = number
    while above > 1 and above != own:
        try:
            with open(f"/proc/{above}/stat", "rb") as file:
                found = proc.stat(file.read())
        except OSError:
            return None
        if name is None:
            if found.state in "ZX":
                return None
            name = found.name.decode(errors="replace")
        above = found.ppid
    return name if above == own else None
