# SPDX-License-Identifier: MIT
"""How representations of failures cross, and what a child cannot make the runner show."""

from __future__ import annotations

import enum
import os
from typing import Any

import pytest

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.runner import reports as runner_reports
from pytest_nsisolate.wire import reports, tagged_json, type_names, warnings


def failed_report(item: pytest.Item) -> pytest.TestReport:
    """As pytest makes it, of an exception with a cause."""

    def run() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    call = pytest.CallInfo.from_call(run, "call")
    return pytest.TestReport.from_item_and_call(item, call)


def crossed(item: pytest.Item, report: pytest.TestReport) -> dict[str, Any]:
    """The frame of a report, as it comes out of the wire."""
    config = item.config
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    frame = {**reports.pack(report, data, config), "sections": [], "fresh": []}
    decoded: Any = tagged_json.decode(tagged_json.encode(frame))
    return dict(decoded)


def test_a_chain_crosses_once_and_whole(request: pytest.FixtureRequest) -> None:
    """The innermost traceback is sent as the chain's only; the text is the same."""
    item = request.node
    report = failed_report(item)
    frame = crossed(item, report)
    assert frame["report"]["longrepr"]["reprtraceback"]["reprentries"] == []
    read = runner_reports.read_report(item, frame, [], when="call")
    assert read.longreprtext == report.longreprtext
    assert "first" in read.longreprtext
    sent, made = read.longrepr, report.longrepr
    assert vars(getattr(sent, "reprcrash", None)) == vars(getattr(made, "reprcrash", None))


ENTRIES = ("longrepr", "chain", 0, 0, "reprentries")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*ENTRIES, 0, "data", "lines"), [3]),
        ((*ENTRIES, 0, "data", "lines"), tagged_json.Opaque("list", "x", "x")),
        ((*ENTRIES, 0, "data", "reprfuncargs"), {"args": [3]}),
        ((*ENTRIES, 0, "data", "reprfileloc"), {"path": 1, "lineno": 2, "message": 3}),
        ((*ENTRIES, 0, "data", "reprlocals"), {"lines": 5}),
        ((*ENTRIES, 0, "type"), "ReprOther"),
        (("longrepr", "chain", 0, 0, "extraline"), 3),
        (("longrepr", "chain"), [3]),
        (("longrepr", "sections"), [("a", 3, "c")]),
        (("longrepr",), ("path", 1)),
        (("longrepr",), ("path", "one", "reason")),
        (("shown",), ("plain", "coloured")),
        (("shown",), "text"),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_refused(
    request: pytest.FixtureRequest, place: tuple[Any, ...], value: object
) -> None:
    """Before a reporter stumbles over it, which would end the run."""
    item = request.node
    frame = crossed(item, failed_report(item))
    target: Any = frame if place[0] == "shown" else frame["report"]
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(BrokenStream):
        runner_reports.read_report(item, frame, [], when="call")


def test_a_method_of_a_report_is_not_replaced(request: pytest.FixtureRequest) -> None:
    """An attribute of a child's report that bears a method's name is left out."""
    item = request.node
    frame = crossed(item, failed_report(item))
    frame["report"] |= {"toterminal": 3, "get_sections": "x", "own": 4}
    report = runner_reports.read_report(item, frame, [], when="call")
    assert "first" in report.longreprtext
    assert vars(report)["own"] == 4
    assert not {"toterminal", "get_sections"} & vars(report).keys()


def test_any_object_can_stand_for_a_failure(request: pytest.FixtureRequest) -> None:
    """What repr_failure returns is shown as pytest would show it."""

    class Shown:
        def __str__(self) -> str:
            return "short"

        def toterminal(self, tw: Any) -> None:
            tw.line("red", red=True)
            tw.write("no end")

    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Text(str):
        __slots__ = ()

    item = request.node
    expected = {
        Shown(): ("short", "red\nno end"),
        3: ("3", "3"),
        Text("words"): ("words", "words"),
        Silent(): ("<str() raised RuntimeError>",) * 2,
    }
    for told, (text, shown) in expected.items():
        report = failed_report(item)
        report.longrepr = told  # type: ignore[assignment]
        read = runner_reports.read_report(item, crossed(item, report), [], when="call")
        assert str(read.longrepr) == text
        assert read.longreprtext == shown


def test_an_attribute_that_cannot_be_looked_at_is_told_by_its_name() -> None:
    """The others stay as they are."""

    class Hostile:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise RuntimeError("class")

    report = pytest.TestReport("n", ("n", 0, "n"), {}, "passed", None, "call")
    extras = [{"name": "url"}]
    vars(report).update(hostile=Hostile(), extras=extras, path=os.curdir)
    twin = reports.harmless(report)
    assert type(vars(twin)["hostile"]) is tagged_json.Opaque
    assert vars(twin)["extras"] is extras


# Names of classes --------------------------------------------------------------------------------


def test_the_nearest_known_ancestor_is_found() -> None:
    """A class that the runner does not have stands for what it derives from."""

    class Local(UnicodeDecodeError):
        pass

    lineage = type_names.lineage(Local)
    assert type_names.first(lineage)[1].endswith("<locals>.Local")
    assert type_names.nearest(lineage, BaseException) is UnicodeDecodeError
    assert type_names.nearest(lineage, Warning) is None
    assert type_names.nearest([3, ("os", "path"), ("nowhere", "X"), ("", "")], object) is None
    assert type_names.nearest([("enum", "Enum")], object) is enum.Enum


def test_a_warning_of_a_local_class_keeps_its_kind() -> None:
    """A local DeprecationWarning is one in the runner as well."""

    class Local(DeprecationWarning):
        pass

    category = warnings._category(type_names.lineage(Local))
    assert issubclass(category, DeprecationWarning)
    assert category.__name__ == "Local"
