# SPDX-License-Identifier: MIT
"""How long a child may go on: a deadline on the runner's clock that can be stopped.

The child's own clock is no use, because a time namespace moves it. The clock stands still while
you type at a prompt inside, and while the runner itself is stopped (Ctrl-Z).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pytest_nsisolate.kernel.clock import monotonic

#: Seconds for what a test has left for the end of its process; its threads have their own bound.
EXIT_SECONDS: Final = 10.0


class Deadline:
    """Seconds that are left, until they are set anew.

    :param seconds: from now; None is no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.paused = False
        """Whether the user is at a prompt, with a limit or without."""
        self._until: float | None = None
        self._kept: float | None = None
        self._held_since = 0.0
        self.set(seconds)

    def set(self, seconds: float | None) -> None:
        """So many seconds from now; None lifts the limit."""
        self._until = None if seconds is None else monotonic() + seconds

    def leave(self, seconds: float) -> None:
        """At least so many seconds from now."""
        if (left := self.left) is not None and left < seconds:
            self.set(seconds)

    @property
    def left(self) -> float | None:
        """Seconds, negative when it is over; None without a limit, or while it is paused."""
        return None if self._until is None else self._until - monotonic()

    def pause(self) -> None:
        """The user has a prompt inside."""
        if not self.paused:
            self.paused = True
            self._kept, self._until = self.left, None

    def resume(self) -> None:
        """The prompt is over."""
        self.paused = False
        if self._kept is not None:
            self.set(self._kept)
            self._kept = None

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While this lasts no time is counted, unless a limit is set anew."""
        kept, self._until = self.left, None
        try:
            yield
        finally:
            self._take_up(kept)

    def _take_up(self, kept: float | None) -> None:
        if self._until is None and kept is not None:
            if self.paused:
                self._kept = kept
            else:
                self.set(kept)

    def hold(self) -> None:
        """The runner is about to be stopped."""
        self._held_since = monotonic()

    def release(self) -> None:
        """The runner goes on."""
        if self._until is not None:
            self._until += monotonic() - self._held_since
