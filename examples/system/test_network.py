# SPDX-License-Identifier: MIT
"""``net=True``: a network of one's own, with a loopback device that is up and nothing else."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell

#: Of a block that is reserved for documentation (RFC 5737): nobody's address.
SOME_ADDRESS = "203.0.113.7"


@pytest.fixture(scope="module")
def host_port() -> Iterator[int]:
    """The port of a server on the host: the runner listens there, on every address."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.isolated(net=True)
def test_there_is_lo_and_nothing_else(here: Shell) -> None:
    """``ip`` sees one device, it is up and has its address; ``/sys`` agrees."""
    (device,) = json.loads(here("ip -j address"))

    assert device["ifname"] == "lo"
    assert {"LOOPBACK", "UP"} <= set(device["flags"])
    assert "127.0.0.1" in [address["local"] for address in device["addr_info"]]
    assert here("ls /sys/class/net") == "lo"


@pytest.mark.isolated(net=True)
def test_the_routing_table_is_empty(here: Shell) -> None:
    """No route leads anywhere: nothing that the test does can leave this machine."""
    header, *routes = Path("/proc/net/route").read_text().splitlines()

    assert header.startswith("Iface")
    assert routes == []
    assert json.loads(here("ip -j route")) == []
    with pytest.raises(OSError) as caught, socket.create_connection((SOME_ADDRESS, 80)):
        pass
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.isolated(net=True)
def test_servers_of_the_host_are_out_of_reach(host_port: int) -> None:
    """127.0.0.1 is this network's own, and nobody listens on the host's port here."""
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", host_port), timeout=10),
    ):
        pass


@pytest.mark.isolated(False)
def test_control_on_the_host_they_are_within_reach(host_port: int) -> None:
    """The same connection from the runner is accepted."""
    with socket.create_connection(("127.0.0.1", host_port), timeout=10):
        pass


@pytest.mark.isolated(net=True)
def test_a_port_in_use_on_the_host_is_free_here(host_port: int) -> None:
    """The test listens where a server of the host listens at this very moment."""
    with socket.create_server(("0.0.0.0", host_port)) as server:
        assert server.getsockname() == ("0.0.0.0", host_port)


@pytest.mark.isolated(False)
def test_control_on_the_host_it_is_in_use(host_port: int) -> None:
    """The same in the runner fails, which is why suites draw random ports."""
    with pytest.raises(OSError) as caught, socket.create_server(("0.0.0.0", host_port)):
        pass

    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.isolated(net=True)
def test_give_lo_another_address(here: Shell) -> None:
    """Network tools work for real: a server listens on an address that was added just now."""
    here(f"ip address add {SOME_ADDRESS}/32 dev lo")

    with (
        socket.create_server((SOME_ADDRESS, 0)) as server,
        socket.create_connection(server.getsockname(), timeout=10) as client,
    ):
        assert client.getpeername()[0] == SOME_ADDRESS


@pytest.mark.isolated(False)
def test_control_the_host_never_got_it() -> None:
    """The address is not the host's, before, while and after."""
    with pytest.raises(OSError) as caught, socket.create_server((SOME_ADDRESS, 0)):
        pass

    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.isolated(net=True)
def test_tune_a_sysctl(here: Shell, host: Shell) -> None:
    """The knobs below ``/proc/sys/net`` belong to the network, so the test may turn its own."""
    knob = "/proc/sys/net/ipv4/ip_default_ttl"
    before = host(f"cat {knob}")
    ours = "42" if before != "42" else "43"

    here(f"echo {ours} > {knob}")

    assert here(f"cat {knob}") == ours
    assert host(f"cat {knob}") == before
