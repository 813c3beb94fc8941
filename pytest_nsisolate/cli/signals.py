# SPDX-License-Identifier: MIT
"""Signals as something that can be polled for, like everything else that a command waits for."""

from __future__ import annotations

from types import FrameType
from typing import Any, Final

from pytest_nsisolate.kernel.originals import os, signal

#: What a command passes on to the process that it stands for.
PASSED_ON: Final = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
)

#: What it follows itself: the window's size, and its own job control.
_FOLLOWED: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Signals:
    """While it is open no signal interrupts: each waits in a pipe until it is asked for.

    A signal that the caller has ignored (``nohup``) stays ignored. Main thread only.

    :param fd: readable when there are some.
    """

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Any] = {}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*PASSED_ON, *_FOLLOWED):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _noted)

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Everything is as it was before."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.fd)
        os.close(self._write)

    def taken(self) -> list[int]:
        """Those that have come, in their order; each is given once."""
        try:
            return [*os.read(self.fd, 4096)]
        except BlockingIOError:
            return []


def _noted(number: int, frame: FrameType | None) -> None:
    """The number is in the pipe already (:func:`signal.set_wakeup_fd`)."""


def stop_here() -> None:
    """What an unhandled Ctrl-Z does; returns when somebody has this process go on."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        # Has no effect in an orphaned process group, where nobody could undo it.
        signal.raise_signal(signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, handler)
