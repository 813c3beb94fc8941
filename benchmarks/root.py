# SPDX-License-Identifier: MIT
"""What files of its own cost an isolated test: root="overlay", "readonly", files= and hide=.

    python benchmarks/root.py
    python benchmarks/root.py --user nobody             # rootless
    python benchmarks/root.py --only overlay crowded    # what each copied file costs

Empty isolated tests, with the default set and with each of these beside it, in interleaved rounds.
The ownership layer of a rootless run is paid by its first test, and is not in the figures; with
``--first`` they are the first test's alone. benchmarks/README.md says how the numbers come about.

The files of a directory with something mounted below are copied for each test. "crowded" has 1,000
of them more than "overlay" has, so the milliseconds between the two are microseconds for each file.
It takes root, because the mounts are made in a namespace of the run's own.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import TYPE_CHECKING, Final

import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measure import Runner
    from studies import Table

#: Files with text that are copied for each test, beside a mount; in the process of the run.
CROWD: Final = """
import ctypes, os, subprocess
CLONE_NEWNS = 0x20000
if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
    raise OSError(ctypes.get_errno(), "unshare")
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", "/srv"], check=True)
os.mkdir("/srv/below")
subprocess.run(["mount", "-t", "tmpfs", "none", "/srv/below"], check=True)
for number in range(1000):
    with open(f"/srv/{number}", "w") as file:
        file.write("x" * 100)
"""

#: Name of a suite to its title and the marker's keywords.
SUITES: Final = {
    "host": ("the host's files", ""),
    "overlay": ('root="overlay"', 'root="overlay"'),
    "crowded": ("the same, 1,000 files copied", 'root="overlay"'),
    "readonly": ('root="readonly"', 'root="readonly"'),
    "files": ("one file of its own", 'files={"/etc/hostname": "x"}'),
    "hide": ("one file hidden", 'hide="/etc/hostname"'),
}


def suite(name: str, count: int) -> str:
    """The text of a test module."""
    mark = f"@pytest.mark.isolated({SUITES[name][1]})"
    lines = ["import pytest", CROWD if name == "crowded" else ""]
    for number in range(count):
        lines += ["", mark, f"def test_{number:05}():", "    pass"]
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. 1 if nothing could be measured."""
    parser = side_by_side.parser(__doc__, SUITES)
    parser.add_argument("--first", action="store_true")
    options = parser.parse_args(argv)
    count = max(4, options.tests)
    privileged = os.geteuid() == 0 and options.user is None
    chosen = {"host", *options.only} - (set() if privileged else {"crowded"})
    which = "the first test" if options.first else f"{count} tests"

    def measure(runner: Runner) -> Table:
        def per_test(name: str) -> float:
            gaps = side_by_side.gaps(runner, name, suite(name, count), count)
            return gaps[0] if options.first else statistics.median(gaps[1:])

        return side_by_side.compare(
            {name: SUITES[name][0] for name in SUITES if name in chosen},
            options.rounds,
            per_test,
            f"What files of its own cost: {which}",
            "host",
        )

    return side_by_side.run(options, "root", measure)


if __name__ == "__main__":
    sys.exit(main())
