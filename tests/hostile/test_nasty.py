# SPDX-License-Identifier: MIT
"""Tests that do their worst, in an order of chance: each as expected, and the machine unharmed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile import machine, run
from tests.inner_runs import SIDES, Side
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST


@NEEDS_NAMESPACES
@ON_THE_HOST
@pytest.mark.parametrize("side", SIDES)
def test_many(side: Side) -> None:
    """Under two workers each is reported as it must be, and nothing is left anywhere."""
    found = run.run(75, side=side, workers=2)
    assert found.wrong == (), str(found)


@NEEDS_NAMESPACES
@ON_THE_HOST
@pytest.mark.parametrize("side", SIDES)
def test_many_jobs(side: Side) -> None:
    """Eight at a time in one runner: none spoils what another one says, and nothing is left."""
    found = run.run(75, side=side, jobs=8)
    assert found.wrong == (), str(found)


@NEEDS_NAMESPACES
@ON_THE_HOST
def test_eight_runners() -> None:
    """At once, each with tests of its own: none is in another's way, and nothing is left."""
    side: Side = "root" if os.geteuid() == 0 else "user"
    found = run.run(15, side=side, runners=8)
    assert found.wrong == (), str(found)
    assert found.tests == sum(found.outcomes.values()) == 120


def test_growth_is_judged() -> None:
    """A runner that has gained more than it may is said to be wrong, and no other."""
    most = run.MOST_GROWTH
    assert list(run.too_much([0, most])) == []
    (said,) = run.too_much([most, most + (1 << 20)])
    assert said == "memory of a runner: 17.0 MiB more, not up to 16"


@ON_THE_HOST
def test_a_change_is_seen() -> None:
    """What compares the machine with itself sees what has come, and what has gone."""
    before = machine.look()
    path = Path(f"/dev/shm/nsisolate-test-{os.getpid()}")
    path.touch()
    try:
        assert f"+{path.name}" in machine.changes(before, machine.look())["shared memory"]
        assert f"-{path.name}" in machine.changes(machine.look(), before)["shared memory"]
    finally:
        path.unlink()


@ON_THE_HOST
def test_each_thing_is_chosen() -> None:
    """Every thing is in a run that has place for it, and the seed decides the order."""
    from tests.hostile.cases import THINGS, chosen

    assert set(chosen(100, 1)) == set(THINGS)
    assert chosen(100, 1) == chosen(100, 1) != chosen(100, 2)
    assert len(chosen(5, 1)) == 5
