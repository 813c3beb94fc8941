# SPDX-License-Identifier: MIT
"""What the emulator shows of control sequences, of those that it does not know above all."""

from __future__ import annotations

import importlib.util
import itertools
import random
from typing import TYPE_CHECKING, Final

import pytest

from tests.support import needs

if TYPE_CHECKING:
    from pytest_nsisolate.view.terminal.emulator import Cell, Emulator

pytestmark = needs(importlib.util.find_spec("pyte") is not None, "needs pyte (the extra terminal)")

#: What programs send, and a terminal may not know: of vim, neovim, fish, tmux, less, ncurses.
UNKNOWN: Final = {
    "modify other keys": b"\x1b[>4;2m",
    "ask for them": b"\x1b[?4m",
    "soft reset": b"\x1b[!p",
    "ask for a capability": b"\x1bP+q544e\x1b\\",
    "ask for a setting": b"\x1bP$qm\x1b\\",
    "a picture": b"\x1b_Ga=T,f=100;aGVsbG8=\x1b\\",
    "a private message": b"\x1b^hello\x1b\\",
    "a string that is broken off": b"\x1bPhello\x18",
    "the shape of the cursor": b"\x1b[2 q",
    "ask for a mode": b"\x1b[?12$p",
    "ask for the version": b"\x1b[>q",
    "ask for the keyboard": b"\x1b[?u",
    "set the keyboard": b"\x1b[>1u",
    "remember the title": b"\x1b[22;0;0t",
    "ask for the cursor, privately": b"\x1b[?6n",
    "an answer that was echoed": b"\x1b[?1;2c",
    "a colour of the underline": b"\x1b[58:2::1:2:3m",
    "the same, with semicolons": b"\x1b[58;2;31;1;7m",
    "erase something else": b"\x1b[9J\x1b[9K",
    "a link": b"\x1b]8;;http://example\x1b\\",
    "ask for the background": b"\x1b]11;?\x07",
    "the clipboard": b"\x1b]52;c;aGVsbG8=\x1b\\",
    "answers in 7 bits": b"\x1b F",
    "no sequence": b"\x1b[?1?2h",
    "an escape too many": b"\x1b\x1b[0m",
    "the palette of the console": b"\x1b]R",
    "a colour of it": b"\x1b]P1cd0000",
}


def emulator(rows: int = 4, columns: int = 40) -> Emulator:
    from pytest_nsisolate.view.terminal.emulator import Emulator

    return Emulator(rows, columns, lambda _: None)


def shown(*data: bytes) -> tuple[str, tuple[Cell, ...]]:
    """The first line of a screen, as text and as cells."""
    screen = emulator()
    for part in data:
        screen.feed(part)
    found = screen.screen()
    return found.lines[0], found.cells[0]


@pytest.mark.parametrize("sequence", UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_is_seen_of_an_unknown_one(sequence: bytes) -> None:
    assert shown(b"abc" + sequence + b"def") == shown(b"abcdef")


@pytest.mark.parametrize("sequence", UNKNOWN.values(), ids=UNKNOWN)
def test_nor_if_it_comes_in_two_parts(sequence: bytes) -> None:
    for at in range(1, len(sequence)):
        assert shown(b"abc" + sequence[:at], sequence[at:] + b"def") == shown(b"abcdef"), at


@pytest.mark.parametrize(
    ("sequence", "foreground", "background", "underlined"),
    [
        (b"\x1b[31m", "red", "default", False),
        (b"\x1b[38;5;1m", "cd0000", "default", False),
        (b"\x1b[38:5:1m", "cd0000", "default", False),
        (b"\x1b[38;2;1;2;3m", "010203", "default", False),
        (b"\x1b[38:2:1:2:3m", "010203", "default", False),
        (b"\x1b[38:2::1:2:3;48:5:1m", "010203", "cd0000", False),
        (b"\x1b[58:5:1;31m", "red", "default", False),
        (b"\x1b[31m\x1b[58;5;2m", "red", "default", False),
        (b"\x1b[4:3m", "default", "default", True),
        (b"\x1b[4:3m\x1b[4:0m", "default", "default", False),
        (b"\x1b[4;31m\x1b[m", "default", "default", False),
    ],
)
def test_colours(sequence: bytes, foreground: str, background: str, underlined: bool) -> None:
    text, cells = shown(sequence + b"x")

    assert text == "x"
    found = cells[0].foreground, cells[0].background, cells[0].underlined
    assert found == (foreground, background, underlined)


def test_a_parameter_too_many_is_ignored() -> None:
    assert shown(b"abc\x1b[2;7Gx")[0] == "axc"
    assert shown(b"abc\x1b[1;2;9Hx")[0] == "axc"


@pytest.mark.parametrize("end", [b"\x07", b"\x1b\\"])
def test_the_title(end: bytes) -> None:
    screen = emulator()
    screen.feed(b"\x1b]2;a title" + end + b"text")

    found = screen.screen()

    assert (found.title, found.lines[0]) == ("a title", "text")


def test_a_string_that_does_not_end_is_not_kept() -> None:
    from pytest_nsisolate.view.terminal.sequences import Sequences

    sequences = Sequences({})
    assert sequences.known(b"a\x1bP") == b"a"
    for _ in range(100):
        assert sequences.known(b"x" * 65536) == b""
        assert len(sequences._begun) <= 65536
    assert sequences.known(b"x\x1b") == b""
    assert sequences.known(b"\\b") == b"b"


def test_no_control_sequence_is_too_much() -> None:
    """Every final byte, with and without marks, numbers and intermediate bytes."""
    screen = emulator()
    marks, numbers = (
        (b"", b"?", b">", b"=", b"<"),
        (b"", b"5", b"1;2", b"9999;9999", b"48;2", b"1:2"),
    )
    for mark, number, between in itertools.product(marks, numbers, (b"", b" ", b"$", b"!")):
        for final in range(0x40, 0x7F):
            screen.feed(b"a\x1b[" + mark + number + between + bytes([final]))
    screen.screen()


def test_noise_is_shown_somehow() -> None:
    chance = random.Random(1)
    alphabet = (
        b"\x1b\x1b\x1b[]P_?>;:0123456789ABCDHJKLMPXfhlmnrsu@\r\n\t\x08\x18\x07\\abc"
        b"\xe4\xb8\xad\xf0\x9f\x98\x80\xcc\x81\x0e\x0f#78()%"
    )
    screen = emulator()
    for _ in range(20_000):
        screen.feed(bytes(chance.choices(alphabet, k=chance.randrange(1, 40))))
    screen.screen()
