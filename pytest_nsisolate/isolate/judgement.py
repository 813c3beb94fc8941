# SPDX-License-Identifier: MIT
"""What a call raises that has ended without an answer, or was not let in."""

from __future__ import annotations

from typing import TypeAlias

import pytest

from pytest_nsisolate.errors import (
    IsolatedExit,
    IsolatedLoss,
    IsolatedRefusal,
    IsolatedSignal,
    IsolatedTimeout,
)
from pytest_nsisolate.host.refusal import REFUSED, Refusal
from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.process import outcome
from pytest_nsisolate.process.diagnosis import WORLD
from pytest_nsisolate.request.model import IsolationRequest

_FATAL = "Fatal Python error"
_CALLER = re.compile(
    r'^  File ".*[/\\]isolate[/\\]call\.py", line \d+ in answer\n(?:  File .*\n)*', re.MULTILINE
)


Ended: TypeAlias = (
    outcome.Finished | outcome.Crashed | outcome.Exited | outcome.TimedOut | outcome.Broken
)


def error_of(
    ended: Ended, name: str, faults: str, *, command: bool, ending: bool
) -> BaseException | None:
    """The error of a call that was let in; None if its answer counts.

    :param name: of the function or command, for the texts.
    :param faults: what the fault handler has written, see :func:`without_caller`.
    :param command: whether a command was waited for: the stacks are then those of our own code.
    :param ending: whether the function had returned, and its process was ending.
    """
    error: BaseException
    match ended:
        case outcome.Finished() if _FATAL in faults:
            error = IsolatedLoss(name, "it had a fatal error, and went on")
        case outcome.Finished():
            return None
        case outcome.Crashed(signal=number):
            error = IsolatedSignal(name, number, ended.name)
        case outcome.Exited(status=status):
            error = IsolatedExit(name, status)
        case outcome.TimedOut(seconds=seconds, diagnosis=diagnosis):
            found = without_caller(diagnosis)
            if command:
                found = "".join(found.rpartition(WORLD)[1:])
            error = IsolatedTimeout(f"the exit of {name}" if ending else name, seconds, found)
            error.add_note(found)
            return error
        case outcome.Broken(reason=reason):
            error = IsolatedLoss(name, reason)
    if faults:
        error.add_note(faults)
    return error


def refusal(refused: Refusal, request: IsolationRequest, what: str) -> BaseException:
    """What a call raises that this host does not let in.

    :param refused: with its cause and its remedy.
    :param what: the function, the command or the box that it is for.
    """
    if request.may_be_skipped and not refused.late:
        return pytest.skip.Exception(f"{what}: {REFUSED}{refused.headline()} ({refused.cause})")
    return IsolatedRefusal(refused.error, refused.cause, refused.remedy, what)


def without_caller(stacks: str) -> str:
    """The fault handler's stacks without the frames below the function: those are the caller's."""
    return _CALLER.sub("", stacks)
