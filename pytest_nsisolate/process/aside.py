# SPDX-License-Identifier: MIT
"""A step that takes the kernel long, done by a copy of this process while this one goes on.

Fact: some calls do nothing but wait for the kernel. A thread would hold the GIL in them, and with a
second task in this process no child could take the short way (:mod:`.launch`).
Consequence: a copy makes the call, on a descriptor that both have, and ends. What it changes in
memory is lost.

Fact: code of the suite's may wait for any child, and may count the signals of their ends.
What we do: the copy ends without a signal, so ``wait`` does not see it (clone(2), wait(2)).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.clone import raw_clone
from pytest_nsisolate.kernel.originals import os, posix
from pytest_nsisolate.process.launch import has_one_task

#: Wait for a child that ends without a signal too (wait(2)).
_WALL: Final = 0x40000000


class Aside:
    """One step under way.

    :param step: a call of the kernel that changes what copies of this process share; it may raise
        OSError and nothing else.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._step: Callable[[], object] | None = step
        self._pid: int | None = None
        if not has_one_task():
            return  # a copy might wait for a lock that nobody holds there
        mask = process.block_signals()
        try:
            pid = raw_clone(0, end_signal=0)
            if pid == 0:
                _carry_out(step)
            self._pid = pid
        except OSError:
            pass  # there is no process left: it is done without
        finally:
            process.restore_signals(mask)

    @property
    def pids(self) -> frozenset[int]:
        """The number of the copy, until it is reaped."""
        return frozenset(() if self._pid is None else (self._pid,))

    def finish(self) -> None:
        """Wait until it is done, or do it now if there is no copy, or if that has failed before.

        :raises OSError: of the step; EINTR if the copy was killed.
        """
        if self._pid is not None:
            status = self._reap()
            code = errno.EINTR if status < 0 else status
            if code:
                raise OSError(code, os.strerror(code))
        elif self._step is not None:
            self._step()
        self._step = None

    def close(self) -> None:
        """Nobody needs it any more: wait for the copy, if there is one."""
        if self._pid is not None:
            self._reap()
        self._step = None

    def _reap(self) -> int:
        pid, self._pid = self._pid, None
        assert pid is not None
        return os.waitstatus_to_exitcode(os.waitpid(pid, _WALL)[1])


def _carry_out(step: Callable[[], object]) -> None:
    code = errno.EIO
    try:
        step()
        code = 0
    except OSError as error:
        code = error.errno or code
    finally:
        posix._exit(code)
