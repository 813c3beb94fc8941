# SPDX-License-Identifier: MIT
"""Ctrl-Z and ``&`` at the runner's terminal, for a child that is in another session.

Fact: the terminal stops the runner's process group only. A child that had a debugger open would go
on reading, and what is typed for the shell would be carried out by the debugger.

Consequence: while it has a child, a runner that has a terminal takes SIGTSTP itself: it stops the
child, then itself, and lets the child go on after it; itself only when the child stands still, for
a process that is about to stop still takes a line from the terminal. Before a prompt it makes sure
that it is in the foreground, as the kernel would have it do by SIGTTIN (termios(3)).

What still fails: a runner that is stopped by SIGSTOP; a task of ``isolate`` while nobody waits for
it; and a test that reads the terminal itself (``input()``) when the runner is in the background.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open, os, signal, threading

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


@contextmanager
def stopping_with(hold: Callable[[], None], release: Callable[[], None]) -> Iterator[None]:
    """While this lasts, Ctrl-Z holds the child too; unless somebody else takes care of it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL
    ):
        yield
        return

    def stop(*_: object) -> None:
        # Whoever presses it twice wants one stop; a Ctrl-C may come while the child is held.
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
