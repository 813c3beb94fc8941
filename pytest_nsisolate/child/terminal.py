# SPDX-License-Identifier: MIT
"""Whose turn it is to write to the terminal, where both sides do.

Fact: with ``-s``, live logs, ``--setup-show`` and at a debugger's prompt the child writes to the
terminal itself, between lines of the runner's reporter. The reporter remembers where on the line it
stands, and live logs remember whether they have shown their title: in memory, which is the
child's own after the clone.

Consequence: at the end of a phase such a child says how it leaves the terminal, and goes on when
it is given the word: by then the runner has written what it has to say of the phase. A prompt asks
for the word too, whatever the options, so that the runner writes nothing below it.

What still fails: what ``capsys.disabled()`` shows in a fixture's tear-down may come before the
letter of the test, unless one of these options is given. To wait would cost every test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest

from pytest_nsisolate.child import output
from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import os, select
from pytest_nsisolate.wire.frames import Kind

#: Sends a frame to the runner.
Send: TypeAlias = Callable[[Kind, dict[str, object]], None]


class Turns:
    """The word by which the runner lets a child go on (eventfd(2)); one for all children of a run.

    Without blocking: a child could fill it up, and the runner must not wait for a child here.
    """

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._given = False

    def give(self) -> None:
        """In the runner, which has nothing more to write until the child speaks again."""
        self._given = True
        try:
            os.eventfd_write(self._fd, 1)
        except BlockingIOError:
            pass  # there are words enough

    def take(self) -> None:
        """In the child: wait for the word. The runner's death ends this as it ends everything."""
        waiter = select.poll()
        waiter.register(self._fd, select.POLLIN)
        try:
            waiter.poll()
            os.eventfd_read(self._fd)
        except OSError:
            pass  # the test has closed it, or has taken the word away: it may go on

    def forget(self) -> None:
        """Before a clone: a word that the last child did not live to take is not for this one."""
        if self._given:
            self._given = False
            try:
                os.eventfd_read(self._fd)
            except BlockingIOError:
                pass

    def hand_over(self) -> int:
        """The descriptor, which is the caller's to close from now on."""
        return self._fd

    def close(self) -> None:
        """At the end of the run."""
        os.close(self._fd)


class Screen:
    """How the child has left the terminal since it was last asked; made in the runner."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._before = internals.terminal_state(config)

    def changes(self) -> dict[str, object]:
        """What the runner's reporter has to know; empty in most cases.

        The line is told as an addition where it is one: the runner may have added to it as well.
        """
        before, now = self._before, internals.terminal_state(self._config)
        self._before = now
        found: dict[str, object] = {}
        if now.line != before.line:
            added = now.line.startswith(before.line)
            found["line"] = ("added", now.line[len(before.line) :]) if added else ("new", now.line)
        if before.on_a_line and not now.on_a_line:
            found["left"] = True
        if now.log is not None and now.log != before.log:
            found["log"] = tuple(now.log)
        return found


class ChildTerminal:
    """The child's part: it says when it has done, waits for the word, and stops the clock.

    Made in the runner; silent until :meth:`enter`, and again in a process that the test has forked.
    """

    def __init__(self, config: pytest.Config, turns: Turns) -> None:
        self._config = config
        self._turns = turns
        self._screen = Screen(config) if internals.writes_live(config) else None
        self._debugging = bool(config.getoption("usepdb", False))
        self._send: Send | None = None
        self._prompts = 0
        self._follows_hooks = False

    def enter(self, send: Send) -> None:
        """In the child, before anything is written."""
        self._send = send

    def leave(self) -> None:
        """In a process that the test has forked: do not ask for the word any more."""
        self._send = None

    def say_done(self) -> None:
        """Before a report: the runner is to write next."""
        if self._screen is not None and self._send is not None:
            output.flush_streams()
            self._send(Kind.TURN, self._screen.changes())

    def wait(self) -> None:
        """After the report: the runner has written."""
        if self._screen is not None and self._send is not None:
            self._turns.take()

    @contextmanager
    def post_mortem(self) -> Iterator[None]:
        """``pytest_exception_interact``: with ``--pdb`` the debugger shows the failure itself."""
        if not self._debugging:
            yield
            return
        self._stop_clock(shown=True)
        try:
            yield
        finally:
            self._start_clock()

    def hold(self) -> None:
        """A test that has failed stays as it is until the runner gives the word."""
        if self._send is not None:
            output.flush_streams()
            self._send(Kind.PAUSE, {"held": True, **self._changes()})
            self._turns.take()
            self._send(Kind.RESUME, {})

    def watch(self, debugger: Any) -> None:
        """``pytest_enter_pdb``: the budget does not run while you type.

        The hook is called once, but a debugger comes back: at its own breakpoints, and on Ctrl-C.
        """
        original = getattr(debugger, "interaction", None)
        if not callable(original):
            self._follows_hooks = True
            self._stop_clock()
            return

        def interaction(*args: Any, **kwargs: Any) -> Any:
            self._stop_clock()
            try:
                return original(*args, **kwargs)
            finally:
                self._start_clock()

        debugger.interaction = interaction

    def unwatch(self) -> None:
        """``pytest_leave_pdb``: the only sign of a debugger that is not one of :mod:`bdb`'s."""
        if self._follows_hooks:
            self._follows_hooks = False
            self._start_clock()

    def _stop_clock(self, *, shown: bool = False) -> None:
        self._prompts += 1
        if self._prompts == 1 and self._send is not None:
            output.flush_streams()
            self._send(Kind.PAUSE, {"shown": shown, **self._changes()})
            self._turns.take()

    def _start_clock(self) -> None:
        self._prompts -= 1
        if self._prompts == 0 and self._send is not None:
            # The capture is at work again, and what was said at the prompt may wait in a buffer.
            output.flush_to_terminal(self._config)
            self._send(Kind.RESUME, self._changes())

    def _changes(self) -> dict[str, object]:
        return {} if self._screen is None else self._screen.changes()


def adopt(config: pytest.Config, data: dict[str, Any]) -> None:
    """In the runner: go on where the child has left the terminal.

    :raises BrokenStream: if that is not what :meth:`Screen.changes` makes.
    """
    match data.get("line"):
        case None:
            pass
        case ("added" | "new" as how, str(text)):
            internals.adopt_line(config, text, added=how == "added")
        case _:
            raise BrokenStream("a line of the terminal of the wrong shape")
    if data.get("left") is True:
        internals.leave_line(config)
    match data.get("log"):
        case None:
            pass
        case (bool() as first, bool() as outcome, bool() as title, None | str() as when):
            internals.adopt_live_log(config, internals.LiveLog(first, outcome, title, when))
        case _:
            raise BrokenStream("a state of the live log of the wrong shape")
