# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate enter``: a shell, or any command, where a held test is.

``enter`` has three processes. The first stays outside, with the user's terminal. The second joins
the namespaces of the test, which only a process with one thread can, and makes a pseudo-terminal
there, so that it has a name inside. The third is born in the PID namespace and becomes the command.

Fact: everything inside a PID namespace ends with its PID 1, and nothing does without one.
Consequence: the second process watches the connection to the runner, which is at its end when the
pause is over or pytest is dead, and ends the third then. It dies with the first, and the third with
it. Where the test shares the PID namespace it is the subreaper of whatever was started, and ends
all of it.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from typing import Final, NoReturn

from pytest_nsisolate import kernel
from pytest_nsisolate.cli import inside
from pytest_nsisolate.cli.command import BY_SIGNAL, NOT_STARTED
from pytest_nsisolate.cli.held import NotHeldError, Visit, visit
from pytest_nsisolate.cli.relay import End, relay
from pytest_nsisolate.errors import NsisolateError, StepError, failing
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import os, posix, select, signal, socket, traceback
from pytest_nsisolate.runner import hold

_EPILOG: Final = """\
Leaving the shell ends the pause; the end of a command does not. The exit status is the command's;
128+N if signal N has ended it; 127 if it is not found, 126 if it cannot be run, 125 if the test
cannot be entered.
"""

#: Seconds that a command has for its end when its terminal is gone.
_GRACE: Final = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the subcommand."""
    parser.usage = "%(prog)s [-h] [--keep] [ID] [-- COMMAND [ARGUMENT ...]]"
    parser.epilog = _EPILOG
    parser.set_defaults(parser=parser)
    parser.add_argument(
        "--keep", action="store_true", help="leaving the shell does not end the pause"
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="ID -- COMMAND",
        help="the number that pytest has printed (without: the only test that is held open), and "
        "a command instead of a shell",
    )


def main(arguments: argparse.Namespace) -> int:
    """Look inside; the exit status is the command's, as a shell has it."""
    words: list[str] = arguments.words
    parser: argparse.ArgumentParser = arguments.parser
    # A command whose name is a number can be written with its path.
    number = int(words[0]) if words and words[0].isdecimal() else None
    command = words if number is None else words[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    elif command and command[0].startswith("-"):
        parser.error(f"{command[0]}: an option comes before the number, a command after --")
    try:
        kernel.preload()
        guest = visit(number)
        try:
            return _enter(guest, command, keep=arguments.keep)
        finally:
            guest.close()
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except (NotHeldError, NsisolateError, OSError) as error:
        _say(str(error))
        return NOT_STARTED


def _enter(guest: Visit, command: list[str], *, keep: bool) -> int:
    """
    :raises StepError: when the test's namespaces cannot be joined.
    """
    place = inside.look(guest.pid, guest.pidfd)
    at_terminal = os.isatty(0)
    with failing("prepare to enter", None):
        own = os.pidfd_open(os.getpid())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        second = os.fork()
    if second == 0:
        ours.close()
        _go(guest, place, command, own, theirs, at_terminal=at_terminal)
    theirs.close()
    ended = os.pidfd_open(second)
    try:
        master = _await_entry(ours)
        if not command:
            if not keep:
                guest.connection.send(hold.SHELL)
            if at_terminal:
                then = "stays held open" if keep else "goes on"
                _say(f"inside {guest.nodeid}, which {then} when you leave")
        ours.send(b"G")
        if master is not None and relay(master, ended) is not End.ENDED:
            os.close(master)
            _end(ended)
        else:
            _wait_out(ended)
    finally:
        _, status = os.waitpid(second, 0)
    if guest.is_over:
        _say("the pause is over, the test goes on")
    return inside.exit_code(status)


def _say(text: str) -> None:
    sys.stderr.write(f"enter: {text}\n")
    sys.stderr.flush()


def _await_entry(ours: socket.socket) -> int | None:
    """The master of the pseudo-terminal inside, if there is to be one.

    :raises StepError: when the second process says that it could not enter.
    """
    received = array("i")
    size = socket.CMSG_SPACE(received.itemsize)
    said, ancillary, _, _ = ours.recvmsg(1 << 16, size)
    for _, _, data in ancillary:
        received.frombytes(data[: received.itemsize])
    if said != inside.ENTERED:
        raise inside.read_refusal(said)
    return received[0] if received else None


def _wait_out(ended: int) -> None:
    """The keys of the terminal are for the command, which is in the same process group."""
    keys = (signal.SIGINT, signal.SIGQUIT)
    before = [signal.signal(number, signal.SIG_IGN) for number in keys]
    waiter = select.poll()
    waiter.register(ended, select.POLLIN)
    waiter.poll()
    for number, handler in zip(keys, before, strict=True):
        signal.signal(number, handler)


def _end(ended: int) -> None:
    """The user's terminal is gone, and the command's with it; bounded."""
    waiter = select.poll()
    waiter.register(ended, select.POLLIN)
    if not waiter.poll(_GRACE * 1000):
        signal.pidfd_send_signal(ended, signal.SIGKILL)


def _go(
    guest: Visit,
    place: inside.Place,
    command: list[str],
    first: int,
    to_first: socket.socket,
    *,
    at_terminal: bool,
) -> NoReturn:
    """The second process."""
    status = NOT_STARTED
    try:
        process.die_with_parent(first)
        terminal = inside.join(place, at_terminal=at_terminal)
        process.die_with_parent(first)  # to join a user namespace may have cleared it
        argv = command or inside.shell()
        rights = array("i", [] if terminal is None else [terminal.master])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        to_first.sendmsg([inside.ENTERED], ancillary)
        if to_first.recv(1):
            status = inside.run(argv, place, terminal, guest.connection.fileno())
    except StepError as error:
        to_first.send(inside.refusal(error))
    except BaseException:
        traceback.print_exc()
    finally:
        posix._exit(status)
