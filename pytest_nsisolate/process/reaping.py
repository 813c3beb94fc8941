# SPDX-License-Identifier: MIT
"""How the runner waits for the end of what it has forked, and reaps it: always bounded.

The wait is a ``poll`` on the pidfd. Where that is refused the runner asks again and again
(waitid(2) with ``WNOHANG``), because a child that is not reaped stays as a zombie until the runner
ends.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, select, signal, time
from pytest_nsisolate.process.channel import STEP_SECONDS, raised_by_handler

_TURN_SECONDS: Final = 0.005


def await_end(pid: int, pidfd: int) -> bool:
    """Whether a child ends within the time that a step may take; it is not reaped here."""
    waiter = select.poll()
    waiter.register(pidfd, select.POLLIN)
    try:
        return bool(waiter.poll(STEP_SECONDS * 1000))
    except OSError:
        return ask_after(pid)


def obstacle(pid1: int | None) -> str:
    """Why a killed PID 1 is still there, as far as the kernel tells (proc_pid_wchan(5))."""
    try:
        with open(f"/proc/{pid1}/wchan", encoding="utf-8") as file:
            place = file.read()
    except OSError:
        place = ""
    if place != "zap_pid_ns_processes":
        return f"it does not end, {STEP_SECONDS:g} s after it was killed ({place or 'unknown'})"
    return (
        f"PID 1 cannot end (zap_pid_ns_processes, {STEP_SECONDS:g} s after the kill): a process"
        " outside has started one in its namespace (nsenter, setns) and does not wait for it;"
        " end the one outside"
    )


def end(pidfd: int) -> None:
    """SIGKILL; nothing to a child that has been reaped already."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def reap(pid: int, *, over: bool) -> int | None:
    """Reap a child that has ended, or leave it: one that cannot end is not waited for.

    :returns: its raw wait status (wait(2)); None if it was left, or reaped by other code.
    :raises StepError: ``waitpid``.
    """
    try:
        # A debugger may have it, and then it is the debugger that has to wait first (ptrace(2)).
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if not reaped and over and ask_after(pid):
            reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # Reaped elsewhere: SIGCHLD is ignored in this runner, or the suite waits for any child.
        return None
    except OSError as error:
        if raised_by_handler(error):
            raise
        raise StepError("waitpid", None, error.errno or 0) from error
    return status if reaped else None


def end_and_reap(pid: int, pidfd: int) -> None:
    """All three, for a child that is given up."""
    end(pidfd)
    reap(pid, over=ask_after(pid))


def ask_after(pid: int) -> bool:
    """:func:`await_end` without a poll; True only when it can be reaped."""
    until = monotonic() + STEP_SECONDS
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with suppress(ChildProcessError):
        while os.waitid(os.P_PID, pid, options) is None:
            if monotonic() > until:
                return False
            time.sleep(_TURN_SECONDS)
    return True
