# SPDX-License-Identifier: MIT
"""Waiting for a child in an event loop, by its descriptors and without a thread."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from typing import Any


async def readable(descriptors: Iterable[int], seconds: float | None) -> None:
    """Until one of these can be read from, or so many seconds are over.

    :raises RuntimeError: outside of an event loop of asyncio or trio.
    """
    # One descriptor for all of them, and one that no other reader of the loop can have taken.
    with select.epoll() as any_of:
        for fd in descriptors:
            any_of.register(fd, select.EPOLLIN)
        trio = _trio()
        if trio is None:
            await _with_asyncio(any_of.fileno(), seconds)
            return
        with trio.CancelScope(deadline=_deadline(trio, seconds)):
            await trio.lowlevel.wait_readable(any_of.fileno())


def _trio() -> Any:
    """The module, if this is one of its tasks."""
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
