# SPDX-License-Identifier: MIT
"""What a person would see: bytes of a program in, a screen out. The one module that uses pyte.

Fact: pyte has one screen; vim and less ask for another (private mode 1049) and give it back, so
that what stood there before is seen again. What we do: keep a copy of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, Final

import pyte

from pytest_nsisolate.view.terminal.sequences import Sequences

#: Private modes are shifted by pyte: 47 and 1047 switch the screen, 1049 saves the cursor too.
_OTHER_SCREEN: Final = frozenset(mode << 5 for mode in (47, 1047, 1049))


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the screen.

    :param text: its character; empty for the second half of a wide one.
    :param foreground: ``"default"``, a colour's name, or six hexadecimal digits.
    """

    text: str
    foreground: str = "default"
    background: str = "default"
    bold: bool = False
    italic: bool = False
    underlined: bool = False
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Screen:
    """What stood there at one moment.

    :param lines: every row, without blanks at its end.
    :param cursor: its row and its column, from 0.
    :param cursor_shown: a program may hide it.
    :param title: what the program has called its window.
    """

    lines: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    cursor: tuple[int, int]
    cursor_shown: bool
    title: str

    @property
    def text(self) -> str:
        """All rows, without blank ones at the end; with the blanks before the cursor."""
        row, column = self.cursor
        lines = (f"{x:<{column}}" if n == row else x for n, x in enumerate(self.lines))
        return "\n".join(lines).rstrip("\n")

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.lines)

    @property
    def columns(self) -> int:
        """How many."""
        return len(self.cells[0])

    def __str__(self) -> str:
        bar = "+" + "-" * self.columns + "+"
        return "\n".join([bar, *(f"|{line:<{self.columns}}|" for line in self.lines), bar])


class _Screen(pyte.Screen):
    """With a second screen, and answers to the program's questions."""

    def __init__(self, columns: int, rows: int, reply: Callable[[str], None]) -> None:
        self._reply = reply
        self._first: tuple[dict[int, dict[int, Any]], tuple[int, int]] | None = None
        super().__init__(columns, rows)

    def write_process_input(self, data: str) -> None:
        self._reply(data)

    def set_mode(self, *modes: int, **options: Any) -> None:
        super().set_mode(*modes, **options)
        if self._first is None and self._switches(modes, options):
            rows = {row: dict(line) for row, line in self.buffer.items()}
            self._first = rows, (self.cursor.x, self.cursor.y)
            self.erase_in_display(2)

    def reset_mode(self, *modes: int, **options: Any) -> None:
        super().reset_mode(*modes, **options)
        if self._first is not None and self._switches(modes, options):
            rows, (self.cursor.x, self.cursor.y) = self._first
            self._first = None
            self.erase_in_display(2)
            for row, line in rows.items():
                self.buffer[row].update(line)

    @staticmethod
    def _switches(modes: tuple[int, ...], options: dict[str, Any]) -> bool:
        return bool(options.get("private")) and any(mode << 5 in _OTHER_SCREEN for mode in modes)


def _parameters(handler: str) -> int | None:
    """How many a handler of pyte's takes; None: any number."""
    found = signature(getattr(pyte.Screen, handler)).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in found):
        return None
    return sum(one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "private" for one in found) - 1


#: The final byte of each control sequence that pyte has a meaning for.
_KNOWN: Final = {final.encode(): _parameters(name) for final, name in pyte.Stream.csi.items()}


class Emulator:
    """A screen, as bytes make it.

    :param reply: gets what the terminal answers to the program.
    """

    def __init__(self, rows: int, columns: int, reply: Callable[[str], None]) -> None:
        self._screen = _Screen(columns, rows, reply)
        self._stream = pyte.ByteStream(self._screen)
        self._sequences = Sequences(_KNOWN)

    def feed(self, data: bytes) -> None:
        """Show what a program has written."""
        self._stream.feed(self._sequences.known(data))

    def resize(self, rows: int, columns: int) -> None:
        """Another size; what does not fit is gone."""
        self._screen.resize(rows, columns)

    def screen(self) -> Screen:
        """What stands there now."""
        screen = self._screen
        found = tuple(
            tuple(_cell(screen.buffer[row][column]) for column in range(screen.columns))
            for row in range(screen.lines)
        )
        lines = tuple("".join(cell.text for cell in row).rstrip() for row in found)
        cursor = screen.cursor.y, min(screen.cursor.x, screen.columns - 1)
        return Screen(lines, found, cursor, not screen.cursor.hidden, screen.title)


def _cell(char: Any) -> Cell:
    return Cell(
        *(char.data, char.fg, char.bg, char.bold, char.italics, char.underscore, char.reverse)
    )
