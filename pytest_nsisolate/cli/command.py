# SPDX-License-Identifier: MIT
"""The last steps of a process before it becomes the command: its terminal, then the program.

Fact: a terminal's name is looked up in the ``/dev/pts`` that a process sees, which may be a private
one: a terminal that was opened outside has no name then, and ``tty`` says that it is none.
Consequence: the process that is to have the terminal opens it, and sends the master out.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, NoReturn

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel.originals import fcntl, os, posix, shutil, signal, socket, termios

#: As env(1), nohup(1) and docker(1): what has failed is not the command.
NOT_STARTED: Final = 125

#: As timeout(1).
TIMED_OUT: Final = 124

#: What a shell says of a command that is not there, and of one that cannot be run.
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

#: A shell adds to this the number of the signal that has ended a command.
BY_SIGNAL: Final = 128

#: Python ignores these, and what is ignored stays so over execve(2).
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


def open_terminal() -> tuple[int, int]:
    """A pseudo-terminal, master and slave, in the mode and of the size of standard input's.

    :raises OSError: where there are no devices.
    """
    mode, size = termios.tcgetattr(0), fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    master, slave = os.openpty()
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    return master, slave


def take_terminal(channel: socket.socket, spare: tuple[int, int] | None) -> None:
    """Open a pseudo-terminal like the one that is standard input, and make it one's own.

    It replaces the standard streams that are terminals; the others stay.
    Only a leader of a session that has no terminal can do this.

    :param channel: over which the master goes to the runner.
    :param spare: one that was opened elsewhere, for a place without devices: it has no name there.
    :raises StepError: ``open a terminal``.
    """
    with failing("open a terminal", None):
        try:
            master, slave = open_terminal()
        except OSError:
            if spare is None:
                raise
            master, slave = spare
        socket.send_fds(channel, [b"m"], [master])
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for stream in range(3):
            if os.isatty(stream):
                os.dup2(slave, stream)
        os.close(master)
        os.close(slave)


def shell() -> list[str]:
    """The user's own, if it is there.

    :raises StepError: when there is none at all.
    """
    for path in (os.environ.get("SHELL", ""), "/bin/sh"):
        if path and shutil.which(path):
            return [path]
    raise StepError("look for a shell", "mount", errno.ENOENT, "neither $SHELL nor /bin/sh")


def execute(command: Sequence[str], name: str, *, directory: str | None = None) -> NoReturn:
    """Become the command, which is looked for in ``PATH``; a failure is said as shells say it.

    :param name: the subcommand that says it.
    :param directory: where it starts; None: here.
    """
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as error:
            _give_up(NOT_STARTED, f"{name}: {directory}: {os.strerror(error.errno or 0)}")
    try:
        os.execvp(command[0], [*command])
    except (FileNotFoundError, NotADirectoryError):
        _give_up(NOT_FOUND, f"{name}: {command[0]}: command not found")
    except OSError as error:
        if "/" not in command[0] and shutil.which(command[0], os.F_OK) is None:
            # The refusal is of a folder of PATH, which the user may not enter.
            _give_up(NOT_FOUND, f"{name}: {command[0]}: command not found")
        _give_up(NOT_EXECUTABLE, f"{name}: {command[0]}: {os.strerror(error.errno or 0)}")


def _give_up(status: int, text: str) -> NoReturn:
    try:
        os.write(2, f"{text}\n".encode(errors="surrogateescape"))
    finally:
        posix._exit(status)
