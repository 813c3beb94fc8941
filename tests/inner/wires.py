# SPDX-License-Identifier: MIT
"""Wires that lose, delay, choose and hold packets; partitions."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from neighbours import is_cut_off, reaches  # type: ignore[import-not-found]

import pytest_nsisolate as nsi

expect = pytest.mark.expect
pytestmark = pytest.mark.isolated

#: Nobody listens there.
PORT = 9


# In names, because a failure shows the lines of its test.
SAID_BY_RELAY_THAT_WAS_KILLED = (
    "the relay of the testbed was lost",
    "b.eth0  net1",
)
SAID_BY_STATE_OF_WIRES = (
    "loss 50 %, rate 1 Mbit/s",
    "held",
    "a.eth0  net1     up",
    "partitioned",
)


def two(testbed: nsi.Testbed) -> tuple[nsi.Host, nsi.Host]:
    """Hosts that know each other's hardware addresses."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert reaches(a, b)
    return a, b


def counted(wire: nsi.Wire) -> Callable[[int], bool]:
    """Counts the datagrams that the relay has seen; the answer waits for a number of them."""
    seen = mmap.mmap(-1, mmap.PAGESIZE)  # the relay is a fork, which shares it

    def see(packet: nsi.Packet) -> bool:
        if packet.udp is not None:
            seen[0] += 1
        return False

    wire.drop(see)
    return lambda number: eventually(lambda: seen[0] >= number)


def send(host: nsi.Host, other: nsi.Host, number: int, size: int = 4, pause: float = 0) -> None:
    """So many datagrams, numbered."""
    host.call(_send, other.address, number, size, pause)


def _send(address: str, number: int, size: int, pause: float) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as out:
        for at in range(number):
            out.sendto(at.to_bytes(4, "big") + bytes(size - 4), (address, PORT))
            time.sleep(pause)


def eventually(holds: Callable[[], object], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def arrived(testbed: nsi.Testbed, host: nsi.Host, since: int = 0) -> list[int]:
    """The numbers of the datagrams that a host has received."""
    packets = testbed.capture(host).where(udp_port=PORT, sent=False)[since:]
    return [int.from_bytes(p.udp.payload[:4], "big") for p in packets if p.udp is not None]


# What a wire can do ------------------------------------------------------------------------------


@expect("passed")
def test_delay(testbed: nsi.Testbed) -> None:
    """Each way; and back to nothing."""
    a, b = two(testbed)
    said = b.wire.impair(delay=0.05)
    assert str(said) == "delay 50 ms"
    assert reaches(a, b) >= 0.1
    b.wire.impair(delay=0, towards=b)
    assert reaches(a, b) >= 0.05
    b.wire.clear()
    assert eventually(lambda: reaches(a, b) < 0.05)


@expect("passed")
def test_a_wire_works_until_its_relay_does(
    testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rings are made before it is cut in two: the kernel takes its time for them."""
    from pytest_nsisolate.kernel.packet_sockets import PacketRing

    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    cut_off: list[bool] = []
    make = PacketRing.make

    def make_beside_an_echo(ring: PacketRing) -> None:
        make(ring)
        cut_off.append(not reaches(b, a))

    monkeypatch.setattr(PacketRing, "make", make_beside_an_echo)
    b.wire.impair(delay=0.001)
    assert cut_off == [False, False]
    assert reaches(b, a) > 0.002


@expect("passed")
def test_the_same_seed_loses_the_same_packets(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    runs = []
    for seed in (7, 7, 8):
        b.wire.clear()
        before = len(arrived(testbed, b))
        seen = counted(b.wire)
        b.wire.impair(loss=0.5, seed=seed, towards=b)
        send(a, b, 40)
        assert seen(40)
        b.wire.counts  # noqa: B018 (the relay answers when it has handed on what it has seen)
        runs.append(arrived(testbed, b, before))
    assert runs[0] == runs[1] != runs[2]
    assert 5 < len(runs[0]) < 35


@expect("passed")
def test_jitter_keeps_the_order(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    b.wire.impair(delay=0.01, jitter=0.01, towards=b)
    send(a, b, 30)
    assert eventually(lambda: len(arrived(testbed, b)) == 30)
    assert arrived(testbed, b) == [*range(30)]


@expect("passed")
def test_reorder(testbed: nsi.Testbed) -> None:
    """Some are overtaken; none is lost."""
    a, b = two(testbed)
    b.wire.impair(reorder=0.3, seed=1, towards=b)
    seen = counted(b.wire)
    b.wire.hold()
    send(a, b, 30)
    assert seen(30)
    b.wire.release()  # all at the same time, so that those that are late are overtaken
    assert eventually(lambda: len(arrived(testbed, b)) == 30)
    assert sorted(arrived(testbed, b)) == [*range(30)] != arrived(testbed, b)
    assert b.wire.counts.reordered > 0


@expect("passed")
def test_duplicate_and_corrupt(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    b.wire.impair(duplicate=1, towards=b)
    send(a, b, 3)
    assert eventually(lambda: len(arrived(testbed, b)) == 6)
    assert arrived(testbed, b) == [0, 0, 1, 1, 2, 2]
    b.wire.clear()
    b.wire.impair(corrupt=1, towards=lan_of(testbed))
    b.call(_send, a.address, 5, 1000, 0)
    sent = testbed.capture(b).where(sent=True).where(lambda p: p.length > 1000)
    assert eventually(lambda: len(_big(testbed, a)) == 5)
    for before, after in zip(sent, _big(testbed, a), strict=True):
        pairs = zip(before.data, after.data, strict=True)
        assert sum((x ^ y).bit_count() for x, y in pairs) == 1
    assert b.wire.counts.corrupted >= 5


def _big(testbed: nsi.Testbed, host: nsi.Host) -> nsi.Capture:
    return testbed.capture(host).where(lambda p: p.length > 1000, sent=False)


def lan_of(testbed: nsi.Testbed) -> nsi.Network:
    (network,) = testbed.networks.values()
    return network


@expect("passed")
def test_mtu(testbed: nsi.Testbed) -> None:
    """Larger ones are lost in silence."""
    a, b = two(testbed)
    b.wire.impair(mtu=1000, towards=b)
    send(a, b, 1, 1000 - 28 + 1)
    send(a, b, 2, 1000 - 28)
    assert eventually(lambda: len(arrived(testbed, b)) == 2)
    assert b.wire.counts.lost == 1


@expect("passed")
def test_rate(testbed: nsi.Testbed) -> None:
    """Ten packets of 1042 bytes take 0.83 s at 100 kbit/s."""
    a, b = two(testbed)
    b.wire.impair(rate="100kbit", towards=b)
    send(a, b, 10, 1000)
    assert eventually(lambda: len(arrived(testbed, b)) == 10)
    first = testbed.capture(a).where(udp_port=PORT, sent=True)[0]
    last = testbed.capture(b).where(udp_port=PORT, sent=False)[-1]
    assert last.time - first.time > 0.8
    assert arrived(testbed, b) == [*range(10)]


@expect("passed")
def test_a_large_transfer(testbed: nsi.Testbed) -> None:
    """TCP through a bad wire is slow and right; no packet is larger than the wire."""
    a, b = two(testbed)
    b.wire.impair(loss=0.02, delay=0.001, duplicate=0.02, reorder=0.02, corrupt=0.01, seed=3)
    size = 100_000
    server = b.start([sys.executable, "-c", SINK, str(size)], ready=80, within=30)
    a.call(_pour, b.address, size)
    assert server.wait(60) == 0, server.log
    assert max(p.length for p in testbed.capture(b) if p.tcp) <= 1514


SINK = """
import socket, sys
server = socket.create_server(("", 80))
connection, _ = server.accept()
data = b"".join(iter(lambda: connection.recv(65536), b""))
assert data == bytes(range(200)) * (int(sys.argv[1]) // 200), len(data)
"""


def _pour(address: str, size: int) -> None:
    with socket.create_connection((address, 80), timeout=60) as connection:
        connection.sendall(bytes(range(200)) * (size // 200))


# Chosen packets ----------------------------------------------------------------------------------


@expect("passed")
def test_chosen_packets(testbed: nsi.Testbed) -> None:
    """By any function, so many times, until it is stopped."""
    a, b = two(testbed)
    unwanted = {3, 5}
    dropping = b.wire.drop(lambda p: p.udp and p.udp.payload[3] in unwanted, towards=b)
    send(a, b, 8)
    assert eventually(lambda: len(arrived(testbed, b)) == 6)
    assert arrived(testbed, b) == [0, 1, 2, 4, 6, 7]
    assert dropping.count == 2
    dropping.stop()
    b.wire.drop(lambda p: p.udp is not None, times=1, towards=b)
    send(a, b, 8)
    assert eventually(lambda: len(arrived(testbed, b)) == 6 + 7)
    assert arrived(testbed, b, 6) == [1, 2, 3, 4, 5, 6, 7]
    assert dropping.count == 2


@expect("passed")
def test_another_function_loses_nothing_of_the_state(testbed: nsi.Testbed) -> None:
    """What was held, set and counted is there afterwards."""
    a, b = two(testbed)
    b.wire.impair(delay=0.001, towards=b)
    seen = counted(b.wire)
    b.wire.hold()
    send(a, b, 5)
    assert seen(5)
    a.wire.drop(lambda p: False)
    b.wire.drop(lambda p: False)
    assert arrived(testbed, b) == []
    b.wire.release()
    assert eventually(lambda: len(arrived(testbed, b)) == 5)
    assert arrived(testbed, b) == [0, 1, 2, 3, 4]
    assert "to the host delay 1 ms" in repr(b.wire)


@expect("teardown failed", "a function given to drop() has failed: b.eth0: Zero")
def test_a_function_that_fails(testbed: nsi.Testbed) -> None:
    """Its packet passes; the test is told."""
    a, b = two(testbed)
    b.wire.drop(lambda p: 1 / 0)
    assert reaches(a, b)


@expect("passed")
def test_hold_and_release(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    b.wire.hold()
    send(a, b, 5)
    assert is_cut_off(a, b)
    assert arrived(testbed, b) == []
    b.wire.release()
    assert eventually(lambda: len(arrived(testbed, b)) == 5)
    assert arrived(testbed, b) == [*range(5)]


# Partitions --------------------------------------------------------------------------------------


@expect("passed")
def test_partition_and_heal(testbed: nsi.Testbed) -> None:
    """Nobody of one group reaches another one; who is in none reaches everybody."""
    lan = testbed.network("10.0.0.0/24")
    a, b, c, d = (testbed.host(name, lan) for name in "abcd")
    testbed.partition({a, b}, {c})
    assert reaches(a, b)
    assert is_cut_off(a, c)
    assert is_cut_off(c, b)
    for host in (a, b, c):
        assert reaches(d, host)
    testbed.partition({a}, {b})
    assert reaches(a, c)
    assert is_cut_off(a, b)
    testbed.heal()
    assert reaches(a, b)
    for groups, text in (([{a}], "two groups or more"), ([{a}, {a, b}], "a is in two groups")):
        with pytest.raises(nsi.TestbedError, match=text):
            testbed.partition(*groups)


@expect("passed")
def test_a_partition_beyond_a_router(testbed: nsi.Testbed) -> None:
    left, right = testbed.network("10.0.1.0/24"), testbed.network("10.0.2.0/24")
    a, b, router = testbed.host("a", left), testbed.host("b", right), None
    router = testbed.router("r", left, right)
    assert reaches(a, b)
    testbed.partition({a}, {b})
    assert is_cut_off(a, b)
    assert reaches(a, router)
    testbed.heal()
    assert reaches(a, b)


# The end of things -------------------------------------------------------------------------------


@expect("passed")
def test_a_crash_keeps_what_was_set(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    b.wire.impair(delay=0.03)
    b.crash()
    assert is_cut_off(a, b)
    b.wire.impair(delay=0.02)
    a.crash()
    with pytest.raises(nsi.TestbedError, match="its host has crashed"):
        a.wire.hold()
    a.boot()
    b.boot()
    assert reaches(a, b) >= 0.04
    b.wire.cut()
    assert is_cut_off(a, b)
    b.wire.mend()
    assert reaches(a, b) >= 0.04


@expect("passed")
def test_bad_values(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"loss": 1.5}, "a part of the packets is 0 to 1"),
        ({"delay": -1}, "not a number from 0 on"),
        ({"rate": "fast"}, 'bits in a second, as 5e6 or "5mbit"'),
        ({"delay": "1ms"}, "not a number"),
        ({"loss": 0.1, "towards": a}, "leads to host b and to network net1, not to a"),
    ]
    for values, text in wrong:
        with pytest.raises(nsi.TestbedError, match=text):
            b.wire.impair(**values)
    assert "relay" not in repr(testbed.wires)
    assert str(b.wire.impair(rate="1.5 Mbit", mtu=500)) == "rate 1.5 Mbit/s, mtu 500"


@expect("passed")
def test_a_relay_that_does_not_keep_up(testbed: nsi.Testbed) -> None:
    """It says so: a warning, and the number in the wire's counts."""
    a, b = two(testbed)
    b.wire.impair(mtu=1500)
    pids = testbed.relay.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    send(a, b, 3000)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: b.wire.counts.overrun > 0)
    with pytest.warns(nsi.NsisolateOverrunWarning, match=r"b\.eth0 \d+"):
        testbed.close()


@expect("call failed", *SAID_BY_RELAY_THAT_WAS_KILLED)
def test_a_relay_that_was_killed(testbed: nsi.Testbed) -> None:
    _, b = two(testbed)
    b.wire.hold()
    for pid in testbed.relay.pids:
        os.kill(pid, signal.SIGKILL)
    b.wire.release()


@expect("call failed", *SAID_BY_STATE_OF_WIRES)
def test_the_state_of_wires(testbed: nsi.Testbed) -> None:
    a, b = two(testbed)
    b.wire.impair(loss=0.5, rate="1mbit")
    b.wire.hold()
    testbed.partition({a}, {b})
    raise RuntimeError


@expect("passed")
def test_nothing_is_left_of_a_relay(testbed: nsi.Testbed) -> None:
    """Descriptors, processes and memory, with packets on their way."""
    from pytest_nsisolate.testbed.bed import Testbed

    def build() -> None:
        other = Testbed(testbed._isolate, testbed.home)
        lan = other.network("10.0.0.0/24")
        a, b = other.host("a", lan), other.host("b", lan)
        b.wire.impair(delay=10)
        send(a, b, 5)
        b.wire.drop(lambda p: False)
        other.close()

    build()
    before = _left()
    build()
    assert eventually(lambda: _left() == before), (before, _left())


def _left() -> tuple[set[str], set[str], int]:
    processes = {entry for entry in os.listdir("/proc") if entry.isdigit()}
    with open("/proc/self/maps", encoding="ascii") as file:
        rings = sum("packet" in line or "socket:" in line for line in file)
    return set(os.listdir("/proc/self/fd")), processes, rings
