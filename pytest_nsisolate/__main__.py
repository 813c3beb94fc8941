# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate doctor``: what this host can do, without starting pytest."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Run the command line; the exit status is 0 if everything works and 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m pytest_nsisolate")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor", help="try every namespace on this host; say what is refused, why, and the remedy"
    )
    parser.parse_args()

    from pytest_nsisolate.doctor import doctor

    text, status = doctor()
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
