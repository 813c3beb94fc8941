# SPDX-License-Identifier: MIT
"""Tests that do their worst, in an order of chance: each as expected, and the machine unharmed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.batch import SIDES, Side
from tests.nasty import machine, run
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST


@NEEDS_NAMESPACES
@ON_THE_HOST
@pytest.mark.parametrize("side", SIDES)
def test_many(side: Side) -> None:
    """Under two workers each is reported as it must be, and nothing is left anywhere."""
    found = run.run(75, side=side, workers=2)
    assert found.wrong == (), str(found)


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
    from tests.nasty.things import THINGS, chosen

    assert set(chosen(100, 1)) == set(THINGS)
    assert chosen(100, 1) == chosen(100, 1) != chosen(100, 2)
    assert len(chosen(5, 1)) == 5
