# SPDX-License-Identifier: MIT
"""Descriptors that the runner waits for together (poll(2))."""

from __future__ import annotations

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel.originals import select
from pytest_nsisolate.process.channel import raised_by_handler


class Watched:
    """Until each of them is forgotten. The caller has opened them, and closes them."""

    def __init__(self, *descriptors: int) -> None:
        self._poller = select.poll()
        self.descriptors: set[int] = set()
        for fd in descriptors:
            self.add(fd)

    def add(self, fd: int) -> None:
        """Wait for this one too."""
        self.descriptors.add(fd)
        self._poller.register(fd, select.POLLIN)

    def forget(self, fd: int) -> bool:
        """Wait for it no more; whether it was waited for."""
        if fd not in self.descriptors:
            return False
        self.descriptors.remove(fd)
        self._poller.unregister(fd)
        return True

    def wait(self, seconds: float | None) -> list[int]:
        """Those that can be read, or have ended; none when the time is over.

        :raises StepError: ``poll``.
        """
        try:
            ready = self._poller.poll(None if seconds is None else max(seconds, 0) * 1000)
        except OSError as error:
            if raised_by_handler(error):
                raise
            raise StepError("poll", None, error.errno or 0) from error
        return [fd for fd, _ in ready]
