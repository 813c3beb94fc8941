# SPDX-License-Identifier: MIT
"""What isolation costs per test, side by side with pytest's other ways to run one in a process.

    python benchmarks/overhead.py                        what an empty test costs, in ratios
    python benchmarks/overhead.py --drift                2,000 tests: does it get slower or bigger
    python benchmarks/overhead.py --resident 0,100,500   with a runner of that many MB more
    python benchmarks/overhead.py --idle                 what the plugin costs who does not use it

Several flags may stand together. benchmarks/README.md says how the numbers come about.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import studies
from accounts import account, reachable, workplace
from command_line import add_where, environments, machine, parser_for, positive, say, write
from contenders import (
    BY_KEY,
    DEFAULT_SET,
    EVERYONE,
    FLOOR,
    FORKED,
    IDLE,
    PACKAGES,
    PLAIN,
    Contender,
)
from environments import Environments, UnavailableError
from measure import Runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = parser_for(__doc__)
    what = parser.add_argument_group("what is measured (default: the cost of an empty test)")
    what.add_argument("--cost", action="store_true", help="beside the others below")
    what.add_argument("--drift", action="store_true")
    what.add_argument("--resident", type=sizes, metavar="MB,MB,...")
    what.add_argument("--idle", action="store_true")
    what.add_argument("--only", type=names, metavar="NAME,...", help=", ".join(BY_KEY))
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=positive, help="default: about three minutes' worth")
    how.add_argument("--tests", type=positive, help="tests per session")
    how.add_argument("--json", type=Path, metavar="FILE", help="default: results.json in --envs")
    where = add_where(parser)
    where.add_argument("--user", default="nobody", help="the account without privileges")
    return parser.parse_args(argv)


def sizes(text: str) -> list[int]:
    """Sizes in MB, separated by commas."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return found


def names(text: str) -> list[str]:
    """Contenders' names, separated by commas."""
    unknown = [part for part in text.split(",") if part not in BY_KEY]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return text.split(",")


@contextmanager
def runners(
    wanted: Iterable[Contender], options: argparse.Namespace, absent: list[str]
) -> Iterator[list[Runner]]:
    """A checked runner for each contender that this machine can run; ``absent`` says why not."""
    made = environments(options, PACKAGES)
    with ExitStack() as stack:
        ready = []
        for contender in wanted:
            if options.only and contender.key not in options.only:
                continue
            try:
                ready.append(_runner(contender, made, options.user, stack))
            except UnavailableError as reason:
                say(f"left out: {reason}")
                absent.append(str(reason))
        yield ready


def _runner(contender: Contender, made: Environments, user: str, stack: ExitStack) -> Runner:
    root = os.geteuid() == 0
    if contender is DEFAULT_SET and not root:
        raise UnavailableError(
            f"{contender.key}: needs root (run by an account without privileges)"
        )
    interpreter = made.interpreter(contender)
    who = account(user) if contender.unprivileged and root else None
    if who is not None:
        reachable(interpreter, who)
    runner = Runner(contender, interpreter, stack.enter_context(workplace(who)), who)
    runner.check()
    return runner


def ours() -> Contender:
    """The default set, as the user who runs this."""
    return DEFAULT_SET if os.geteuid() == 0 else BY_KEY["nsisolate-user"]


def measured(options: argparse.Namespace, absent: list[str]) -> Iterator[tuple[str, studies.Table]]:
    """Each study that was asked for, by name."""
    others = options.drift or options.resident or options.idle
    if options.cost or not others:
        with runners(EVERYONE, options, absent) as ready:
            yield "cost", studies.cost(ready, options.rounds or 12, options.tests or 100, say)
    if options.drift:
        with runners((PLAIN, FLOOR, ours()), options, absent) as ready:
            yield "drift", studies.drift(ready, options.rounds or 3, options.tests or 2000, say)
    if options.resident:
        with runners((PLAIN, FLOOR, FORKED, ours()), options, absent) as ready:
            yield (
                "resident",
                studies.resident(
                    ready, options.rounds or 3, options.tests or 50, options.resident, say
                ),
            )
    if options.idle:
        with runners((PLAIN, IDLE), options, absent) as ready:
            yield "idle", studies.idle(ready, options.rounds or 20, options.tests or 500, say)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON file. 1 if nothing could be measured."""
    options = arguments(argv)
    if not sys.platform.startswith("linux"):
        say("these measurements need Linux")
        return 1
    absent: list[str] = []
    result: dict[str, object] = {"machine": machine(options), "absent": absent}
    tables = 0
    for name, table in measured(options, absent):
        if table.rows:
            print(f"\n{table}", flush=True)
            result[name] = table.data
            tables += 1
    for reason in dict.fromkeys(absent):
        print(f"left out: {reason}")
    target = options.json or (None if options.here else options.envs / "results.json")
    if target is not None and tables:
        write(result, target)
        print(f"written: {target}")
    return 0 if tables else 1


if __name__ == "__main__":
    sys.exit(main())
