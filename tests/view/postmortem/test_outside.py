# SPDX-License-Identifier: MIT
"""What is read of a network from outside is what can be read inside."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from typing import Final

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.kernel import proc_net
from pytest_nsisolate.view.postmortem import outside
from tests.support import NEEDS_NAMESPACES
from tests.view.test_network import BUSY, BUSY_IPV6, HAS_IPV6
from tests.view.tools import NEEDS_IP, run

pytestmark = NEEDS_NAMESPACES

NET: Final = "/proc/self/net"


@pytest.fixture
def busy() -> None:
    """A network with something of everything."""
    commands = f"{BUSY.strip()}\n{BUSY_IPV6 if HAS_IPV6 else ''}"
    for command in commands.strip().splitlines():
        run("ip", *command.split())


@NEEDS_IP
@pytest.mark.isolated
@pytest.mark.usefixtures("busy")
def test_interfaces_routes_and_addresses_are_those_of_netlink(pid1: Pid1View) -> None:
    """Of routes those of the main table with one hop; of IPv4 addresses all, wherever they are."""
    interfaces, ways = proc_net.interfaces(NET), proc_net.routes(NET)
    assert interfaces == {interface.name: interface.up for interface in pid1.interfaces}

    main = [route for route in pid1.routes if route.table == "main"]
    leading = {
        (route.destination, route.gateway, route.interface, route.metric or 0)
        for route in main
        if route.kind == "unicast"
    }
    rejecting = {route.destination for route in main if route.kind != "unicast"}
    found = {
        (str(way.network) if way.network.prefixlen else "default", *way[1:4])
        for way in ways
        if not way.rejects
    }
    assert found == leading
    assert {str(way.network) for way in ways if way.rejects} == rejecting

    told = proc_net.addresses(NET, ways)
    for interface in pid1.interfaces:
        own = {str(address) for address in interface.addresses}
        assert own.issuperset(told.get(interface.name, ())), interface
        assert {a for a in own if ":" in a} == {a for a in told.get(interface.name, ()) if ":" in a}
    everything = {a.partition("/")[0] for addresses in told.values() for a in addresses}
    assert everything == {a.address for i in pid1.interfaces for a in i.addresses}


@pytest.mark.isolated
def test_listening_sockets_are_those_of_the_view(pid1: Pid1View) -> None:
    """TCP, UDP and Unix, of all versions, with their holders; nothing that is connected."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 80)))
        stack.enter_context(socket.create_connection(("127.0.0.1", 80)))
        kinds = [(socket.AF_INET, "0.0.0.0"), *([(socket.AF_INET6, "::1")] if HAS_IPV6 else [])]
        for family, host in kinds:
            receiver = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((host, 53))
        named = stack.enter_context(socket.socket(socket.AF_UNIX))
        named.bind("\0the abstract one")
        named.listen()
        held = stack.enter_context(
            subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()], stdin=subprocess.DEVNULL)
        )
        stack.callback(held.kill)
        told = outside._listening(
            NET, {os.getpid(): os.getpid(), held.pid: held.pid}, 1e9, own=True
        )
        rows = pid1.listening
    from pytest_nsisolate.view.tables import table

    assert isinstance(told, list)
    assert told[0] == f"{2 + len(kinds)} listening sockets:"
    assert told[1:] == [f"  {line}" for line in table(rows).splitlines()]
    assert f"{os.getpid()} {held.pid} (" in told[2]
