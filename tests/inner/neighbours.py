# SPDX-License-Identifier: MIT
"""What hosts of a testbed do to each other: servers, connections, echoes; of the inner run."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

import pytest_nsisolate as nsi

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
    with socket.create_connection((address, 80), timeout=30) as connection:
        return b"".join(iter(lambda: connection.recv(100), b"")).decode()


def reaches(host: nsi.Host, other: nsi.Host) -> float:
    """Seconds that an echo of the kernel's takes there and back; asks again until one comes."""
    return host.call(_ping, other.address, 30.0)


def is_cut_off(host: nsi.Host, other: nsi.Host) -> bool:
    """No echo comes."""
    return not host.call(_ping, other.address, 0.3)


def _ping(address: str, seconds: float) -> float:
    until = time.monotonic() + seconds
    found = 0.0
    while not found and (left := until - time.monotonic()) > 0:
        found = _echo(address, min(left, 1.0))
    return found


def _echo(address: str, seconds: float) -> float:
    # Of its own, because the answer to an earlier one may come now.
    body = os.urandom(12)
    total = (8 << 8) + sum(struct.unpack("!6H", body))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(seconds)
        start = time.monotonic()
        try:
            raw.sendto(struct.pack("!BBH", 8, 0, checksum) + body, (address, 0))
            while (answer := raw.recv(100))[20] != 0 or answer[24:] != body:
                pass
        except OSError:
            return 0.0
        return time.monotonic() - start
