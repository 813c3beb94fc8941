# SPDX-License-Identifier: MIT
"""What several jobs gain, side by side with one job, plain pytest and pytest-xdist.

    python benchmarks/jobs.py [--rounds 3] [--tests 200] [--jobs 2,4,16]

The contenders take turns, run by run. "loop" is the time of the run loop in the runner, without
start-up and collection; "whole" that of the process; "cpu" its processor time with all that it has
waited for. Medians. The other plugins take part where this interpreter has them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CONFTEST = """
import pytest, time
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop():
    start = time.monotonic()
    try:
        return (yield)
    finally:
        with open("loop", "w") as file:
            file.write(str(time.monotonic() - start))
"""

SUITES = {
    "empty": "def test_it(n): pass",
    "sleeps 50 ms": "def test_it(n): time.sleep(0.05)",
    "after 1 s of import and 1 s of a session fixture, sleeps 50 ms": """
time.sleep(1)
@pytest.fixture(scope="session")
def wide(): time.sleep(1)
def test_it(n, wide): time.sleep(0.05)
""",
}

OURS = ("-p", "nsisolate", "--nsisolate=all")


def contenders(jobs: list[int]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and options of each, where its plugins are installed."""
    xdist = importlib.util.find_spec("xdist") is not None
    forked = importlib.util.find_spec("pytest_forked") is not None
    yield "plain", ()
    yield "isolated, 1 job", OURS
    for count in jobs:
        yield f"isolated, {count} jobs", (*OURS, f"--nsisolate-jobs={count}")
    for count in jobs if xdist else ():
        yield f"isolated, -n {count}", (*OURS, "-p", "xdist", f"-n{count}")
    if forked:
        yield "forked", ("-p", "pytest_forked", "--forked")
    for count in jobs if xdist and forked else ():
        yield (
            f"forked, -n {count}",
            ("-p", "pytest_forked", "--forked", "-p", "xdist", f"-n{count}"),
        )


def run(folder: Path, options: tuple[str, ...], tests: int) -> tuple[float, float, float]:
    """Seconds of one run: its loop, the whole process, and processor time. Every test must pass."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    whole = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or f"{tests} passed" not in done.stdout:
        sys.exit(f"{options}: {done.stdout}{done.stderr}")
    loop = float((folder / "loop").read_text(encoding="ascii"))
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return loop, whole, processor


def compare_worlds(rounds: int, tests: int = 50) -> None:
    """Empty tests in worlds of their own, and in one that their module shares."""
    marks = {"worlds of their own": "", "with init=True": "init=True", "shared": "share='module'"}
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in marks}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        for _ in range(rounds):
            for key, keywords in marks.items():
                source = (
                    f"import pytest\npytestmark = pytest.mark.isolated({keywords})\n"
                    f"@pytest.mark.parametrize('n', range({tests}))\ndef test_it(n): pass\n"
                )
                (folder / "test_it.py").write_text(source, encoding="utf-8")
                taken[key].append(run(folder, ("-p", "nsisolate"), tests))
    show(f"{tests} empty tests, one job", taken)


def show(title: str, taken: dict[str, list[tuple[float, float, float]]]) -> None:
    """One table."""
    print(f"\n{title:<62} {'loop':>7} {'whole':>7} {'cpu':>7}")
    for key, runs in taken.items():
        columns = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"  {key:<60} " + " ".join(f"{value:7.2f}" for value in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--jobs", default="2,4,16", metavar="N,N,...")
    options = parser.parse_args()
    everyone = dict(contenders([int(count) for count in options.jobs.split(",")]))
    print(f"{len(os.sched_getaffinity(0))} processors, {options.tests} tests, medians of seconds")
    for title, source in SUITES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
            marked = f"@pytest.mark.parametrize('n', range({options.tests}))\ndef test_it"
            text = source.replace("def test_it", marked)
            (folder / "test_it.py").write_text(f"import pytest, time\n{text}\n", encoding="utf-8")
            taken: dict[str, list[tuple[float, float, float]]] = {key: [] for key in everyone}
            for _ in range(options.rounds):
                for key, arguments in everyone.items():
                    taken[key].append(run(folder, arguments, options.tests))
        show(title, taken)
    compare_worlds(options.rounds)


if __name__ == "__main__":
    main()
