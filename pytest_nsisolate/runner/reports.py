# SPDX-License-Identifier: MIT
"""From frames and outcomes to reports, as the runner's plugins expect them.

Fact: reporters, ``-x``, ``--lf``, junit and xdist hear of a test through reports only, and rely on
their exact shape: a skip reason that arrives as a list instead of a tuple is an INTERNALERROR.

Consequence: a child's report is what ``pytest_report_to_serializable`` made of it and
``pytest_report_from_serializable`` reads, by whichever plugin's implementation. A child that could
not report gets one here that is legal in the same way: ``when`` is a phase, and the text says how
it ended, what was captured, and where it stood.

Nothing here trusts a child: what does not have the shape of a report is :class:`BrokenStream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, TypeAlias, cast
from warnings import warn

import pytest

from pytest_nsisolate.errors import BrokenStream, IsolatedCrash
from pytest_nsisolate.host.refusal import REFUSED, Refusal
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.process import outcome
from pytest_nsisolate.runner import stacks
from pytest_nsisolate.wire import reports, type_names
from pytest_nsisolate.wire.tagged_json import opaque, text_of

Sections: TypeAlias = list[tuple[str, str, str]]

#: Exceptions of pytest that do not say where they are from.
_OUTCOMES_OF_PYTEST = {
    ("builtins", "Failed"): pytest.fail.Exception,
    ("builtins", "Skipped"): pytest.skip.Exception,
}

#: Numbers up to here have less than the 640 digits below which Python's limit cannot be set.
_MAX_BITS = 2000

_OUTCOMES = ("passed", "failed", "skipped")


def read_report(
    item: pytest.Item,
    frame: dict[str, Any],
    captured: Sections,
    *,
    when: str | None,
    plain: internals.PlainPass | None = None,
) -> pytest.TestReport:
    """The report in one frame.

    :param captured: everything captured for the item so far; what is new is appended.
    :param when: the phase that must have ended; None for a report of a subtest.
    :param plain: makes the report that says nothing; None: there cannot be one.
    :raises BrokenStream: for anything that is not a report of this item and phase.
    """
    if plain is not None and when is not None and frame.get("passed") == when:
        return plain.report(when)
    data = frame.get("report")
    if not isinstance(data, dict) or data.get("nodeid") != item.nodeid:
        raise BrokenStream("a report of another test")
    if data.get("outcome") not in _OUTCOMES:
        raise BrokenStream(f"a report with the outcome {data.get('outcome')!r}")
    if when is not None:
        if data.get("when") != when:
            raise BrokenStream(f"a report of the phase {data.get('when')!r}, not {when!r}")
        captured.extend(read_texts(frame.get("fresh")))
        data["sections"] = _sections(frame.get("sections"), captured)
    config = item.config
    try:
        report = config.hook.pytest_report_from_serializable(config=config, data=_attributes(data))
    except Exception as error:  # whatever a plugin's own implementation meets
        raise BrokenStream(f"a report that pytest cannot read ({error!r})") from error
    if not isinstance(report, pytest.TestReport):
        raise BrokenStream("a report of an unknown type")
    if when is None:
        internals.restore_subtest(report, data)
    reports.unpack(report, frame.get("shown"))
    return report


def read_times(data: dict[str, Any]) -> tuple[float, float, float]:
    """When a phase began and ended (seconds since the epoch), and the seconds that it took.

    :raises BrokenStream: for anything else.
    """
    match data:
        case {"start": float(start), "stop": float(stop), "seconds": float(seconds)} if all(
            map(isfinite, (start, stop, seconds))
        ):
            return start, stop, seconds
    raise BrokenStream("times of the wrong shape")


def _attributes(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a report, except those that would take the place of a method.

    A hook of the child's side may have put them there; as functions they cannot cross.
    """
    if "wasxfail" in data:
        data["wasxfail"] = text_of(data["wasxfail"])  # pytest looks at how it starts
    properties = data.get("user_properties")
    if isinstance(properties, list):
        data["user_properties"] = [_property(entry) for entry in properties]
    return {k: v for k, v in data.items() if not callable(getattr(pytest.TestReport, k, None))}


def _property(entry: object) -> object:
    """As it is, except an int of more digits than ``str()`` writes: reporters call that."""
    if isinstance(entry, tuple) and len(entry) == 2:
        name, value = entry
        if type(value) is int and value.bit_length() > _MAX_BITS:
            return name, opaque(value)
    return entry


def read_texts(fresh: object) -> Sections:
    """Captured text, as a child sends it.

    :raises BrokenStream: for anything else.
    """
    if not isinstance(fresh, list):
        raise BrokenStream("captured text of the wrong shape")
    if not all(isinstance(entry, tuple) and len(entry) == 3 for entry in fresh):
        raise BrokenStream("captured text of the wrong shape")
    return [(text_of(when), text_of(kind), text_of(text)) for when, kind, text in fresh]


def _sections(sections: object, captured: Sections) -> list[tuple[str, str]]:
    if not isinstance(sections, list):
        raise BrokenStream("sections of the wrong shape")
    found: list[tuple[str, str]] = []
    for section in sections:
        if isinstance(section, int) and 0 <= section < len(captured):
            when, kind, text = captured[section]
            found.append((f"Captured {kind} {when}", text))
        elif isinstance(section, tuple) and len(section) == 2:
            found.append((text_of(section[0]), text_of(section[1])))
        else:
            raise BrokenStream("sections of the wrong shape")
    return found


def crash_report(
    item: pytest.Item,
    ended: outcome.Outcome,
    when: str,
    captured: Sections,
    *,
    faults: str,
    init: bool,
    ending: bool = False,
    met: Sequence[object] = (),
) -> pytest.TestReport:
    """The report of a phase that did not come to its end.

    A bare xfail accepts a crash, an exit and a timeout; never one with ``raises=``, because nothing
    was raised; and never a broken stream, because that says nothing about the test.

    :param captured: all text, that of this phase included.
    :param faults: what the fault handler wrote.
    :param init: the test was not PID 1 itself.
    :param ending: the phase is over, but not what its process does at its end.
    :param met: the limits that have ended it.
    """
    head, text = _tell(ended, "exit" if ending else when, faults=faults, init=init)
    text = stacks.folded(text, item)
    if met:
        before, head = head, "; ".join([f"{head}: {met[0]}", *map(str, met[1:])])
        text = head + text.removeprefix(before)
    mark = internals.expected_failure(item)
    forgivable = isinstance(ended, outcome.Crashed | outcome.Exited | outcome.TimedOut)
    if mark is not None and forgivable and not mark[1]:
        report = _report(item, "skipped", when, text, captured)
        report.wasxfail = f"{mark[0]} ({head})" if mark[0] else head
        return report
    return _report(item, "failed", when, text, captured)


def refusal_report(
    item: pytest.Item, refusal: Refusal, captured: Sections, *, skip: bool
) -> pytest.TestReport:
    """The report of a test that this host does not let in, whatever xfail says."""
    if skip:
        path, line = item.reportinfo()[:2]
        told = f"Skipped: {REFUSED}{refusal.headline()} ({refusal.cause})"
        return _report(item, "skipped", "setup", (str(path), (line or 0) + 1, told), captured)
    text = f"{REFUSED}{refusal}"
    return _report(item, "failed", "setup", text, captured)


def _report(
    item: pytest.Item, result: str, when: str, told: Any, captured: Sections
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=cast("Any", result),
        longrepr=internals.text_representation(item, told) if isinstance(told, str) else told,
        when=cast("Any", when),
        sections=[(f"Captured {kind} {phase}", text) for phase, kind, text in captured],
        user_properties=item.user_properties,
    )


def _tell(ended: outcome.Outcome, when: str, *, faults: str, init: bool) -> tuple[str, str]:
    """The first line, and the whole text."""
    if isinstance(ended, outcome.Finished):
        head = f"isolated test had a fatal error in {when}, and went on"
        return head, f"{head}\n\n{faults}"
    assert not isinstance(ended, Refusal)
    head = outcome.describe(ended, phase=when)
    if isinstance(ended, outcome.TimedOut):
        return head, f"{head}\n\n{ended.diagnosis}"
    if not init and "Fatal Python error: Aborted" in faults:
        head += " (abort() as PID 1: the kernel dropped its SIGABRT)"
    return head, f"{head}\n\n{faults}" if faults else head


def errnos(frame: dict[str, Any]) -> list[int]:
    """The error numbers behind the exception of a report, as the child has found them."""
    error = frame.get("error")
    found = error.get("errnos") if isinstance(error, dict) else None
    return [n for n in found if isinstance(n, int)] if isinstance(found, list) else []


def add_limits(report: pytest.TestReport, met: Sequence[object]) -> None:
    """Say which limits a failing phase has met."""
    if not met or not report.failed:
        return
    text = "\n".join(map(str, met))
    add_section = getattr(report.longrepr, "addsection", None)
    if add_section is None:
        report.sections.append(("Limits", text))
    else:
        add_section("Limits", text)  # shown whatever --show-capture says, and in junit's file


def add_loss(report: pytest.TestReport, lost: pytest.TestReport) -> None:
    """Tear-down has failed, and then the child was lost at its exit: one report for both."""
    add_section = getattr(report.longrepr, "addsection", None)
    if add_section is None:
        report.longrepr = f"{report.longreprtext}\n\n{lost.longreprtext}"
    else:
        add_section("After the tear-down", lost.longreprtext)
    report.sections[:] = lost.sections


# Exceptions -------------------------------------------------------------------------------------


def crash_of(report: pytest.TestReport) -> IsolatedCrash:
    """What stands for the exception of a report that was made here."""
    return IsolatedCrash(outcome.headline(report.longrepr))


def stand_in(frame: dict[str, Any], report: pytest.TestReport) -> BaseException:
    """An exception that looks like the child's, for hooks that ask for its type or text.

    Of the same class, or the nearest that the runner knows, built without running its ``__init__``.
    """
    error = frame.get("error")
    if not isinstance(error, dict):
        return crash_of(report)
    lineage, text = error.get("lineage"), text_of(error.get("text"))
    module, name = type_names.first(lineage)
    base: Any = _OUTCOMES_OF_PYTEST.get((module, name))
    base = base or type_names.nearest(lineage, BaseException) or Exception
    looks = {"__module__": module, "__qualname__": name, "__str__": lambda self: text}
    try:
        imitation: Any = type(name.rpartition(".")[2], (base,), looks)
        needed = (text, [IsolatedCrash(text)]) if issubclass(base, BaseExceptionGroup) else ()
        made: BaseException = imitation.__new__(imitation, *needed)
        made.args = (text,)
        if isinstance(made, pytest.fail.Exception | pytest.skip.Exception):
            made.msg, made.pytrace = text, True  # read by pytest's own hooks
    except Exception:  # a metaclass or a __new__ with a mind of its own
        made = IsolatedCrash(f"{name}: {text}")
    return made


def raised(error: BaseException) -> pytest.ExceptionInfo[BaseException]:
    """The exception as if it had just been raised; hooks expect a traceback."""
    try:
        raise error
    except BaseException:
        return pytest.ExceptionInfo.from_current()


def warn_of_hook(item: pytest.Item, error: Exception) -> None:
    """Another plugin's hook missed in the runner what its others have done in the child.

    There it has not failed, else there were no report; the run goes on, under ``-W error`` too.
    """
    text = (
        f"pytest_runtest_makereport of another plugin failed for {item.nodeid} on the runner's "
        f"side, where it sees a copy of the child's report: {error!r}"
    )
    with suppress(pytest.PytestWarning):
        warn(pytest.PytestWarning(text), stacklevel=2)


def copied(report: pytest.TestReport) -> pytest.TestReport:
    """A copy that other plugins may change without changing the report."""
    # Not copy.copy, which asks half a dozen functions.
    twin = object.__new__(type(report))
    vars(twin).update(vars(report))
    twin.sections, twin.user_properties = report.sections[:], report.user_properties[:]
    return twin


def adopt_attributes(report: pytest.TestReport, twin: pytest.TestReport) -> None:
    """What hooks have added to the copy, and the report does not have.

    One that was made here, for a child that crashed, has none of what the child's hooks add.
    Whether the test was expected to fail is not theirs to say.
    """
    for name, value in vars(twin).items():
        if name not in vars(report) and name != "wasxfail":
            setattr(report, name, value)


def merge_sections(report: pytest.TestReport, extra: Sections) -> None:
    """Add what the runner captured in the same phase to what the child did: one text for each."""
    for when, kind, text in extra:
        title = f"Captured {kind} {when}"
        for at, (name, before) in enumerate(report.sections):
            if name == title:
                report.sections[at] = (title, _joined(kind, before, text))
                break
        else:
            report.sections.append((title, text))


def join_captured(captured: Sections, start: int) -> None:
    """The same, for what has been captured for an item: from ``start`` on it is the runner's."""
    extra, captured[start:] = captured[start:], []
    for when, kind, text in extra:
        for at, (phase, name, before) in enumerate(captured):
            if (phase, name) == (when, kind):
                captured[at] = (when, kind, _joined(kind, before, text))
                break
        else:
            captured.append((when, kind, text))


def _joined(kind: str, before: str, text: str) -> str:
    return f"{before}\n{text}" if kind == "log" else before + text


def add_error(
    report: pytest.TestReport, error: pytest.ExceptionInfo[BaseException], item: pytest.Item
) -> None:
    """Tear-down failed on both sides: one report, under the head of pytest's own group."""
    texts = (("child", report.longreprtext), ("runner", str(item.repr_failure(error))))
    lines = ["ExceptionGroup: errors during test teardown (2 sub-exceptions)"]
    for number, (side, text) in enumerate(texts, 1):
        lines += [f"+---------------- {number} ({side}) ----------------", text]
    report.longrepr = "\n".join(lines)
