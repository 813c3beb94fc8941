# SPDX-License-Identifier: MIT
"""When each step on the way into the namespaces has ended, for a trace of the run.

A step begins where the one before it has ended, the first one where the launch begins. So a moment
for each step says all, and what is between two of them is never lost.

Nothing is noted where there is no trace. The clock is the one that no namespace moves.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterator
from itertools import islice
from math import isfinite
from struct import iter_unpack, pack
from typing import Final

from pytest_nsisolate.kernel.originals import time

#: Stands for :meth:`Steps.note` where there is no trace: a call that does nothing, and no line of
#: Python.
UNNOTED: Final[Callable[[str], object]] = len

#: A launch has about twenty.
_MOST: Final = 100


class Steps:
    """Made before the clone; each process on the way has a copy, and goes on with it."""

    __slots__ = ("_ends", "_names")

    def __init__(self) -> None:
        self._names: list[str] = []
        self._ends: list[float] = []

    def note(self, name: str) -> None:
        """This step is over."""
        self._ends.append(time.time())
        self._names.append(name)

    def text(self) -> bytes:
        """As they cross the wire: names, and in base64 the ends.

        Of few objects, for each one costs a child a page. It can stand between quotes in JSON.
        """
        names = ";".join(self._names).encode("ascii", "replace").translate(None, b'"\\')
        ends = pack(f"!{len(self._ends)}d", *self._ends)
        return b"%s|%s" % (names, b2a_base64(ends, newline=False))


def read(said: object) -> Iterator[tuple[str, float]]:
    """What a child has said of its steps; it is not trusted."""
    if not isinstance(said, str):
        return
    names, _, encoded = said.rpartition("|")
    try:
        packed = a2b_base64(encoded)
    except ValueError:
        return
    ends = (end for (end,) in iter_unpack("!d", packed[: len(packed) // 8 * 8]))
    for name, end in zip(names.split(";"), islice(ends, _MOST), strict=False):
        if isfinite(end):
            yield name, end
