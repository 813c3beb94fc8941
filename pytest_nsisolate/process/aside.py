# SPDX-License-Identifier: MIT
"""A step for which the kernel needs some time, taken by a copy of this process meanwhile.

Fact: some calls do nothing but wait for the kernel. A thread would hold the GIL in them, and with a
second task in this process no child could take the short way (:mod:`.launch`).
Consequence: a copy makes the call, on a descriptor that both have, and ends. What it changes in
memory is lost.

Fact: the suite's code may wait for any child, and may count the signals of their ends.
What we do: the copy ends without a signal, so ``wait`` does not see it (clone(2), wait(2)).

What still fails: until it is reaped, the copy counts in a limit of processes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.clone import raw_clone
from pytest_nsisolate.kernel.originals import os, posix
from pytest_nsisolate.process.launch import has_one_task

#: Wait for a child that ends without a signal too (wait(2)).
_WALL: Final = 0x40000000


class Aside:
    """One step.

    :param step: a call of the kernel that changes what copies of this process share; it may raise
        OSError and nothing else, and does no harm when it is taken twice.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._done = False
        #: The number of the copy, until it is reaped.
        self.pid: int | None = None

    def begin(self) -> None:
        """Make the copy, where no thread can hold a lock that nobody would release in it."""
        if not has_one_task():
            return
        mask = process.block_signals()
        try:
            pid = raw_clone(0, end_signal=0)
            if pid == 0:
                _carry_out(self._step)
            self.pid = pid
        except OSError:
            pass  # no process can be started: finish() takes the step
        finally:
            process.restore_signals(mask)

    def finish(self) -> None:
        """Wait until the copy has taken it. Without one, or when it was lost, take it here.

        :raises OSError: of the step. The next call takes it once more.
        """
        if self._done:
            return
        code = None if self.pid is None else self._reap()
        if code is None:
            self._step()
        elif code:
            raise OSError(code, os.strerror(code))
        self._done = True

    def close(self) -> None:
        """Nobody needs it any more: wait for the copy, if there is one."""
        if self.pid is not None:
            self._reap()
        self._done = True

    def _reap(self) -> int | None:
        """The error number of the step, 0 for none; None if the copy cannot tell."""
        code = None
        assert self.pid is not None
        with suppress(ChildProcessError):  # an exception was raised in here before, or by the suite
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, _WALL)[1])
            code = None if status < 0 else status
        self.pid = None
        return code


def _carry_out(step: Callable[[], object]) -> None:
    code = errno.EIO
    try:
        step()
        code = 0
    except OSError as error:
        code = error.errno or code
    finally:
        posix._exit(code)
