# SPDX-License-Identifier: MIT
"""What a child measured, as it crosses the wire.

Fact: coverage's own way to move data (``CoverageData.dumps`` and ``loads``) is a script of SQL that
the reader executes; pickle would be no better.

Consequence: plain data of known shape. The numbers of one file cross as one string of bytes,
because lists of them would cost the encoder a call for each, and would be counted one by one
against the size of a stream. The reader checks every bound before coverage sees a number: a line
number of 2**58, say, would have coverage allocate a bit for each line up to it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from pytest_nsisolate.errors import BrokenStream

#: How one number or pair stands for what was executed: a line; an arc in the C tracer's packed
#: form; an arc as two numbers, one after the other.
Form: TypeAlias = Literal["line", "packed", "pair"]

#: Bytes of numbers after which another frame is begun.
MAX_PART: Final = 4 * 1024**2

#: The bounds of one number in each form. Of a packed arc: 28 bits for each line, two for signs.
_BOUNDS: Final = {
    "line": (0, 1 << 24),
    "packed": (0, 1 << 58),
    "pair": (-(1 << 28), 1 << 28),
}
_MAX_TEXT: Final = 1024**2


@dataclass(slots=True)
class Part:
    """What was measured in one context.

    :param context: coverage's label, static part included; None is coverage's "no context".
    :param files: file name, as coverage's collector knows it, to numbers of one :data:`Form`.
    :param tracers: file name to the file tracer plugin that is responsible for it.
    :param packages: of ``source``, what was imported here for the first time: name to path,
        which is empty for a namespace package.
    """

    context: str | None
    files: dict[str, array[int]] = field(default_factory=dict)
    tracers: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> Iterator[dict[str, object]]:
        """The data of the frames that carry this part; none of them is huge."""
        rest: dict[str, object] = {}
        if self.tracers:
            rest["tracers"] = self.tracers
        if self.packages:
            rest["packages"] = self.packages
        files: dict[str, bytes] = {}
        size = 0
        for name, numbers in self.files.items():
            files[name] = numbers.tobytes()
            size += len(files[name])
            if size > MAX_PART:
                yield {"context": self.context, "files": files}
                files, size = {}, 0
        yield {"context": self.context, "files": files, **rest}


def decode(data: dict[str, object], form: Form) -> Part:
    """The part in one frame.

    :param form: of the numbers; the runner knows it from its own measurement.
    :raises BrokenStream: for anything else than a part.
    """
    context = data.get("context")
    files = data.get("files")
    if not (context is None or _is_text(context)) or not isinstance(files, dict):
        raise BrokenStream("coverage of the wrong shape")
    return Part(
        context if isinstance(context, str) else None,
        {_text(name): _numbers(raw, form) for name, raw in files.items()},
        _texts(data.get("tracers", {})),
        _texts(data.get("packages", {})),
    )


def _numbers(raw: object, form: Form) -> array[int]:
    numbers = array("q")
    step = numbers.itemsize * (2 if form == "pair" else 1)
    if not isinstance(raw, bytes) or len(raw) % step or not raw:
        raise BrokenStream("coverage of the wrong shape")
    numbers.frombytes(raw)
    least, bound = _BOUNDS[form]
    if min(numbers) < least or max(numbers) >= bound:
        raise BrokenStream("coverage with a line number that no file has")
    return numbers


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BrokenStream("coverage of the wrong shape")
    return {_text(name): _text(text) for name, text in value.items()}


def _text(value: object) -> str:
    if not isinstance(value, str) or not _is_text(value):
        raise BrokenStream("coverage with a name that no file has")
    return value


def _is_text(value: object) -> bool:
    """Whether sqlite takes it."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
