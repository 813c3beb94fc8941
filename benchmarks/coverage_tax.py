# SPDX-License-Identifier: MIT
"""What coverage costs an isolated test, beside what it costs a plain one.

    python benchmarks/coverage_tax.py                lines and branches, by pytest-cov
    python benchmarks/coverage_tax.py --contexts     and a context for each phase of each test

A package of 20 modules with 200 functions each, and 300 tests that run them all, a few by each.
benchmarks/README.md says how the numbers come about.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from accounts import workplace
from command_line import add_where, environments, machine, parser_for, positive, say, write
from contenders import ENGINE, OURS, Contender
from environments import UnavailableError
from measure import Runner
from studies import Table, ms, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

COV = "pytest-cov==7.1.0"
MARK = "@pytest.mark.isolated"
MODULES, FUNCTIONS = 20, 200

EVERYONE = (
    Contender("plain", "plain pytest", "plain"),
    Contender("plain-cov", "plain pytest, pytest-cov", "plain-cov", (COV,)),
    Contender("isolated", "isolated", "nsisolate", (OURS,), MARK, ENGINE),
    Contender("isolated-cov", "isolated, pytest-cov", "nsisolate-cov", (OURS, COV), MARK, ENGINE),
)


def package() -> dict[str, str]:
    """File name to text: twenty modules of two hundred functions."""
    function = """
def f{number}(n):
    total = 0
    for i in range(n):
        if i % 2:
            total += i
        else:
            total -= i
    return total
"""
    text = "\n".join(function.format(number=number) for number in range(FUNCTIONS))
    return {"__init__.py": "", **{f"m{number}.py": text for number in range(MODULES)}}


def suite(mark: str, count: int) -> str:
    """The text of a test module whose tests share the package's functions among them."""
    imports = [f"from pkg import m{number}" for number in range(MODULES)]
    lines = ["import pytest", *imports, ""]
    every = [f"m{k % MODULES}.f{k // MODULES}(4)" for k in range(MODULES * FUNCTIONS)]
    share = -(-len(every) // count)
    for number in range(count):
        calls = every[number * share : (number + 1) * share] or ["pass"]
        lines += [mark, f"def test_{number:05}():", *(f"    {call}" for call in calls), ""]
    return "\n".join(lines)


def per_test(runner: Runner, count: int, options: Sequence[str]) -> float:
    """Seconds from the start of one test to that of the next, in one session.

    Without the first, which pays for what is made once, and without the last, after which
    pytest-cov combines and writes, in the same loop.
    """
    runner.provide(f"test_tax_{count}.py", suite(runner.contender.mark, count))
    record = runner.folder / "record.json"
    record.unlink(missing_ok=True)
    done = runner.pytest([f"test_tax_{count}.py", *options], {"NSIBENCH_RECORD": str(record)})
    if done.returncode or not record.is_file():
        words = " / ".join(done.stdout.strip().splitlines()[-4:])
        raise UnavailableError(f"{runner.contender.key}: exit {done.returncode}: {words}")
    data = json.loads(record.read_text(encoding="utf-8"))
    if data["passed"] != count:
        raise UnavailableError(f"{runner.contender.key}: {data['passed']} of {count} tests passed")
    stamps = data["stamps"]
    return float((stamps[-2] - stamps[1]) / (count - 2))


def tax(
    runners: Sequence[Runner], rounds: int, tests: int, measuring: Sequence[str]
) -> tuple[Table, float]:
    """The table, and what coverage multiplies an isolated test's cost by, over a plain one's."""
    costs: dict[str, list[float]] = {runner.contender.key: [] for runner in runners}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for runner in runners:
            options = [] if COV not in runner.contender.requirements else list(measuring)
            if options and not runner.interpreter.autoload:
                options += ["-p", "pytest_cov"]
            costs[runner.contender.key].append(per_test(runner, tests, options))
    table = Table(
        f"Coverage's tax: {tests} tests, {rounds} interleaved rounds, medians",
        ("contender", "ms/test", "quartiles", "with over without"),
    )
    middle = {key: statistics.median(values) for key, values in costs.items()}
    for runner in runners:
        key, title = runner.contender.key, runner.contender.title
        base = key.removesuffix("-cov")
        factor = "-" if base == key else f"{middle[key] / middle[base]:.2f}"
        table.rows.append((title, ms(middle[key]), spread(costs[key]), factor))
    figure = (middle["isolated-cov"] / middle["isolated"]) / (middle["plain-cov"] / middle["plain"])
    table.notes.append(f"isolated over plain: {figure:.2f}")
    table.data = {**costs, "figure": figure}
    return table, figure


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = parser_for(__doc__)
    parser.add_argument("--contexts", action="store_true")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--tests", type=positive, default=300)
    parser.add_argument("--json", type=Path, metavar="FILE")
    add_where(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    options = arguments(argv)
    made = environments(options)
    measuring = ["--cov=pkg", "--cov-branch", "--cov-report="]
    if options.contexts:
        measuring.append("--cov-context=test")
    try:
        with ExitStack() as stack:
            runners = []
            for contender in EVERYONE:
                folder = stack.enter_context(workplace(None))
                runner = Runner(contender, made.interpreter(contender), folder, None)
                (folder / "pkg").mkdir()
                for name, text in package().items():
                    runner.provide(f"pkg/{name}", text)
                runners.append(runner)
            table, figure = tax(runners, options.rounds, max(3, options.tests), measuring)
    except UnavailableError as reason:
        say(f"not measured: {reason}")
        return 1
    print(f"\n{table}", flush=True)
    if options.json is not None:
        write({"machine": machine(options), "tax": table.data, "figure": figure}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
