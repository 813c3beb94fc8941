# SPDX-License-Identifier: MIT
"""What one call by ``isolate`` costs, against a bare fork that pickles its value into a pipe.

    python benchmarks/calls.py [--calls 200]

Once in a test that is not isolated, whose calls have a supervisor, and once in one that is, and as
PID 1 needs none. The contenders take turns, call by call, in one process; medians with their
quartiles, and ratios of the medians. The bare fork has no namespaces, no deadline, and believes
whatever comes out of the pipe: it is the floor, not a peer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = """
import json, os, pickle, time
import pytest

def bare(function):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, pickle.dumps(function()))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        value = pickle.load(pipe)
    os.waitpid(child, 0)
    return value

@pytest.mark.parametrize("where", [
    "by the runner", pytest.param("by PID 1", marks=pytest.mark.isolated),
])
def test_calls(isolate, where):
    with isolate.open() as box:
        ways = {{
            "bare fork": bare,
            "isolate(func)": isolate,
            "isolate.using(pid=True)": isolate.using(pid=True),
            "isolate.using(uts=True)": isolate.using(uts=True),
            "isolate.using(init=True)": isolate.using(init=True),
            "box.run(func)": box.run,
        }}
        times = {{name: [] for name in ways}}
        host = bare(os.getpid)
        assert ways["isolate(func)"](os.getpid) == 1 != host
        for call in range({calls} + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way(os.getpid)
                times[name].append(time.perf_counter() - start)
    with open(f"{{where}}.json", "w") as file:
        json.dump({{name: taken[1:] for name, taken in times.items()}}, file)
"""


def main() -> None:
    """Run the suite in a pytest of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind (200)")
    parser.add_argument("--here", action="store_true", help="the running environment, as always")
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory(prefix="nsibench-") as name:
        found = measure(Path(name), calls)
    for where, times in found.items():
        floor = statistics.median(times["bare fork"])
        print(f"{where:26} median   quartiles      times the floor   ({calls} calls each)")
        for way, taken in times.items():
            low, median, high = (1000 * found for found in statistics.quantiles(taken, n=4))
            ratio = median / 1000 / floor
            print(f"{way:26} {median:5.2f} ms {low:5.2f} to {high:5.2f}   {ratio:5.1f}")


def measure(folder: Path, calls: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each call, by caller and contender."""
    (folder / "test_calls.py").write_text(SUITE.format(calls=calls), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "nsisolate", "-p", "no:cacheprovider"]
    # A plugin that starts a thread would have every call take the long way.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the calls failed:\n{done.stdout}{done.stderr}")
    files = sorted(folder.glob("by *.json"))
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}


if __name__ == "__main__":
    main()
