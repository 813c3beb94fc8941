# SPDX-License-Identifier: MIT
"""What two recordings of one suite say differently (``parity_recording.py`` made them).

``parity_runs.py`` makes equal what can be equal in two runs: the temporary directory, the cache,
the seed of hashes. This module takes out only what differs between two plain runs too, and each
pattern says why.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Record: TypeAlias = dict[str, Any]
#: A record's place in its test: what it is, the phase, which of that kind.
Place: TypeAlias = tuple[str, str, int]

#: The run as a whole, where a difference belongs to no test.
RUN: Final = ""

#: What each difference is called, in the output and in allow-lists.
FIELDS: Final = {
    "outcome": "passed, failed or skipped",
    "wasxfail": "the reason of an expected failure",
    "text": "the text of a failure",
    "skip": "file, line and reason of a skip",
    "sections": "captured output and log",
    "properties": "user properties",
    "location": "file, line and name",
    "keywords": "names and marks",
    "context": "a subtest's message and values",
    "report": "a report, a log start or a log finish is there in one run only",
    "warning": "a warning is there in one run only, or says something else",
    "counted": "how the summary line counts it",
    "order": "the order of the reports of a test; of the run: the order of the tests",
    "exit": "of the run: the exit code",
    "collect": "a module that could not be collected",
}

#: Not compared: times; the class of a failure's text, which pytest-xdist makes a str as well; and
#: which worker it was, which is chance.
_NOT_COMPARED: Final = {"duration", "longrepr", "worker"}
_IDENTITY: Final = {"record", "nodeid", "when", "type"}

_NEUTRAL: Final = (
    # Each process is loaded elsewhere.
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "0x..."),
    (re.compile(r"\b(?=\d*[a-f])[57][0-9a-f]{11}\b"), "0x..."),  # f"{id(thing):x}"
    (re.compile(r"\bid='\d{9,}'"), "id='...'"),  # repr() of a mock
    # A thread's number, in its repr, is an address too.
    (re.compile(r"\b(started(?: daemon)?) \d{12,}"), r"\1 ..."),
    # The time of day, with or without a date, as logs have it.
    (re.compile(r"\b(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "HH:MM:SS"),
    # The same as seconds since 1970: ten digits and a fraction.
    (re.compile(r"\b[12]\d{9}\.\d+\b"), "SECONDS"),
    # The frame of pytest's titles is as wide as the time in it is short.
    (re.compile(r"={5,}"), "====="),
    # tempfile's names are random.
    (re.compile(r"\btmp[a-z0-9_]{8}\b"), "tmp........"),
)

_FINE: Final = r"(?:m|u|µ|μ|n)s|(?:m|u|n)secs?|milliseconds?|microseconds?|nanoseconds?"
#: How long something took. In names it is a parameter, the same in both runs.
_DURATIONS: Final = (
    # "in 0.12s", "0.12 seconds", "2.40ms", "1.2e-05 sec".
    (
        re.compile(rf"\b(?:\d+\.\d+(?:e[+-]?\d+)?|\d+e-\d+) ?(?:{_FINE}|s(?:ecs?|econds?)?)(?!\w)"),
        "#s",
    ),
    # Whole numbers where they are measured rather than chosen: "12 ms", but not "10 s".
    (re.compile(rf"\b\d+ ?(?:{_FINE})(?!\w)"), "#s"),
    # A timedelta; with two digits of hours it was taken for a time of day.
    (re.compile(r"\b\d+:\d\d:\d\d\.\d{6}\b"), "#s"),
)
_NAMES: Final = {"nodeid", "location", "keywords", "counted"}


@dataclass(frozen=True)
class Difference:
    """One field of one test that is not the same in both runs.

    :param nodeid: the test, or :data:`RUN`.
    :param place: where in the test: "call", "teardown", "warning" ...
    :param field: one of :data:`FIELDS`.
    """

    nodeid: str
    place: str
    field: str
    plain: Any
    isolated: Any

    def __str__(self) -> str:
        where = f"{self.nodeid or '(the run)'} {self.place}".rstrip()
        if self.plain is None or self.isolated is None:
            side, value = (
                ("isolated", self.isolated) if self.plain is None else ("plain", self.plain)
            )
            return f"{where}: {self.field}: only {side}: {value}"
        return f"{where}: {self.field}: {self.plain!r} != {self.isolated!r}"


def neutral(value: Any, *, name: bool = False) -> Any:
    """A value without what differs in every run, see the patterns above.

    :param name: it is a name, or a list of names.
    """
    if isinstance(value, str):
        for pattern, instead in _NEUTRAL if name else (*_NEUTRAL, *_DURATIONS):
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, (list, tuple)):
        return [neutral(part, name=name) for part in value]
    return value


def tests(records: Iterable[Record]) -> list[str]:
    """The node ids of all tests, in the order in which they came."""
    of_tests = (record for record in records if record["record"] in ("start", "report"))
    return list(dict.fromkeys(neutral(record["nodeid"], name=True) for record in of_tests))


def compare(plain: Iterable[Record], isolated: Iterable[Record]) -> list[Difference]:
    """All differences, test by test in the order of the plain run, the run as a whole last."""
    before, after = list(_comparable(plain)), list(_comparable(isolated))
    found: list[Difference] = []
    old, new = _by_nodeid(before), _by_nodeid(after)
    for nodeid in {**old, **new}:
        found += _compare_test(nodeid, old.get(nodeid, []), new.get(nodeid, []))
    found += _compare_counts(before, after)
    found += _compare_order(before, after)
    return sorted(found, key=lambda difference: difference.nodeid == RUN)


def _comparable(records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        yield {
            key: neutral(value, name=key in _NAMES)
            for key, value in record.items()
            if key != "duration"
        }


def _by_nodeid(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["record"] != "end":
            found.setdefault(record["nodeid"], []).append(record)
    return found


# One test ----------------------------------------------------------------------------------------


def _compare_test(nodeid: str, plain: list[Record], isolated: list[Record]) -> Iterator[Difference]:
    old, new = _placed(plain), _placed(isolated)
    for place in {**old, **new}:
        name = place[0] if not place[1] else place[1]
        before, after = old.get(place), new.get(place)
        if before is None or after is None:
            kind = (before or after or {})["record"]
            field = kind if kind in FIELDS else "report"
            yield Difference(nodeid, name, field, _told(before), _told(after))
            continue
        for field in sorted((before.keys() | after.keys()) - _NOT_COMPARED - _IDENTITY):
            if before.get(field) != after.get(field):
                yield Difference(nodeid, name, field, before.get(field), after.get(field))
    if old.keys() == new.keys() and list(old) != list(new):
        yield Difference(nodeid, "", "order", [*map(_named, old)], [*map(_named, new)])


def _placed(records: Iterable[Record]) -> dict[Place, Record]:
    """Reports by phase, type and number; warnings by all that they say and number."""
    found: dict[Place, Record] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for record in records:
        kind, when = record["record"], record.get("when") or ""
        if kind == "warning":
            kind = json.dumps(record, sort_keys=True)
        elif kind == "report":
            kind = record["type"]
        found[kind, when, seen[kind, when]] = record
        seen[kind, when] += 1
    return found


def _told(record: Record | None) -> str | None:
    """A record that only one run has, as one line."""
    if record is None:
        return None
    parts = {k: v for k, v in record.items() if k not in _NOT_COMPARED | {"nodeid", "keywords"}}
    return ", ".join(f"{key}={value!r}" for key, value in parts.items() if value)


def _named(place: Place) -> str:
    return " ".join(part for part in place[:2] if part and not part.startswith("{")) or "warning"


# The run as a whole ------------------------------------------------------------------------------


def _compare_counts(plain: list[Record], isolated: list[Record]) -> Iterator[Difference]:
    """Per test, so that an allowed difference of one leaves the counts of the others checked."""
    old, new = _counts(plain), _counts(isolated)
    for nodeid in {**old, **new}:
        if old.get(nodeid) != new.get(nodeid):
            before, after = old.get(nodeid, []), new.get(nodeid, [])
            yield Difference(nodeid, "summary", "counted", before, after)


def _counts(records: list[Record]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    ends = [record for record in records if record["record"] == "end"]
    for category, nodeid in ends[-1]["counted"] if ends else ():
        found.setdefault(nodeid, []).append(category)
    return {nodeid: sorted(categories) for nodeid, categories in found.items()}


def _compare_order(plain: list[Record], isolated: list[Record]) -> Iterator[Difference]:
    if any(record.get("worker") for record in plain):
        return  # workers of pytest-xdist: chance
    old, new = tests(plain), tests(isolated)
    old, new = [t for t in old if t in {*new}], [t for t in new if t in {*old}]
    if old != new:
        at = next(n for n, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        yield Difference(RUN, f"test {at + 1}", "order", old[at], new[at])
