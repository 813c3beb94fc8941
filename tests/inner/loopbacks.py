# SPDX-License-Identifier: MIT
"""A test's own ``lo`` that loses, delays, chooses and holds packets."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_nsisolate as nsi

expect = pytest.mark.expect
pytestmark = pytest.mark.isolated

BOTH = ("127.0.0.1", "::1")

# In names, because a failure shows the lines of its test.
SAID_BY_KERNEL_WITHOUT_FORWARDING = (
    "pid1.loopback: isolation refused: divert lo for the net namespace: E",
    "cause: this kernel",
    "CONFIG_NFT_FWD_NETDEV",
)
SAID_BY_RELAY_THAT_WAS_KILLED = ("the relay of the loopback was lost",)
SAID_BY_STATE = (
    "lo goes through a relay: loss 50 %, rate 1 Mbit/s; held",
    "(the relay of lo)",
)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Mailbox:
    """A socket that gets numbered datagrams, and one that sends them."""

    def __init__(self, address: str) -> None:
        self.inbox = socket.socket(family(address), socket.SOCK_DGRAM)
        self.inbox.bind((address, 0))
        self.inbox.settimeout(30)
        self.outbox = socket.socket(family(address), socket.SOCK_DGRAM)

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.inbox.close()
        self.outbox.close()

    def send(self, *numbers: int, size: int = 4) -> None:
        for number in numbers:
            data = number.to_bytes(4, "big") + bytes(size - 4)
            self.outbox.sendto(data, self.inbox.getsockname()[:2])

    def receive(self, number: int) -> list[int]:
        """So many; waits for them."""
        return [int.from_bytes(self.inbox.recv(65536)[:4], "big") for _ in range(number)]

    def take(self) -> list[int]:
        """What is there; does not wait."""
        found = []
        self.inbox.setblocking(False)
        try:
            while True:
                found.append(int.from_bytes(self.inbox.recv(65536)[:4], "big"))
        except BlockingIOError:
            return found
        finally:
            self.inbox.settimeout(30)


def counted(loopback: nsi.Loopback) -> Callable[[int], bool]:
    """Counts the datagrams that the relay has seen; the answer waits for a number of them."""
    seen = mmap.mmap(-1, mmap.PAGESIZE)  # the relay is a fork, which shares it

    def see(packet: nsi.Packet) -> bool:
        if packet.udp is not None:
            seen[0] += 1
        return False

    loopback.drop(see)
    return lambda number: eventually(lambda: seen[0] >= number)


def eventually(holds: Callable[[], object], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def echo(address: str, data: bytes = b"x") -> float:
    """Seconds that a connection takes, with all of this there and back."""
    with socket.create_server((address, 0), family=family(address)) as server:
        start = time.monotonic()
        thread = threading.Thread(target=_answer, args=(server,))
        thread.start()
        with socket.create_connection(server.getsockname()[:2], timeout=60) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            back = b"".join(iter(lambda: connection.recv(65536), b""))
        took = time.monotonic() - start
        thread.join()
        assert back == data
        return took


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        data = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(data)


def state_of_lo() -> tuple[str, ...]:
    """What a disturbance changes, and the interfaces."""
    folder = Path("/proc/sys/net/ipv4/conf/lo")
    values = [(folder / name).read_text() for name in ("route_localnet", "accept_local")]
    size = Path("/sys/class/net/lo/mtu").read_text()
    return (*values, size, *(name for _, name in socket.if_nameindex()))


UNDISTURBED = ("0\n", "0\n", "65536\n", "lo")


# What it can do ----------------------------------------------------------------------------------


@expect("passed")
@pytest.mark.isolated(addresses=["10.53.0.1/32", "fd00::53"])
def test_delay(pid1: nsi.Pid1View) -> None:
    """Each packet of both families, of every address, also the answer of a closed port."""
    assert pid1.loopback.counts.passed == 0
    assert state_of_lo() == UNDISTURBED
    assert str(pid1.loopback.impair(delay=0.03)) == "delay 30 ms"
    for address in (*BOTH, "10.53.0.1", "fd00::53"):
        assert echo(address) >= 0.12  # both SYN, what is said there and back
        with Mailbox(address) as mailbox:
            start = time.monotonic()
            mailbox.send(7, 8, size=5000)
            assert mailbox.receive(2) == [7, 8]
            assert time.monotonic() - start >= 0.03
        with socket.socket(family(address), socket.SOCK_DGRAM) as out:
            out.settimeout(30)
            out.connect((address, 9))
            start = time.monotonic()
            out.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                out.recv(1)
            assert time.monotonic() - start >= 0.06
    passed = pid1.loopback.counts.passed
    assert passed > 30
    pid1.loopback.clear()
    assert eventually(lambda: echo("127.0.0.1") < 0.12)


@expect("passed")
@pytest.mark.isolated(addresses=["10.53.0.1/32"])
def test_strict_reverse_paths(pid1: nsi.Pid1View) -> None:
    """As many machines have them; an interface that is made later has them too (ip-sysctl)."""
    for folder in Path("/proc/sys/net/ipv4/conf").iterdir():
        (folder / "rp_filter").write_text("1")
    pid1.loopback.impair(delay=0.03)
    assert Path("/proc/sys/net/ipv4/conf/nsisolate-lo/rp_filter").read_text() == "1\n"
    for address in ("127.0.0.1", "10.53.0.1"):
        assert echo(address) >= 0.12


@expect("passed")
def test_the_same_seed_loses_the_same_packets(pid1: nsi.Pid1View) -> None:
    """Of either family; another seed loses others, and without loss all arrive."""
    loopback = pid1.loopback
    runs = []
    for address, seed in ((BOTH[0], 7), (BOTH[0], 7), (BOTH[1], 7), (BOTH[0], 8)):
        loopback.clear()
        with Mailbox(address) as mailbox:
            seen = counted(loopback)
            loopback.impair(loss=0.5, seed=seed)
            mailbox.send(*range(40))
            assert seen(40)
            loopback.counts  # noqa: B018 (the relay answers when it has handed on what it has seen)
            runs.append(mailbox.take())
    assert runs[0] == runs[1] == runs[2] != runs[3]
    assert 5 < len(runs[0]) < 35
    loopback.clear()
    with Mailbox("127.0.0.1") as mailbox:
        mailbox.send(*range(40))
        assert mailbox.receive(40) == [*range(40)]


@expect("passed")
def test_duplicate_reorder_and_jitter(pid1: nsi.Pid1View) -> None:
    loopback = pid1.loopback
    with Mailbox("::1") as mailbox:
        loopback.impair(duplicate=1)
        mailbox.send(0, 1, 2)
        assert mailbox.receive(6) == [0, 0, 1, 1, 2, 2]
        loopback.clear()
        loopback.impair(delay=0.01, jitter=0.01)
        mailbox.send(*range(30))
        assert mailbox.receive(30) == [*range(30)]
        loopback.clear()
        loopback.impair(reorder=0.3, seed=1)
        seen = counted(loopback)
        loopback.hold()
        mailbox.send(*range(30))
        assert seen(30)
        assert mailbox.take() == []
        loopback.release()
        found = mailbox.receive(30)
    assert sorted(found) == [*range(30)] != found
    assert (loopback.counts.duplicated, loopback.counts.reordered > 0) == (3, True)


@expect("passed")
def test_corrupt(pid1: nsi.Pid1View) -> None:
    """The checksums are right until a bit is wrong, and then the kernel drops the packet."""
    with Mailbox("127.0.0.1") as mailbox:
        seen = counted(pid1.loopback)
        pid1.loopback.impair(corrupt=1, seed=2)
        mailbox.send(*range(10), size=1000)
        assert seen(10)
        pid1.loopback.impair(corrupt=0)
        mailbox.send(10, size=1000)
        assert mailbox.receive(1) == [10]
    assert pid1.loopback.counts.corrupted == 10


@expect("passed")
def test_rate_and_mtu(pid1: nsi.Pid1View) -> None:
    """Ten packets of 1042 bytes take 0.83 s at 100 kbit/s; larger ones are lost in silence."""
    with Mailbox("127.0.0.1") as mailbox:
        pid1.loopback.impair(rate="100kbit", mtu=1028)
        start = time.monotonic()
        mailbox.send(99, size=1001)
        mailbox.send(*range(10), size=1000)
        assert mailbox.receive(10) == [*range(10)]
        assert time.monotonic() - start > 0.8
    assert pid1.loopback.counts.lost == 1


@expect("passed")
def test_a_large_transfer(pid1: nsi.Pid1View) -> None:
    """TCP over a bad loopback is slow and right; no packet is larger than 1,500 bytes."""
    largest = mmap.mmap(-1, mmap.PAGESIZE)
    largest[:2] = bytes(2)

    def see(packet: nsi.Packet) -> bool:
        largest[:2] = max(int.from_bytes(largest[:2], "big"), packet.length).to_bytes(2, "big")
        return False

    bad: dict[str, Any] = {"duplicate": 0.02, "reorder": 0.02, "corrupt": 0.01, "seed": 3}
    pid1.loopback.impair(loss=0.02, delay=0.001, **bad)
    pid1.loopback.drop(see)
    for address in BOTH:
        echo(address, bytes(range(200)) * 500)
    assert int.from_bytes(largest[:2], "big") == 1514
    assert pid1.loopback.counts.lost > 0


@expect("passed")
def test_chosen_packets(pid1: nsi.Pid1View) -> None:
    """The first SYN: the connection comes with the second one. Another function; stopped."""
    syn = pid1.loopback.drop(lambda p: p.tcp and p.tcp.syn and not p.tcp.ack, times=1)
    echo("127.0.0.1")
    assert syn.count == 1
    echo("::1")
    assert (syn.count, pid1.loopback.counts.dropped) == (1, 1)
    with Mailbox("127.0.0.1") as mailbox:
        odd = pid1.loopback.drop(lambda p: p.udp and p.udp.payload[3] % 2)
        mailbox.send(1, 0, 3, 2, 5, 4)
        assert mailbox.receive(3) == [0, 2, 4]
        odd.stop()
        mailbox.send(7)
        assert mailbox.receive(1) == [7]
    assert odd.count == 3


@expect("teardown failed", "a function given to drop() has failed: lo: ZeroDivision")
def test_a_function_that_fails(pid1: nsi.Pid1View) -> None:
    """Its packet passes; the test is told."""
    pid1.loopback.drop(lambda p: 1 / 0)
    echo("127.0.0.1")


@expect("passed")
def test_beside_a_testbed(testbed: nsi.Testbed, pid1: nsi.Pid1View) -> None:
    """Both have their relays; and a host's ``lo`` is not the test's."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    pid1.loopback.impair(delay=0.02)
    b.wire.impair(mtu=1400)
    assert echo("127.0.0.1") >= 0.08
    pid1.loopback.hold()
    a.call(echo, "127.0.0.1")
    pid1.loopback.release()
    assert testbed.relay.pids.isdisjoint(pid1.loopback.processes())
    with pytest.raises(nsi.TestbedError, match="disturb the wire of a host"):
        b.view.loopback  # noqa: B018


# Where it cannot be ------------------------------------------------------------------------------


@expect("passed")
@pytest.mark.isolated(net=False)
def test_without_a_network_of_its_own(pid1: nsi.Pid1View) -> None:
    with pytest.raises(nsi.TestbedError, match="has no network of its own"):
        pid1.loopback.impair(delay=1)


@expect("passed")
@pytest.mark.isolated(caps=["SYS_ADMIN", "NET_RAW"])
def test_without_the_rights(pid1: nsi.Pid1View) -> None:
    with pytest.raises(nsi.TestbedError, match="has no CAP_NET_ADMIN, which"):
        pid1.loopback.impair(delay=1)


@expect("passed")
def test_bad_values(pid1: nsi.Pid1View) -> None:
    """They change nothing; and a fork of the test has no say."""
    for values, text in (
        ({"loss": 1.5}, "a part of the packets is 0 to 1"),
        ({"delay": -1}, "not a number from 0 on"),
        ({"rate": "fast"}, 'bits in a second, as 5e6 or "5mbit"'),
    ):
        with pytest.raises(nsi.TestbedError, match=text):
            pid1.loopback.impair(**values)
    assert state_of_lo() == UNDISTURBED
    child = os.fork()
    if child == 0:
        try:
            pid1.loopback  # noqa: B018
        except nsi.TestbedError as error:
            os._exit(7 if "not to a fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@expect("call failed", *SAID_BY_KERNEL_WITHOUT_FORWARDING)
def test_a_kernel_without_forwarding(pid1: nsi.Pid1View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed, and ``lo`` works."""
    from pytest_nsisolate.testbed import loopback

    def refuse(*_: object) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(loopback, "Diversion", refuse)
    try:
        pid1.loopback.impair(delay=1000)
    finally:
        assert state_of_lo() == UNDISTURBED
        echo("127.0.0.1")


# The end -----------------------------------------------------------------------------------------


@pytest.fixture
def _afterwards() -> Iterator[None]:
    yield
    assert state_of_lo() == UNDISTURBED
    echo("127.0.0.1")


@expect("passed")
def test_all_is_as_it_was(_afterwards: None, pid1: nsi.Pid1View) -> None:  # noqa: PT019
    """When ``pid1`` is torn down, for the fixtures that were there before it."""
    pid1.loopback.impair(delay=1000)
    pid1.loopback.drop(lambda p: False)
    before = set(os.listdir("/proc/self/fd"))
    with Mailbox("127.0.0.1") as mailbox:
        mailbox.send(1)
        assert state_of_lo() == ("1\n", "1\n", "1500\n", "lo", "nsisolate-lo")
    pid1.loopback.close()
    assert state_of_lo() == UNDISTURBED
    assert [entry for entry in os.listdir("/proc") if entry.isdigit()] == [str(os.getpid())]
    left = set(os.listdir("/proc/self/fd"))
    assert left < before
    for _ in range(3):
        pid1.loopback.impair(mtu=1000)
        pid1.loopback.close()
    assert set(os.listdir("/proc/self/fd")) == left


@expect("call failed", *SAID_BY_RELAY_THAT_WAS_KILLED)
def test_a_relay_that_was_killed(_afterwards: None, pid1: nsi.Pid1View) -> None:  # noqa: PT019
    pid1.loopback.hold()
    for pid in pid1.loopback.processes():
        os.kill(pid, signal.SIGKILL)
    pid1.loopback.release()


@expect("call failed", *SAID_BY_STATE)
def test_the_state_of_it(pid1: nsi.Pid1View) -> None:
    pid1.loopback.impair(loss=0.5, rate="1mbit")
    pid1.loopback.hold()
    pid1.assert_alone()
    pid1.assert_process("none")
