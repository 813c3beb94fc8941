# SPDX-License-Identifier: MIT
"""Ctrl-C, Ctrl-Z and ``&`` at the runner's terminal, for a child that is in another session.

Fact: the terminal stops the runner's process group only. A child that had a debugger open would go
on reading, and what is typed for the shell would be carried out by the debugger.

Consequence: while it has a child, a runner that has a terminal takes SIGTSTP itself. It stops the
child, then itself, and afterwards lets the child go on. It waits until the child stands still, for
a process that is about to stop still takes a line from the terminal. Before a prompt it makes sure
that it is in the foreground, as the kernel would by SIGTTIN (termios(3)). A Ctrl-C does not reach
the child either, so the runner passes it on, and gives the child some time to tear down.

What still fails: a runner that is stopped by SIGSTOP; a task of ``isolate`` that is not being
waited for; and a test that reads the terminal itself (``input()``) when the runner is in the
background.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel import proc, signals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, signal, threading, time

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess

#: Seconds that the child has for its teardown after a Ctrl-C.
INTERRUPT_GRACE: Final = 2.0

#: Seconds that a Ctrl-Z waits at most until the child stands still.
_HOLD_SECONDS: Final = 2.0

_TURN_SECONDS: Final = 0.001

#: A stop signal may be ignored, or have no effect in an orphaned process group.
_ATTEMPTS = 100


def stands_still(pid: int | None) -> bool:
    """Whether a process is stopped, has ended, or cannot be asked after (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return proc.stat(file.read()).state in "TtZX"
    except OSError:
        return True


@functools.cache
def has_terminal() -> bool:
    """Whether this process has a controlling terminal; asked in the runner only."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Job:
    """A child, as the keys at the runner's terminal reach it."""

    def __init__(self, child: ChildProcess) -> None:
        self._child = child

    # Ctrl-C -------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Ctrl-C: the child may tear down for a while; a second Ctrl-C ends that at once.

        Does nothing to a child that has ended.
        """
        try:
            self._child.end.send_signal(signal.SIGINT)
            self._wait_for_end(or_prompt=False)
        finally:
            self._child.kill()

    def pass_on(self) -> bool:
        """Ctrl-C while the child is at work: whether the child alone has to deal with it."""
        child = self._child
        if child.deadline.paused:
            child.end.send_signal(signal.SIGINT)
            return True
        if child.debugged:
            if child.inbox.unanswered:
                child.kill()  # it has not answered the last one
                return False
            child.inbox.unanswered = True
            child.end.send_signal(signal.SIGINT)
            return True
        at_prompt = False
        try:
            child.end.send_signal(signal.SIGINT)
            # After "continue" pdb takes a Ctrl-C for the wish to see where the test is.
            at_prompt = self._wait_for_end(or_prompt=True)
        finally:
            if not at_prompt:
                child.kill()
        return at_prompt

    def _wait_for_end(self, *, or_prompt: bool) -> bool:
        """For as long as a Ctrl-C may take; True when the child has opened a prompt instead."""
        child, inbox = self._child, self._child.inbox
        until = monotonic() + INTERRUPT_GRACE
        while inbox.pid1_status is None and not inbox.lost_sight and inbox.done is None:
            if or_prompt and child.deadline.paused:
                return True
            if not child.pump(until - monotonic()):
                break
        return False

    # Ctrl-Z -------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Ctrl-Z: the child stops with the runner, and so does its clock. Bounded.

        It stands still when this returns: until then it would read what is typed for the shell.
        """
        child, end, inbox = self._child, self._child.end, self._child.inbox
        child.deadline.hold()
        until = monotonic() + (_HOLD_SECONDS if end.open else 0)
        inbox.hear_until(until, lambda: end.pid1_pidfd is not None)
        inbox.supervisor.held = False
        end.send_signal(signals.hold_signal() if child.init else signal.SIGSTOP)
        if child.init:
            inbox.hear_until(until, lambda: inbox.supervisor.held)
        else:
            while not stands_still(end.pid1) and monotonic() < until:
                time.sleep(_TURN_SECONDS)

    def go_on(self) -> None:
        """The runner goes on, and so does the child."""
        self._child.deadline.release()
        number = signals.release_signal() if self._child.init else signal.SIGCONT
        self._child.end.send_signal(number)


@contextmanager
def stopping_with(hold: Callable[[], None], release: Callable[[], None]) -> Iterator[None]:
    """While this lasts, Ctrl-Z holds the child too; unless other code handles SIGTSTP."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL
    ):
        yield
        return

    def stop(*_: object) -> None:
        # Pressed twice, it is one stop; a Ctrl-C may come while the child is held.
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        try:
            hold()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, stop)
            release()

    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def await_foreground(stdin: int) -> None:
    """Stop until a shell has put this job into the foreground, if its terminal is our input.

    :param stdin: where a debugger will read.
    """
    for _ in range(_ATTEMPTS):
        try:
            if os.tcgetpgrp(stdin) == os.getpgrp():
                return
        except OSError:
            return  # no terminal, or not ours
        os.kill(0, signal.SIGTTIN)
