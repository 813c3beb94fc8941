# SPDX-License-Identifier: MIT
"""What a test costs that gets its namespaces by the marker, or by unshare(1) in a fixture.

    python benchmarks/by_hand.py [--rounds 5] [--tests 50]

The kinds take turns, run by run. Per test: a run of so many tests less a run of one, wall-clock and
processor time with all that was waited for; medians. Each test does nothing in its namespaces. With
unshare(1) the test itself stays outside, so what is asserted inside has to be a program: here
`true`, or a Python that starts.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUITE = """
import os, subprocess, sys
import pytest

UNSHARE = "unshare --user --map-root-user --mount --net --uts --ipc --pid --fork --mount-proc"

@pytest.fixture
def inside():
    return lambda *command: subprocess.run([*UNSHARE.split(), *command], check=True)

turns = pytest.mark.parametrize("turn", range(int(os.environ["TURNS"])))

@turns
def test_plain(turn):
    pass

@turns
@pytest.mark.isolated
def test_marked(turn):
    assert os.getpid() == 1

@turns
def test_program(turn, inside):
    inside("true")

@turns
def test_interpreter(turn, inside):
    inside(sys.executable, "-c", "import os; assert os.getpid() == 1")
"""

KINDS = {
    "test_plain": "plain pytest, no namespaces",
    "test_marked": "isolated: the test itself is inside",
    "test_program": "unshare(1) in a fixture: `true` is inside",
    "test_interpreter": "unshare(1) in a fixture: a new Python is inside",
}


def main() -> None:
    """Run the kinds in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind (5)")
    parser.add_argument("--tests", type=int, default=50, help="tests of a run (50)")
    parser.add_argument("--here", action="store_true", help="the running environment, as always")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nsibench-") as name:
        folder = Path(name)
        (folder / "test_kinds.py").write_text(SUITE, encoding="utf-8")
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind in KINDS:
                taken[kind].append(per_test(folder, kind, options.tests))
    print(f"{'':50} {'wall':>9} {'processor':>12}   ({options.rounds} runs of {options.tests})")
    for kind, runs in taken.items():
        wall, processor = (1000 * statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{KINDS[kind]:50} {wall:6.1f} ms {processor:9.1f} ms")


def per_test(folder: Path, kind: str, tests: int) -> tuple[float, float]:
    """Seconds of one test, on the wall and of processors."""
    many, one = run(folder, kind, tests), run(folder, kind, 1)
    return (many[0] - one[0]) / (tests - 1), (many[1] - one[1]) / (tests - 1)


def run(folder: Path, kind: str, tests: int) -> tuple[float, float]:
    """Seconds of a whole run, in which every test must pass."""
    options = ("-q", "-p", "nsisolate", "-p", "no:cacheprovider", "-k", kind)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TURNS": str(tests)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or f"{tests} passed" not in done.stdout:
        sys.exit(f"{kind}: {done.stdout}{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
