# SPDX-License-Identifier: MIT
"""Huge pages for the memory of a big process that is cloned again and again.

Fact: a clone copies one entry for each page that a process has, and the end of the copy takes them
back: with 90 MB of objects beside pytest a fifth of an empty test's time. A huge page is one entry
for 512, and a write to it after the clone still copies 4 KiB, no more than before.

Fact: MADV_COLLAPSE makes huge pages of what is there, at once and whatever the host's policy is
(madvise(2), Linux 6.1). It fills what is not there yet: a sparse array would become real memory.

What we do: of private memory only what is nearly all there already. Content and addresses stay.

What still fails: an older kernel refuses, and a memory limit may. Then all stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pytest_nsisolate.kernel.libc import function
from pytest_nsisolate.kernel.originals import ctypes, mmap, open, os

_MADV_COLLAPSE: Final = 25

#: Bytes of a huge page where pages have 4 KiB.
_SIZE: Final = 2 << 20
_PAGES: Final = _SIZE // 4096

#: Pages that must be there already.
_ENOUGH: Final = _PAGES * 7 // 8

#: Fewer huge pages gain nothing that can be measured.
_WORTH_IT: Final = 16


def collapse() -> int:
    """Make huge pages of this process's memory, if it is big; how many were made."""
    if mmap.PAGESIZE != 4096:
        return 0
    with suppress(OSError, ValueError):
        found = list(_dense())
        madvise, size = function("madvise"), ctypes.c_size_t(_SIZE)
        if len(found) >= _WORTH_IT:
            return sum(
                madvise(ctypes.c_void_p(start), size, ctypes.c_long(_MADV_COLLAPSE)) == 0
                for start in found
            )
    return 0


def _dense() -> Iterator[int]:
    """Where huge pages could begin, in anonymous memory that is there (proc_pid_pagemap(5))."""
    with open("/proc/self/maps", "rb") as maps:
        lines = maps.read().splitlines()
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for line in lines:
            place, rights, _, _, _, *path = line.split()
            if rights != b"rw-p" or path not in ([], [b"[heap]"]):
                continue
            first, end = (int(part, 16) for part in place.split(b"-"))
            for start in range(-(-first // _SIZE) * _SIZE, end - _SIZE + 1, _SIZE):
                entries = os.pread(pagemap, 8 * _PAGES, start // 4096 * 8)
                # The highest bit of an entry says that the page is there.
                if sum(map((127).__lt__, entries[7::8])) >= _ENOUGH:
                    yield start
    finally:
        os.close(pagemap)
