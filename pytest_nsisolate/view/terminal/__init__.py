# SPDX-License-Identifier: MIT
"""The fixture ``terminal``: a program at a terminal of its own, what it shows, and a hand to type.

The test is the terminal: it holds the other side of the program's pseudo-terminal, as a terminal
emulator does (pty(7)). Only a test that asks for it imports anything of this.
"""

from __future__ import annotations
