# SPDX-License-Identifier: MIT
"""The four questions: what a test costs, whether that drifts, grows with memory, or is paid idle.

Every study interleaves its contenders (A B C, A B C, ...), because on a shared machine ten
minutes ago is another machine, and reports medians over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from measure import Runner, Session

Say = Callable[[str], None]


@dataclass(slots=True)
class Table:
    """Rows of text for people and the same as data for programs."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]

        def line(cells: Sequence[str]) -> str:
            rest = (c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))
            return " | ".join((cells[0].ljust(widths[0]), *rest))

        ruler = "-|-".join("-" * width for width in widths)
        text = [self.title, "", line(self.head), ruler, *map(line, self.rows)]
        return "\n".join([*text, *(f"  {note}" for note in self.notes)])


def ms(seconds: float, digits: int = 2) -> str:
    """A time in seconds as milliseconds."""
    return f"{seconds * 1000:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Lower to upper quartile in milliseconds, the whole range if there are fewer than four."""
    if len(values) < 4:
        return f"{ms(min(values))}..{ms(max(values))}"
    low, _, high = statistics.quantiles(values, n=4)
    return f"{ms(low)}..{ms(high)}"


def per_test(session: Session, start_up: Session, count: int) -> float:
    """Seconds per further test: what the first test costs once (imports, checks) is taken off."""
    return (session.loop - start_up.loop) / (count - 1)


def cost(runners: Iterable[Runner], rounds: int, tests: int, say: Say) -> Table:
    """Per-test cost of each contender, and its overhead over plain against two others' overhead."""
    runners = list(runners)
    costs: dict[str, list[float]] = {runner.contender.key: [] for runner in runners}
    firsts: dict[str, list[float]] = {runner.contender.key: [] for runner in runners}
    spent: dict[str, list[Spending]] = {runner.contender.key: [] for runner in runners}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for runner in runners:
            key, count = runner.contender.key, runner.contender.count(tests)
            start_up, session = runner.run(1), runner.run(count)
            costs[key].append(per_test(session, start_up, count))
            spent[key].append(spent_per_test(session, start_up, count))
            firsts[key].append(start_up.loop)
    table = Table(
        f"Cost of an empty test: {rounds} interleaved rounds, medians",
        (
            *("contender", "ms/test", "quartiles", "over plain", "x forked", "x floor"),
            *("first test", "cpu ms", "cpu x forked", "faults", "calls"),
        ),
    )
    middle = {key: statistics.median(values) for key, values in costs.items()}
    spendings = {key: _medians(values) for key, values in spent.items()}
    processor = {key: one["runner cpu"] + one["child cpu"] for key, one in spendings.items()}
    for runner in runners:
        key, spending = runner.contender.key, spendings[runner.contender.key]
        spending |= calls_per_test(runner, min(tests, 20))
        over = middle[key] - middle["plain"] if "plain" in middle else None
        table.rows.append(
            (
                runner.contender.title,
                ms(middle[key]),
                spread(costs[key]),
                "-" if over is None or key == "plain" else ms(over),
                ratio(middle, key, "forked"),
                ratio(middle, key, "floor"),
                ms(statistics.median(firsts[key]), 1),
                f"{ms(spending['runner cpu'])}+{ms(spending['child cpu'])}",
                ratio(processor, key, "forked"),
                f"{spending['runner faults']:.0f}+{spending['child faults']:.0f}",
                f"{spending['runner calls']:.0f}+{spending['child calls']:.0f}",
            )
        )
        table.data[key] = {
            "cost": costs[key],
            "first": firsts[key],
            "median": middle[key],
            "spent": spending,
        }
    table.notes.append("x forked, x floor: this overhead over plain, divided by theirs")
    table.notes.append("cpu, faults that trapped, Python calls: of the runner + of what it starts")
    return table


#: Side and what was spent there.
Spending = dict[str, float]


def spent_per_test(session: Session, start_up: Session, count: int) -> Spending:
    """What each further test has spent."""
    sides = (
        ("runner", session.runner, start_up.runner),
        ("child", session.children, start_up.children),
    )
    return {
        f"{side} {what}": (getattr(after, what) - getattr(before, what)) / (count - 1)
        for side, after, before in sides
        for what in ("cpu", "faults", "calls")
    }


def calls_per_test(runner: Runner, tests: int) -> Spending:
    """Python calls of each further test; they hardly differ between sessions."""
    count = runner.contender.count(tests)
    found = spent_per_test(runner.run(count, calls=True), runner.run(1, calls=True), count)
    return {key: value for key, value in found.items() if key.endswith("calls")}


def _medians(spent: Sequence[Spending]) -> Spending:
    return {key: statistics.median(one[key] for one in spent) for key in spent[0]}


def ratio(middle: Mapping[str, float], key: str, base: str) -> str:
    """Overhead over plain of ``key`` divided by that of ``base``; "-" where that says nothing."""
    if key == "plain" or not {"plain", base} <= set(middle):
        return "-"
    below = middle[base] - middle["plain"]
    return f"{(middle[key] - middle['plain']) / below:.2f}" if below > 0 else "-"


def drift(runners: Iterable[Runner], rounds: int, tests: int, say: Say) -> Table:
    """The first hundred tests of a long session against its last hundred; what is left over."""
    runners = list(runners)
    part = max(1, min(100, tests // 2))
    found: dict[str, list[dict[str, float]]] = {runner.contender.key: [] for runner in runners}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for runner in runners:
            found[runner.contender.key].append(_drift_facts(runner.run(tests), part))
    table = Table(
        f"{tests} tests in one session: first {part} against last {part}, {rounds} rounds, medians",
        ("contender", "first ms", "last ms", "change", "memory KiB", "fds", "children", "left"),
    )
    for runner in runners:
        facts = found[runner.contender.key]
        first, last = (statistics.median(one[key] for one in facts) for key in ("first", "last"))
        change = statistics.median(one["last"] / one["first"] - 1 for one in facts)
        table.rows.append(
            (
                runner.contender.title,
                ms(first),
                ms(last),
                f"{change:+.1%}",
                f"{statistics.median(one['memory'] for one in facts):+.0f}",
                f"{max(one['descriptors'] for one in facts):+.0f}",
                f"{max(one['children'] for one in facts):.0f}",
                f"{max(one['left'] for one in facts):.0f}",
            )
        )
        table.data[runner.contender.key] = facts
    table.notes += [
        "memory, fds: growth of the runner from before the first test to after the last",
        "children: of the runner at the end of its loop; left: processes after the session",
    ]
    return table


def _drift_facts(session: Session, part: int) -> dict[str, float]:
    each = [b - a for a, b in zip(session.stamps, session.stamps[1:], strict=False)]
    # The first test pays what is paid once; the last gap holds the end of the loop.
    each = each[1:-1] if len(each) > 3 else each
    return {
        "first": statistics.median(each[:part]),
        "last": statistics.median(each[-part:]),
        "first_mean": statistics.fmean(each[:part]),
        "last_mean": statistics.fmean(each[-part:]),
        "memory": session.resident_kib[1] - session.resident_kib[0],
        "descriptors": session.descriptors[1] - session.descriptors[0],
        "children": session.unreaped,
        "left": len(session.left),
    }


def resident(
    runners: Iterable[Runner], rounds: int, tests: int, sizes: Sequence[int], say: Say
) -> Table:
    """Per-test cost with this many MB resident and touched in the runner, in 4 KiB pages."""
    runners = list(runners)
    costs: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for size in sizes:
            for runner in runners:
                count = runner.contender.count(tests)
                start_up, session = runner.run(1, size), runner.run(count, size)
                cell = (runner.contender.key, size)
                costs.setdefault(cell, []).append(per_test(session, start_up, count))
    table = Table(
        f"ms per empty test with so many MB resident in the runner: {rounds} rounds, medians",
        ("contender", *(f"{size} MB" for size in sizes)),
    )
    for runner in runners:
        key = runner.contender.key
        values = [costs[key, size] for size in sizes]
        table.rows.append((runner.contender.title, *(ms(statistics.median(v)) for v in values)))
        table.data[key] = {str(size): costs[key, size] for size in sizes}
    return table


def idle(runners: Iterable[Runner], rounds: int, tests: int, say: Say) -> Table:
    """Cost per unmarked test and of starting up, with the plugin installed and without it."""
    runners = list(runners)
    costs: dict[str, list[float]] = {runner.contender.key: [] for runner in runners}
    walls: dict[str, list[float]] = {runner.contender.key: [] for runner in runners}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for runner in runners:
            start_up = runner.run(1)
            walls[runner.contender.key].append(start_up.wall)
            costs[runner.contender.key].append(per_test(runner.run(tests), start_up, tests))
    table = Table(
        f"Nothing marked: {tests} plain tests, {rounds} interleaved rounds, medians",
        ("contender", "ms/test", "quartiles", "whole run of one test, ms", "quartiles"),
    )
    for runner in runners:
        key = runner.contender.key
        table.rows.append(
            (
                runner.contender.title,
                ms(statistics.median(costs[key]), 3),
                spread(costs[key]),
                ms(statistics.median(walls[key]), 1),
                spread(walls[key]),
            )
        )
        table.data[key] = {"cost": costs[key], "start": walls[key]}
    table.notes += _differences(runners, costs, walls)
    return table


def _differences(
    runners: Sequence[Runner],
    costs: Mapping[str, Sequence[float]],
    walls: Mapping[str, Sequence[float]],
) -> list[str]:
    base, *others = (runner.contender.key for runner in runners)
    notes = []
    for key in others:
        # Round by round, so that what both shared in a round falls out.
        per = statistics.median(b - a for a, b in zip(costs[base], costs[key], strict=True))
        start = statistics.median(b - a for a, b in zip(walls[base], walls[key], strict=True))
        notes.append(f"{key} over {base}: {per * 1e6:+.0f} us per test, {ms(start, 1)} ms at start")
    return notes
