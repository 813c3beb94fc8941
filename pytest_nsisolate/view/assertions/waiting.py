# SPDX-License-Identifier: MIT
"""Waiting with a bound: for a state of the world by looking again, for an exit by its pidfd.

Fact: the kernel does not tell that a port has come up or that a name has appeared. But it tells the
holder of a pidfd that the process has ended (pidfd_open(2)), also of one that is not its child.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from math import ceil
from typing import Final, TypeVar

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os, select, time

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02

#: What poll(2) takes at most, an int of milliseconds: 24 days.
_LONGEST_POLL: Final = 2**31 - 1


def until(look: Callable[[], T], within: float) -> T:
    """Look again and again until the answer is true; at least once.

    :param within: seconds.
    :returns: the last answer, true or not.
    """
    deadline = monotonic() + within
    pause = _FIRST_PAUSE
    while not (seen := look()):
        left = deadline - monotonic()
        if not left > 0:  # neither is a NaN
            break
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return seen


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """A descriptor of a process.

    :raises ProcessLookupError: if there is none of that number.
    """
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ends(descriptor: int, within: float) -> bool:
    """Whether the process of a pidfd ends in that time; a zombie has.

    :param within: seconds; ``math.inf`` is no bound.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    if within == math.inf:
        return bool(poller.poll(None))
    # poll takes a negative time for "without a bound". Rounded up: 0.4 ms must not become
    # "at once".
    return bool(poller.poll(ceil(min(max(within, 0) * 1000, _LONGEST_POLL))))


def result_of(descriptor: int) -> int | None:
    """How a child of ours has ended, as ``Popen.returncode`` says it; it may still be waited for.

    :returns: its exit status, minus the signal that killed it, or None if it is not our child.
    """
    flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
    try:
        found = os.waitid(os.P_PIDFD, descriptor, flags)
    except ChildProcessError:
        return None
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
