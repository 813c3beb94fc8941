# SPDX-License-Identifier: MIT
"""What files of its own cost an isolated test: root="overlay", "readonly", files= and hide=.

    python benchmarks/root.py

Empty isolated tests, with the default set and with each of these beside it, in interleaved rounds.
The ownership layer of a rootless run is paid by its first test, and is not in the figures; with
``--first`` they are the first test's alone. benchmarks/README.md says how the numbers come about.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from accounts import workplace
from command_line import add_where, environments, machine, parser_for, positive, say, write
from contenders import ENGINE, OURS, Contender
from environments import UnavailableError
from measure import Runner
from studies import Table, ms, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

ISOLATED: Final = Contender(
    "isolated", "isolated", "nsisolate", (OURS,), "@pytest.mark.isolated", ENGINE
)

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


def per_test(runner: Runner, name: str, count: int, *, first: bool) -> float:
    """The median of the seconds from the start of one test to that of the next.

    :param first: not the median, but what the first test takes.
    """
    runner.provide(f"test_{name}.py", suite(name, count))
    record = runner.folder / "record.json"
    record.unlink(missing_ok=True)
    done = runner.pytest([f"test_{name}.py"], {"NSIBENCH_RECORD": str(record)})
    if done.returncode or not record.is_file():
        words = " / ".join(done.stdout.strip().splitlines()[-4:])
        raise UnavailableError(f"{name}: exit {done.returncode}: {words}")
    stamps = json.loads(record.read_text(encoding="utf-8"))["stamps"]
    if first:
        return float(stamps[1] - stamps[0])
    return float(statistics.median(b - a for a, b in itertools.pairwise(stamps[1:count])))


def cost(runner: Runner, chosen: Sequence[str], rounds: int, tests: int, *, first: bool) -> Table:
    """Interleaved rounds of these suites, and their medians over that of the host's files."""
    costs: dict[str, list[float]] = {name: [] for name in SUITES if name in {"host", *chosen}}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, values in costs.items():
            values.append(per_test(runner, name, tests, first=first))
    which = "the first test" if first else f"{tests} tests"
    table = Table(
        f"What files of its own cost: {which}, {rounds} interleaved rounds, medians",
        ("each test", "ms/test", "quartiles", "over host", "more, ms"),
    )
    host = statistics.median(costs["host"])
    for name, values in costs.items():
        middle = statistics.median(values)
        factor, more = f"{middle / host:.2f}", ms(middle - host)
        table.rows.append((SUITES[name][0], ms(middle), spread(values), factor, more))
    table.data = dict(costs)
    return table


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = parser_for(__doc__)
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--tests", type=positive, default=200)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    add_where(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    options = arguments(argv)
    made = environments(options)
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(workplace(None))
            runner = Runner(ISOLATED, made.interpreter(ISOLATED), folder, None)
            count = max(4, options.tests)
            table = cost(runner, options.only, options.rounds, count, first=options.first)
    except UnavailableError as reason:
        say(f"not measured: {reason}")
        return 1
    print(f"\n{table}", flush=True)
    if options.json is not None:
        write({"machine": machine(options), "root": table.data}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
