# SPDX-License-Identifier: MIT
"""What the pid1 fixture costs the tests that ask for it, and those that do not.

    python benchmarks/view_cost.py

Isolated tests that are empty, or read one thing of PID 1's view. Two of the suites say how the
libraries come in: ``beside`` is empty tests in a run where another one uses the fixture, so that
the runner has imported psutil and pyroute2; ``late`` asks by ``getfixturevalue``, so that each
child imports them. benchmarks/README.md says how the numbers come about.
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
        lines += ["", ISOLATED.mark, f"def test_{number:05}({arguments}):", f"    {body}"]
    if name == "beside":
        lines += ["", ISOLATED.mark, "def test_last(pid1):", "    pass"]
    return "\n".join([*lines, ""])


def per_test(runner: Runner, name: str, count: int) -> float:
    """The median of the seconds from the start of one test to that of the next."""
    runner.provide(f"test_{name}.py", suite(name, count))
    record = runner.folder / "record.json"
    record.unlink(missing_ok=True)
    done = runner.pytest([f"test_{name}.py"], {"NSIBENCH_RECORD": str(record)})
    if done.returncode or not record.is_file():
        words = " / ".join(done.stdout.strip().splitlines()[-4:])
        raise UnavailableError(f"{name}: exit {done.returncode}: {words}")
    stamps = json.loads(record.read_text(encoding="utf-8"))["stamps"]
    # The first test pays for what is made once, and the last of ``beside`` is another one.
    starts = stamps[1:count]
    return float(statistics.median(b - a for a, b in itertools.pairwise(starts)))


def cost(runner: Runner, chosen: Sequence[str], rounds: int, tests: int) -> Table:
    """Interleaved rounds of these suites, and their medians over that of the empty one."""
    costs: dict[str, list[float]] = {name: [] for name in SUITES if name in {"empty", *chosen}}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, values in costs.items():
            # Importing in each child takes long.
            count = max(4, tests // 10) if name == "late" else tests
            values.append(per_test(runner, name, count))
    table = Table(
        f"What reading PID 1's view costs: {tests} tests, {rounds} interleaved rounds, medians",
        ("each test", "ms/test", "quartiles", "over empty", "more, ms"),
    )
    empty = statistics.median(costs["empty"])
    for name, values in costs.items():
        middle = statistics.median(values)
        factor, more = f"{middle / empty:.2f}", ms(middle - empty)
        table.rows.append((SUITES[name][0], ms(middle), spread(values), factor, more))
    table.data = dict(costs)
    return table


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = parser_for(__doc__)
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--tests", type=positive, default=200)
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
            table = cost(runner, options.only, options.rounds, max(4, options.tests))
    except UnavailableError as reason:
        say(f"not measured: {reason}")
        return 1
    print(f"\n{table}", flush=True)
    if options.json is not None:
        write({"machine": machine(options), "view": table.data}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
