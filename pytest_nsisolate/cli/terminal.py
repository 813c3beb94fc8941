# SPDX-License-Identifier: MIT
"""The user's terminal: its mode, which has to be given back, and its size."""

from __future__ import annotations

from typing import Any

from pytest_nsisolate.kernel.originals import fcntl, os, termios

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
