# SPDX-License-Identifier: MIT
"""What is done about a child whose time is over: what there is to be seen, last words, the kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel import signals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.process import diagnosis, outcome
from pytest_nsisolate.process.channel import STEP_SECONDS

if TYPE_CHECKING:
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.wire.frames import Frame

#: Seconds that a child whose budget is over has to hand over what coverage has measured.
LAST_WORDS_SECONDS: Final = 0.5


def catch_up(child: ChildProcess) -> None:
    """The time is over, but the runner has not read for a while: what came in time counts."""
    if child.seconds_left != 0:
        return
    now = monotonic()
    while child.outcome is None:
        whole = child.inbox.reader.at_boundary
        # Wait for a frame that has begun, but not for a child that sends without end.
        left = now + (LAST_WORDS_SECONDS if whole else STEP_SECONDS) - monotonic()
        if left <= 0 or not child.pump(0 if whole else left):
            return
        child.look()


def expire(child: ChildProcess) -> None:
    """The deadline is over: the test's budget, or the machinery's own."""
    inbox = child.inbox
    if inbox.done is not None:
        child.kill()
        return
    # The diagnosis wakes a test that had stopped itself, or that waits in a C function: what it
    # sends then is too late, and its next phase empties the files.
    inbox.deaf = True
    child.captured = child.end.output.lost_text()
    if not inbox.ready:
        child.outcome = outcome.Broken(f"not ready after {STEP_SECONDS:g} s")
    else:
        budget = inbox.allowed
        assert budget is not None
        found = diagnosis.gather(child.end, init=child.init)
        if child.measured:
            _ask_for_coverage(child)
        child.outcome = outcome.TimedOut(budget, found)
    child.kill()


def _ask_for_coverage(child: ChildProcess) -> None:
    """A bounded chance; a test that blocks the signal, or hangs in C code, has none."""
    inbox = child.inbox
    words: list[Frame] = []
    inbox.last_words = words
    until = monotonic() + LAST_WORDS_SECONDS
    child.end.send_signal(signals.coverage_signal())
    while inbox.pid1_status is None and not inbox.lost_sight and inbox.last_words is words:
        if any(frame.data.get("final") is True for frame in words):
            break
        if (left := until - monotonic()) <= 0 or not child.pump(left):
            break
    inbox.last_words = None
    inbox.frames.extend(words)
