# SPDX-License-Identifier: MIT
"""Copies of a process that come back from what has forked them: strays, which end at once.

Fact: a fork copies the stack. Below a test, and below a wider fixture, are pytest, its hooks and
its fixtures, and a copy that does not leave by ``os._exit`` goes on in all of them. It may return,
raise, or be left by a KeyboardInterrupt, ``sys.exit`` or ``pytest.exit``, which pytest does not
take for the end of a phase but for that of the session: then it tears everything down, and ends
with status 0.

Consequence: after each call of the suite's code we look whether this is still the process that
called (:meth:`Copies.leave_if_stray`, :func:`caught`). Between two of our calls pytest goes through
lists of finalizers, and through ``unittest``'s clean-up; in a copy the next entry of each of these
is a trap, set by an at-fork hook
(:func:`~pytest_nsisolate.integrations.pytest.set_traps`). A stray runs no finalizer, no second half
of a hook, tells nothing, and ends with :data:`~pytest_nsisolate.process.outcome.EXIT_STRAY`.

What still fails: a copy forked by a plain test, or one that was there before the first test, is
pytest's own affair until it comes to an isolated test. One that a thread has forked, and that comes
back from the thread's function, ends there, as a Python program does. Since Python 3.14, one that a
coroutine has forked waits for ever in its event loop, as in a program without pytest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from types import FrameType
from typing import NoReturn

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.integrations.pytest import tracebacks
from pytest_nsisolate.kernel.originals import os, posix, traceback
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.process.outcome import EXIT_STRAY

#: In the runner: sets the traps in a copy that is forked just now.
_traps: list[Callable[[], None]] = []


def leave(whose: str, error: BaseException | None = None) -> NoReturn:
    """In a stray: say so on standard error, and end.

    :param whose: what has forked it: a test, or a function.
    :param error: what it has come back by, if it did not return.
    """
    try:
        how = "returned from it" if error is None else f"left it by {type(error).__name__}"
        os.write(2, f"pytest-nsisolate: a process forked by {whose} {how}\n".encode())
        if error is not None:
            tracebacks.hide_machinery(error)
            lines = traceback.format_exception(
                type(error), error, tracebacks.without_pytest(error.__traceback__)
            )
            os.write(2, "".join(lines).encode("utf-8", "backslashreplace"))
    finally:
        posix._exit(EXIT_STRAY)


class Copies:
    """In a child: copies of its process, which a test forks, end where they come back from it.

    Made in the runner, before the clone; it changes nothing there.

    :param item: the test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        #: This is such a copy; an at-fork hook says so.
        self.stray = False

    def guarded(self, function: Callable[..., object]) -> Callable[..., None]:
        """The same, but a copy of this process ends where it comes back from it."""

        def call(*arguments: object) -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self.leave_if_stray(error)
                raise
            self.leave_if_stray()

        return call

    def leave_if_stray(self, error: BaseException | None = None) -> None:
        """End a copy of this process that the test has forked, and that has come back from it.

        :param error: what it has come back by, if it did not return.
        """
        if self.stray:
            leave(self._item.nodeid, error)


class Spot:
    """Where this process was forked; made in an at-fork hook."""

    def __init__(self) -> None:
        self._frames: list[FrameType] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            self._frames.append(frame)
            frame = frame.f_back  # now: a generator's is None when it has ended

    def is_below(self, frame: FrameType) -> bool:
        """Whether that frame called what has forked, so the copy has returned to it."""
        return frame in self._frames


@contextmanager
def caught(item: pytest.Item) -> Iterator[None]:
    """In the runner, round wider fixtures: a copy that one of them forks does not come back.

    :param item: the isolated test for which they are set up, or torn down.
    """
    original = here()
    lists = [found for found, _ in internals.setup_stack(item).values()]
    finalizers = [*chain.from_iterable(lists)]  # pytest is going to empty the lists

    def trap() -> None:
        spot, fixtures = Spot(), internals.definitions_behind(finalizers)
        internals.set_traps(
            item,
            lists,
            fixtures,
            lambda frame: leave(item.nodeid) if spot.is_below(frame) else None,
        )

    _traps.append(trap)
    try:
        yield
    except BaseException as error:
        if here() is not original:
            leave(item.nodeid, error)
        raise
    finally:
        _traps.remove(trap)
    if here() is not original:
        leave(item.nodeid)


def _after_fork() -> None:
    for trap in _traps:
        trap()


if hasattr(os, "register_at_fork"):  # nowhere else anything can be isolated
    os.register_at_fork(after_in_child=_after_fork)
