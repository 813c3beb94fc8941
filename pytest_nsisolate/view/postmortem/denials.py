# SPDX-License-Identifier: MIT
"""What the kernel has denied, as far as an exception tells.

Fact: an OSError has a number and, if the call had one, a path, but not the name of the call.
``chown`` leaves its path, ``setuid`` nothing. A program says it on its standard error, in the words
of strerror(3), which :class:`subprocess.CalledProcessError` may have.

Consequence: the names in the failing expression's code are looked at, and the lines of programs are
read for what they have tried. Nothing of the test's is called.
"""

from __future__ import annotations

import dis
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from dis import get_instructions
from types import TracebackType
from typing import Any, Final

from pytest_nsisolate.kernel.originals import os, re
from pytest_nsisolate.view.postmortem.refusals import attribute

_MOST_OUTPUT: Final = 20_000

_NUMBERS: Final = {
    "invalid argument": errno.EINVAL,
    "operation not permitted": errno.EPERM,
    "permission denied": errno.EACCES,
    "read-only file system": errno.EROFS,
}

#: One line of a program: what it has tried, and why it could not.
_COMPLAINT: Final = re.compile(rf"(?im)^(.{{1,500}}): ({'|'.join(_NUMBERS)})\.?\s*$")
_PATH: Final = re.compile(r"(?<![\w/.])(/[^\s'\"`:]+)")

#: Words of a program that has tried to do something with a file, not with what is mounted there.
_ON_A_FILE: Final = re.compile(
    r"(?i)^(?:cat|head|tail|grep): |\b(?:open|creat|touch|remov|writ|read|access|stat|mak|mov|cop|"
    r"unlink|renam|overwrit|truncat|chang)(?:e|es|ing|y)?\b"
)

#: sysctl(8) names a setting, not its file.
_SYSCTL: Final = re.compile(
    r'(?m)^sysctl: (?:permission denied on|setting) key "(?P<key>[^"\s]+)":?(?P<why>.*)'
)

#: How programs call the calls that name an id.
_WORDS: Final = (
    (re.compile(r"(?i)\bset ?groups|\binitgroups"), "setgroups"),
    (re.compile(r"(?i)\bset(?:e|re|res)?[ug]id\b|\bset (?:user|group) ?id"), "setuid"),
    (re.compile(r"(?i)\b(?:changing|change|set|setting) owner|\bl?chown\b"), "chown"),
)


#: Calls that start a program.
EXECUTES: Final = frozenset({"execv", "execve", "execvp", "execvpe", "posix_spawn", "posix_spawnp"})


@dataclass(frozen=True, slots=True)
class Denial:
    """One refusal of the kernel's.

    :param number: errno(3).
    :param path: absolute, if there is one.
    :param calls: names of functions, of which one was called.
    """

    number: int
    path: str | None
    calls: frozenset[str]


def denials(error: BaseException) -> Iterator[Denial]:
    """The denials that an exception is about."""
    number = attribute(error, "errno")
    if issubclass(type(error), OSError) and type(number) is int:
        calls = _called(error.__traceback__)
        names = [_absolute(attribute(error, name), calls) for name in ("filename", "filename2")]
        for path in filter(None, names) if any(names) else (None,):
            yield Denial(number, path, calls)
    for name in ("stderr", "output"):
        yield from _complaints(_text(attribute(error, name)))


def _absolute(name: object, calls: frozenset[str]) -> str | None:
    if type(name) not in (str, bytes):
        return None
    text = os.fsdecode(name)  # type: ignore[arg-type]
    if calls & EXECUTES and "/" not in text:
        return None  # it was looked for along PATH
    try:
        return os.path.abspath(text)
    except (OSError, ValueError):  # a working directory that has been removed
        return None


def _called(traceback: TracebackType | None) -> frozenset[str]:
    """Names in the expression that has raised; what is called in C has no frame of its own."""
    if traceback is None:
        return frozenset()
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code, local = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
    if code.co_name == "_execute_child" and code.co_filename.endswith("subprocess.py"):
        return frozenset({"execve", *_asked_of_child(local)})
    instructions = list(get_instructions(code))
    failed = next((i for i in instructions if i.offset == traceback.tb_lasti), None)
    return frozenset(
        str(instruction.argval)
        for instruction in instructions
        if instruction.opname.startswith("LOAD_") and _is_within(instruction, failed)
    )


def _is_within(part: dis.Instruction, whole: dis.Instruction | None) -> bool:
    """By lines and columns; where the code has none (``-X no_debug_ranges``) nothing is known."""
    inner, outer = part.positions, None if whole is None else whole.positions
    if inner is None or outer is None or None in (*inner, *outer):
        return False
    ends: Any = (*inner, *outer)
    first, last, begin, end, outer_first, outer_last, outer_begin, outer_end = ends
    return bool(
        (outer_first, outer_begin) <= (first, begin) and (last, end) <= (outer_last, outer_end)
    )


def _asked_of_child(local: dict[str, Any]) -> Iterator[str]:
    """What ``user``, ``group`` and ``extra_groups`` of :class:`subprocess.Popen` make it call."""
    for name, call in (("uid", "setuid"), ("gid", "setgid"), ("gids", "setgroups")):
        if local.get(name) not in (None, -1):
            yield call


def _text(output: object) -> str:
    if type(output) is bytes:
        return output[-_MOST_OUTPUT:].decode(errors="replace")
    return output[-_MOST_OUTPUT:] if type(output) is str else ""


def _complaints(text: str) -> Iterator[Denial]:
    for said, why in _COMPLAINT.findall(text):
        calls = frozenset(name for words, name in _WORDS if words.search(said))
        paths = _PATH.findall(said) if _ON_A_FILE.search(said) else []
        for path in paths or (None,):
            yield Denial(_NUMBERS[why.lower()], path, calls)
    for found in _SYSCTL.finditer(text):
        path = f"/proc/sys/{found['key'].replace('.', '/')}"
        number = _NUMBERS.get(found["why"].strip().lower(), errno.EACCES)
        yield Denial(number, path, frozenset())
