# SPDX-License-Identifier: MIT
"""``assert`` on the data: a readable difference, for ours and for nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_nsisolate.view import (
    Address,
    Difference,
    Interface,
    Process,
    ReadOnlyMapping,
    Snapshot,
    tables,
)
from pytest_nsisolate.view.compare import explain

ONE = Process(7, 1, "sleeping", "sleep", ("sleep", "60"), 0, 7, 7, None, "/", 1.0, 2.0)
TWO = dataclasses.replace(ONE, pid=8, argv=("sleep", "61"), tty="/dev/pts/3", age=3700.0)
LO = Interface(1, "lo", True, "unknown", "loopback", 65536, None, (Address("::1", 128, "host"),))


def explained(left: object, right: object) -> str:
    lines = explain("==", left, right)
    assert lines is not None
    return "\n".join(lines)


def test_what_is_missing_and_what_is_too_much() -> None:
    """As tables, under the number on each side."""
    assert explained((ONE,), (TWO,)).splitlines() == [
        "<1 process> == <1 process>",
        "",
        "Only on the left, 1 process:",
        "  PID  PPID  STATE     UID  SID  TTY  AGE  COMMAND",
        "  7    1     sleeping  0    7    -    2 s  sleep 60",
        "",
        "Only on the right, 1 process:",
        "  PID  PPID  STATE     UID  SID  TTY    AGE  COMMAND",
        "  8    1     sleeping  0    7    pts/3  1 h  sleep 61",
    ]


def test_the_same_one_otherwise_is_compared_field_by_field() -> None:
    """But for the age, by which no two are told apart."""
    other = dataclasses.replace(ONE, state="zombie", argv=(), age=9.0)
    assert explained((ONE, TWO), (other, TWO)).splitlines() == [
        "<2 processes> == <2 processes>",
        "",
        "process 7 (sleep) differs:",
        "  state: 'sleeping' != 'zombie'",
        "  argv: ('sleep', '60') != ()",
    ]


def test_another_order() -> None:
    """Nothing is missing: that is said."""
    assert "The same, in another order or number" in explained((ONE, TWO), [TWO, ONE])


@pytest.mark.parametrize("empty", [(), []])
def test_against_nothing(empty: object) -> None:
    """From either side."""
    assert "<1 interface> == <no interfaces>" in explained((LO,), empty)
    assert "Only on the right, 1 interface:" in explained(empty, (LO,))


def test_mappings_and_snapshots() -> None:
    """Key by key; and whole."""
    mapping = ReadOnlyMapping({"a": 1, "b": 2})
    assert explained(mapping, {"a": 1, "b": 3, "c": 4}).splitlines() == [
        "<2 items> == <3 items>",
        "  'b': 2 != 3",
        "  'c': (missing) != 4",
    ]
    text = explained(Difference(Snapshot(processes=(ONE,))), Difference())
    assert "left:\n  1 process appeared:\n    PID" in text
    assert text.endswith("right:\n  no difference")


@pytest.mark.parametrize(
    ("operator", "left", "right"),
    [
        ("==", (1,), (2,)),
        ("==", (), ()),
        ("==", (ONE,), (1,)),
        ("==", (ONE,), {ONE}),
        ("==", ONE, TWO),
        ("==", ReadOnlyMapping({}), 7),
        ("in", ONE, (TWO,)),
    ],
)
def test_everything_else_is_left_to_pytest(operator: str, left: object, right: object) -> None:
    """Including single dataclasses, which it compares well."""
    assert explain(operator, left, right) is None


def test_mappings_are_equal_to_dicts_and_read_only() -> None:
    """In both directions; hashable, as long as the values are."""
    mapping = ReadOnlyMapping({"a": 1})
    assert mapping == {"a": 1} == mapping
    assert (repr(mapping), len(mapping)) == ("{'a': 1}", 1)
    assert hash(mapping) == hash(ReadOnlyMapping({"a": 1}))
    with pytest.raises(TypeError):
        mapping["a"] = 2  # type: ignore[index]


def test_tables_are_bounded() -> None:
    """20 rows, 60 characters in a cell, and nothing that breaks a line."""
    many = [dataclasses.replace(ONE, pid=n, argv=("x" * 99, "\n")) for n in range(30)]
    lines = tables.table(many).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "... and 10 more"
    assert all(len(line) < 120 for line in lines)
    assert tables.table([]) == ""
    assert tables.table(["other"]) == "'other'"
    row = dataclasses.replace(ONE, argv=("a\nb\x1b[31m",))
    assert tables.table([row]).endswith("a?b?[31m")
