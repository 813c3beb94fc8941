# SPDX-License-Identifier: MIT
"""Suites of isolated tests side by side: interleaved rounds, and one table over the first suite."""

from __future__ import annotations

import itertools
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from accounts import account, reachable, workplace
from command_line import add_where, environments, machine, parser_for, positive, say, write
from contenders import ENGINE, OURS, Contender
from environments import UnavailableError
from measure import Runner
from studies import Table, ms, spread

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

ISOLATED: Final = Contender(
    "isolated", "isolated", "nsisolate", (OURS,), "@pytest.mark.isolated", ENGINE
)


def parser(description: str | None, suites: Iterable[str]) -> argparse.ArgumentParser:
    """What the command lines have in common."""
    found = parser_for(description)
    found.add_argument("--only", nargs="+", choices=[*suites], default=[*suites])
    found.add_argument("--rounds", type=positive, default=7)
    found.add_argument("--tests", type=positive, default=200)
    found.add_argument("--user", metavar="ACCOUNT", help="run the suites as this one, rootless")
    found.add_argument("--json", type=Path, metavar="FILE")
    add_where(found)
    return found


def gaps(
    runner: Runner, name: str, text: str, count: int, options: Sequence[str] = ()
) -> list[float]:
    """The seconds from the start of each test to that of the next."""
    runner.provide(f"test_{name}.py", text)
    record = runner.folder / "record.json"
    record.unlink(missing_ok=True)
    done = runner.pytest([f"test_{name}.py", *options], {"NSIBENCH_RECORD": str(record)})
    if done.returncode or not record.is_file():
        words = " / ".join(done.stdout.strip().splitlines()[-4:])
        raise UnavailableError(f"{name}: exit {done.returncode}: {words}")
    stamps = json.loads(record.read_text(encoding="utf-8"))["stamps"]
    return [float(b - a) for a, b in itertools.pairwise(stamps[:count])]


def compare(
    titles: dict[str, str], rounds: int, per_test: Callable[[str], float], heading: str, over: str
) -> Table:
    """Interleaved rounds of these suites, and their medians over that of the first one.

    :param titles: by name.
    :param per_test: seconds of one test of a suite.
    :param over: what the first one is called in the table's head.
    """
    costs: dict[str, list[float]] = {name: [] for name in titles}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, values in costs.items():
            values.append(per_test(name))
    table = Table(
        f"{heading}, {rounds} interleaved rounds, medians",
        ("each test", "ms/test", "quartiles", f"over {over}", "more, ms"),
    )
    base = statistics.median(next(iter(costs.values())))
    for name, values in costs.items():
        middle = statistics.median(values)
        factor, more = f"{middle / base:.2f}", ms(middle - base)
        table.rows.append((titles[name], ms(middle), spread(values), factor, more))
    table.data = dict(costs)
    return table


def run(options: argparse.Namespace, key: str, measure: Callable[[Runner], Table]) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    made = environments(options)
    try:
        with ExitStack() as stack:
            interpreter = made.interpreter(ISOLATED)
            who = None if options.user is None else account(options.user)
            if who is not None:
                reachable(interpreter, who)
            folder = stack.enter_context(workplace(who))
            table = measure(Runner(ISOLATED, interpreter, folder, who))
    except UnavailableError as reason:
        say(f"not measured: {reason}")
        return 1
    print(f"\n{table}", flush=True)
    if options.json is not None:
        write({"machine": machine(options), key: table.data}, options.json)
    return 0
