# SPDX-License-Identifier: MIT
"""``init=True``: the init as PID 1; see ``inner/reaping.py`` for the tests themselves."""

from __future__ import annotations

import signal

import pytest

from tests.inner.reaping import FATAL
from tests.inner_runs import SIDES, Side, assert_expected, cases, said, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("reaping")
def test_under_init(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says."""
    assert_expected(shared_batch(tmp_path_factory, "reaping", side), name, expected)


@pytest.mark.parametrize("side", SIDES)
def test_every_signal_ends_a_test(tmp_path_factory: pytest.TempPathFactory, side: Side) -> None:
    """Behind an init, each fatal signal that a test sends itself ends it, and has its name."""
    result = shared_batch(tmp_path_factory, "reaping", side)
    names = {item.value: item.name for item in signal.Signals}
    wrong = {}
    for number in FATAL:
        case = f"test_signal[{int(number)}]"
        name = names.get(number, f"signal {int(number)}")
        if verdict(result, case) != "call failed" or f"killed by {name}" not in said(result, case):
            wrong[name] = said(result, case)
    assert not wrong


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works(
    tmp_path_factory: pytest.TempPathFactory, side: Side, method: str
) -> None:
    """Pools of every start method work in an isolated test, as PID 1 and behind the init."""
    result = shared_batch(tmp_path_factory, "reaping", side)
    for name in (f"test_multiprocessing[{method}]", f"test_multiprocessing_below_pid1[{method}]"):
        assert verdict(result, name) == "passed", said(result, name)
