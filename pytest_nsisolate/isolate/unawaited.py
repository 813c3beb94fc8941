# SPDX-License-Identifier: MIT
"""A task that is never awaited is an error of the fixture or the test that has started it.

Fact: ``isolate`` is of session scope and knows no test, but what a test starts must not outlive it,
and what a wider fixture starts must.

Consequence: these hooks, registered when a run first uses ``isolate``, know which fixture is being
set up. A task started there is looked at when that fixture is torn down, any other one at the end
of its test. A task that is still at work then, or whose result has not been asked for, is ended,
and is an error, unless the test has failed anyway.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_nsisolate.errors import NotAwaitedError

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess


class Awaitable(Protocol):
    """What has to be awaited: a task or a box."""

    child: ChildProcess

    @property
    def settled(self) -> bool: ...

    def end(self) -> None: ...

    def helpers(self) -> dict[int, str]: ...


class Unawaited:
    """The tasks and boxes of this process that are still to be awaited."""

    def __init__(self) -> None:
        self._fixtures: list[pytest.FixtureRequest] = []
        self._loose: list[Awaitable] = []
        self._failed = False

    def take(self, charge: Awaitable) -> None:
        """Register what has just been started."""
        if self._fixtures:
            # Registered before the fixture's own finalizer, so it runs after that.
            self._fixtures[-1].addfinalizer(partial(_fail_unless_settled, [charge]))
        else:
            self._loose = [other for other in self._loose if not other.settled]
            self._loose.append(charge)

    def settle_loose(self) -> None:
        """At the end of a test, or of a function that runs in a child.

        :raises NotAwaitedError: naming what was not awaited.
        """
        loose, self._loose = self._loose, []
        if names := _settle(loose):
            raise NotAwaitedError(names)

    def forget(self) -> None:
        """In a copy of the process: these tasks and boxes are the original's."""
        self._fixtures = []
        self._loose = []

    # pytest's hooks -----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        self._fixtures.append(request)
        try:
            return (yield)
        finally:
            if self._fixtures:
                self._fixtures.pop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        self._failed = True
        result = yield
        self._failed = False
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        failed, self._failed = self._failed, False
        try:
            result = yield
        except BaseException:
            failed = True
            raise
        finally:
            loose, self._loose = self._loose, []
            if failed:
                _settle(loose)
            else:
                _fail_unless_settled(loose)
        return result


def _fail_unless_settled(charges: list[Awaitable]) -> None:
    if names := _settle(charges):
        pytest.fail(str(NotAwaitedError(names)), pytrace=False)


def _settle(charges: list[Awaitable]) -> tuple[str, ...]:
    """End what is still to be awaited, and name it."""
    left = [charge for charge in charges if not charge.settled]
    names = tuple(repr(charge) for charge in left)
    for charge in left:
        charge.end()
    return names
