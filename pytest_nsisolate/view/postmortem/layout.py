# SPDX-License-Identifier: MIT
"""A world as lines of text; all that is as it was shares one line.

A heading has no margin, and the rows below it have one; ``section`` colours by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeAlias

#: A phrase for what is as it was, or lines; no line is nothing.
Told: TypeAlias = str | list[str]

#: A name, and what reads and tells it.
Part: TypeAlias = tuple[str, Callable[[], Told]]


class Addition(Protocol):
    """Something in the test's world that has more to tell of itself."""

    def parts(self) -> list[Part]:
        """What it tells, if the test fails."""

    def processes(self) -> frozenset[int]:
        """Those that it tells of itself, with all that is below them."""


#: What there is of that kind now, in this process.
ADDITIONS: Final[list[Addition]] = []


def arranged(parts: Iterable[Told]) -> str:
    """All parts, one below the other; phrases that stand side by side are one line."""
    lines: list[str] = []
    phrases: list[str] = []
    for told in parts:
        if isinstance(told, str):
            phrases.append(told)
        elif told:
            lines += _one_line(phrases) + told
            phrases.clear()
    return "\n".join(lines + _one_line(phrases))


def _one_line(phrases: list[str]) -> list[str]:
    return ["; ".join(phrases)] if phrases else []
