# SPDX-License-Identifier: MIT
"""What a command has from its user: a terminal, with its mode and its size, and signals.

The mode has to be given back. You can poll for signals, as for everything else that is waited for.
"""

from __future__ import annotations

from types import FrameType
from typing import Any, Final

from pytest_nsisolate.kernel.originals import fcntl, os, signal, termios

# The places in what tcgetattr(3) gives.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class Terminal:
    """A terminal, and the mode in which it was found.

    :param fd: a descriptor of it that can be read.
    :raises termios.error: when it is none.
    """

    def __init__(self, fd: int = 0) -> None:
        self.fd = fd
        self.saved: list[Any] = termios.tcgetattr(fd)
        self._changed = False

    def raw(self) -> None:
        """Every key is a byte, and every byte is shown as it is (cfmakeraw(3)).

        In the background this stops the caller, as for every program that wants the terminal.

        :raises termios.error: when the terminal is gone.
        """
        mode = termios.tcgetattr(self.fd)
        mode[_IFLAG] &= ~(
            (termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
            | (termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        )
        mode[_OFLAG] &= ~termios.OPOST
        mode[_CFLAG] = mode[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[_LFLAG] &= ~(
            (termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG) | termios.IEXTEN
        )
        mode[_CC] = [*mode[_CC]]
        mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        self._changed = True
        # Now, and without a flush: what was typed ahead stays.
        termios.tcsetattr(self.fd, termios.TCSANOW, mode)

    def restore(self) -> None:
        """Give it back as it was found; not while another job has it. May be called again."""
        if not self._changed:
            return
        try:
            if os.tcgetpgrp(self.fd) == os.getpgrp():
                termios.tcsetattr(self.fd, termios.TCSANOW, self.saved)
                self._changed = False
        except (OSError, termios.error):
            pass  # it is gone, or not ours

    def give_size(self, other: int) -> None:
        """Make another terminal as large as this one (ioctl_tty(2)); its group gets SIGWINCH."""
        try:
            size = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(other, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # one of them is gone, which is seen elsewhere

    def open_screen(self) -> int:
        """A descriptor to write to, which never blocks; the one of the user's stays as it is.

        :raises OSError: when no descriptor is left.
        """
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(f"/proc/self/fd/{self.fd}", flags)
        except OSError:  # it is another user's (su), or there is no /proc
            return os.dup(self.fd)


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
    """What an unhandled Ctrl-Z does; returns when this process is told to go on."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        # Has no effect in an orphaned process group, where no shell could undo it.
        signal.raise_signal(signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, handler)
