# SPDX-License-Identifier: MIT
"""pytest-benchmark: the timings of a test, which it keeps on its session object.

What arrives is what its table, its JSON file and its comparisons are made of: all rounds of each
benchmark, its options, ``extra_info`` and the profile.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from pstats import Stats
from types import SimpleNamespace
from typing import Any, Final

import pytest
from pytest_benchmark import stats, utils

_KEY: Final = "pytest-benchmark"

# Untyped.
_Metadata: Any = stats.Metadata
_name_of: Any = utils.funcname


class Adapter:
    """Hooks on both sides of the clone."""

    def __init__(self) -> None:
        self._before = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # Still in the runner; the child inherits the number.
        self._before = len(_benchmarks(item))

    def pytest_nsisolate_carry(self, item: pytest.Item) -> dict[str, object] | None:
        made = _benchmarks(item)[self._before :]
        return {_KEY: [_pack(benchmark) for benchmark in made]} if made else None

    def pytest_nsisolate_receive(self, item: pytest.Item, data: Mapping[str, object]) -> None:
        packed: Any = data.get(_KEY, ())
        _benchmarks(item).extend([_unpack(item, entry) for entry in packed])


def _benchmarks(item: pytest.Item) -> list[Any]:
    found: list[Any] = item.config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    return found


def _pack(benchmark: Any) -> dict[str, object]:
    options = {
        name: _name_of(value) if callable(value) else value
        for name, value in benchmark.options.items()
    }
    profile = benchmark.cprofile_stats
    return {
        "name": benchmark.name,
        "fullname": benchmark.fullname,
        "group": benchmark.group,
        "extra_info": benchmark.extra_info,
        "has_error": benchmark.has_error,
        "iterations": benchmark.iterations,
        "options": options,
        "profile": profile and profile.stats,
        # As bytes: there may be a million rounds.
        "rounds": array("d", benchmark.stats.data).tobytes(),
    }


def _unpack(item: pytest.Item, packed: dict[str, Any]) -> Any:
    rounds = array("d")
    rounds.frombytes(packed["rounds"])
    callspec = getattr(item, "callspec", None)
    fixture = SimpleNamespace(
        name=str(packed["name"]),
        fullname=str(packed["fullname"]),
        group=packed["group"] and str(packed["group"]),
        param=callspec and callspec.id,
        params=callspec and callspec.params,
        extra_info=dict(packed["extra_info"]),
        has_error=bool(packed["has_error"]),
        cprofile_stats=None,
    )
    if packed["profile"]:
        profile: Any = Stats()
        profile.stats = dict(packed["profile"])
        fixture.cprofile_stats = profile
    benchmark = _Metadata(fixture, int(packed["iterations"]), dict(packed["options"]))
    benchmark.stats.data = rounds.tolist()
    if benchmark:
        # What cannot be reported shall fail this test, and not the end of the session.
        benchmark.as_dict(include_data=False)
    return benchmark
