# SPDX-License-Identifier: MIT
"""Seconds that no test can stop.

Fact: freezegun and its kin put a clock that stands still in the place of ``time.monotonic``, and of
every module's name for it. A budget read from it would never be over, and no wait would end.
Consequence: the kernel's clock is asked (clock_gettime(2)), through a name that they leave alone.
"""

from __future__ import annotations

from pytest_nsisolate.kernel.originals import time

_ask = time.clock_gettime
_MONOTONIC = time.CLOCK_MONOTONIC


def monotonic() -> float:
    """Seconds since some moment of the past; in a time namespace, by its own clock."""
    return _ask(_MONOTONIC)
