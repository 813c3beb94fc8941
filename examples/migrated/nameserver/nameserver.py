# SPDX-License-Identifier: MIT
"""A server like BIND, of one kind of question: ``name`` by UDP, and an address comes back.

``nameserver.py ADDRESS ZONE-FILE`` answers on port 53 of that address; a name that it does not have
it asks of the server of ``. ADDRESS`` in its zone file.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path


def main() -> None:
    """Answer for ever."""
    address, zone = sys.argv[1], Path(sys.argv[2])
    records = dict(line.split() for line in zone.read_text().splitlines() if line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            question, client = server.recvfrom(512)
            answer = records.get(question.decode()) or ask(records.get("."), question)
            server.sendto(answer.encode(), client)


def ask(server: str | None, question: bytes) -> str:
    """What that server says."""
    if server is None:
        return "NXDOMAIN"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forwarded:
        forwarded.settimeout(5)
        forwarded.sendto(question, (server, 53))
        return forwarded.recv(512).decode()


if __name__ == "__main__":
    main()
