# SPDX-License-Identifier: MIT
"""Tests that write 12 MB to both streams and to the log, and end in every way."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

import pytest

pytestmark = pytest.mark.isolated

LINES = 12 * 1024


def flood() -> None:
    line = "x" * 1023 + "\n"
    for _ in range(LINES // 64):
        sys.stdout.write(line * 64)
        os.write(2, line.encode() * 64)
    logging.getLogger("flood").warning("the end of the flood")


def test_pass() -> None:
    flood()


def test_fail() -> None:
    flood()
    raise AssertionError("after the flood")


def test_crash() -> None:
    flood()
    ctypes.string_at(0)


@pytest.mark.isolated(timeout=3)
def test_timeout() -> None:
    flood()
    while True:
        pass


def test_silent() -> None:
    pass
