# SPDX-License-Identifier: MIT
"""A deadline that can be stopped: by a prompt, and with the runner."""

from __future__ import annotations

import pytest

from pytest_nsisolate.process import deadline
from pytest_nsisolate.process.deadline import Deadline


class Clock:
    """Stands for the runner's clock; moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline, "monotonic", clock.monotonic)
    return clock


def test_it_runs_down(clock: Clock) -> None:
    """And below zero; without a limit nothing does."""
    some, none = Deadline(5), Deadline(None)
    clock.now += 3
    assert (some.left, none.left) == (2, None)
    clock.now += 3
    assert (some.left, none.left) == (-1, None)


def test_a_prompt_stops_it_however_often_it_is_announced(clock: Clock) -> None:
    """What was left before the first announcement is left after the last."""
    budget = Deadline(5)
    clock.now += 1
    budget.pause()
    clock.now += 100
    budget.pause()
    assert (budget.left, budget.paused) == (None, True)
    budget.resume()
    assert (budget.left, budget.paused) == (4, False)
    budget.resume()
    clock.now += 1
    assert budget.left == 3


def test_without_a_limit_a_prompt_is_known_all_the_same(clock: Clock) -> None:
    """A Ctrl-C is for the prompt then."""
    budget = Deadline(None)
    budget.pause()
    assert budget.paused
    budget.resume()
    assert (budget.left, budget.paused) == (None, False)


def test_it_stands_still_with_the_runner(clock: Clock) -> None:
    """Ctrl-Z for an hour costs the test nothing, at a prompt or not."""
    budget, at_prompt = Deadline(5), Deadline(5)
    at_prompt.pause()
    for one in (budget, at_prompt):
        one.hold()
    clock.now += 3600
    for one in (budget, at_prompt):
        one.release()
    at_prompt.resume()
    assert (budget.left, at_prompt.left) == (5, 5)
