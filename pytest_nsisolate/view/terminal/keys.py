# SPDX-License-Identifier: MIT
"""What a terminal sends for a key (console_codes(4), terminfo's ``linux``)."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

_ESCAPE: Final = "\x1b"

#: The names of keys that are no character.
KEYS: Final = {
    "enter": "\r",
    "tab": "\t",
    "backspace": "\x7f",
    "escape": _ESCAPE,
    "space": " ",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "home": "\x1b[1~",
    "insert": "\x1b[2~",
    "delete": "\x1b[3~",
    "end": "\x1b[4~",
    "page-up": "\x1b[5~",
    "page-down": "\x1b[6~",
    "f1": "\x1b[[A",
    "f2": "\x1b[[B",
    "f3": "\x1b[[C",
    "f4": "\x1b[[D",
    "f5": "\x1b[[E",
    "f6": "\x1b[17~",
    "f7": "\x1b[18~",
    "f8": "\x1b[19~",
    "f9": "\x1b[20~",
    "f10": "\x1b[21~",
    "f11": "\x1b[23~",
    "f12": "\x1b[24~",
}

#: With Ctrl: the letters, and what stands beside them in ASCII.
_CONTROLLED: Final = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def sequence(key: str) -> str:
    """What a key sends: ``"enter"``, ``"x"``, ``"ctrl-c"``, ``"alt-f"``, ``"alt-ctrl-h"``.

    :raises ValueError: for a key that there is not.
    """
    __tracebackhide__ = True
    rest = key.lower() if len(key) > 1 else key
    if rest.startswith("alt-") and len(rest) > len("alt-"):
        return _ESCAPE + sequence(rest.removeprefix("alt-"))
    if rest.startswith("ctrl-"):
        letter = rest.removeprefix("ctrl-")
        if letter == "space":
            return "\0"
        if len(letter) == 1 and letter in _CONTROLLED:
            return chr(_CONTROLLED.index(letter))
    elif rest in KEYS:
        return KEYS[rest]
    elif len(key) == 1:
        return key
    near = get_close_matches(rest, [*KEYS, "ctrl-c", "alt-x"], 1)
    raise ValueError(f"no key is called {key!r}{f': did you mean {near[0]}?' if near else ''}")
