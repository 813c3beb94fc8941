# SPDX-License-Identifier: MIT
"""What a child's supervisor says on its own socket, and how the runner answers it.

Where there is no supervisor these are the words of PID 1, and of the init (:mod:`.channel` has the
letters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import idmap, proc
from pytest_nsisolate.kernel.originals import os, signal
from pytest_nsisolate.process.channel import MESSAGE, raised_by_handler

if TYPE_CHECKING:
    from pytest_nsisolate.process.channel import RunnerEnd


class SupervisorMessages:
    """All that it has said so far.

    :param end: the runner's descriptors.
    :param maps: written for the child when it asks, if the runner is the one to do it.
    """

    def __init__(self, end: RunnerEnd, maps: idmap.IdMaps | None) -> None:
        self._end = end
        self._maps = maps
        #: The test stands still, as asked for by a Ctrl-Z.
        self.held = False
        self.test_status: int | None = None
        self.pid1_status: int | None = None
        #: What it asked for, and this host does not give; the child has to be ended.
        self.refusal: Refusal | None = None
        #: It says nothing any more.
        self.over = False
        # The init holds the other end too: when the supervisor is gone, a read would block.
        os.set_blocking(end.control, False)

    def read(self) -> bool:
        """Take in one message, without waiting; whether there was one.

        :raises StepError: when it cannot be read, or not be answered.
        """
        try:
            message = os.read(self._end.control, MESSAGE.size)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            message = b""
        except OSError as error:
            if raised_by_handler(error):
                raise
            raise StepError("read of its supervisor's words", None, error.errno or 0) from error
        if len(message) != MESSAGE.size:
            self.over = True
            return False
        letter, number = MESSAGE.unpack(message)
        if letter == b"U":
            self.write_maps(number or self._end.forked)
        elif letter == b"P":
            self._open_pid1(number)
        elif letter == b"T":
            self.test_status = number
        elif letter == b"H":
            self.held = True
        elif letter == b"S":
            self.pid1_status = number
            self.over = True
        return True

    def write_maps(self, pid: int) -> None:
        """Give a process its id maps, and let it go on.

        :raises StepError: when it cannot be told.
        """
        assert self._maps is not None
        try:
            idmap.write_maps(self._maps, pid)
        except StepError as error:
            self.refusal = Refusal.of(error)
        else:
            self._end.tell(b"G")

    def _open_pid1(self, pid: int) -> None:
        end = self._end
        try:
            if end.keeper is not None:
                pid = proc.child_by_number_inside(end.keeper, pid)
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            # The supervisor has been killed, and PID 1 with it: its pidfd says so. A keeper lives
            # on if a fixture of its has reaped the test, and waits for the word.
            if end.keeper is not None:
                end.tell(b"G")
        except OSError as error:
            self.refusal = Refusal("pidfd_open", None, error.errno or 0)
        else:
            if end.pid1_pidfd is not None:
                os.close(end.pid1_pidfd)  # the keeper's
            end.pid1_pidfd, end.pid1 = pidfd, pid
            if self.refusal is not None:
                # The word is for its supervisor; PID 1 would take it for its id map, and go on.
                end.send_signal(signal.SIGKILL)
            end.tell(b"G")
            if end.owed_signal is not None:
                end.send_signal(end.owed_signal)
