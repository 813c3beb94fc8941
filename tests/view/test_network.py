# SPDX-License-Identifier: MIT
"""Interfaces, routes and sockets: what the view says is what ip and ss say in the same test."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.view import Interface, Route
from pytest_nsisolate.view.network import as_network
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST
from tests.view.tools import NEEDS_IP, NEEDS_SS, run, run_json

pytestmark = NEEDS_NAMESPACES

HAS_IPV6 = Path("/proc/net/if_inet6").exists()

# Interfaces and routes ---------------------------------------------------------------------------

#: A network with something of everything.
BUSY = """
link add d0 type veth peer name d1
link add v0 mtu 1400 type veth peer name v1
link add b0 type bridge
link set v1 master b0
link set d0 address 02:00:00:00:00:07 up
link set d1 up
link set v0 up
link set b0 up
address add 10.1.0.1/24 dev d0
address add 10.1.0.2/24 dev d0 label d0:7
address add 10.2.0.1 peer 10.2.0.9/32 dev v0
address add 127.9.9.9/32 dev lo scope host
route add default via 10.1.0.254 metric 7
route add 10.9.0.0/16 via 10.1.0.253 src 10.1.0.1
route add blackhole 10.8.0.0/16
route add unreachable 10.7.0.0/16 table 123
route add 10.6.0.0/24 dev d0 scope link proto static
"""
BUSY_IPV6 = """\
-6 address add fd00::1/64 dev d0 nodad
-6 route add fd01::/48 via fd00::9
-6 route add default dev d0 metric 9
-6 route add prohibit fd02::/48
"""

#: A route, and its parts: destination, gateway and interface.
NEXT_HOPS: list[tuple[str, list[tuple[str, str | None, str]]]] = [
    (
        "route add 10.9.0.0/16 nexthop via 10.1.0.8 dev d0 weight 2 nexthop dev d1",
        [("10.9.0.0/16", "10.1.0.8", "d0"), ("10.9.0.0/16", None, "d1")],
    )
]
NEXT_HOPS_IPV6: list[tuple[str, list[tuple[str, str | None, str]]]] = [
    (
        "route add 10.9.0.0/16 via inet6 fe80::9 dev d0",
        [("10.9.0.0/16", "fe80::9", "d0")],
    ),
    (
        "route add 10.9.0.0/16 nexthop via inet6 fe80::8 dev d1 nexthop via 10.1.0.8 dev d0",
        [("10.9.0.0/16", "fe80::8", "d1"), ("10.9.0.0/16", "10.1.0.8", "d0")],
    ),
    (
        "-6 route add fd01::/48 nexthop via fd00::8 dev d0 nexthop via fd00::9 dev d0",
        [("fd01::/48", "fd00::8", "d0"), ("fd01::/48", "fd00::9", "d0")],
    ),
]


@pytest.fixture
def busy() -> None:
    """A network with something of everything."""
    for line in (BUSY + (BUSY_IPV6 if HAS_IPV6 else "")).strip().splitlines():
        run("ip", *line.split())


def facts_of(interface: Interface) -> tuple[object, ...]:
    return (
        interface.index,
        interface.name,
        interface.up,
        interface.state,
        interface.kind,
        interface.mtu,
        interface.mac,
        {(str(address), address.scope) for address in interface.addresses},
    )


def facts_of_ip(link: dict[str, Any]) -> tuple[object, ...]:
    addresses = {
        (f"{info['local']}/{info['prefixlen']}", info["scope"])
        for info in link["addr_info"]
        if "local" in info
    }
    return (
        link["ifindex"],
        link["ifname"],
        "UP" in link["flags"],
        link["operstate"].lower(),
        link.get("linkinfo", {}).get("info_kind", link["link_type"]),
        link["mtu"],
        link.get("address"),
        addresses,
    )


def facts_of_route(route: Route) -> tuple[object, ...]:
    return (
        route.destination,
        route.kind,
        route.gateway,
        route.interface,
        route.source,
        route.metric,
        route.table,
        route.protocol,
    )


def facts_of_ip_route(route: dict[str, Any]) -> tuple[object, ...]:
    return (
        as_network(route["dst"]),
        route["type"],
        route.get("gateway"),
        route.get("dev"),
        route.get("prefsrc"),
        route.get("metric"),
        route.get("table", "main"),
        route["protocol"],
    )


def routes_of_ip() -> list[tuple[object, ...]]:
    shown = []
    for version in ("-4", "-6"):
        shown += run_json("ip", "-j", "-d", version, "route", "show", "table", "all")
    return [facts_of_ip_route(route) for route in shown]


@NEEDS_IP
@pytest.mark.isolated
def test_interfaces_are_as_ip_says(pid1: Pid1View, busy: None) -> None:
    """Index, name, state, kind, size, hardware address, addresses with their scope."""
    shown = {link["ifname"]: facts_of_ip(link) for link in run_json("ip", "-j", "-d", "address")}
    seen = {interface.name: facts_of(interface) for interface in pid1.interfaces}
    assert seen == shown
    assert set(seen) == {"lo", "d0", "d1", "v0", "v1", "b0"}


@NEEDS_IP
@pytest.mark.isolated
def test_routes_are_as_ip_says(pid1: Pid1View, busy: None) -> None:
    """Of every table and both versions."""
    before: list[tuple[object, ...]] = []
    seen, shown = before, routes_of_ip()
    # The kernel adds routes of its own for IPv6 when it has noticed that the devices are up.
    while before != shown:
        seen = [facts_of_route(route) for route in pid1.routes]
        before, shown = shown, routes_of_ip()
    assert sorted(map(repr, seen)) == sorted(map(repr, shown))
    assert len(seen) > (15 if HAS_IPV6 else 10)
    assert {"main", "local", "123"} <= {route.table for route in pid1.routes}


@NEEDS_IP
@pytest.mark.isolated
@pytest.mark.parametrize(("command", "expected"), NEXT_HOPS + NEXT_HOPS_IPV6 * HAS_IPV6)
def test_each_next_hop_is_a_route(
    pid1: Pid1View, command: str, expected: list[tuple[str, str | None, str]]
) -> None:
    """Of several, and by an address of the other version."""
    run("ip", *["link", "add", "d0", "type", "veth", "peer", "name", "d1"])
    for device in ("d0", "d1"):
        run("ip", "link", "set", device, "up")
    run("ip", *["address", "add", "10.1.0.1/24", "dev", "d0"])
    if HAS_IPV6:
        run("ip", *["-6", "address", "add", "fd00::1/64", "dev", "d0", "nodad"])
    run("ip", *command.split())
    # The kernel adds routes of its own for IPv6 when it has noticed that the devices are up.
    facts = [(route.destination, route.gateway, route.interface) for route in pid1.routes]
    assert [fact for fact in facts if fact[0] == expected[0][0]] == expected


@pytest.mark.isolated
def test_a_fresh_network_has_lo_and_nothing_else(pid1: Pid1View) -> None:
    """Up, with its two addresses, and not a route that leads out."""
    (lo,) = pid1.interfaces
    assert (lo.name, lo.kind, lo.up, lo.state) == ("lo", "loopback", True, "unknown")
    expected = ["127.0.0.1/8", "::1/128"] if HAS_IPV6 else ["127.0.0.1/8"]
    assert list(map(str, lo.addresses)) == expected
    assert {(address.scope, address.version) for address in lo.addresses} <= {
        ("host", 4),
        ("host", 6),
    }
    assert {route.interface for route in pid1.routes} == {"lo"}
    assert {route.table for route in pid1.routes} <= {"local", "main"}


@ON_THE_HOST
@NEEDS_IP
def test_the_host_s_network_is_another() -> None:
    """The control: the same reading in the runner is what ip says there."""
    view = Pid1View()
    shown = {facts_of_ip(link)[:3] for link in run_json("ip", "-j", "-d", "address")}
    assert {facts_of(interface)[:3] for interface in view.interfaces} == shown
    seen = {facts_of_route(route) for route in view.routes}
    assert seen == set(routes_of_ip())


@pytest.mark.isolated(pid=True)
@NEEDS_IP
def test_without_a_network_of_its_own_it_is_the_runner_s(pid1: Pid1View) -> None:
    """What is read is what this process sees; the assertion says whose it is."""
    names = {link["ifname"] for link in run_json("ip", "-j", "link")}
    assert {interface.name for interface in pid1.interfaces} == names
    with pytest.raises(AssertionError, match=r"shares the runner's net namespace: add net=True"):
        pid1.assert_interfaces(names | {"other"})


@pytest.mark.isolated
def test_it_can_be_read_in_a_coroutine(pid1: Pid1View) -> None:
    """Nothing of it needs an event loop, which pyroute2's own sockets do."""

    async def read() -> tuple[int, int, int]:
        return len(pid1.interfaces), len(pid1.routes), len(pid1.sockets)

    assert asyncio.run(read())[0] == 1


@pytest.mark.isolated
def test_nothing_is_left_open(pid1: Pid1View) -> None:
    """No thread, no descriptor, so the test may still unshare a user namespace and fork."""
    before = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
    pid1.snapshot()
    pid1.assert_no_route_to("192.0.2.1")
    assert (os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")) == before


@NEEDS_IP
@pytest.mark.isolated
@pytest.mark.parametrize(
    ("address", "leads"),
    [("10.9.1.1", True), ("10.8.1.1", False), ("127.1.2.3", True), ("192.0.2.1", True)],
)
def test_the_way_to_an_address_is_the_kernel_s(
    pid1: Pid1View, busy: None, address: str, leads: bool
) -> None:
    """By all tables and rules, a blackhole included."""
    if not leads:
        pid1.assert_no_route_to(address)
    else:
        with pytest.raises(AssertionError, match=f"there is a route to {address}"):
            pid1.assert_no_route_to(address)


# Sockets -----------------------------------------------------------------------------------------


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Path]:
    """Sockets of every kind and state, some of them shared with a forked child."""
    # Short, because a Unix path has room for 107 bytes.
    folder = Path(f"/proc/self/fd/{os.open(tmp_path, os.O_RDONLY)}")
    with ExitStack() as stack:

        def make(*kind: int) -> socket.socket:
            return stack.enter_context(socket.socket(*kind))

        server = stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        stack.enter_context(socket.create_connection(("127.0.0.1", 8080)))
        stack.enter_context(server.accept()[0])
        stack.enter_context(socket.create_server(("0.0.0.0", 8081)))
        if HAS_IPV6:
            both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
            stack.enter_context(socket.create_server(("::", 8082), **both))  # type: ignore[arg-type]
            udp6 = make(socket.AF_INET6, socket.SOCK_DGRAM)
            udp6.bind(("::1", 5353))
        udp = make(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 5300))
        connected = make(socket.AF_INET, socket.SOCK_DGRAM)
        connected.bind(("127.0.0.1", 5301))
        connected.connect(("127.0.0.1", 5300))
        for kind, name in ((socket.SOCK_STREAM, "a path"), (socket.SOCK_SEQPACKET, "seq")):
            listener = make(socket.AF_UNIX, kind)
            listener.bind(f"{folder}/{name}")
            listener.listen()
        datagrams = make(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind("\0abstract")
        for end in socket.socketpair():
            stack.enter_context(end)
        child = os.fork()
        if not child:
            while True:
                signal.pause()
        try:
            yield folder
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


INTERNET = re.compile(r"(\S+)\s+(\S+)\s+\d+\s+\d+\s+(\S+)\s+(\S+)(?:\s+users:(.*))?")
UNIX = re.compile(r"(u_\S+)\s+(\S+)\s+\d+\s+\d+\s+(.*?) (\d+)\s+\* \d+(?:\s+users:(.*))?")
STATES = {"LISTEN": "listen", "ESTAB": "established", "UNCONN": "unconn"}
TYPES = {"u_str": "stream", "u_dgr": "dgram", "u_seq": "seqpacket"}


def holders(text: str | None) -> tuple[int, ...]:
    return tuple(sorted({int(pid) for pid in re.findall(r"pid=(\d+)", text or "")}))


def sockets_of_ss() -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for line in run("ss", "-H", "-a", "-n", "-p", "-t", "-u").splitlines():
        proto, state, local, peer, users = INTERNET.match(line).groups()  # type: ignore[union-attr]
        local = local.replace("*:", "[::]:")
        peer = "" if peer.endswith(":*") else peer
        found.append((proto, STATES[state], local, peer, holders(users)))
    for line in run("ss", "-H", "-a", "-n", "-p", "-x").splitlines():
        kind, state, path, _, users = UNIX.match(line).groups()  # type: ignore[union-attr]
        path = path.strip()
        found.append((TYPES[kind], STATES[state], "" if path == "*" else path, "", holders(users)))
    return found


def sockets_of(view: Pid1View) -> list[tuple[object, ...]]:
    return [
        (s.type if s.proto == "unix" else s.proto, s.state, s.local, s.peer, s.pids)
        for s in view.sockets
    ]


@NEEDS_SS
@pytest.mark.isolated
def test_sockets_are_as_ss_says(pid1: Pid1View, talk: Path) -> None:
    """Protocol, state, both sides, and every process that holds it."""
    shown = sockets_of_ss()
    seen = sockets_of(pid1)
    assert sorted(map(repr, seen)) == sorted(map(repr, shown))
    assert len(seen) == 11 + 2 * HAS_IPV6
    everybody = tuple(process.pid for process in pid1.processes)
    assert len(everybody) == 2
    assert {s.pids for s in pid1.sockets} == {everybody}


@pytest.mark.isolated
def test_what_listens_and_what_is_connected(pid1: Pid1View, talk: Path) -> None:
    """TCP, UDP and Unix, by port and by path."""
    listening = {(s.proto, s.port or s.path) for s in pid1.listening}
    versions6 = {("tcp", 8082), ("udp", 5353)} if HAS_IPV6 else set()
    paths = {("unix", f"{talk}/a path"), ("unix", f"{talk}/seq")}
    assert listening == {("tcp", 8080), ("tcp", 8081), ("udp", 5300)} | versions6 | paths
    connected = [(s.proto, s.peer_port) for s in pid1.connections if s.proto != "unix"]
    assert ("udp", 5300) in connected
    assert len([port for proto, port in connected if proto == "tcp"]) == 2
    server = pid1.assert_listening(8080)
    assert (server.pid, server.program) == (pid1.pid, Path("/proc/self/comm").read_text().strip())


@pytest.mark.isolated
@pytest.mark.parametrize(
    "name",
    ["\0app\nline two", "\0app\rmore\r\n", "\0\n\n", "\0 blank ", " leading", "a\nb", "\udcff"],
)
def test_a_unix_socket_may_have_any_name(
    pid1: Pid1View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With newlines, blanks and bytes that are no text; the others are read as ever."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        for each in (name, "\0first", "last"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fsencode(each))
            listener.listen()
        stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        shown = name.replace("\0", "@")
        pid1.assert_listening(8080)
        paths = [found.path for found in pid1.listening if found.proto == "unix"]
        assert sorted(map(str, paths)) == sorted([shown, "@first", "last"])
        assert {found.pids for found in pid1.listening} == {(1,)}


@pytest.fixture(scope="module")
def at_home() -> Iterator[int]:
    """A port that the runner listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@ON_THE_HOST
def test_the_runner_listens(at_home: int) -> None:
    """The control: the same reading in the runner shows its server."""
    assert at_home in {s.port for s in Pid1View().listening}


@pytest.mark.isolated
def test_the_runner_s_sockets_are_not_seen(pid1: Pid1View, at_home: int) -> None:
    """The descriptor is inherited, but the socket is of another network."""
    assert pid1.sockets == ()
    pid1.assert_not_listening(at_home)


@pytest.mark.isolated(pid=True)
def test_the_runner_s_sockets_are_seen_in_its_network(pid1: Pid1View, at_home: int) -> None:
    """Without a network of its own; the test holds the inherited one."""
    assert pid1.assert_listening(at_home).pids == (1,)
