# SPDX-License-Identifier: MIT
"""``time=``: the clocks that count from the boot run ahead; the time of day cannot be moved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell

DAY = 86_400
#: Seconds between two readings, at most: a busy machine is a slow one.
SLACK = 3_600


@pytest.fixture(scope="module")
def started() -> tuple[float, float]:
    """The runner's clocks, monotonic and time of day, a moment ago."""
    return time.monotonic(), time.time()


@pytest.mark.isolated(time=DAY)
def test_a_day_ahead(started: tuple[float, float]) -> None:
    """``time.monotonic()`` is a day ahead, and ``time.time()``, the time of day, is not."""
    monotonic, time_of_day = started

    assert DAY <= time.monotonic() - monotonic < DAY + SLACK
    assert abs(time.time() - time_of_day) < SLACK


@pytest.mark.isolated(False)
def test_control_in_the_runner_it_is_today(started: tuple[float, float]) -> None:
    """Without the marker both clocks have gone on by a moment."""
    monotonic, time_of_day = started

    assert time.monotonic() - monotonic < SLACK
    assert abs(time.time() - time_of_day) < SLACK


@pytest.mark.isolated(time={"boottime": 100 * DAY})
def test_up_for_a_hundred_days(here: Shell, host: Shell) -> None:
    """``/proc/uptime``, and ``uptime`` with it, follow the boot clock, which can be moved alone."""
    here_up, host_up = (float(ask("cat /proc/uptime").split()[0]) for ask in (here, host))

    assert abs(here_up - host_up - 100 * DAY) < SLACK
    assert here("uptime -p") != host("uptime -p")
