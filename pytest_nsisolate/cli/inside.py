# SPDX-License-Identifier: MIT
"""Into the namespaces, the root directory and the working directory of another process, and a
command there.

Fact: setns(2) into a mount namespace leaves a process at the root of that namespace, and a test may
have another root. A path of the test's ``/proc/PID/root`` can only be looked up from outside.
Consequence: both directories are opened before, and entered after.

The user ids are the visitor's, as they are mapped there. A program inside gets no more capabilities
than one that the test starts: the bounding set is the test's.
"""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pytest_nsisolate.cli import command
from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import namespaces, proc, process
from pytest_nsisolate.kernel.originals import (
    fcntl,
    json,
    open,
    os,
    posix,
    select,
    shutil,
    signal,
    termios,
)
from pytest_nsisolate.process.supervisor import kill_descendants

#: What the second process says once it has joined.
ENTERED: Final = b"entered"

#: Seconds between the hang-up and the kill of a command whose pause is over.
_HANG_UP: Final = 1.0

#: The keys of a terminal that it shares with us are for the command.
_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is.

    :param names: kinds of namespaces that differ from the caller's.
    :param root: a descriptor of its root directory.
    :param cwd: likewise of its working directory.
    :param bounding: its bounding set of capabilities, as a mask.
    """

    pidfd: int
    names: frozenset[str]
    root: int
    cwd: int
    bounding: int


@dataclass(frozen=True, slots=True)
class PseudoTerminal:
    """Both ends of it."""

    master: int
    slave: int


def look(pid: int, pidfd: int) -> Place:
    """Everything that has to be known before anything is joined.

    :raises StepError: when it may not be looked at, or is gone (ESRCH).
    """
    with failing("look at the test's process", None):
        own = namespaces.identities()
        theirs = namespaces.identities(pid)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        cwd = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with open(f"/proc/{pid}/status", "rb") as status:
            bounding = int(proc.status(status.read())["CapBnd"], 16)
        signal.pidfd_send_signal(pidfd, 0)  # it is alive: all of that was of this process
    names = frozenset(name for name, inode in theirs.items() if own.get(name) != inode)
    return Place(pidfd, names, root, cwd, bounding)


def join(place: Place, *, at_terminal: bool) -> PseudoTerminal | None:
    """Be there; with a pseudo-terminal of that place, or of here where it has none.

    :raises StepError: naming what was refused.
    """
    spare = _pseudo_terminal() if at_terminal else None
    namespaces.join(place.pidfd, place.names)
    with failing("enter the test's root directory", "mount"):
        os.chdir(place.root)
        try:
            os.chroot(".")
        except PermissionError:
            # The test has no other root then, unless it has made a namespace of its own.
            if not os.path.samestat(os.stat("/"), os.stat(".")):
                raise
    try:
        os.chdir(place.cwd)
    except OSError:
        os.chdir("/")
    if "pid" not in place.names:
        process.become_subreaper()
    if spare is None:
        return None
    try:
        own = _pseudo_terminal()
    except OSError:  # no devices where the test is: then one without a name
        return spare
    os.close(spare.master)
    os.close(spare.slave)
    return own


def _pseudo_terminal() -> PseudoTerminal:
    """In the mode, and of the size, of the user's own, which is standard input."""
    mode, size = termios.tcgetattr(0), fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    master, slave = os.openpty()
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    return PseudoTerminal(master, slave)


def shell() -> list[str]:
    """The user's own, if it is there too.

    :raises StepError: when there is none at all.
    """
    for path in (os.environ.get("SHELL", ""), "/bin/sh"):
        if path and shutil.which(path):
            return [path]
    raise StepError("look for a shell", "mount", errno.ENOENT, "neither $SHELL nor /bin/sh")


def run(argv: list[str], place: Place, terminal: PseudoTerminal | None, until: int) -> int:
    """Run a command, and end it when this descriptor is readable: its exit code."""
    own = os.pidfd_open(os.getpid())
    for number in _KEYS:
        signal.signal(number, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        _become(argv, place, terminal, own)
    if terminal is not None:
        os.close(terminal.master)
        os.close(terminal.slave)
    pidfd = os.pidfd_open(pid)
    waiter = select.poll()
    waiter.register(pidfd, select.POLLIN)
    waiter.register(until, select.POLLIN)
    if all(fd != pidfd for fd, _ in waiter.poll()):
        waiter.unregister(until)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGHUP)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            if not waiter.poll(_HANG_UP * 1000):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if "pid" not in place.names:
        kill_descendants()
    return exit_code(status)


def exit_code(status: int) -> int:
    """Of a wait status, as shells have it."""
    code = os.waitstatus_to_exitcode(status)
    return command.BY_SIGNAL - code if code < 0 else code


def _become(
    argv: list[str], place: Place, terminal: PseudoTerminal | None, parent: int
) -> NoReturn:
    """The third process, which only here is in the PID namespace."""
    try:
        process.die_with_parent(parent)
        process.limit_capabilities(place.bounding, place.bounding)
        if terminal is not None:
            os.setsid()
            fcntl.ioctl(terminal.slave, termios.TIOCSCTTY, 0)
            for stream in range(3):
                if os.isatty(stream):
                    os.dup2(terminal.slave, stream)
        for number in _KEYS:
            signal.signal(number, signal.SIG_DFL)
        command.execute(argv, "enter")
    except (StepError, OSError) as error:
        sys.stderr.write(f"enter: {error}\n")
        sys.stderr.flush()
    finally:
        posix._exit(command.NOT_EXECUTABLE)


def refusal(error: StepError) -> bytes:
    """As it crosses from the process that wanted to join."""
    return json.dumps([error.step, error.namespace, error.errno, error.detail]).encode()


def read_refusal(said: bytes) -> StepError:
    """The same error on the other side."""
    if not said:
        return StepError("enter", None, errno.ECONNRESET, "its process has ended too early")
    step: Any = json.loads(said)
    return StepError(*step)
