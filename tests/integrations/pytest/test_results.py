# SPDX-License-Identifier: MIT
"""The report of a phase that says nothing: the child does not send it, the runner makes it."""

from __future__ import annotations

import pytest

from pytest_nsisolate.integrations.pytest import PlainPass


def made_by_pytest(item: pytest.Item, when: str) -> pytest.TestReport:
    """The report of a phase that passed."""
    call = pytest.CallInfo.from_call(lambda: None, when)  # type: ignore[arg-type]
    return pytest.TestReport.from_item_and_call(item, call)


def plain_of(item: pytest.Item) -> PlainPass:
    """Whatever plugins are installed here: one that sends reports its own way rules it out."""
    plain = PlainPass(item)
    plain._usable = True
    return plain


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
def test_it_is_what_pytest_makes(request: pytest.FixtureRequest, when: str) -> None:
    """But for the times."""
    plain, made = plain_of(request.node), made_by_pytest(request.node, when)
    assert plain.fits(made)
    times = {"start": made.start, "stop": made.stop, "duration": made.duration}
    assert vars(plain.report(when)) | times == vars(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outcome", "failed"),
        ("longrepr", "text"),
        ("keywords", {}),
        ("sections", [("Captured stdout call", "x")]),
        ("user_properties", [("a", 1)]),
        ("wasxfail", ""),
    ],
)
def test_whatever_says_more_is_sent_whole(
    request: pytest.FixtureRequest, name: str, value: object
) -> None:
    """A field that has another value, and one that such a report does not have."""
    made = made_by_pytest(request.node, "call")
    setattr(made, name, value)
    assert not plain_of(request.node).fits(made)


def test_a_field_that_is_missing_is_told(request: pytest.FixtureRequest) -> None:
    """One of those that differ between phases, too."""
    for name in ("duration", "sections"):
        made = made_by_pytest(request.node, "call")
        delattr(made, name)
        assert not plain_of(request.node).fits(made)


def test_reports_share_nothing_that_a_plugin_changes(request: pytest.FixtureRequest) -> None:
    """What a hook adds to the report of one phase is not in that of the next."""
    plain = plain_of(request.node)
    first = plain.report("setup")
    first.sections.append(("a", "b"))
    first.user_properties.append(("a", "b"))
    first.keywords["mine"] = 1  # type: ignore[index]
    second = plain.report("call")
    assert (second.sections, second.user_properties) == ([], [])
    assert "mine" not in second.keywords
