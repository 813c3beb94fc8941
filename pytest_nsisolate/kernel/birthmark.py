# SPDX-License-Identifier: MIT
"""Whether this process is a copy of the one that asked for a fork.

Fact: what fork(2) returns decides which code runs next. A 0 in the runner would have it go the
child's way, which ends in ``_exit(0)``: a failing run with the status of a good one. A number does
not tell the two apart, because both may be PID 1.

Consequence: a page that the kernel wipes in every copy (madvise(2), MADV_WIPEONFORK; Linux 4.14).

What still fails: on an older kernel nothing is found out.
"""

from __future__ import annotations

import functools
from typing import Final

from pytest_nsisolate.kernel.originals import mmap

_MADV_WIPEONFORK: Final = 18


def leave() -> None:
    """Before a fork: mark this process."""
    page = _page()
    if page is not None:
        page[0] = 1


def is_original() -> bool:
    """Where fork(2) has returned 0: whether this is, all the same, the process that called it."""
    page = _page()
    return page is not None and page[0] == 1


@functools.cache
def _page() -> mmap.mmap | None:
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:
        return None
    return page
