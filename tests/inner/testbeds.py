# SPDX-License-Identifier: MIT
"""Several hosts in one test, by the fixture ``testbed``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import pytest_nsisolate as nsi

expect = pytest.mark.expect
pytestmark = pytest.mark.isolated

#: Says what it is asked, to everybody who connects.
SERVER = """
import socket, sys
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    connection, peer = server.accept()
    connection.sendall(f"{sys.argv[1]} to {peer[0]}".encode())
    connection.close()
"""


ACCEPTING = """
import socket, time
server = socket.create_server(("", 80))
connection, _ = server.accept()
print("got it", flush=True)
time.sleep(1000)
"""

CONNECTING = """
import socket, time
connection = socket.create_connection(("b", 80))
time.sleep(1000)
"""


def serve(host: nsi.Host, word: str = "ok") -> nsi.Program:
    return host.start([sys.executable, "-c", SERVER, word], ready=80, within=30)


def ask(address: str) -> str:
    with socket.create_connection((address, 80), timeout=5) as connection:
        return b"".join(iter(lambda: connection.recv(100), b"")).decode()


def reaches(host: nsi.Host, other: nsi.Host, seconds: float = 0.5) -> bool:
    """Whether a datagram gets there and back, by the kernel's own echo."""
    return host.call(_pings, other.address, seconds)


def _pings(address: str, seconds: float) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(seconds)
        # Type 8, checksum of type, number 1 and sequence 1.
        try:
            raw.sendto(bytes((8, 0, 0xF7, 0xFD, 0, 1, 0, 1)), (address, 0))
            while raw.recv(100)[20] != 0:
                pass
        except OSError:
            return False
    return True


# Networks and hosts ------------------------------------------------------------------------------


@expect("passed")
def test_two_hosts(testbed: nsi.Testbed) -> None:
    """Names, addresses in order, commands, a server, both families."""
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert (a.addresses, b.address) == (("10.0.0.1", "fd00::1"), "10.0.0.2")
    assert a.run("hostname").stdout == "a\n"
    with serve(b) as server:
        assert a.call(ask, "b") in ("ok to ::ffff:10.0.0.1", "ok to fd00::1")
        assert a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"
        assert a.call(ask, "fd00::2") == "ok to fd00::1"
        assert b.call(ask, "localhost").startswith("ok to ")
        assert server.running()
    assert not server.running()
    assert server.status == -signal.SIGTERM


@expect("passed")
def test_the_test_itself_is_on_no_network(testbed: nsi.Testbed) -> None:
    """It has its own network, in which nothing is new; and nothing is in /run/netns."""
    lan = testbed.network("10.0.0.0/24")
    testbed.host("a", lan)
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert not Path("/run/netns").exists() or not os.listdir("/run/netns")


@expect("passed")
def test_each_host_is_a_world(testbed: nsi.Testbed) -> None:
    """Processes, names, shared memory and ports are its own."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    before = socket.gethostname()
    a.shell("echo 1 > /dev/shm/only-a")
    assert b.run("ls /dev/shm").stdout == ""
    kinds = ("pid", "net", "uts", "ipc", "mnt")
    worlds = [host.call(_identities) for host in (a, b)]
    own = _identities()
    assert all(len({world[kind] for world in (*worlds, own)}) == 3 for kind in kinds)
    assert len({world["user"] for world in (*worlds, own)}) == 1
    assert socket.gethostname() == before


def _identities() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}


@expect("passed")
def test_names_of_later_hosts_are_known(testbed: nsi.Testbed) -> None:
    """/etc/hosts has everybody, whoever came first; the test's own is as it was."""
    own = Path("/etc/hosts").read_text()
    lan = testbed.network("10.0.0.0/24")
    a = testbed.host("a", lan)
    testbed.host("later", lan)
    assert a.call(socket.gethostbyname, "later") == "10.0.0.2"
    assert Path("/etc/hosts").read_text() == own


@expect("passed")
def test_addresses_of_ones_own_choice(testbed: nsi.Testbed) -> None:
    """Named ones are left out for the others."""
    lan = testbed.network("10.0.0.0/29", "fd00::/64")
    hosts = [
        testbed.host("a", lan["10.0.0.1"]),
        testbed.host("b", lan),
        testbed.host("c", lan["10.0.0.6", "fd00::c"]),
        testbed.host("d", lan),
    ]
    assert [host.addresses for host in hosts] == [
        ("10.0.0.1", "fd00::1"),
        ("10.0.0.2", "fd00::2"),
        ("10.0.0.6", "fd00::c"),
        ("10.0.0.3", "fd00::3"),
    ]
    assert reaches(hosts[0], hosts[2])


@expect("passed")
def test_a_host_on_two_networks(testbed: nsi.Testbed) -> None:
    """An interface for each, in their order; it does not forward."""
    left, right = testbed.network("10.0.1.0/24"), testbed.network("10.0.2.0/24")
    a, b = testbed.host("a", left), testbed.host("b", right)
    both = testbed.host("both", right, left)
    assert [wire.interface for wire in both.wires.values()] == ["eth0", "eth1"]
    assert both.wires[left].addresses == both.wires[left].addresses
    assert reaches(both, a)
    assert reaches(both, b)
    assert not reaches(a, b)
    with pytest.raises(nsi.TestbedError, match="both has 2 wires"):
        both.wire  # noqa: B018


@expect("passed")
def test_a_router(testbed: nsi.Testbed) -> None:
    """Each host has a default route, of both families, whether it came before or after."""
    left = testbed.network("10.0.1.0/24", "fd01::/64")
    right = testbed.network("10.0.2.0/24", "fd02::/64")
    a = testbed.host("a", left)
    router = testbed.router("r", left, right)
    b = testbed.host("b", right)
    with serve(b):
        assert a.call(ask, "10.0.2.2") == "ok to ::ffff:10.0.1.1"
        assert a.call(ask, "fd02::2") == "ok to fd01::1"
    assert "default via 10.0.1.2" in a.run("ip route").stdout
    assert router.addresses == ("10.0.1.2", "10.0.2.1", "fd01::2", "fd02::1")


@expect("passed")
def test_two_routers_in_a_row(testbed: nsi.Testbed) -> None:
    """Each knows the way to the other one's networks; no other route is there without a router."""
    nets = [testbed.network(f"10.0.{n}.0/24") for n in range(3)]
    a, b = testbed.host("a", nets[0]), testbed.host("b", nets[2])
    assert "default" not in a.run("ip route").stdout
    testbed.router("r1", nets[0], nets[1])
    testbed.router("r2", nets[1], nets[2])
    assert reaches(a, b)
    lonely = testbed.host("c", nets[0], routes=False)
    assert not reaches(lonely, b)


@expect("passed")
def test_many_hosts_in_a_small_network(testbed: nsi.Testbed) -> None:
    """A /31 has two, a /30 too, and no more."""
    lan = testbed.network("10.0.0.0/31")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert (a.address, b.address) == ("10.0.0.0", "10.0.0.1")
    assert reaches(a, b)
    with pytest.raises(nsi.TestbedError, match="no room for another host, there are 2"):
        testbed.host("c", lan)
    assert [*testbed.hosts] == ["a", "b"]


# What runs on a host -----------------------------------------------------------------------------


@expect("passed")
def test_commands(testbed: nsi.Testbed) -> None:
    """Split as a shell does, run without one; checked; their errors name the host."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    assert a.run("echo 'one  two' $HOME").stdout == "one  two $HOME\n"
    assert a.run(["echo", "$HOME"]).stdout == "$HOME\n"
    assert a.shell("echo $WHAT | tr a-z A-Z", env={**os.environ, "WHAT": "x"}).stdout == "X\n"
    assert a.run("cat", input="in").stdout == "in"
    assert a.run("false", check=False).returncode == 1
    with pytest.raises(subprocess.CalledProcessError) as failed:
        a.shell("echo no >&2; exit 3")
    assert failed.value.returncode == 3
    assert failed.value.__notes__ == ["Standard error:\nno", "on host a"]
    with pytest.raises(FileNotFoundError, match="nonesuch") as missing:
        a.run("/nonesuch --help")
    assert missing.value.__notes__ == ["on host a"]
    with pytest.raises(subprocess.TimeoutExpired):
        a.run("sleep 100", timeout=0.1)


@expect("passed")
def test_functions(testbed: nsi.Testbed) -> None:
    """Values and exceptions come back."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    assert a.call(socket.gethostname) == "a"
    with pytest.raises(ZeroDivisionError):
        a.call(divmod, 1, 0)


@expect("passed")
def test_the_view_of_a_host(testbed: nsi.Testbed) -> None:
    """Data and assertions of pid1, seen from there, without what is there for the testbed."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    with serve(b) as server:
        pids = [process.pid for process in b.view.processes]
        assert pids == [1, server.pid]
        assert [found.port for found in b.view.listening] == [80]
        b.view.assert_listening(80)
        b.view.assert_interface("eth0", up=True)
        a.view.assert_not_listening(80)
        with pytest.raises(AssertionError, match="80"):
            a.view.assert_listening(80)
    assert [found.name for found in a.view.interfaces] == ["lo", "eth0"]
    with pytest.raises(AttributeError):
        a.view.nonsense  # type: ignore[attr-defined]  # noqa: B018


# Programs in the background ----------------------------------------------------------------------


@expect("passed")
def test_readiness(testbed: nsi.Testbed, tmp_path: Path) -> None:
    """A port, UDP too; a path; a text or a pattern in the log; a function."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    there = tmp_path / "ready"
    script = (
        "import pathlib, socket, time; s = socket.socket(type=socket.SOCK_DGRAM); "
        f"s.bind(('', 53)); print('name=x', flush=True); pathlib.Path({str(there)!r}).touch(); "
        "time.sleep(1000)"
    )
    conditions: list[Any] = [53, str(there), there, "name=[xyz]", there.exists]
    for ready in conditions:
        with a.start([sys.executable, "-c", script], ready=ready, within=30) as program:
            assert program.running()
            assert program.pid > 1
        there.unlink(missing_ok=True)


@expect("passed")
def test_a_program_that_ends_too_early(testbed: nsi.Testbed) -> None:
    """Its status and its log are in the error; likewise if it is too slow, and ended then."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    with pytest.raises(nsi.NotReadyError) as ended:
        a.start(["sh", "-c", "echo no such config; exit 3"], ready=80, within=30)
    assert str(ended.value) == (
        "a: sh -c 'echo no such config; exit 3': ended with status 3 before it was ready, "
        "expected: port 80\n  no such config"
    )
    with pytest.raises(nsi.NotReadyError, match=r"killed by SIGKILL before it was ready"):
        a.start(["sh", "-c", "kill -9 $$"], ready="up", within=30)
    with pytest.raises(nsi.NotReadyError, match=r"not ready after 0.1 s, expected: /nonesuch"):
        a.start("sleep 1000", ready="/nonesuch", within=0.1)
    assert not a.view.leftovers


@expect("passed")
def test_a_program_that_is_not_there(testbed: nsi.Testbed) -> None:
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    with pytest.raises(FileNotFoundError, match="nonesuch") as missing:
        a.start("/nonesuch -d", ready=80)
    assert missing.value.__notes__ == ["on host a"]


@expect("passed")
def test_the_end_of_a_program(testbed: nsi.Testbed) -> None:
    """By itself, by a signal, by SIGKILL when SIGTERM is not enough, with its children."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    assert a.start(["sh", "-c", "exit 7"]).wait(30) == 7
    stubborn = "trap '' TERM; echo up; while :; do sleep 1000; done"
    program = a.start(["sh", "-c", stubborn], ready="up", within=30)
    assert program.stop(within=0.1) == -signal.SIGKILL
    program = a.start(["sh", "-c", "sleep 1000 & echo up; wait"], ready="up", within=30)
    assert program.log == "up\n"
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.05)
    program.send_signal(signal.SIGINT)
    program.stop()
    assert program.status is not None
    assert not [p for p in a.view.leftovers if p.name == "sleep"]


@expect("passed")
def test_what_runs_at_the_end_is_ended(testbed: nsi.Testbed) -> None:
    """Without a with block: no complaint, and no process is left (the suite's own check)."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    a.start("sleep 1000")
    a.shell("setsid sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 &")


@expect("call failed", "RuntimeError: in the middle", "host a (10.0.0.1):", "2 sleep 1000")
def test_an_error_in_a_with_block(testbed: nsi.Testbed) -> None:
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    a.start("sleep 1000")
    with a.start("sleep 1000"):
        raise RuntimeError("in the middle")


# Wires, crashes ----------------------------------------------------------------------------------


@expect("passed")
def test_cut_and_mend(testbed: nsi.Testbed) -> None:
    """No carrier, nothing passes; afterwards as before."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert reaches(a, b)
    b.wire.cut()
    assert b.call(Path("/sys/class/net/eth0/carrier").read_text) == "0\n"
    assert not reaches(a, b)
    b.wire.mend()
    assert reaches(a, b, 5)


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
    assert not reaches(a, b)
    with pytest.raises(nsi.TestbedError, match=r"host b has crashed: b.boot\(\) starts it again"):
        b.run("true")
    b.boot()
    assert reaches(a, b, 5)
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
    packets = testbed.capture(b)
    assert packets.count(tcp_port=80) >= 8
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
    assert everything.count(tcp_port=80) == packets.count(tcp_port=80)
    assert [p.time for p in everything] == sorted(p.time for p in everything)
    assert packets.missed == 0
    with pytest.raises(nsi.TestbedError, match="'c' is no host and no network"):
        testbed.capture("c")


@expect("passed")
def test_a_flood_is_counted(testbed: nsi.Testbed) -> None:
    """What a ring does not hold is missed by the capture, which says so."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    sent = a.call(_flood, "10.0.0.2", 5000)
    packets = testbed.capture(a)
    assert packets.count(udp_port=9) + packets.missed >= sent
    assert packets.missed > 0
    assert "more were not kept" in repr(packets)
    assert testbed.capture(b).missed > 0


def _flood(address: str, number: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"", (address, 9))
        for _ in range(number - 1):
            try:
                out.sendto(b"x", (address, 9))
            except ConnectionRefusedError:
                pass
    return number


@expect("call failed", "pcap/", ".pcapng (", "an interface for each wire", "a.eth0", "wires (")
def test_packets_of_a_failure(testbed: nsi.Testbed) -> None:
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert not reaches(a, b)


@expect(
    "call failed",
    "host a (10.0.0.1): nothing runs",
    "host b (10.0.0.2): crashed",
    "host c (10.0.0.3):",
    "sh -c 'echo hello; sleep 1000' (running):",
    "    hello",
    "listens: udp 0.0.0.0:53",
    "c.eth0  net1     down",
    "no other processes",
)
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


@expect(
    "call failed",
    "isolation refused: add a bridge for the net namespace: EOPNOTSUPP",
    "cause: this kernel",
    "CONFIG_BRIDGE",
)
def test_a_kernel_without_bridges(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_nsisolate.kernel.links import Links

    monkeypatch.setattr(Links, "add_bridge", _not_supported)
    testbed.network("10.0.0.0/24")


@expect(
    "call failed",
    "isolation refused: add a veth pair for the net namespace: EOPNOTSUPP",
    "cause: this kernel",
    "CONFIG_VETH",
)
def test_a_kernel_without_veth(testbed: nsi.Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_nsisolate.kernel.links import Links

    monkeypatch.setattr(Links, "add_cable", _not_supported)
    testbed.host("a", testbed.network("10.0.0.0/24"))


def _not_supported(*_: Any, **__: Any) -> None:
    raise OSError(95, os.strerror(95))


@expect(
    "call failed", "isolation refused: write /proc/sys/net/ipv4/ip_forward for the net namespace"
)
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
def test_nothing_is_left(testbed: nsi.Testbed) -> None:
    """Descriptors and processes, after a testbed is closed; links go with their namespace."""
    from pytest_nsisolate.testbed.bed import Testbed

    testbed.host("warm", testbed.network("10.9.0.0/24"))
    before = set(os.listdir("/proc/self/fd")), _processes()
    other = Testbed(testbed._isolate, testbed.home)
    lan = other.network("10.0.0.0/24")
    a, b = other.host("a", lan), other.host("b", lan)
    a.start("sleep 1000")
    assert reaches(a, b)
    a.crash()
    a.boot()
    other.close()
    after = set(os.listdir("/proc/self/fd")), _processes()
    assert after == before


def _processes() -> set[str]:
    return {entry for entry in os.listdir("/proc") if entry.isdigit()}
