# SPDX-License-Identifier: MIT
"""The four signals that the plugin gives a meaning, and the names of all.

They are real-time ones, because programs rarely use these, and the highest below SIGRTMAX, far from
those that libc keeps for itself (signal(7)). Of two that are pending the lower one is taken first.
"""

from __future__ import annotations

from pytest_nsisolate.kernel.originals import signal

# Functions, because not every platform has real-time signals.


def release_signal() -> int:
    """At which an init lets the test go on; higher than the next, so it is taken after that."""
    return signal.SIGRTMAX - 1


def hold_signal() -> int:
    """At which an init stops the test; SIGSTOP would stop the init."""
    return signal.SIGRTMAX - 4


def stack_signal() -> int:
    """At which a child dumps its stacks."""
    return signal.SIGRTMAX - 2


def coverage_signal() -> int:
    """At which a child whose budget is over hands over what it has measured."""
    return signal.SIGRTMAX - 3


def signal_name(number: int) -> str:
    """The symbol of a signal, ``"SIGTERM"``; real-time signals have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
