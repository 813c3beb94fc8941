# SPDX-License-Identifier: MIT
"""A proxy like pgbouncer: clients on port 6432, a database on port 5432, which may be away.

A client waits while the database does not answer; after five refusals it is told so.
"""

from __future__ import annotations

import socket
import socketserver
import time
from typing import Final

DATABASE: Final = ("127.0.0.1", 5432)
TRIALS: Final = 5


def connect() -> socket.socket:
    """A connection to the database.

    :raises OSError: after some trials.
    """
    for trial in range(1, TRIALS + 1):
        try:
            return socket.create_connection(DATABASE, timeout=10)
        except OSError:
            if trial == TRIALS:
                raise
            time.sleep(0.01 * trial)
    raise AssertionError


class Client(socketserver.StreamRequestHandler):
    """One query, one answer."""

    def handle(self) -> None:
        """Hand both on."""
        query = self.rfile.readline()
        try:
            with connect() as database:
                database.sendall(query)
                self.wfile.write(database.makefile("rb").readline())
        except OSError as error:
            self.wfile.write(f"ERROR {error.strerror}\n".encode())


class Pooler(socketserver.ThreadingTCPServer):
    """The proxy."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Pooler(("127.0.0.1", 6432), Client).serve_forever()
