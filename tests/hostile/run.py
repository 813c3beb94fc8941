# SPDX-License-Identifier: MIT
"""Run many nasty tests, and say what became of them and of the machine.

    python -m tests.hostile.run --tests 1000 --workers 2
    python -m tests.hostile.run --tests 200 --runners 8

From the project's folder. As root every test runs as root, or with ``--user`` as somebody without a
name; as an ordinary user as that one. Ends with 1 when a test was not reported as it should be, or
when something is left: a process, a mount, an interface, a network, a cgroup, SysV IPC, another
value of a sysctl, a descriptor or a child of a runner; or when a runner has grown.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from tests.hostile import cases, machine  # noqa: E402
from tests.inner_runs import Side, run_batch, said, verdict  # noqa: E402
from tests.support import Result, eventually  # noqa: E402

#: What a runner may gain between its 30th test and its last, in bytes: pytest keeps the reports of
#: all of them, and 1,000 come to 8 MiB.
MOST_GROWTH: Final = 16 << 20

#: In each runner: what it holds early and at the end, when all imports are over.
CONFTEST: Final = """
import json, os
import pytest

done = 0

def _note(when):
    if os.environ["NASTY_WORKERS"] != "0" and "PYTEST_XDIST_WORKER" not in os.environ:
        return  # it runs no test, and keeps every report
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    held = len(os.listdir("/proc/self/fd"))
    entry = {"record": "held", "when": when, "descriptors": held, "resident": resident,
             "pid": os.getpid(), "tests": done}
    with open(os.environ["RECORDING"], "a") as file:
        file.write(json.dumps(entry) + "\\n")

@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish():
    global done
    done += 1
    if done == 30:
        _note("early")

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    _note("end")
"""


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    :param wrong: what should not be, one entry each.
    :param outcomes: how often each verdict was given.
    :param growth: bytes of resident memory that the runner with the most of it has gained.
    """

    tests: int
    seconds: float
    wrong: tuple[str, ...]
    outcomes: dict[str, int]
    growth: int

    def __str__(self) -> str:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in self.outcomes.items())
        rate = f"{self.tests} tests in {self.seconds:.1f} s"
        grown = f"largest growth of a runner {self.growth / 2**20:.1f} MiB"
        return "\n".join([f"{rate}: {verdicts}; {grown}", *self.wrong])


def run(
    tests: int,
    *,
    side: Side,
    workers: int = 0,
    runners: int = 1,
    jobs: int = 1,
    seed: int | None = None,
) -> Summary:
    """Run so many tests in each of so many runners at once.

    :param workers: of pytest-xdist in each runner; 0 is without.
    :param jobs: of each runner or worker.
    """
    first = random.SystemRandom().randrange(10**6) if seed is None else seed
    before = machine.look()
    start = time.monotonic()
    with ThreadPoolExecutor(runners) as pool:
        started = [
            pool.submit(_run_one, tests, side, workers, jobs, first + number)
            for number in range(runners)
        ]
        results = [run.result() for run in started]
    seconds = time.monotonic() - start
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    for number, result in enumerate(results):
        complaints = _complaints(result, tests, first + number)
        wrong += [f"seed {first + number}: {text}" for text in complaints]
        for name in _names(tests, first + number):
            outcomes[verdict(result, name)] += 1
    # Network namespaces are taken apart later, and somebody else may be at work here.
    eventually(lambda: not machine.traces(before, machine.look()), 10)
    for subject, entries in machine.traces(before, machine.look()).items():
        wrong += [f"{subject}: {entry}" for entry in entries]
    growths = [grown for result in results for grown in _growth(result)]
    wrong += too_much(growths)
    growth = max(growths, default=0)
    return Summary(tests * runners, seconds, tuple(wrong), dict(outcomes), growth)


def _run_one(tests: int, side: Side, workers: int, jobs: int, seed: int) -> Result:
    source = Path(cases.__file__).read_text(encoding="utf-8")
    options = ["-p", "xdist", "-n", str(workers)] if workers else []
    options += [f"--nsisolate-jobs={jobs}"] if jobs > 1 else []
    env = {"NASTY_COUNT": str(tests), "NASTY_SEED": str(seed), "NASTY_WORKERS": str(workers)}
    files = {"test_cases.py": source, "conftest.py": CONFTEST}
    # What each runner holds is compared here; assert_clean knows of one runner only.
    return run_batch(files, side, "-q", *options, env=env, clean=False, gone=True, timeout=900)


def _names(tests: int, seed: int) -> list[str]:
    names = cases.chosen(tests, seed)
    return [f"test_nasty[{number}-{name}]" for number, name in enumerate(names)]


def _complaints(result: Result, tests: int, seed: int) -> Iterator[str]:
    if result.returncode not in (0, 1):
        yield result.text
    names = cases.chosen(tests, seed)
    for number, name in enumerate(names):
        thing, full = cases.THINGS[name], f"test_nasty[{number}-{name}]"
        found, everything = verdict(result, full), said(result, full)
        if found != thing.verdict or thing.says not in everything:
            yield f"{full}: {found}, not {thing.verdict} ({thing.says!r}): {everything[:2000]}"
    for before, after in _held(result, "before", "after"):
        for what in ("children", "mask", "handlers", "namespaces", "descriptors"):
            if before[what] != after[what]:
                yield f"{what} of the runner: {before[what]} before, {after[what]} after"


def _held(result: Result, first: str, last: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    early = {r["pid"]: r for r in result.records if r["record"] == first}
    late = {r["pid"]: r for r in result.records if r["record"] == last}
    for pid in early.keys() & late.keys():
        yield early[pid], late[pid]


def _growth(result: Result) -> Iterator[int]:
    held = [record for record in result.records if record["record"] == "held"]
    for early in held:
        for end in held:
            if (early["pid"], early["when"], end["when"]) == (end["pid"], "early", "end"):
                yield end["resident"] - early["resident"]


def too_much(growths: Iterable[int], most: int = MOST_GROWTH) -> Iterator[str]:
    """What to say of runners that have grown beyond bounds, one entry each."""
    for grown in growths:
        if grown > most:
            yield f"memory of a runner: {grown / 2**20:.1f} MiB more, not up to {most / 2**20:g}"


def main(arguments: list[str]) -> int:
    """The command; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.run", description=__doc__)
    parser.add_argument("--tests", type=int, default=1000, help="in each runner (1000)")
    parser.add_argument("--workers", type=int, default=0, help="of pytest-xdist (0: without)")
    parser.add_argument("--jobs", type=int, default=1, help="of each runner or worker (1)")
    parser.add_argument("--runners", type=int, default=1, help="at the same time (1)")
    parser.add_argument("--seed", type=int, help="of the order and the choice")
    parser.add_argument("--user", action="store_true", help="not as root")
    given = parser.parse_args(arguments)
    side: Side = "user" if given.user or os.geteuid() != 0 else "root"
    found = run(
        given.tests,
        side=side,
        workers=given.workers,
        runners=given.runners,
        jobs=given.jobs,
        seed=given.seed,
    )
    sys.stdout.write(f"{found}\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
