# SPDX-License-Identifier: MIT
"""Waiting for a child in an event loop, by its descriptors and without a thread.

Fact: a descriptor that is closed leaves an epoll(7) without a word, and ending the child closes all
of them.

Consequence: each waiter also waits for an eventfd(2), which is written then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from pytest_nsisolate.kernel.originals import os, select, threading


class Waiters:
    """Those that wait for one child.

    :param lock: held while the child's descriptors are closed.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._bells: set[int] = set()
        self._over = False

    def wake(self) -> None:
        """The descriptors are closed: every wait for them ends, and no other begins."""
        with self._lock:
            self._over = True
            for bell in self._bells:
                os.eventfd_write(bell, 1)

    async def readable(self, descriptors: Iterable[int], seconds: float | None) -> None:
        """Wait until one of these can be read, :meth:`wake` is called, or the time is over.

        :raises RuntimeError: outside of an event loop of asyncio or trio.
        """
        # One descriptor for all of them, which no other reader of the loop can have taken.
        with select.epoll() as any_of:
            bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                with self._lock:
                    if self._over:
                        return
                    self._bells.add(bell)
                    for fd in (bell, *descriptors):
                        any_of.register(fd, select.EPOLLIN)
                await _readable(any_of.fileno(), seconds)
            finally:
                with self._lock:
                    self._bells.discard(bell)
                    os.close(bell)


async def _readable(descriptor: int, seconds: float | None) -> None:
    trio = _trio()
    if trio is None:
        await _with_asyncio(descriptor, seconds)
        return
    with trio.CancelScope(deadline=_deadline(trio, seconds)):
        await trio.lowlevel.wait_readable(descriptor)


def _trio() -> Any:
    """The module, if this code runs in one of its tasks."""
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return None
    return trio


def _deadline(trio: Any, seconds: float | None) -> float:
    return float("inf") if seconds is None else float(trio.current_time()) + seconds


async def _with_asyncio(descriptor: int, seconds: float | None) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    timer = None if seconds is None else loop.call_later(seconds, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
        if timer is not None:
            timer.cancel()
