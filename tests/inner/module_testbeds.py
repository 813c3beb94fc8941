# SPDX-License-Identifier: MIT
"""Tests that share the testbed of their module, in the order in which they stand here."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from neighbours import ask, is_cut_off, reaches, serve  # type: ignore[import-not-found]

import pytest_nsisolate as nsi
from pytest_nsisolate.kernel import links

expect = pytest.mark.expect
pytestmark = pytest.mark.isolated(share="module", timeout=300)

SAID_BY_FAILURE = (
    "pcap/test_module_testbeds.py-test_fails.pcapng (",
    "host b (10.0.0.2, fd00::2):",
    "host c (10.0.1.1)",
    "(running):\n    listening",
    "b.eth0       net1     up",
    "wires (",
)


def interfaces(testbed: nsi.Testbed) -> list[str]:
    """Ports and switches, and what a relay has besides."""
    with links.inside(testbed.fabric.netns):
        return sorted(name for _, name in socket.if_nameindex())


class Lab:
    """Two hosts, a router, and a host behind it; a server and a sleeper on ``b``."""

    def __init__(self, testbed: nsi.Testbed) -> None:
        lan, wan = testbed.network("10.0.0.0/24", "fd00::/64"), testbed.network("10.0.1.0/24")
        self.a, self.b = testbed.host("a", lan), testbed.host("b", lan)
        self.c = testbed.host("c", wan)
        self.router = testbed.router("router", lan, wan)
        self.server = serve(self.b)
        self.sleeper = self.b.start("sleep 1000")
        self.daemon = self.b.shell("setsid sleep 2000 > /dev/null 2>&1 & echo $!").stdout
        self.interfaces = interfaces(testbed)
        self.started_by = os.getpid()

    def sleepers(self) -> list[str]:
        return sorted(p.command for p in self.b.view.processes if p.name == "sleep")


@pytest.fixture(scope="module")
def lab(module_testbed: nsi.Testbed) -> Iterator[Lab]:
    lab = Lab(module_testbed)
    with pytest.raises(nsi.TestbedError, match=r"b\.eth0 can be disturbed by each test for itself"):
        lab.b.wire.impair(delay=0.1)
    yield lab
    assert lab.server.running()
    lab.server.stop()
    assert not lab.sleeper.running()


@pytest.fixture
def slow(lab: Lab) -> float:
    """What a test does to a wire, its fixtures may do for it."""
    lab.b.wire.impair(delay=0.05)
    return 0.1


@expect("passed")
def test_uses_it(module_testbed: nsi.Testbed, lab: Lab) -> None:
    assert os.getpid() != lab.started_by
    assert lab.a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"
    assert reaches(lab.c, lab.a)
    assert module_testbed.capture(lab.b).count(tcp_port=80) > 0
    assert lab.server.running()
    assert lab.server.log == "listening\n"
    lab.b.view.assert_listening(80)


@expect("passed")
@pytest.mark.isolated(leftovers="fail")
def test_disturbs_it(module_testbed: nsi.Testbed, lab: Lab, slow: float) -> None:
    """And has a capture of its own, and leaves a program that ends with it."""
    assert module_testbed.capture(lab.b).count(tcp_port=80) == 0
    assert reaches(lab.a, lab.b) >= slow
    lost = lab.b.wire.drop(lambda packet: packet.icmp, towards=lab.b)
    assert is_cut_off(lab.a, lab.b)
    assert lost.count > 0
    module_testbed.partition({lab.a}, {lab.c})
    lab.c.wire.cut()
    lab.b.start("sleep 3000")


def wreck(testbed: nsi.Testbed, lab: Lab) -> None:
    lab.b.wire.impair(delay=0.01)
    testbed.partition({lab.a, lab.b}, {lab.c})
    lab.router.wires[testbed.networks["net2"]].cut()
    lab.b.start("sleep 3000")
    lab.b.shell("setsid sleep 3000 > /dev/null 2>&1 &")
    assert lab.sleepers() == ["sleep 1000", "sleep 2000", "sleep 3000", "sleep 3000"]


@expect("call failed", "killed by SIGKILL")
def test_is_killed(module_testbed: nsi.Testbed, lab: Lab) -> None:
    wreck(module_testbed, lab)
    os.kill(os.getpid(), signal.SIGKILL)


@expect("passed")
def test_finds_it_as_it_was(module_testbed: nsi.Testbed, lab: Lab) -> None:
    assert len(module_testbed.capture(lab.b)) == 0
    assert [wire.state for wire in module_testbed.wires] == [""] * 5
    assert interfaces(module_testbed) == lab.interfaces
    assert reaches(lab.c, lab.b)
    assert lab.a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"
    assert module_testbed.capture(lab.b).count(tcp_port=80) > 0
    assert lab.sleepers() == ["sleep 1000", "sleep 2000"]


@expect("call failed", *SAID_BY_FAILURE)
def test_fails(lab: Lab) -> None:
    assert lab.a.call(ask, "10.0.0.2") == "something else"


@expect("teardown failed", "a function given to drop() has failed: c.eth0: ", "ZeroDivision")
def test_drops_by_a_bad_function(lab: Lab) -> None:
    lab.c.wire.drop(lambda packet: 1 // 0)
    reaches(lab.a, lab.c)


@expect("passed")
def test_changes_nothing_for_good(module_testbed: nsi.Testbed, lab: Lab) -> None:
    with pytest.raises(nsi.TestbedError, match="a network is for all tests of the module"):
        module_testbed.network("10.0.9.0/24")
    with pytest.raises(nsi.TestbedError, match="a host is for all tests of the module"):
        module_testbed.host("d")
    with pytest.raises(nsi.TestbedError, match="the power of a host is for all tests"):
        lab.b.crash()
    for end in (lab.server.stop, lab.server.kill):
        with pytest.raises(nsi.TestbedError, match="was started for all tests that share b"):
            end()
    assert lab.a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"


@expect("passed")
def test_ends_a_program(lab: Lab) -> None:
    """Of the fixture's, by a signal; that stays, as what tests of a world change elsewhere."""
    lab.sleeper.send_signal(signal.SIGTERM)
    assert lab.sleeper.wait(30) == -signal.SIGTERM


@expect("passed")
def test_hears_of_that(lab: Lab) -> None:
    assert not lab.sleeper.running()
    assert lab.sleeper.status == -signal.SIGTERM
    assert lab.sleepers() == ["sleep 2000"]


@expect("call failed", "timed out after 3 s in call")
@pytest.mark.isolated(timeout=3)
def test_hangs(module_testbed: nsi.Testbed, lab: Lab) -> None:
    lab.b.wire.hold()
    time.sleep(1000)


@expect("passed")
def test_goes_on_after_that(lab: Lab) -> None:
    """In all more packets than the ring holds, read by several tests: each finds the place."""
    assert lab.a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"
    code = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
    code += "for _ in range(600): s.sendto(b'x', ('b', 9))"
    lab.a.run([sys.executable, "-c", code])
    assert lab.b.testbed.capture(lab.b).count(udp_port=9, sent=False) == 600


@expect("passed")
def test_reads_on(lab: Lab) -> None:
    test_goes_on_after_that(lab)


@expect("passed")
def test_reads_on_once_more(lab: Lab) -> None:
    test_goes_on_after_that(lab)
