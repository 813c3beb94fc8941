# SPDX-License-Identifier: MIT
"""What --nsisolate-trace costs the tests of a run.

    python benchmarks/trace_tax.py

Isolated tests that are empty, or call by ``isolate`` once, each kind without and with the trace.
At most 3 percent more is what we aim at. benchmarks/README.md says how the numbers come about.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Final

import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measure import Runner
    from studies import Table

#: Name of a suite to its title, the arguments of its tests, their body, and the run's options.
TRACE: Final = ("--nsisolate-trace=trace.json",)
SUITES: Final[dict[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "empty": ("empty", "", "pass", ()),
    "empty-trace": ("empty, with the trace", "", "pass", TRACE),
    "call": ("a call by isolate", "isolate", "isolate(int)", ()),
    "call-trace": ("a call by isolate, with the trace", "isolate", "isolate(int)", TRACE),
}


def suite(name: str, count: int) -> str:
    """The text of a test module."""
    _, arguments, body, _ = SUITES[name]
    lines = ["import pytest"]
    for number in range(count):
        test = f"def test_{number:05}({arguments}):"
        lines += ["", side_by_side.ISOLATED.mark, test, f"    {body}"]
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    options = side_by_side.parser(__doc__, SUITES).parse_args(argv)
    tests = max(4, options.tests)

    costs: dict[str, list[float]] = {}

    def measure(runner: Runner) -> Table:
        def per_test(name: str) -> float:
            text = suite(name, tests)
            gaps = side_by_side.gaps(runner, name, text, tests, SUITES[name][3])
            found = statistics.median(gaps[1:])  # the first test pays for what is made once
            costs.setdefault(name, []).append(found)
            return found

        table = side_by_side.compare(
            {name: SUITES[name][0] for name in SUITES if name in {"empty", *options.only}},
            options.rounds,
            per_test,
            f"What the trace costs: {tests} tests",
            "empty",
        )
        for name in ("empty", "call"):
            if costs.keys() >= {name, f"{name}-trace"}:
                without, traced = (statistics.median(costs[n]) for n in (name, f"{name}-trace"))
                table.notes.append(
                    f"{SUITES[name][0]}: the trace costs {traced / without - 1:+.1%}"
                )
        return table

    return side_by_side.run(options, "trace", measure)


if __name__ == "__main__":
    sys.exit(main())
