# SPDX-License-Identifier: MIT
"""Between the user's terminal and the master of a pseudo-terminal, until a process has ended.

Fact: you end, stop and quit programs by keys that the terminal's line discipline turns into
signals. While the user's terminal is raw all keys are bytes; the pseudo-terminal's own line
discipline makes the signals, for its own foreground group. So job control, Ctrl-C and Ctrl-D are
those of the shell inside, and nothing has to be done for them here.

Fact: a terminal that is not read takes a few kilobytes and then blocks its writers. Writing in one
direction while the other is full is a deadlock. What we do: nothing here blocks; what cannot be
written yet is kept, and no more is read in that direction until it has gone.

Fact: a process that has ended may have written just before, and its terminal says EIO only when no
process has it open any more, which a daemon can delay for ever. What we do: after the end, read
what can be read without waiting, and then stop.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

from pytest_nsisolate.cli.terminal import PASSED_ON, Signals, Terminal, stop_here
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import fcntl, os, select, signal, termios

_CHUNK: Final = 1 << 12

#: More than this is not read before it has gone.
_WAITING: Final = 1 << 16

#: Seconds after which a terminal that no process has open is looked at again: one may open it.
_NOBODY: Final = 0.1

#: _IOW('T', 0x36, int): a signal for the foreground group of a pseudo-terminal (ioctl_tty(2)).
_TIOCSIG: Final = 0x40045436

#: What the line discipline makes of Ctrl-C and Ctrl-\.
_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)


class End(enum.Enum):
    """Why a relay is over.

    ENDED: the process has ended, and all its output was passed on.
    LATE: the seconds are over.
    HUNG_UP: the user's terminal is gone, or a signal wants the end.
    """

    ENDED = enum.auto()
    LATE = enum.auto()
    HUNG_UP = enum.auto()


def relay(
    master: int,
    ended: int,
    *,
    terminal: Terminal | None = None,
    signals: Signals | None = None,
    seconds: float | None = None,
    until: int | None = None,
    deliver: Callable[[int], bool] | None = None,
) -> End:
    """Be the wire between the user's terminal and a pseudo-terminal; main thread only.

    The user's terminal is raw meanwhile, and as it was before whatever happens.

    :param master: of the pseudo-terminal; stays the caller's, and does not block afterwards.
    :param ended: a pidfd; the relay is over when it is readable and the master has been drained.
    :param terminal: the user's; without, that of standard input.
    :param signals: in force already; without, for as long as this lasts.
    :param seconds: how long at most.
    :param until: a descriptor; when it can be read, the relay hangs up.
    :param deliver: what to do with a signal for this process; False wants the relay to hang up.
        Without, Ctrl-C and Ctrl-\\ by kill(1) go to the foreground group inside, and all others
        hang up.
    """
    ours = Terminal() if terminal is None else terminal
    with nullcontext(signals) if signals is not None else Signals() as taken:
        wire = _Wire(master, ended, ours, taken, until, deliver)
        try:
            return wire.run(seconds) if wire.take_over() else End.HUNG_UP
        finally:
            ours.restore()
            wire.close()


def press(master: int, number: int) -> bool:
    """SIGINT or SIGQUIT for the foreground group of a pseudo-terminal; others it cannot take."""
    if number not in _KEYS:
        return False
    try:
        fcntl.ioctl(master, _TIOCSIG, number)
    except OSError:
        return False
    return True


class _Wire:
    """Two directions, each with what has been read and not been written."""

    def __init__(
        self,
        master: int,
        ended: int,
        terminal: Terminal,
        signals: Signals,
        until: int | None,
        deliver: Callable[[int], bool] | None,
    ) -> None:
        self._master = master
        self._ended = ended
        self._terminal = terminal
        self._signals = signals
        self._until = until
        self._deliver = deliver or (lambda number: press(master, number))
        self._screen = terminal.open_screen()
        self._typed = bytearray()
        self._shown = bytearray()
        self._over = False
        self._nobody = False
        os.set_blocking(master, False)

    def close(self) -> None:
        os.close(self._screen)

    def run(self, seconds: float | None) -> End:
        until = None if seconds is None else monotonic() + seconds
        while True:
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return End.LATE
            ready = self._poll(left)
            if self._signals.fd in ready and not self._take_signals():
                return End.HUNG_UP
            if not self._pass_on(ready):
                return End.HUNG_UP
            if self._over and not self._shown and not self._readable():
                return End.ENDED
            if self._until in ready and not self._over:
                return End.HUNG_UP
            self._over = self._over or self._ended in ready

    def _poll(self, left: float | None) -> dict[int, int]:
        """What can be done now; a descriptor is asked only about what there is to do."""
        poller = select.poll()
        poller.register(self._signals.fd, select.POLLIN)
        master = select.POLLOUT if self._typed else 0
        if not self._over:
            poller.register(self._ended, select.POLLIN)
            if self._until is not None:
                poller.register(self._until, select.POLLIN)
            # Once the process has ended, nothing is typed for it.
            if len(self._typed) < _WAITING:
                poller.register(self._terminal.fd, select.POLLIN)
        if self._shown:
            poller.register(self._screen, select.POLLOUT)
        else:
            master |= select.POLLIN
        patience = left
        if self._nobody and not self._over:
            patience = _NOBODY if left is None else min(left, _NOBODY)
            self._nobody = False
        elif master:
            poller.register(self._master, master)
        if self._over and not self._shown:
            patience = 0
        return dict(poller.poll(None if patience is None else patience * 1000))

    def _pass_on(self, ready: dict[int, int]) -> bool:
        """One turn of both directions; False when the user's terminal is gone."""
        if self._terminal.fd in ready:
            typed = _read(self._terminal.fd)
            if typed == b"":
                return False
            self._typed += typed or b""
        if self._screen in ready and not _write(self._screen, self._shown):
            return False
        events = ready.get(self._master, 0)
        if events and not self._shown:
            shown = _read(self._master)
            self._nobody = shown == b""
            self._shown += shown or b""
        if events & select.POLLOUT:
            _write(self._master, self._typed)
        return True

    def _readable(self) -> bool:
        """Whether the master has something still; the kernel brings in what is on its way."""
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        return any(events & select.POLLIN for _, events in poller.poll(0))

    def _take_signals(self) -> bool:
        """False when one of them wants the end."""
        for number in self._signals.taken():
            if number == signal.SIGWINCH:
                self._terminal.give_size(self._master)
            elif number == signal.SIGTSTP:
                self._terminal.restore()
                stop_here()
                if not self.take_over():
                    return False
            elif number == signal.SIGCONT:
                # The kernel sends one when a terminal is closed, just after its SIGHUP.
                if not self.take_over():
                    return False
            elif number in PASSED_ON and not self._deliver(number):
                return False
        return True

    def take_over(self) -> bool:
        """The user's terminal is a wire from now on; False when it is gone."""
        try:
            self._terminal.raw()
        except termios.error:
            return False
        self._terminal.give_size(self._master)
        return True


def _read(fd: int) -> bytes | None:
    """What there is, ``b""`` when the other side has gone, None when there is nothing now."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:  # EIO: no process has this terminal open
        return b""


def _write(fd: int, waiting: bytearray) -> bool:
    """Write what can be written, and take it away; False when the other side has gone."""
    try:
        del waiting[: os.write(fd, waiting[:_CHUNK])]
    except BlockingIOError:
        pass
    except OSError:
        waiting.clear()
        return False
    return True
