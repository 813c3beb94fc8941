# SPDX-License-Identifier: MIT
"""Huge pages of what is there, and of nothing else."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pytest_nsisolate.kernel import huge_pages
from tests.support import needs

#: Room for forty huge pages, wherever the mapping begins.
SIZE = 41 * (2 << 20)
PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)


@contextmanager
def memory(every: int) -> Iterator[mmap.mmap]:
    """Private memory of which every so manieth page is there."""
    with mmap.mmap(-1, SIZE, flags=PRIVATE) as made:
        made.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, SIZE, every * mmap.PAGESIZE):
            made[at : at + 8] = at.to_bytes(8, "little")
        made.madvise(mmap.MADV_HUGEPAGE)
        yield made


def works() -> bool:
    """Whether this kernel makes huge pages when it is asked to."""
    if sys.platform != "linux" or mmap.PAGESIZE != 4096:
        return False
    try:
        with memory(1) as made:
            made.madvise(25)
    except (OSError, ValueError):
        return False
    return True


pytestmark = needs(works(), "needs a kernel with MADV_COLLAPSE")


def in_a_child(body: Callable[[], bool]) -> bool:
    """What it says in a process of its own, whose memory is nobody else's concern."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if body() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def resident() -> int:
    """Bytes of this process's own memory (proc_pid_status(5))."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_what_is_there_is_collapsed_and_stays_what_it_is() -> None:
    def body() -> bool:
        with memory(1) as made:
            before = made[:]
            return huge_pages.collapse() > 0 and made[:] == before

    assert in_a_child(body)


def test_what_is_not_there_does_not_become_real() -> None:
    """A sparse array of the suite's, beside enough that is worth it."""

    def body() -> bool:
        with memory(1), memory(4):
            before = resident()
            return huge_pages.collapse() > 0 and resident() - before < SIZE // 4

    assert in_a_child(body)


def test_a_kernel_that_refuses_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_MADV_COLLAPSE", 1 << 20)

    def body() -> bool:
        with memory(1):
            return huge_pages.collapse() == 0

    assert in_a_child(body)


def test_nothing_is_done_without_a_page_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("pytest_nsisolate.kernel.huge_pages.os.open", refuse)
    assert huge_pages.collapse() == 0
