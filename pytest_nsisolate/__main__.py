# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate COMMAND``: without starting pytest; each command is a module."""

from __future__ import annotations

import argparse
import sys

from pytest_nsisolate.cli import doctor
from pytest_nsisolate.kernel.originals import PLATFORM


def main() -> int:
    """Run the command line; the exit status is that of the command."""
    parser = argparse.ArgumentParser(prog="python -m pytest_nsisolate")
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
    arguments = parser.parse_args()
    return int(arguments.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
