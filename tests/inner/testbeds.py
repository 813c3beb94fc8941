# SPDX-License-Identifier: MIT
"""Crashes, packets, reports and refusals of a ``testbed``."""

from __future__ import annotations

import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from neighbours import ACCEPTING, CONNECTING, ask, is_cut_off, reaches, serve  # type: ignore[import-not-found]

import pytest_nsisolate as nsi

expect = pytest.mark.expect
pytestmark = pytest.mark.isolated


# In names, because a failure shows the lines of its test.
SAID_BY_PACKETS_OF_A_FAILURE = (
    "pcap/",
    ".pcapng (",
    "an interface for each wire",
    "a.eth0",
    "wires (",
)
SAID_BY_STATE_OF_A_FAILURE = (
    "host a (10.0.0.1): nothing runs",
    "host b (10.0.0.2): crashed",
    "host c (10.0.0.3):",
    "sh -c 'echo hello; sleep 1000' (running):",
    "    hello",
    "listens: udp 0.0.0.0:53",
    "c.eth0  net1     down",
    "no other processes",
)
SAID_BY_STATE_OF_MANY = (
    "host c (10.0.0.3):",
    "... and 2 more hosts",
    "c.eth0  net1     down",
    "  ... and 1 more",
    "!host a (",
    "!b.eth0",
)
SAID_BY_KERNEL_WITHOUT_BRIDGES = (
    "isolation refused: add a bridge for the net namespace: E",
    "cause: this kernel",
    "CONFIG_BRIDGE",
)
SAID_BY_KERNEL_WITHOUT_VETH = (
    "isolation refused: add a veth pair for the net namespace: E",
    "cause: this kernel",
    "CONFIG_VETH",
)
SAID_BY_KERNEL_WITHOUT_RINGS = (
    "isolation refused: open a packet socket for the net namespace: E",
    "remedy: ",
    "host a (10.0.0.1): nothing runs",
    "a.eth0  net1     down",
)
SAID_BY_REFUSAL_IN_PID_1_OF_A_HOST = (
    "isolation refused: write /proc/sys/net/ipv4/ip_forward for the net namespace",
)


SAID_BY_KERNEL_WITHOUT_NAT = (
    "isolation refused: add a rule of NAT for the net namespace: E",
    "cause: this kernel",
    "modprobe -a nf_tables",
)


# Wires, crashes ----------------------------------------------------------------------------------


@expect("passed")
def test_the_first_host(testbed: nsi.Testbed) -> None:
    """It has its carrier when it is used, or when it has a neighbour."""
    lan = testbed.network("10.0.0.0/24")
    a = testbed.host("a", lan)
    assert not testbed.fabric.listens
    assert a.wire.counters == (0, 0)
    assert a.run("cat /sys/class/net/eth0/carrier").stdout == "1\n"
    assert testbed.fabric.helpers() == {}


@expect("call failed", "no other processes")
def test_what_makes_the_ring_is_not_the_test_s(testbed: nsi.Testbed, pid1: nsi.Pid1View) -> None:
    """A process of its own, for some milliseconds, and then a zombie until a host is used."""
    lan = testbed.network("10.0.0.0/24")
    (helper,) = testbed.fabric.helpers()
    os.waitid(os.P_PID, helper, os.WEXITED | os.WNOWAIT | 0x40000000)  # __WALL
    pid1.assert_alone()
    pid1.assert_no_zombies()
    a = testbed.host("a", lan)
    pid1.assert_alone()
    with a.start("sleep 1000"), pytest.raises(AssertionError):
        pid1.assert_alone()
    raise RuntimeError


@expect("passed")
def test_the_first_use_by_threads(testbed: nsi.Testbed) -> None:
    """Any of them connects the host, and none goes on before."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(a.run, "cat /sys/class/net/eth0/carrier") for _ in range(4)]
    assert [task.result().stdout for task in done] == ["1\n"] * 4


@expect("passed")
def test_connecting_may_fail_half_way(
    testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next use connects what is left."""
    lan = testbed.network("10.0.0.0/24")
    a = testbed.host("a", lan)
    with monkeypatch.context() as patched:
        patched.setattr(type(a.wire), "connect", _not_supported)
        with pytest.raises(OSError, match="supported"):
            testbed.host("b", lan)
    assert reaches(testbed.host("b", lan), a)


@expect("passed")
def test_every_packet_is_kept(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first one on: a host says something as soon as its interface is up (MLD)."""
    from pytest_nsisolate.kernel.packet_sockets import PacketRing

    make = PacketRing.make

    def make_slowly(ring: PacketRing) -> None:
        time.sleep(0.5)  # a kernel that needs more time than two hosts
        make(ring)

    monkeypatch.setattr(PacketRing, "make", make_slowly)
    lan = testbed.network("fd00::/64")
    testbed.host("a", lan)
    testbed.host("b", lan)

    def all_kept() -> bool:
        testbed.capture(lan)  # empties the ring
        passed = sum(sum(wire.counters) for wire in testbed.wires)
        return passed > 0 and testbed.packets == (passed, 0)

    assert _eventually(all_kept)


@expect("passed")
def test_cut_and_mend(testbed: nsi.Testbed) -> None:
    """No carrier, nothing passes; afterwards as before."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert reaches(a, b)
    b.wire.cut()
    assert b.call(Path("/sys/class/net/eth0/carrier").read_text) == "0\n"
    assert is_cut_off(a, b)
    b.wire.mend()
    assert reaches(a, b)


@expect("passed")
def test_crash_and_boot(testbed: nsi.Testbed) -> None:
    """Nobody hears of it, everything on it is gone, and its name and address stay."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    server = serve(b)
    number = b.pid
    b.shell("echo 1 > /dev/shm/lost")
    b.crash()
    assert b.crashed
    assert not server.running()
    assert not Path(f"/proc/{number}").exists()
    assert is_cut_off(a, b)
    with pytest.raises(nsi.TestbedError, match=r"host b has crashed: b.boot\(\) starts it again"):
        b.run("true")
    b.boot()
    assert reaches(a, b)
    assert b.run("ls /dev/shm").stdout == ""
    assert a.call(socket.gethostbyname, "b") == "10.0.0.2"
    with serve(b, "again"):
        assert a.call(ask, "b") == "again to ::ffff:10.0.0.1"
    with pytest.raises(nsi.TestbedError, match="host b is up"):
        b.boot()


@expect("passed")
def test_a_crash_closes_no_connection(testbed: nsi.Testbed) -> None:
    """The peer sees neither FIN nor RST."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    b.start(
        [sys.executable, "-c", ACCEPTING],
        ready=80,
        within=30,
    )
    program = a.start([sys.executable, "-c", CONNECTING])
    assert _eventually(lambda: "got it" in b.programs[0].log)
    b.crash()
    states = [found.state for found in a.view.connections]
    assert states == ["established"]
    assert not testbed.capture(a).count(lambda p: p.tcp and (p.tcp.fin or p.tcp.rst))
    assert program.running()


def _eventually(holds: Any, seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


# Packets -----------------------------------------------------------------------------------------


@expect("passed")
def test_capture(testbed: nsi.Testbed) -> None:
    """Since the test began, of a host or a network, with typed headers."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    with serve(b):
        a.call(ask, "b")
    # The last packets may be on their way still.
    assert _eventually(lambda: testbed.capture(b).count(lambda p: p.tcp and p.tcp.fin) >= 2)
    packets = testbed.capture(b)
    assert packets.count(tcp_port=81) == packets.count(udp_port=80) == 0
    first = packets.where(tcp_port=80)[0]
    assert first.wire == "b.eth0"
    assert not first.sent
    assert first.tcp is not None
    assert first.ip is not None
    assert (first.tcp.syn, first.tcp.ack, str(first.ip.source)) == (True, False, "10.0.0.1")
    assert any(p.tcp and b"ok to" in p.tcp.payload for p in packets if p.sent)
    # Each packet once, as its sender sent it.
    everything = testbed.capture(lan)
    both = (everything.count(lambda p: p.tcp and p.tcp.syn) for everything in (everything, packets))
    assert [*both] == [2, 2]
    assert [p.time for p in everything] == sorted(p.time for p in everything)
    assert packets.missed == 0
    with pytest.raises(nsi.TestbedError, match="'c' is no host and no network"):
        testbed.capture("c")


@expect("passed")
def test_a_flood_is_counted(testbed: nsi.Testbed) -> None:
    """What a ring does not hold is missed by the capture, which says so."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    a.box.meanwhile = None  # the test looks when all is over
    sent = a.call(_flood, "10.0.0.2", 5000)
    wires = (a.wire, b.wire)

    def all_counted() -> bool:
        testbed.capture(a)  # empties the ring
        return sum(testbed.packets) >= sum(sum(wire.counters) for wire in wires)

    assert _eventually(all_counted)
    packets = testbed.capture(a)
    assert packets.missed > 0
    assert "more were not kept" in repr(packets)
    assert testbed.capture(b).missed > 0
    assert sum(testbed.packets) >= sent


def _flood(address: str, number: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"", (address, 9))
        for _ in range(number - 1):
            try:
                out.sendto(b"x", (address, 9))
            except ConnectionRefusedError:
                pass
    return number


@expect("call failed", *SAID_BY_PACKETS_OF_A_FAILURE)
def test_packets_of_a_failure(testbed: nsi.Testbed) -> None:
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert is_cut_off(a, b)


@expect("call failed", *SAID_BY_STATE_OF_A_FAILURE)
def test_the_state_of_a_failure(testbed: nsi.Testbed) -> None:
    """Each host and each wire, once; not among the test's own processes."""
    lan = testbed.network("10.0.0.0/24")
    _, b, c = (testbed.host(name, lan) for name in "abc")
    c.start(["sh", "-c", "echo hello; sleep 1000"], ready="hello", within=30)
    script = "import socket, time; s = socket.socket(type=2); s.bind(('', 53)); time.sleep(1000)"
    c.start([sys.executable, "-c", script], ready=53, within=30)
    c.wire.cut()
    b.crash()
    raise RuntimeError


@expect("call failed", *SAID_BY_STATE_OF_MANY)
def test_the_state_of_many(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a report has room for; those to which something has happened come first."""
    from pytest_nsisolate.testbed import state

    monkeypatch.setattr(state, "_MOST_HOSTS", 1)
    monkeypatch.setattr(state, "_MOST_WIRES", 2)
    lan = testbed.network("10.0.0.0/24")
    _, _, c = (testbed.host(name, lan) for name in "abc")
    c.wire.cut()
    c.start("sleep 1000")
    raise RuntimeError


# What cannot be ----------------------------------------------------------------------------------


@expect("passed")
def test_usage_errors(testbed: nsi.Testbed) -> None:
    """Each says what cannot be, and why; nothing is left of it."""
    lan = testbed.network("10.0.0.0/24", name="lan")
    a = testbed.host("a", lan)
    wrong: list[tuple[Any, str]] = [
        (lambda: testbed.network("10.0.0.128/25"), r"overlaps with 10.0.0.0/24 \(network lan\)"),
        (lambda: testbed.network("10.1.0.0/24", "10.1.0.0/16"), "another one of this network"),
        (lambda: testbed.network("10.1.0.1/24"), "has host bits set"),
        (lambda: testbed.network("nonsense"), "does not appear to be"),
        (testbed.network, "needs a subnet"),
        (lambda: testbed.network("10.1.0.0/24", name="lan"), "there is one of that name"),
        (lambda: testbed.host("a", lan), "there is a host of that name"),
        (lambda: testbed.host("localhost", lan), "there is a host of that name"),
        (lambda: testbed.host("a b", lan), "'a b' is no host name"),
        (lambda: testbed.host("b"), "a host is on a network"),
        (lambda: testbed.host("b", lan, lan), "network lan is named twice"),
        (lambda: testbed.host("b", lan["10.0.1.1"]), "not an address of this network"),
        (lambda: testbed.host("b", lan["fd00::1"]), "not an address of this network"),
        (lambda: testbed.host("b", lan["x"]), "does not appear to be"),
        (lambda: testbed.host("b", lan[a.address]), "10.0.0.1 is taken already"),
        (lambda: testbed.router("r", lan, nat=True), "needs two networks"),
        (lambda: testbed.host("b", lan, net=False), r"\('b', net=False\): a host has .* a network"),
        (lambda: testbed.host("b", lan, hostname="c"), r"\('b', hostname='c'\): a host has"),
        (lambda: testbed.host("b", lan, files={"/etc/hosts": ""}), "'/etc/hosts'.*: a host has"),
        (lambda: testbed.capture("x"), "'x' is no host and no network of this testbed: a, lan"),
    ]
    for action, text in wrong:
        with pytest.raises(nsi.TestbedError, match=text):
            action()
    with pytest.raises(TypeError, match="unknown keyword"):
        testbed.host("b", lan, nonsense=True)
    assert [*testbed.hosts] == ["a"]
    assert [*testbed.networks] == ["lan"]
    assert testbed.host("b", lan).address == "10.0.0.2"


@expect("call failed", *SAID_BY_KERNEL_WITHOUT_BRIDGES)
def test_a_kernel_without_bridges(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_nsisolate.kernel.links import Links

    monkeypatch.setattr(Links, "add_bridge", _not_supported)
    testbed.network("10.0.0.0/24")


@expect("call failed", *SAID_BY_KERNEL_WITHOUT_VETH)
def test_a_kernel_without_veth(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_nsisolate.kernel.links import Links

    monkeypatch.setattr(Links, "add_cable", _not_supported)
    testbed.host("a", testbed.network("10.0.0.0/24"))


@expect("call failed", *SAID_BY_KERNEL_WITHOUT_RINGS)
def test_a_kernel_without_rings(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every use says so, also after another one has."""
    from pytest_nsisolate.kernel.packet_sockets import PacketRing

    monkeypatch.setattr(PacketRing, "make", _not_supported)
    lan = testbed.network("10.0.0.0/24")
    a = testbed.host("a", lan)
    for use in (lambda: a.run("true"), a.wire.cut, lambda: testbed.host("b", lan)):
        with pytest.raises(nsi.IsolatedRefusal):
            use()
    assert [*testbed.hosts] == ["a"]
    a.run("true")


@expect("call failed", *SAID_BY_KERNEL_WITHOUT_NAT)
def test_a_kernel_without_nat(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_nsisolate.testbed import host

    monkeypatch.setattr(host, "masquerade", _not_supported)
    testbed.router("r", testbed.network("10.0.0.0/24"), testbed.network("10.0.1.0/24"), nat=True)


def _not_supported(*_: Any, **__: Any) -> None:
    raise OSError(95, os.strerror(95))


@expect("call failed", *SAID_BY_REFUSAL_IN_PID_1_OF_A_HOST)
def test_a_refusal_in_pid_1_of_a_host(
    testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names its step, as every refusal does."""
    from pytest_nsisolate.testbed import host

    def refuse(name: str, value: str, **_: Any) -> None:
        if "ip_forward" in name:
            raise nsi.StepError(f"write /proc/sys/{name}", "net", 30)

    monkeypatch.setattr(host, "write_sysctl", refuse)
    testbed.router("r", testbed.network("10.0.0.0/24"), testbed.network("10.0.1.0/24"))


@pytest.mark.isolated(False)
@expect("setup failed", "is not isolated: mark it with @pytest.mark.isolated")
def test_an_unmarked_test(testbed: nsi.Testbed) -> None:
    raise RuntimeError("never reached")


@pytest.mark.isolated(net=False)
@expect("setup failed", "has no network of its own (net=False)")
def test_without_a_network(testbed: nsi.Testbed) -> None:
    raise RuntimeError("never reached")


# Everywhere --------------------------------------------------------------------------------------


@pytest.mark.isolated(init=True)
@expect("passed")
def test_behind_an_init(testbed: nsi.Testbed) -> None:
    lan = testbed.network("10.0.0.0/24")
    assert reaches(testbed.host("a", lan), testbed.host("b", lan))


@pytest.mark.isolated(caps=["-sys_admin", "-net_raw"])
@expect("setup failed", "has no CAP_SYS_ADMIN and no CAP_NET_RAW, which it takes", "caps=")
def test_without_rights(testbed: nsi.Testbed) -> None:
    raise RuntimeError("never reached")


@expect("passed")
def test_in_an_isolated_function(testbed: nsi.Testbed, isolate: nsi.Isolate) -> None:
    """A call by isolate beside the hosts sees none of them."""
    testbed.host("a", testbed.network("10.0.0.0/24"))
    assert isolate.using(net=True)(socket.gethostname) == socket.gethostname()


@expect("passed")
def test_nothing_is_imported(testbed: nsi.Testbed) -> None:
    """Not in the test's process, where each test would pay for it."""
    before = set(sys.modules)
    lan, wan = testbed.network("10.0.0.0/24"), testbed.network("10.0.1.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", wan)
    testbed.router("r", lan, wan, nat=True)
    with serve(b):
        assert a.call(ask, "b").startswith("ok to ")
    assert b.view.processes
    b.wire.impair(delay=0.001)
    testbed.partition({a}, {b})
    testbed.heal()
    b.crash()
    b.boot()
    str(testbed.capture(lan))
    assert set(sys.modules) - before == set()


@expect("passed")
def test_nothing_is_left(testbed: nsi.Testbed) -> None:
    """Descriptors and processes, after a testbed is closed; links go with their namespace."""
    from pytest_nsisolate.testbed.bed import Testbed

    testbed.host("warm", testbed.network("10.9.0.0/24")).run("true")
    before = set(os.listdir("/proc/self/fd")), _processes()
    other = Testbed(testbed._isolate, testbed.home)
    lan = other.network("10.0.0.0/24")
    a, b = other.host("a", lan), other.host("b", lan)
    a.start("sleep 1000")
    assert reaches(a, b)
    a.crash()
    a.boot()
    other.close()
    assert _eventually(lambda: (set(os.listdir("/proc/self/fd")), _processes()) == before)


def _processes() -> set[str]:
    return {entry for entry in os.listdir("/proc") if entry.isdigit()}
