# SPDX-License-Identifier: MIT
"""From what a child says to what the runner's plugins hear: values, subtests, stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.runner import reports
from pytest_nsisolate.wire import type_names
from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9,
    differences,
    run_parity,
    run_source,
    write_files,
)

# Values of any kind ------------------------------------------------------------------------------

VALUES = r"""
import enum, pytest, sys, datetime, decimal, pathlib
from collections import OrderedDict, namedtuple

class Colour(enum.Enum): RED = 1
class Price(float): pass
class Name(str): pass
class Silent:
    def __repr__(self): return "<silent>"
class Broken:
    def __repr__(self): raise RuntimeError("no repr")
    __str__ = __repr__
Point = namedtuple("Point", "x y")
cycle = []
cycle.append(cycle)
deep = []
for _ in range(2000): deep = [deep]

@pytest.mark.parametrize("value", [
    Colour.RED, Price(1.5), Name("n"), Silent(), Broken(), Point(1, 2), cycle, deep, 10**400,
    float("nan"), float("-inf"), "\udc80", "\0", "\x1b[31m", b"\xff",
    {1: 2, (3,): 4}, {"$": "tuple"},
    {1, 2}, frozenset([1]), 1j, ..., NotImplemented, lambda: 1, sys, type, Exception("e"),
    datetime.date(2020, 1, 1), decimal.Decimal("1.1"), pathlib.Path("x"), OrderedDict(a=1),
    range(3),
], ids=lambda value: "x")
def test_property(record_property, value):
    record_property("value", value)
"""


@NEEDS_NAMESPACES
def test_properties_of_any_kind_never_lose_a_report(tmp_path: Path) -> None:
    """What is no plain value arrives with its repr, or a placeholder; every test passes."""
    result = run_source(tmp_path, VALUES, "--nsisolate=all")
    assert result.returncode == 0, result.text
    assert "INTERNALERROR" not in result.text
    calls = [r for r in result.reports if r["when"] == "call"]
    assert len(calls) == 31
    assert all(len(r["properties"]) == 1 for r in calls)
    shown = [r["properties"][0][1] for r in calls]
    assert shown[0] == "<Colour.RED: 1>"
    assert shown[1] == "1.5"
    assert shown[3] == "<silent>"
    assert "RuntimeError" in shown[4]
    assert shown[8] == str(10**400)
    assert shown[9:15] == ["nan", "-inf", r"'\udc80'", r"'\x00'", r"'\x1b[31m'", r"b'\xff'"]
    assert shown[15:19] == ["{1: 2, (3,): 4}", "{'$': 'tuple'}", "{1, 2}", "frozenset({1})"]


MESSAGES = r"""
import pytest, unittest
class Unreadable(Exception):
    def __str__(self): raise RuntimeError("no text")
class Loud(Exception):
    def __init__(self, a, *, b): super().__init__(a, b)
class Group(ExceptionGroup): pass
def test_unreadable(): raise Unreadable
def test_keyword(): raise Loud(1, b=2)
def test_surrogates(): raise ValueError("\udcff\0\x1b[1m")
def test_lines(): raise ValueError("one\n\ntwo\r\nthree\u2028four")
def test_nested(): raise Group("outer", [Group("inner", [ValueError(1)]), Unreadable()])
def test_notes():
    error = ValueError("noted")
    error.add_note("a note\nof two lines")
    raise error
def test_syntax(): compile("1 +", "<here>", "exec")
def test_not_ascii_source(): assert "ä" == "ö", "ü"
def test_cause_cycle():
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    raise a
def test_exec(): exec("raise KeyError('in exec')")
def test_bytes(): assert b"\x00\xff" == b""
def test_unittest_text(): unittest.TestCase().assertEqual("a" * 50, "b" * 50)
"""


@NEEDS_NAMESPACES
def test_failures_of_any_kind_read_as_in_a_plain_run(tmp_path: Path) -> None:
    """Exceptions that cannot be printed, groups, notes, cycles: the same text."""
    write_files(tmp_path, {"test_it.py": MESSAGES})
    plain, isolated = run_parity(tmp_path)
    assert differences(plain, isolated) == []
    assert isolated.returncode == 1


@NEEDS_NAMESPACES
def test_messages_of_ten_megabytes_arrive_whole(tmp_path: Path) -> None:
    """A report is as long as it has to be."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated
        def test_message(): raise ValueError("x" * 10_000_000)
        @pytest.mark.isolated
        def test_output(): print("y" * 10_000_000)
        """,
        "-p",
        "no:terminal",
    )
    assert "x" * 10_000_000 in result.failure("test_message")
    ((title, text),) = result.of("test_output")[1]["sections"]
    assert title == "Captured stdout call"
    assert text.startswith("10000001 characters, yyy")  # the recording shortens it


# Subtests ----------------------------------------------------------------------------------------


@NEEDS_NAMESPACES
@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_a_failing_subtest_fails_the_test_and_the_run(tmp_path: Path) -> None:
    """Every sub-report arrives with its context, and the parent is not green."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated
        def test_it(subtests):
            for n in range(3):
                with subtests.test("numbers", n=n):
                    assert n != 1
        @pytest.mark.isolated
        def test_good(subtests):
            with subtests.test("fine"): pass
        """,
        "--junitxml=junit.xml",
    )
    assert result.returncode == 1
    kinds = [(r["type"], r["outcome"]) for r in result.of("test_it") if r["when"] == "call"]
    assert kinds == [
        ("SubtestReport", "passed"),
        ("SubtestReport", "failed"),
        ("SubtestReport", "passed"),
        ("TestReport", "failed"),
    ]
    contexts = [r["context"] for r in result.of("test_it") if r["type"] == "SubtestReport"]
    assert "'n': '1'" in contexts[1]
    assert "contains 1 failed subtest" in result.of("test_it")[-2]["text"]
    assert "contains 1 failed subtest" in (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert [r["outcome"] for r in result.of("test_good")] == ["passed"] * 4


@NEEDS_NAMESPACES
@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_a_failing_subtest_of_unittest_fails_the_run(tmp_path: Path) -> None:
    """As in a plain run the parent passes, and the sub-report is the failure."""
    source = """
        import unittest
        class Case(unittest.TestCase):
            def test_it(self):
                for n in range(3):
                    with self.subTest("number", n=n):
                        self.assertNotEqual(n, 1)
    """
    write_files(tmp_path, {"test_it.py": source})
    plain, isolated = run_parity(tmp_path)

    def told(result: Any) -> list[tuple[object, ...]]:
        return [(r["type"], r["when"], r["outcome"], r["text"]) for r in result.reports]

    # The sections differ: pytest's terminal writes the sub-report's letter into its own capture.
    assert told(isolated) == told(plain)
    assert isolated.returncode == plain.returncode == 1
    assert isolated.summary == plain.summary


@NEEDS_NAMESPACES
@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_x_stops_at_a_failing_subtest(tmp_path: Path) -> None:
    """-x sees the sub-report in the child's session and in the runner's."""
    write_files(
        tmp_path,
        {
            "test_it.py": """
                def test_it(subtests):
                    for n in range(3):
                        with subtests.test(n=n):
                            assert n != 1
                def test_next(): pass
            """
        },
    )
    plain, isolated = run_parity(tmp_path, "-x", "-vv")
    assert differences(plain, isolated) == []
    assert isolated.summary == plain.summary


# Stand-ins ---------------------------------------------------------------------------------------


def stand_in(error: BaseException) -> BaseException:
    frame = {"lineage": type_names.lineage(type(error)), "text": str(error)}
    report: Any = SimpleNamespace(longrepr="head\nrest", longreprtext="head\nrest")
    return reports.stand_in({"error": frame}, report)


class Picky(ValueError):
    """Cannot be built from its text alone."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} {two}")
        self.one = one


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        KeyError("key"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        Picky(1, two=2),
        ExceptionGroup("group", [ValueError(1)]),
        SystemExit(3),
        AssertionError(),
        pytest.skip.Exception("skipped"),
        pytest.fail.Exception("failed"),
        pytest.xfail.Exception("xfailed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_stand_in_has_the_type_and_the_text(error: BaseException) -> None:
    """isinstance, the type's name and str() are those of the child's exception."""
    made = stand_in(error)
    assert isinstance(made, type(error))
    assert type(made).__name__ == type(error).__name__
    assert str(made) == str(error)
    assert getattr(made, "msg", "same") == getattr(error, "msg", "same") or isinstance(
        made, OSError
    )


@pytest.mark.parametrize(
    "frame",
    [
        {"lineage": [("nowhere", "Unknown")], "text": "text"},
        {"lineage": [("os", "path")], "text": "text"},
        {"lineage": [("builtins", "int")], "text": "text"},
        {"lineage": [(3, None), ("builtins", []), 3], "text": []},
        {"lineage": [("builtins", "")], "text": ""},
        {"lineage": 3, "text": 10**5000},
        {},
    ],
)
def test_a_hostile_name_makes_a_harmless_stand_in(frame: dict[str, object]) -> None:
    """Nothing is imported or called for a name that is no exception's."""
    before = set(sys.modules)
    report: Any = SimpleNamespace(longrepr="head", longreprtext="head")
    assert isinstance(reports.stand_in({"error": frame}, report), Exception)
    assert set(sys.modules) == before


# Reports from a child that is not trusted --------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"report": None},
        {"report": []},
        {"report": {}},
        {"report": {"nodeid": "another"}},
        {"outcome": "perfect"},
        {"outcome": None},
        {"when": "collect"},
        {"sections": [3]},
        {"sections": "text"},
        {"sections": [["a", "b"]]},
        {"fresh": [("call", "stdout")]},
        {"fresh": [["call", "stdout", "x"]]},
        {"fresh": None},
        {"$report_type": "Nonsense"},
        {"longrepr": {"reprcrash": 1, "reprtraceback": 2}},
    ],
    ids=str,
)
def test_what_is_no_report_is_a_broken_stream(
    request: pytest.FixtureRequest, change: dict[str, Any]
) -> None:
    """Each wrong shape is refused before any plugin hears of it."""
    item = request.node
    made = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, "call")
    config = item.config
    data = config.hook.pytest_report_to_serializable(config=config, report=made)
    frame = {"report": data, "fresh": [], "sections": []}
    assert reports.read_report(item, dict(frame, report=dict(data)), [], when="call").passed
    for key, value in change.items():
        if key in frame:
            frame[key] = value
        else:
            data[key] = value
    with pytest.raises(BrokenStream):
        reports.read_report(item, frame, [], when="call")


# Tracebacks and sections -------------------------------------------------------------------------


def test_sections_of_both_sides_become_one_text() -> None:
    """What the runner captured in the same phase is added to what the child did."""
    report = pytest.TestReport("n", ("n", 0, "n"), {}, "passed", None, "teardown")
    report.sections = [("Captured stdout teardown", "child\n"), ("Captured log teardown", "one")]
    reports.merge_sections(
        report,
        [
            ("teardown", "stdout", "runner\n"),
            ("teardown", "log", "two"),
            ("teardown", "stderr", "only here\n"),
        ],
    )
    assert report.sections == [
        ("Captured stdout teardown", "child\nrunner\n"),
        ("Captured log teardown", "one\ntwo"),
        ("Captured stderr teardown", "only here\n"),
    ]


@NEEDS_NAMESPACES
def test_set_up_and_tear_down_text_of_both_sides_is_one_section(tmp_path: Path) -> None:
    """Set-up: runner then child. Tear-down: child then runner. As one process would have done."""
    write_files(
        tmp_path,
        {
            "test_it.py": """
                import pytest, logging, sys
                def say(text):
                    print(text)
                    print(text, file=sys.stderr)
                    logging.getLogger("both").warning(text)
                @pytest.fixture(scope="module")
                def wide():
                    say("wide up")
                    yield
                    say("wide down")
                @pytest.fixture
                def narrow(wide):
                    say("narrow up")
                    yield
                    say("narrow down")
                def test_it(narrow): say("call")
            """
        },
    )
    plain, isolated = run_parity(tmp_path, "-rA")
    assert differences(plain, isolated) == []
    sections = dict(map(tuple, isolated.of("test_it")[-1]["sections"]))
    assert sections["Captured stdout setup"] == "wide up\nnarrow up\n"
    assert sections["Captured stdout teardown"] == "narrow down\nwide down\n"


@NEEDS_NAMESPACES
def test_errors_of_both_sides_in_tear_down_are_one_report(tmp_path: Path) -> None:
    """The child's and the runner's error stand under one head, like pytest's own group."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide():
            yield
            raise RuntimeError("in the runner")
        @pytest.fixture
        def narrow():
            yield
            raise ValueError("in the child")
        @pytest.mark.isolated
        def test_it(wide, narrow): pass
        """,
    )
    assert result.phases("test_it") == ["setup passed", "call passed", "teardown failed"]
    text = result.failure("test_it")
    assert text.index("ExceptionGroup") < text.index("in the child") < text.index("in the runner")
