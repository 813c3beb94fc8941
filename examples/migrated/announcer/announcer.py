# SPDX-License-Identifier: MIT
"""A daemon like lldpd: tells on every link who this machine is, and who its neighbours are.

``announcer.py`` reads its name from ``/etc/announcer.conf``, sends one frame a link, and writes the
names that it hears to ``/var/lib/announcer/neighbours``.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path
from typing import Final

CONFIGURATION: Final = Path("/etc/announcer.conf")
NEIGHBOURS: Final = Path("/var/lib/announcer/neighbours")

#: Of IEEE's for local experiments.
PROTOCOL: Final = 0x88B5
EVERYBODY: Final = b"\xff" * 6


def configured() -> str:
    """The name that is announced."""
    for line in CONFIGURATION.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "name" and value.strip():
            return value.strip()
    sys.exit(f"announcer: {CONFIGURATION}: no name")


def links() -> list[socket.socket]:
    """A raw socket on each link but ``lo``."""
    found = []
    for _, name in socket.if_nameindex():
        if name != "lo":
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOL))
            link.bind((name, PROTOCOL))
            found.append(link)
    return found


def main() -> None:
    """Announce until everybody who is awaited has been heard."""
    name, awaited = configured(), int(sys.argv[1])
    heard: set[str] = set()
    opened = links()
    NEIGHBOURS.parent.mkdir(parents=True, exist_ok=True)
    while True:
        for link in opened:
            link.send(EVERYBODY + link.getsockname()[4] + PROTOCOL.to_bytes(2) + name.encode())
        if len(heard) >= awaited:
            return  # after one more round, so that the others have heard of us
        for link in select.select(opened, [], [], 0.2)[0]:
            heard.add(link.recv(2048)[14:].rstrip(b"\0").decode())
        temporary = NEIGHBOURS.with_suffix(".new")
        temporary.write_text("".join(f"{neighbour}\n" for neighbour in sorted(heard)))
        os.replace(temporary, NEIGHBOURS)


if __name__ == "__main__":
    main()
