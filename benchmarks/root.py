# SPDX-License-Identifier: MIT
"""What files of its own cost an isolated test: root="overlay", "readonly", files= and hide=.

    python benchmarks/root.py

Empty isolated tests, with the default set and with each of these beside it, in interleaved rounds.
The ownership layer of a rootless run is paid by its first test, and is not in the figures; with
``--first`` they are the first test's alone. benchmarks/README.md says how the numbers come about.
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

#: Name of a suite to its title and the marker's keywords.
SUITES: Final = {
    "host": ("the host's files", ""),
    "overlay": ('root="overlay"', 'root="overlay"'),
    "readonly": ('root="readonly"', 'root="readonly"'),
    "files": ("one file of its own", 'files={"/etc/hostname": "x"}'),
    "hide": ("one file hidden", 'hide="/etc/hostname"'),
}


def suite(name: str, count: int) -> str:
    """The text of a test module."""
    mark = f"@pytest.mark.isolated({SUITES[name][1]})"
    lines = ["import pytest"]
    for number in range(count):
        lines += ["", mark, f"def test_{number:05}():", "    pass"]
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    parser = side_by_side.parser(__doc__, SUITES)
    parser.add_argument("--first", action="store_true")
    options = parser.parse_args(argv)
    count = max(4, options.tests)
    which = "the first test" if options.first else f"{count} tests"

    def measure(runner: Runner) -> Table:
        def per_test(name: str) -> float:
            gaps = side_by_side.gaps(runner, name, suite(name, count), count)
            return gaps[0] if options.first else statistics.median(gaps[1:])

        return side_by_side.compare(
            {name: SUITES[name][0] for name in SUITES if name in {"host", *options.only}},
            options.rounds,
            per_test,
            f"What files of its own cost: {which}",
            "host",
        )

    return side_by_side.run(options, "root", measure)


if __name__ == "__main__":
    sys.exit(main())
