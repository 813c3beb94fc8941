# SPDX-License-Identifier: MIT
"""How one attempt at an isolated test ended: a closed union, matched arm by arm.

``Finished`` is the only arm under which the reports of the child count. Each of the others is an
answer to "why is there no completion record?", and fails the item (law 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.signals import signal_name


@dataclass(frozen=True, slots=True)
class Finished:
    """The child said that set-up, call and teardown ran.

    :param alone: nothing else was alive in its PID namespace, so the runner need not await its end.
    """

    alone: bool


@dataclass(frozen=True, slots=True)
class Crashed:
    """A signal ended the child (wait(2), ``WIFSIGNALED``)."""

    signal: int

    @property
    def name(self) -> str:
        """``"SIGSEGV"``, or ``"signal 35"`` for a real-time signal."""
        return signal_name(self.signal)


@dataclass(frozen=True, slots=True)
class Exited:
    """The child ended by itself before it was finished (``os._exit``, ``execve``)."""

    status: int


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The budget ran out and the child was killed.

    :param seconds: the budget.
    :param diagnosis: stacks and processes as they were just before the kill, as text.
    """

    seconds: float
    diagnosis: str = field(repr=False)


def read_refusal(data: Mapping[str, object]) -> Refusal:
    """The refusal that a child has sent; what is missing there is left empty."""
    namespace, errno, filtered = data.get("namespace"), data.get("errno"), data.get("filtered")
    return Refusal(
        step=str(data.get("step")),
        namespace=namespace if isinstance(namespace, str) else None,
        errno=errno if isinstance(errno, int) else 0,
        detail=str(data.get("detail") or ""),
        filtered=filtered if isinstance(filtered, bool) else None,
    )


@dataclass(frozen=True, slots=True)
class Broken:
    """The machinery lost the child, or its stream is not what the protocol allows."""

    reason: str


#: Exit status of a process of ours that could not do its part; the reason went over the pipe.
EXIT_REFUSED: Final = 97

#: Exit status of a copy of the child that came back from the test's body.
EXIT_STRAY: Final = 98

Outcome: TypeAlias = Finished | Crashed | Exited | TimedOut | Refusal | Broken


def from_wait_status(status: int) -> Crashed | Exited:
    """The outcome that a raw wait status stands for (wait(2))."""
    if os.WIFSIGNALED(status):
        return Crashed(os.WTERMSIG(status))
    return Exited(os.waitstatus_to_exitcode(status))


def of_end(status: int | None, *, whole: bool) -> Crashed | Exited | Broken:
    """The outcome of a child that has ended without a completion record.

    :param status: the raw wait status of the test, None if it is not known.
    :param whole: its last frame had come to its end.
    """
    if status is None:
        return Broken(
            "how it ended is not known: its supervisor was killed, or a debugger keeps it"
        )
    ended = from_wait_status(status)
    if whole:
        return ended
    how = ended.name if isinstance(ended, Crashed) else f"exit status {ended.status}"
    return Broken(f"its stream was cut off ({how})")


def describe(outcome: Crashed | Exited | TimedOut | Broken, *, phase: str) -> str:
    """One line for the head of a report.

    :param phase: where it happened: ``setup``, ``call`` or ``teardown``; ``exit`` is behind them.
    """
    where = "at its exit" if phase == "exit" else f"in {phase}"
    match outcome:
        case Crashed():
            return f"isolated test crashed {where}: killed by {outcome.name}"
        case Exited(status=status):
            return f"isolated test ended {where}: exit status {status} before it was finished"
        case TimedOut(seconds=seconds):
            return f"isolated test timed out after {seconds:g} s {where}"
        case Broken(reason=reason):
            return f"isolated test lost {where}: {reason}"


def headline(longrepr: object) -> str:
    """The first line of a report's ``longrepr``, as summaries show it."""
    if isinstance(longrepr, tuple):
        return str(longrepr[2]).partition("\n")[0].removeprefix("Skipped: ")
    crash = getattr(longrepr, "reprcrash", None)
    text = longrepr if crash is None else crash.message
    return text.partition("\n")[0] if isinstance(text, str) else ""
