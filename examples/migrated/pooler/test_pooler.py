# SPDX-License-Identifier: MIT
"""A database that is away, slow or broken: by hand that was iptables, tc and a chaos proxy."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View

POOLER = [sys.executable, str(Path(__file__).with_name("pooler.py"))]
TO_DATABASE = "127.0.0.1:5432"

pytestmark = pytest.mark.isolated(timeout=100)


class Echo(socketserver.StreamRequestHandler):
    """The database: what it is asked it says."""

    def handle(self) -> None:
        """Once a connection."""
        self.wfile.write(self.rfile.readline().upper())


@pytest.fixture
def database() -> Iterator[None]:
    """On its usual port, whatever the machine has there."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 5432), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@contextmanager
def pooler(pid1: Pid1View) -> Iterator[None]:
    """Started in the block of a fault, which is for what is started there."""
    with subprocess.Popen(POOLER) as process:
        try:
            pid1.assert_listening(6432, within=30)
            yield
        finally:
            process.terminate()


def query(text: str) -> str:
    """What a client gets."""
    with socket.create_connection(("127.0.0.1", 6432), timeout=30) as client:
        client.sendall(f"{text}\n".encode())
        return client.makefile().readline().strip()


def test_a_query_is_handed_on(database: None, pid1: Pid1View) -> None:
    """Both on their usual ports."""
    with pooler(pid1):
        assert query("select") == "SELECT"


def test_a_database_that_comes_back_is_waited_for(database: None, pid1: Pid1View) -> None:
    """Two refusals, and the client does not notice."""
    refused = pid1.fail("connect", "ECONNREFUSED", address=TO_DATABASE, times=2)
    with refused as fault, pooler(pid1):
        assert query("select") == "SELECT"

    assert fault.count == 2


def test_a_database_that_stays_away_is_said(database: None, pid1: Pid1View) -> None:
    """After five."""
    with pid1.fail("connect", "EHOSTUNREACH", address=TO_DATABASE) as fault, pooler(pid1):
        assert query("select") == "ERROR No route to host"

    assert fault.count == 5


def test_without_a_database(pid1: Pid1View) -> None:
    """The port is free here, though a database may run on the machine."""
    with pooler(pid1):
        assert query("select") == "ERROR Connection refused"
