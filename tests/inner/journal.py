# SPDX-License-Identifier: MIT
"""Imported by inner suites: a diary that both sides of the clone write, line by line.

``note("what")`` adds ``runner what`` or ``child what`` to the file named by ``JOURNAL``. The side
is known by comparing with the process that imported this module at collection: by pid, or, where
the two happen to have the same, by PID namespace.
"""

from __future__ import annotations

import os


def _identity() -> tuple[int, str]:
    return os.getpid(), os.readlink("/proc/self/ns/pid")


_RUNNER = _identity()


def side() -> str:
    return "runner" if _identity() == _RUNNER else "child"


def note(text: object) -> None:
    with open(os.environ["JOURNAL"], "a", encoding="utf-8") as file:
        file.write(f"{side()} {text}\n")
