# SPDX-License-Identifier: MIT
"""What a testbed costs until its hosts are up, and what its relay carries; beside two others.

    python benchmarks/testbed.py [--rounds 7] [--munet PYTHON]

Start-up is measured in rounds that take turns: two hosts on a network, ten hosts and a router, and
mininet's two hosts on a Linux bridge where it is installed (Debian: mininet, bridge-utils; root),
and munet's two where you name a Python that has it.
The relay's packets are counted against its own processor time, so that a busy machine does not
count; delay and rate are what the kernel's time stamps say.
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
import json, os, socket, time
import pytest

def flood(address, number, size=20):
    with socket.socket(type=socket.SOCK_DGRAM) as out:
        for at in range(number):
            try:
                out.sendto(b"x" * size, (address, 9))
            except OSError:
                pass
            if at % 500 == 0:
                time.sleep(0.01)

def cpu(pids):
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            row = file.read().rpartition(")")[2].split()
        ticks += int(row[11]) + int(row[12])
    return ticks / os.sysconf("SC_CLK_TCK")

def build(testbed, hosts, routed):
    lan = testbed.network("10.0.0.0/24")
    if routed:
        wan = testbed.network("10.0.1.0/24")
        testbed.router("r", lan, wan)
    return [testbed.host(f"h{n}", wan if routed and n % 2 else lan) for n in range(hosts)]

@pytest.mark.isolated
@pytest.mark.parametrize("hosts", [2, 10])
def test_start(testbed, hosts):
    start = time.perf_counter()
    build(testbed, hosts, hosts > 2)
    ready = time.perf_counter()
    testbed.close()
    with open(f"start-{hosts}.json", "w") as file:
        json.dump([ready - start, time.perf_counter() - ready], file)

@pytest.mark.isolated
def test_relay(testbed):
    found = {}
    a, b = build(testbed, 2, False)
    for name, values in (("as it is", {}), ("loss", {"loss": 0.1}), ("delay", {"delay": 0.001})):
        b.wire.clear()
        b.wire.impair(**values, towards=b)
        counts, before = b.wire.counts, cpu(testbed.relay.pids)
        a.call(flood, b.address, 100_000)
        time.sleep(1)
        after = b.wire.counts
        done = after.passed + after.lost - counts.passed - counts.lost
        found[name] = [done / (cpu(testbed.relay.pids) - before), after.overrun - counts.overrun]
    b.wire.clear()
    b.wire.impair(delay=0.02, towards=b)
    for _ in range(20):
        a.call(flood, b.address, 1)
    time.sleep(0.1)
    sent = [p.time for p in testbed.capture(a).where(udp_port=9, sent=True)][-20:]
    come = [p.time for p in testbed.capture(b).where(udp_port=9, sent=False)][-20:]
    found["late"] = [(after - before - 0.02) * 1000 for before, after in zip(sent, come)]
    b.wire.clear()
    b.wire.impair(rate="10mbit", towards=b)
    a.call(flood, b.address, 400, 1200)
    time.sleep(1)
    come = testbed.capture(b).where(udp_port=9, sent=False)[-400:]
    bits = sum(p.length for p in come[1:]) * 8
    found["rate"] = bits / (come[-1].time - come[0].time) / 10e6
    with open("relay.json", "w") as file:
        json.dump(found, file)
"""

MININET = """
import json, time
from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo
setLogLevel("critical")
start = time.perf_counter()
net = Mininet(topo=SingleSwitchTopo(2), switch=LinuxBridge, controller=None)
net.start()
ready = time.perf_counter()
net.stop()
print(json.dumps([ready - start, time.perf_counter() - ready]))
"""

MUNET = """
import asyncio, json, logging, tempfile, time
logging.disable(logging.CRITICAL)
from munet.parser import async_build_topology

async def main(folder):
    nodes = [{"name": name, "connections": ["net0"]} for name in ("a", "b")]
    topology = {"networks": [{"name": "net0", "ip": "10.0.0.254/24"}], "nodes": nodes}
    config = {"topology": topology, "version": 1, "config_pathname": f"{folder}/munet.yaml"}
    start = time.perf_counter()
    net = await async_build_topology(config, rundir=folder, unshare_inline=True)
    ready = time.perf_counter()
    await net.async_delete()
    print(json.dumps([ready - start, time.perf_counter() - ready]))

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
"""

#: Debian's own, for which the package is.
PYTHON = "/usr/bin/python3"


def run(folder: Path, name: str) -> None:
    plugins = ("-p", "nsisolate", "-p", "no:cacheprovider", "-W", "ignore")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-k", name],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def other(python: str, script: str) -> list[float] | None:
    """Seconds until two hosts are ready, and gone; None where that is not installed."""
    done = subprocess.run([python, "-c", script], check=False, capture_output=True, text=True)
    if done.returncode:
        return None
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--munet", metavar="PYTHON", help="a Python that has munet")
    wanted = parser.parse_args()
    rounds = wanted.rounds
    others = {"mininet": (PYTHON, MININET)}
    if wanted.munet:
        others["munet"] = (wanted.munet, MUNET)
    times: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_bench.py").write_text(SUITE, encoding="utf-8")
        for _ in range(rounds):
            run(folder, "test_start")
            for hosts, label in ((2, "two hosts"), (10, "ten hosts and a router")):
                taken = json.loads((folder / f"start-{hosts}.json").read_text("utf-8"))
                times.setdefault(label, []).append(taken)
            for label, (python, script) in others.items():
                if (theirs := other(python, script)) is not None:
                    times.setdefault(f"{label}, two hosts", []).append(theirs)
        run(folder, "test_relay")
        relay = json.loads((folder / "relay.json").read_text("utf-8"))
    print(
        f"{'':26} {'ready':>9} {'gone':>9}   (medians of {rounds}, {os.getloadavg()[0]:.0f} load)"
    )
    for label, rows in times.items():
        ready, gone = (statistics.median(column) * 1000 for column in zip(*rows, strict=True))
        print(f"{label:26} {ready:6.0f} ms {gone:6.0f} ms")
    for label in others:
        if theirs_of_all := times.get(f"{label}, two hosts"):
            pairs = zip(times["two hosts"], theirs_of_all, strict=True)
            ratio = statistics.median(sum(ours) / sum(theirs) for ours, theirs in pairs)
            print(f"two hosts, there and gone: {ratio:.2f} of {label}'s")
    for label in ("as it is", "loss", "delay"):
        rate, overrun = relay[label]
        print(f"relay, {label:9} {rate:10,.0f} packets in a second of its own; overrun {overrun}")
    late = statistics.median(relay["late"])
    print(f"delay of 20 ms: {late:+.2f} ms; rate of 10 Mbit/s: {relay['rate'] * 100:.1f} %")


if __name__ == "__main__":
    main()
