# SPDX-License-Identifier: MIT
"""Ten servers on ten addresses of ``lo``, all on port 53: by hand that was a script for root.

BIND's system tests have such a script, ``ifconfig.sh``, which adds 10.53.0.1 to 10.53.0.10 to the
machine; two runs at the same time are in each other's way.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View

NAMESERVER = [sys.executable, str(Path(__file__).with_name("nameserver.py"))]
SERVERS = [f"10.53.0.{number}" for number in range(1, 11)]

pytestmark = pytest.mark.isolated(addresses=[f"{server}/32" for server in SERVERS])


@pytest.fixture
def servers(pid1: Pid1View, tmp_path: Path) -> Iterator[list[str]]:
    """Each knows its own name, and asks the next one for any other."""
    with ExitStack() as stack:
        for number, address in enumerate(SERVERS):
            following = SERVERS[number + 1 : number + 2]
            zone = tmp_path / address
            zone.write_text(f"ns{number + 1} {address}\n" + "".join(f". {a}\n" for a in following))
            process = stack.enter_context(subprocess.Popen([*NAMESERVER, address, str(zone)]))
            stack.callback(process.terminate)
        for address in SERVERS:
            pid1.assert_listening(53, host=address, proto="udp", within=30)
        yield SERVERS


def ask(server: str, name: str) -> str:
    """The answer of that server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(name.encode(), (server, 53))
        return client.recv(512).decode()


def test_a_name_is_found_ten_servers_away(servers: list[str]) -> None:
    """The first asks the second, and so on."""
    assert ask(servers[0], "ns10") == "10.53.0.10"


def test_nobody_has_that_name(servers: list[str]) -> None:
    """The same ten addresses at the same time as the test above, under ``-n 2``."""
    assert ask(servers[7], "ns3") == "NXDOMAIN"


@pytest.mark.isolated(False)
def test_control_the_machine_has_none_of_the_addresses() -> None:
    """Outside nobody can bind them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, pytest.raises(OSError):
        server.bind((SERVERS[0], 0))
