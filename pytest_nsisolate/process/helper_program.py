# SPDX-License-Identifier: MIT
"""A program of ours beside the runner: a fresh interpreter and not a fork.

It holds no page of the runner's. It is run by path, isolated (``python -P -s -S``: all of ``-I``
but ``-E``, because there are interpreters that do not start without PYTHONHOME), with the
descriptors that it uses at fixed numbers, and every signal blocked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from errno import ENOENT

from pytest_nsisolate.kernel.originals import fcntl, os, signal


def spawn(
    program: str, descriptors: Mapping[int, int], arguments: Sequence[str] = ()
) -> tuple[int, int]:
    """Start a program; :func:`end` is for its end.

    Uses posix_spawn(3), which neither copies the runner's page tables nor runs its at-fork hooks.

    :param program: the path of a module that imports the standard library only.
    :param descriptors: the number that each has there, and what it is a copy of.
    :param arguments: behind its path.
    :returns: its number and a pidfd of it.
    :raises OSError: when no process can be started.
    """
    if not sys.executable:
        raise FileNotFoundError(ENOENT, "sys.executable is empty")
    # The actions would overwrite one before they use it, where the standard streams are closed.
    above = max(descriptors) + 1
    copies = {
        number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for number, fd in descriptors.items()
    }
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-s", "-S", program, *arguments],
            _environment(),
            # Everything else is close-on-exec.
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
                *((os.POSIX_SPAWN_DUP2, copy, number) for number, copy in copies.items()),
            ],
            setpgroup=0,
            setsigmask=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        for copy in copies.values():
            os.close(copy)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def end(pid: int, pidfd: int) -> None:
    """Kill the program, reap it and close its pidfd."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # code in the runner waits for every child
    os.close(pidfd)


def _environment() -> dict[str, str]:
    """Variables that its interpreter may need to start (LD_LIBRARY_PATH); none that changes it."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONHOME" or not name.startswith("PYTHON")
    }
