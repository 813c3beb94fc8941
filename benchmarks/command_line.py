# SPDX-License-Identifier: MIT
"""What the command lines of the measurements have in common."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from contenders import PYTEST
from environments import REPOSITORY, Environments


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_where(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options that say which environments are measured, and from which sources."""
    where = parser.add_argument_group("where")
    where.add_argument(
        "--envs",
        type=Path,
        default=REPOSITORY / ".bench",
        metavar="DIR",
        help="keep the contenders' environments here (default: %(default)s)",
    )
    where.add_argument("--here", action="store_true", help="use the running environment for all")
    where.add_argument("--python", default=sys.executable, help="base of the environments")
    where.add_argument("--pytest", default=PYTEST, metavar="VERSION", help="default: %(default)s")
    where.add_argument("--source", type=Path, default=REPOSITORY, help="this plugin's sources")
    return where


def environments(options: argparse.Namespace, together: tuple[str, ...] = ()) -> Environments:
    """As :func:`add_where` has let the user say.

    :param together: see :class:`Environments`.
    """
    root = None if options.here else options.envs.resolve()
    source = options.source.resolve()
    return Environments(root, options.python, options.pytest, source, together=together)


def positive(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def say(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)


def machine(options: argparse.Namespace) -> dict[str, object]:
    """What the figures were taken on; they mean nothing elsewhere."""
    return {
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": options.python,
        "pytest": "the running one" if options.here else options.pytest,
        "uid": os.geteuid(),
    }


def write(result: dict[str, object], target: Path) -> None:
    """The figures as JSON."""
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
