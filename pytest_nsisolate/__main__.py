# SPDX-License-Identifier: MIT
"""``nsisolate COMMAND``, also ``python -m pytest_nsisolate COMMAND``: without starting pytest.

Each command is a module of :mod:`pytest_nsisolate.cli`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from pytest_nsisolate import __version__
from pytest_nsisolate.cli import completion, doctor
from pytest_nsisolate.kernel.originals import PLATFORM

#: The console script; pyproject.toml has it too.
NAME: Final = "nsisolate"


def make_parser(name: str = NAME) -> argparse.ArgumentParser:
    """The whole command line.

    :param name: what the user types.
    """
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument(
        "--version",
        action="version",
        version=f"pytest-nsisolate {__version__}",
        help="show the version and exit",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "doctor", help="try every namespace on this host; say what is refused, why, and the remedy"
    )
    doctor.add_arguments(command)
    command.set_defaults(main=doctor.main)
    if PLATFORM == "linux":
        from pytest_nsisolate.cli import enter, run  # a terminal: not on every platform

        command = commands.add_parser(
            "enter", help="look inside a test that is held open by pytest --nsisolate-pause"
        )
        enter.add_arguments(command)
        command.set_defaults(main=enter.main)
        command = commands.add_parser("run", help=run.HELP)
        run.add_arguments(command)
        command.set_defaults(main=run.main)
    command = commands.add_parser("completion", help=completion.HELP)
    completion.add_arguments(command, parser)
    command.set_defaults(main=completion.main)
    return parser


def main() -> int:
    """Run the command line; the exit status is that of the command."""
    as_module = sys.argv[0].endswith("__main__.py")
    parser = make_parser("python -m pytest_nsisolate" if as_module else NAME)
    arguments = parser.parse_args()
    return int(arguments.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
