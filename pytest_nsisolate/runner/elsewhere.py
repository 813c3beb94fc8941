# SPDX-License-Identifier: MIT
"""A platform that is not Linux: each isolated test is refused, all others run.

Fact: there ``posix``, ``fcntl`` or psutil need not exist, and what isolates tests imports them.

Consequence: nothing of that is loaded. These hooks take the place of those in :mod:`.hooks`, and
:class:`RefusingIsolate` that of the fixture's own value.
"""

from __future__ import annotations

from collections.abc import Generator
from errno import ENOSYS
from typing import Final, NoReturn

import pytest

from pytest_nsisolate.errors import IsolatedRefusal
from pytest_nsisolate.host.refusal import REFUSED, Refusal
from pytest_nsisolate.host.remedies import explained
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.request.resolve import from_keywords
from pytest_nsisolate.request.wording import MarkerProblem
from pytest_nsisolate.runner import reports
from pytest_nsisolate.runner.run import Run

_DENIED: Final = Refusal("clone", None, ENOSYS)


class _RefusedError(Exception):
    """Ends the set-up of a test that cannot be isolated here."""


def _refusal(run: Run) -> Refusal:
    return explained(_DENIED, run.launcher.host)


class RefusingHooks:
    """Of a run with tests that ask for isolation. No fixture of theirs is set up."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # After those that are tried first: a mark that skips the test comes first.
        if item in self._run.requests:
            raise _RefusedError

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        made = yield
        if call.excinfo is None or not isinstance(call.excinfo.value, _RefusedError):
            return made
        skip = self._run.requests[item].may_be_skipped
        captured = internals.report_sections(item)
        report = reports.refusal_report(item, _refusal(self._run), captured, skip=skip)
        report.duration, report.start, report.stop = made.duration, made.start, made.stop
        call.excinfo = None if skip else reports.raised(reports.crash_of(report))
        internals.let_interact(item, call, report)
        return report


class RefusingIsolate:
    """The value of the fixture ``isolate``: takes what :class:`.Isolate` takes, and refuses it."""

    def __init__(self, run: Run, keywords: dict[str, object]) -> None:
        __tracebackhide__ = True
        self._run = run
        self._keywords = keywords
        try:
            self._request = from_keywords(keywords, run.settings)
        except MarkerProblem as problem:
            raise pytest.UsageError(str(problem)) from None

    def using(self, **keywords: object) -> RefusingIsolate:
        """The same with other keywords, which are checked."""
        __tracebackhide__ = True
        keywords.pop("trusted", None)
        return RefusingIsolate(self._run, {**self._keywords, **keywords})

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """
        :raises IsolatedRefusal: or by policy the exception of ``pytest.skip``.
        """
        __tracebackhide__ = True
        refusal = _refusal(self._run)
        if self._request.may_be_skipped:
            raise pytest.skip.Exception(f"{REFUSED}{refusal.headline()} ({refusal.cause})")
        raise IsolatedRefusal(refusal.error, refusal.cause, refusal.remedy)

    start = open = __call__

    def __repr__(self) -> str:
        return "isolate (refused on this platform)"
