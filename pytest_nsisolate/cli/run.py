# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate run``: a command as PID 1 of fresh namespaces.

What a test gets by its marker a command gets by the options of the same names, by the same
machinery: the supervisor sees to it that nothing outlives this process, even if it is killed. Where
standard input is a terminal the command has one of its own. A stream that is no terminal it
inherits as it is, so that a pipe or a file gets every byte unchanged.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import os, re, signal

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import IsolationRequest

_SWITCHES: Final = tuple(name for name in NAMESPACES if name not in ("user", "time"))

HELP: Final = "run a command as PID 1 of fresh namespaces, at a terminal of its own"

_EPILOG: Final = """\
The exit status is the command's; 128+N if signal N has ended it; 127 if it is not found, 126 if it
cannot be run, 125 if it was not started (this host refuses a namespace), 124 if the time is over.
"""

_KEYWORDS: Final = (
    *_SWITCHES,
    *("time", "hostname", "timeout", "devices", "caps", "no_new_privs", "init"),
    *("writable", "hide", "root_size"),
)

#: Values of --root that are no folder; ``./overlay`` is one.
_ROOTS: Final = ("host", "overlay", "readonly")

_USER: Final = {"map": True, "range": "range", "same": "same", "none": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, named as the keywords of the marker."""
    parser.usage = "%(prog)s [option ...] -- COMMAND [ARGUMENT ...]"
    parser.epilog = _EPILOG
    parser.set_defaults(parser=parser)
    switches = parser.add_argument_group(
        "namespaces", "without any of these: all but time; with --no-..., all others"
    )
    for name in _SWITCHES:
        switches.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, help=f"a fresh {name} namespace"
        )
    switches.add_argument(
        "--time", type=float, metavar="SECONDS", help="how far its clocks run ahead"
    )
    switches.add_argument(
        "--user",
        choices=_USER,
        help="a user namespace: be root in it (map, the default), root with a range of ids, the"
        " same user, or none",
    )
    parser.add_argument("--hostname", metavar="NAME", help="its host name")
    parser.add_argument(
        "--devices",
        type=_names,
        metavar="NAME,...",
        help='what its /dev has besides: "fuse,net/tun"',
    )
    parser.add_argument(
        "--caps",
        type=_names,
        metavar="NAME,...",
        help="the capabilities that it keeps, '' for none",
    )
    parser.add_argument(
        "--no-new-privs",
        action="store_true",
        default=None,
        help="no program gains rights by its file",
    )
    parser.add_argument(
        "--init",
        action="store_true",
        default=None,
        help="a small init is PID 1, and the command its child: it gets every signal",
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="end everything when these are over"
    )
    parser.add_argument(
        "--root",
        metavar="ROOT",
        help="overlay: this host's files; or a folder, an archive or an image that is its root;"
        " what is written is thrown away. readonly: this host's files, and nothing is written",
    )
    parser.add_argument(
        "--writable",
        type=_names,
        metavar="PATH,...",
        help="what stays this host's in an overlay or a read-only root",
    )
    parser.add_argument("--hide", type=_names, metavar="PATH,...", help="what is not there")
    parser.add_argument("--root-size", metavar="SIZE", help="what may be written to the overlay")
    parser.add_argument("--chdir", metavar="DIR", help="where it starts, seen from inside")
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="what to run, and its arguments; looked for in PATH",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def main(args: argparse.Namespace) -> int:
    """Run the command; the exit status is what this process has to end with."""
    # These import pytest, which the other commands do without.
    from pytest_nsisolate.cli.command import BY_SIGNAL, NOT_STARTED
    from pytest_nsisolate.cli.session import LostError, Session
    from pytest_nsisolate.errors import IsolatedRefusal
    from pytest_nsisolate.kernel import process
    from pytest_nsisolate.request.wording import MarkerProblem

    parser: argparse.ArgumentParser = args.parser
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("a command is missing: run [option ...] -- COMMAND [ARGUMENT ...]")
    try:
        request = _request(args)
    except MarkerProblem as found:
        parser.error(re.sub(r"isolate\.using\((.*?)\): ", _as_options, str(found)))
    try:
        session = Session("run", request, command, directory=args.chdir)
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except (IsolatedRefusal, LostError) as error:
        _say(str(error))
        return NOT_STARTED
    with session:
        status, said = session.serve()
        # One that comes too late must not take the place of the command's exit status.
        process.block_signals()
    if said:
        _say(said)
    return status


def _say(text: str) -> None:
    """To standard error, if there is one.

    Unbuffered: without a reader the exit status would be the interpreter's 120.
    """
    if sys.stderr is not None:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"run: {text}\n".encode())


def _request(args: argparse.Namespace) -> IsolationRequest:
    """
    :raises MarkerProblem: for options that contradict each other.
    """
    from pytest_nsisolate.process.plan import current_directory
    from pytest_nsisolate.request.options import Settings
    from pytest_nsisolate.request.resolve import from_keywords

    keywords = {name: getattr(args, name) for name in _KEYWORDS if getattr(args, name) is not None}
    if args.root is not None:
        keywords["root"] = args.root if args.root in _ROOTS else Path(args.root)
    if args.user is not None:
        keywords["user"] = _USER[args.user]
    return from_keywords(keywords, Settings(rootdir=current_directory()))


def _as_options(keywords: re.Match[str]) -> str:
    """``hostname='x', uts=False`` as it was typed."""
    pairs = re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", keywords[1])
    return " ".join(_as_option(name.replace("_", "-"), value) for name, value in pairs) + ": "


def _as_option(name: str, value: str) -> str:
    if name == "user":
        return f"--user {next(key for key, meant in _USER.items() if repr(meant) == value)}"
    if value in ("True", "False"):
        return f"--{name}" if value == "True" else f"--no-{name}"
    listed = ",".join(re.findall(r"'([^']*)'", value))
    return f"--{name} {listed or value}"
