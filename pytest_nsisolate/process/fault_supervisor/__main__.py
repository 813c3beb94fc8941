# SPDX-License-Identifier: MIT
"""Where the program begins; run by its folder's path (``python -P -s -S``)."""

from __future__ import annotations

import sys
from importlib import import_module
from os.path import abspath, dirname

if __name__ == "__main__":
    folder = dirname(abspath(__file__))
    sys.path.append(dirname(folder))  # at the end: the standard library's names come first
    import_module(f"{folder.rpartition('/')[2]}.supervisor").main()
