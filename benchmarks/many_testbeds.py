# SPDX-License-Identifier: MIT
"""Many testbeds in one run: what is left of them, and what they do to the runner's memory.

    python benchmarks/many_testbeds.py [--number 200] [--jobs 8]

Each test builds two hosts with the same addresses, every fourth one a relay too, and leaves a
program running. With ``--jobs`` so many of them are there at the same time. Before and after the
run the links, named namespaces and processes of this machine are compared, and, as root, the
kernel's count of network namespaces.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUITE = """
import socket
import pytest

@pytest.mark.isolated
@pytest.mark.parametrize("number", range({number}))
def test_it(testbed, number):
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    if number % 4 == 0:
        b.wire.impair(delay=0.001)
    assert a.call(socket.gethostbyname, "b") == "10.0.0.2"
    a.start("sleep 1000")
"""

#: One line for each test: the runner's memory in KB, its descriptors, and its children.
CONFTEST = """
import os, pytest

def pytest_runtest_logfinish():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = len(file.read().split())
    with open("numbers", "a") as file:
        print(fields["VmRSS"].split()[0], len(os.listdir("/proc/self/fd")), children, file=file)
"""


def machine() -> dict[str, list[str]]:
    """What somebody could leave behind here."""
    tagged = []
    for entry in os.listdir("/proc"):
        try:
            if (
                entry.isdigit()
                and b"MANY_TESTBEDS=1" in Path(f"/proc/{entry}/environ").read_bytes()
            ):
                tagged.append(entry)
        except OSError:
            continue
    named = Path("/run/netns")
    return {
        "links": sorted(os.listdir("/sys/class/net")),
        "named namespaces": sorted(os.listdir(named)) if named.exists() else [],
        "processes": tagged,
    }


def namespaces() -> int | None:
    """Network namespaces that the kernel has; None where only root may ask."""
    try:
        lines = Path("/proc/slabinfo").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("net_namespace")), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    wanted = parser.parse_args()
    before, held = machine(), namespaces()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_many.py").write_text(SUITE.format(number=wanted.number), "utf-8")
        (folder / "conftest.py").write_text(CONFTEST, "utf-8")
        options = ("-p", "nsisolate", "-p", "no:cacheprovider", "-q", "--tb=short")
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, f"--nsisolate-jobs={wanted.jobs}"],
            cwd=folder,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MANY_TESTBEDS": "1"},
            check=False,
        )
        taken = time.perf_counter() - start
        lines = (folder / "numbers").read_text("ascii").splitlines()
    numbers = [tuple(map(int, line.split())) for line in lines]
    print(
        f"{len(numbers)} testbeds, {wanted.jobs} at a time: status {done.returncode}, {taken:.0f} s"
    )
    for share in (0.1, 0.5, 1.0):
        at = max(1, round(len(numbers) * share))
        memory, descriptors, children = numbers[at - 1]
        print(f"after {at:4}: {memory:7,} KB, {descriptors} descriptors, {children} children")
    print("left on this machine:", "nothing" if machine() == before else f"{before} -> {machine()}")
    if held is not None:
        print(f"network namespaces in the kernel's books: {held} before, {namespaces()} after")


if __name__ == "__main__":
    main()
