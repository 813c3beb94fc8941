# SPDX-License-Identifier: MIT
"""What the pid1 fixture costs the tests that ask for it, and those that do not.

    python benchmarks/view_cost.py

Isolated tests that are empty, or read one thing of PID 1's view. Two of the suites say how the
libraries come in: ``beside`` is empty tests in a run where another one uses the fixture, so that
the runner has imported psutil and pyroute2; ``late`` asks by ``getfixturevalue``, so that each
child imports them. benchmarks/README.md says how the numbers come about.
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

MARK: Final = side_by_side.ISOLATED.mark

#: Name of a suite to its title, the arguments of its tests, and their body.
SUITES: Final = {
    "empty": ("empty, without pid1", "", "pass"),
    "beside": ("empty, another test asks", "", "pass"),
    "fixture": ("the fixture, nothing read", "pid1", "pass"),
    "namespaces": ("namespaces", "pid1", "pid1.namespaces"),
    "processes": ("processes", "pid1", "pid1.processes"),
    "sockets": ("sockets", "pid1", "pid1.sockets"),
    "interfaces": ("interfaces", "pid1", "pid1.interfaces"),
    "routes": ("routes", "pid1", "pid1.routes"),
    "mounts": ("mounts", "pid1", "pid1.mounts"),
    "snapshot": ("a snapshot", "pid1", "pid1.snapshot()"),
    "late": ("interfaces, imported in each child", "request", "ask(request).interfaces"),
}


def suite(name: str, count: int) -> str:
    """The text of a test module."""
    _, arguments, body = SUITES[name]
    lines = ["import pytest", "", "def ask(request):", "    return request.getfixturevalue('pid1')"]
    for number in range(count):
        lines += [
            "",
            MARK,
            f"def test_{number:05}({arguments}):",
            f"    {body}",
        ]
    if name == "beside":
        lines += ["", MARK, "def test_last(pid1):", "    pass"]
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    options = side_by_side.parser(__doc__, SUITES).parse_args(argv)
    tests = max(4, options.tests)

    def measure(runner: Runner) -> Table:
        def per_test(name: str) -> float:
            # Importing in each child takes long.
            count = max(4, tests // 10) if name == "late" else tests
            # The first test pays for what is made once, and the last of ``beside`` is another one.
            gaps = side_by_side.gaps(runner, name, suite(name, count), count)
            return statistics.median(gaps[1:])

        return side_by_side.compare(
            {name: SUITES[name][0] for name in SUITES if name in {"empty", *options.only}},
            options.rounds,
            per_test,
            f"What reading PID 1's view costs: {tests} tests",
            "empty",
        )

    return side_by_side.run(options, "view", measure)


if __name__ == "__main__":
    sys.exit(main())
