# SPDX-License-Identifier: MIT
"""What several jobs gain, side by side with one job, plain pytest and pytest-xdist.

    python benchmarks/jobs.py [--rounds 3] [--tests 200] [--jobs 2,4,16] [--flat 10000]

The contenders take turns, run by run. "loop" is the time of the run loop in the runner, without
start-up and collection; "whole" that of the process; "cpu" its processor time with all that it has
waited for. Medians. The columns "x ..." are "whole" divided by that of another row; for worlds they
are "loop" divided by it. The other plugins take part where this interpreter has them.

--flat: one long run of empty tests with 8 jobs, its second twentieth beside its last.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
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

#: What the runner has spent and holds when so many tests have ended.
FLAT_CONFTEST = """
import json, os, resource, time
ends, seen = [], {}

def spent():
    sides = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall": time.monotonic(),
        "cpu": sum(side.ru_utime + side.ru_stime for side in sides),
        "memory": int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6,
        "descriptors": len(os.listdir("/proc/self/fd")),
    }

def pytest_collection_finish(session):
    ends[:] = [len(session.items) * part // 20 for part in (1, 2, 19, 20)]

def pytest_runtest_logfinish():
    seen["tests"] = seen.get("tests", 0) + 1
    if seen["tests"] in ends:
        seen[str(ends.index(seen["tests"]))] = spent()

def pytest_sessionfinish():
    with open("loop", "w") as file:
        json.dump([seen[str(at)] for at in range(4)], file)
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
    """Seconds of one run: its loop, the whole process, and processor time."""
    whole, processor = finish(folder, options, tests)
    return float((folder / "loop").read_text(encoding="ascii")), whole, processor


def finish(folder: Path, options: tuple[str, ...], tests: int) -> tuple[float, float]:
    """Seconds of one run: the whole process, and processor time. Every test must pass."""
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
    return whole, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    show(f"{tests} empty tests, one job", taken, ("worlds of their own",), by=LOOP)


#: Columns that a ratio may be made of.
LOOP, WHOLE = 0, 1


def show(
    title: str,
    taken: dict[str, list[tuple[float, float, float]]],
    bases: tuple[str, ...],
    by: int = WHOLE,
) -> None:
    """One table, with the ratios to these rows, where they are there."""
    middle = {
        key: [statistics.median(column) for column in zip(*runs, strict=True)]
        for key, runs in taken.items()
    }
    bases = tuple(base for base in bases if base in middle)
    heads = "".join(f"  {'x ' + base:>14}" for base in bases)
    print(f"\n{title:<62} {'loop':>7} {'whole':>7} {'cpu':>7}{heads}")
    for key, columns in middle.items():
        ratios = "".join(f"  {columns[by] / middle[base][by]:>14.2f}" for base in bases)
        print(f"  {key:<60} " + " ".join(f"{value:7.2f}" for value in columns) + ratios)


def show_flat(tests: int) -> None:
    """A long run with 8 jobs: a test of its beginning beside one of its end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "conftest.py").write_text(FLAT_CONFTEST, encoding="utf-8")
        source = (
            f"import pytest\n@pytest.mark.parametrize('n', range({tests}))\n{SUITES['empty']}\n"
        )
        (folder / "test_it.py").write_text(source, encoding="utf-8")
        finish(folder, (*OURS, "--nsisolate-jobs=8"), tests)
        seen = json.loads((folder / "loop").read_text(encoding="ascii"))
    title = f"{tests} empty tests, 8 jobs"
    print(f"\n{title:<42} {'beginning':>10} {'end':>10} {'end / beginning':>16}")
    for key, unit in (("wall", "ms a test"), ("cpu", "ms a test")):
        first, last = ((seen[at + 1][key] - seen[at][key]) / (tests / 20) * 1000 for at in (0, 2))
        print(f"  {f'{key}, {unit}':<40} {first:10.2f} {last:10.2f} {last / first:16.2f}")
    for key in ("memory", "descriptors"):
        first, last = seen[1][key], seen[3][key]
        unit = "MB, the runner's" if key == "memory" else "the runner's"
        print(f"  {f'{key}, {unit}':<40} {first:10.0f} {last:10.0f} {last / first:16.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--jobs", default="2,4,16", metavar="N,N,...")
    parser.add_argument("--flat", type=int, metavar="TESTS", help="only this: a run of so many")
    options = parser.parse_args()
    if options.flat:
        show_flat(options.flat)
        return
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
        show(title, taken, ("plain", "forked", "forked, -n 2", "isolated, -n 16"))
    compare_worlds(options.rounds)


if __name__ == "__main__":
    main()
