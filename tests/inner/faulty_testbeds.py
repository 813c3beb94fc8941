# SPDX-License-Identifier: MIT
"""One testbed for each case of ``tests/faults.py``, and one disturbed ``lo``, all in one test.

The case is armed by the test's own process, which has the role ``runner`` then. Its children are
the PID 1 of a host or the relay (``child``), and the functions on a host (``supervisor``).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import pytest_nsisolate as nsi
from pytest_nsisolate.testbed.bed import Testbed
from pytest_nsisolate.testbed.loopback import Loopback
from tests import faults

CASES = faults.read_cases()

#: A line of JSON for each case.
SAID = Path(os.environ["SAID"])


#: What a disturbance of ``lo`` changes.
LO: Final = ("ipv4/conf/lo/route_localnet", "ipv4/conf/lo/accept_local")


def use(testbed: nsi.Testbed, loopback: Loopback) -> None:
    """Everything that asks the kernel for something that it may refuse."""
    lan, wan = testbed.network("10.0.0.0/24", "fd00::/64"), testbed.network("10.1.0.0/24")
    a = testbed.host("a", lan)
    testbed.router("r", lan, wan, nat=True)
    with a.start("sleep 1000"):
        pass
    a.wire.cut()
    a.wire.mend()
    a.wire.impair(mtu=1000)
    a.wire.drop(lambda packet: False)
    testbed.capture(a)
    a.crash()
    a.boot()
    loopback.impair(delay=0.001)
    loopback.drop(lambda packet: False)


def attempt(testbed: nsi.Testbed, loopback: Loopback) -> dict[str, object]:
    """What came of it: the error, by type and text."""
    try:
        use(testbed, loopback)
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        return {"type": type(error).__name__, "text": "\n".join([str(error), *notes])}
    return {"type": "", "text": ""}


def left() -> tuple[set[str], set[str], str, list[str]]:
    """Descriptors, processes, the network that this process is in, and what is in that."""
    processes = {entry for entry in os.listdir("/proc") if entry.isdigit()}
    descriptors = {
        fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
    }
    network = [name for _, name in socket.if_nameindex()]
    network += [Path(f"/proc/sys/net/{name}").read_text().strip() for name in LO]
    network.append(Path("/sys/class/net/lo/mtu").read_text().strip())
    return descriptors, processes, os.readlink("/proc/thread-self/ns/net"), network


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.isolated(timeout=900)
def test_every_fault(testbed: nsi.Testbed) -> None:
    """Nothing is left of any, and the one after it works."""

    def once(index: int) -> dict[str, object]:
        other, loopback = Testbed(testbed._isolate, testbed.home), Loopback(testbed._isolate)
        faults.arm(index)
        try:
            found = attempt(other, loopback)
        finally:
            faults.arm(faults.OFF)
        for made in (loopback, other):
            with contextlib.suppress(nsi.IsolatedError):
                made.close()
        clean = eventually(lambda: left() == before)
        return {**found, "left": "" if clean else f"{before} before, {left()} after"}

    warm, loopback = Testbed(testbed._isolate, testbed.home), Loopback(testbed._isolate)
    use(warm, loopback)
    loopback.close()
    warm.close()
    before = left()
    with open(SAID, "a", encoding="utf-8") as file:
        before[0].add(str(file.fileno()))
        for index in [*range(len(CASES)), faults.OFF]:
            found = {"case": index, **once(index)}
            print(json.dumps(found), file=file, flush=True)
            if found["left"]:
                break
