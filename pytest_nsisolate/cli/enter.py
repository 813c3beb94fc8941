# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate enter``: a shell, or any command, where a held test is.

It is a session like that of ``run``, in the namespaces of the test instead of new ones. The process
in the middle joins them, and the command is born there. It gets no more capabilities than a program
that the test starts.

Fact: everything inside a PID namespace ends with its PID 1, and nothing does without one.
Consequence: the connection to the runner is at its end when the pause is over or pytest is dead,
and that is the end of the command. Where the test shares the PID namespace, the process in the
middle is the subreaper of whatever was started, and ends all of it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel.originals import os, signal

if TYPE_CHECKING:
    from pytest_nsisolate.cli.held import Visit

_EPILOG: Final = """\
Leaving the shell ends the pause; the end of a command does not. The exit status is the command's;
128+N if signal N has ended it; 127 if it is not found, 126 if it cannot be run, 125 if the test
cannot be entered.
"""


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
    # These import pytest, which the other commands do without.
    from pytest_nsisolate.cli.command import BY_SIGNAL, NOT_STARTED
    from pytest_nsisolate.cli.held import NotHeldError, visit
    from pytest_nsisolate.errors import NsisolateError

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
    :raises StepError: when the test's process cannot be looked at.
    :raises IsolatedRefusal: when its namespaces cannot be joined.
    """
    from pytest_nsisolate.cli.session import Session
    from pytest_nsisolate.process.place import look
    from pytest_nsisolate.request.model import IsolationRequest
    from pytest_nsisolate.runner import hold

    place, names = look(guest.pid, guest.pidfd)
    request = IsolationRequest(names, user="map" if "user" in names else "none")
    with Session("enter", request, command, join=place) as session:
        if not command:
            if not keep:
                guest.connection.send(hold.SHELL)
            if os.isatty(0):
                then = "stays held open" if keep else "goes on"
                _say(f"inside {guest.nodeid}, which {then} when you leave")
        status, said = session.serve(until=guest.connection.fileno())
    if said:
        _say(said)
    if guest.is_over:
        _say("the pause is over, the test goes on")
    return status


def _say(text: str) -> None:
    sys.stderr.write(f"enter: {text}\n")
    sys.stderr.flush()
