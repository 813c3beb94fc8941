# SPDX-License-Identifier: MIT
"""Which control sequences of a program reach the emulator.

Fact: a terminal shows nothing of a sequence that it does not know. pyte draws the rest of it
(``ESC P ... ESC \\``, ``CSI ! p``, colours with colons), takes ``CSI > 4 ; 2 m``, which vim sends
at its start, for "underlined", and raises a TypeError for a parameter too many.
What we do: every sequence has a form (ECMA-48, 5.3 to 5.6), by which the others are left out, or
put into the words that pyte has for them, before it sees them.

What still fails: sequences that begin, and strings that end, with one byte (C1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pytest_nsisolate.kernel.originals import re

#: What may stand in a control sequence before its end: neither ESC nor CAN nor SUB.
_INSIDE: Final = rb"[\x00-\x17\x19\x1c-?\x7f]*"

#: Complete, or broken off by another character: a control sequence; a command for the system; a
#: string of another kind, which ends with ST or is broken off; an escape with intermediate bytes;
#: an escape that another one follows. Those for the palette of the Linux console have no end
#: (console_codes(4)).
_SEQUENCE: Final = re.compile(
    rb"""\x1b(?:
        \[ (?P<parameters>%s) (?P<final>[@-~]?)
      | \] (?:R|P[0-9A-Fa-f]{7})
      | \] (?P<command>[^\x07\x18\x1a\x1b]*) (?:\x07|\x1b\\|[\x18\x1a]|(?=\x1b[^\\]))
      | [PX^_] [^\x18\x1a\x1b]* (?:\x1b\\|[\x18\x1a]|(?=\x1b[^\\]))
      | (?P<designation>[ -/]+) [0-~]
      | (?=\x1b)
    )"""
    % _INSIDE,
    re.VERBOSE,
)

#: The same, as far as it has come.
_BEGUN: Final = re.compile(
    rb"""\x1b+(?:
        \[ %s
      | \]P[0-9A-Fa-f]{0,6}
      | \] (?![RP]) [^\x07\x18\x1a\x1b]* \x1b?
      | [PX^_] [^\x18\x1a\x1b]* \x1b?
      | [ -/]*
    )\Z"""
    % _INSIDE,
    re.VERBOSE,
)

#: Bytes of a string that are kept until it ends; an image may have any number.
_MOST: Final = 65536

#: Titles of the window and of its icon.
_COMMANDS: Final = (b"0;", b"1;", b"2;")

#: Character sets, UTF-8, and the picture for alignment.
_DESIGNATIONS: Final = frozenset({b"(", b")", b"%", b"#"})

#: They have a private form, too: modes, and what is erased.
_PRIVATE: Final = b"hlJK"

#: Of those that erase: what they may be told.
_ERASING: Final = {b"J": (b"", b"0", b"1", b"2", b"3"), b"K": (b"", b"0", b"1", b"2")}

#: A mark, which gives the sequence another meaning, and numbers.
_FORM: Final = re.compile(rb"([<=>?]?)([0-9:;]*)")

#: Control characters within a sequence, and all else.
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_CONTROLS: Final = re.compile(rb"[^\x00-\x1f]+")

#: SGR: of the foreground, the background and the underline; then 5 and a number, or 2 and three.
_COLOURS: Final = frozenset({b"38", b"48", b"58"})
_UNDERLINE_COLOUR: Final = b"58"
_OPERANDS: Final = {b"5": 1, b"2": 3}


class Sequences:
    """What one program writes, with the sequences that are known.

    :param known: final byte of a control sequence to how many parameters it takes; None: any.
    """

    def __init__(self, known: Mapping[bytes, int | None]) -> None:
        self._known = known
        self._begun = b""

    def known(self, data: bytes) -> bytes:
        """What the emulator is to see of this; a sequence that has only begun is kept."""
        data = self._begun + data
        begun = _BEGUN.search(data)
        self._begun = b""
        if begun is not None:
            self._begun = b"\x1b" + begun[0].lstrip(b"\x1b")
            data = data[: begun.start()]
        if len(self._begun) > _MOST:
            end = b"\x1b" if self._begun.endswith(b"\x1b") else b""
            self._begun = self._begun[:2] + end
        return _SEQUENCE.sub(self._translated, data)

    def _translated(self, found: re.Match[bytes]) -> bytes:
        if found["final"] is not None:
            return self._control(found["parameters"], found["final"])
        command = found["command"]
        if command is not None:
            return b"\x1b]" + command + b"\x07" if command.startswith(_COMMANDS) else b""
        return found[0] if found["designation"] in _DESIGNATIONS else b""

    def _control(self, parameters: bytes, final: bytes) -> bytes:
        # What is in between is obeyed as if it came before.
        first = _CONTROLS.sub(b"", parameters)
        form = _FORM.fullmatch(_CONTROL.sub(b"", parameters))
        if form is None or final not in self._known:
            return first
        mark, numbers = form.groups()
        if mark and (mark != b"?" or final not in _PRIVATE):
            return first
        given = numbers.split(b";")
        if final == b"m":
            given = [*_colours(given)]
            if not given:
                return first  # without a number it would be "as at first"
        else:
            given = [one.partition(b":")[0] for one in given][: self._known[final]]
        if final in _ERASING and given[0] not in _ERASING[final]:
            return first
        return first + b"\x1b[" + mark + b";".join(given) + final


def _colours(given: list[bytes]) -> Iterator[bytes]:
    """SGR, with semicolons alone."""
    left = iter(given)
    for one in left:
        first, *rest = one.split(b":")
        if first in _COLOURS:
            if not rest:  # its operands are parameters of their own
                kind = next(left, b"")
                rest = [kind, *(next(left, b"") for _ in range(_OPERANDS.get(kind, 0)))]
            count = _OPERANDS.get(rest[0], 0)
            # In between may be the number of a colour space.
            operands = rest[1:][-count:] if count else []
            if first != _UNDERLINE_COLOUR and len(operands) == count > 0:
                yield from (first, rest[0], *operands)
        elif first == b"4" and rest:
            yield b"24" if rest[0] == b"0" else b"4"
        else:
            yield first
