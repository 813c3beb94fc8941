# SPDX-License-Identifier: MIT
"""``reach=``: what is named is reached, as it is out here; nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.process.forwarder_program import target_of
from pytest_nsisolate.request.reach import ReachError, check
from tests.inner_runs import SIDES, THREADED, Side, run_batch
from tests.support import NEEDS_IPV6, NEEDS_NAMESPACES, POSTGRES, needs_program, run_source

pytestmark = NEEDS_NAMESPACES

#: Servers in the runner, each at a free port that the marker gets by a variable.
CONFTEST: Final = """
import contextlib
import os
import resource
import socket
import socketserver
import threading

import pytest

# A thousand connections, and what else is open.
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        # Until the client has said all; the answer ends it.
        while data := self.request.recv(1 << 18):
            self.request.sendall(data)
        self.request.sendall(b"over")

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024
    allow_reuse_address = True

class Six(Server):
    address_family = socket.AF_INET6

class Much(socketserver.BaseRequestHandler):
    def handle(self):
        # As much as the client asks for, with next to no work on this side.
        size, block = int(self.request.recv(100)), 16 << 20
        source = os.memfd_create("zeros")
        os.truncate(source, block)
        while size:
            size -= os.sendfile(self.request.fileno(), source, size % block, min(size, block))
        os.close(source)

class Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

class Upper(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0].upper(), self.client_address)

SERVERS = {
    "TCP": Server(("127.0.0.1", 0), Echo),
    "OTHER": Server(("127.0.0.1", 0), Echo),
    "MUCH": Server(("127.0.0.1", 0), Much),
    "UNIX": Unix("\\0nsisolate-" + str(os.getpid()), Echo),
    "UDP": socketserver.ThreadingUDPServer(("127.0.0.1", 0), Upper),
}
with contextlib.suppress(OSError):
    SERVERS["SIX"] = Six(("::1", 0), Echo)
for name, server in SERVERS.items():
    address = server.server_address
    os.environ[name] = str(address[1]) if isinstance(address, tuple) else os.fsdecode(address[1:])
# Nobody listens there.
with socket.create_server(("127.0.0.1", 0)) as free:
    os.environ["FREE"] = str(free.getsockname()[1])

@pytest.fixture(scope="session", autouse=True)
def servers():
    for server in SERVERS.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    for server in SERVERS.values():
        server.shutdown()
        server.server_close()
"""

HEAD: Final = """
import os
import signal
import socket
import threading
import time

import pytest

# Threads of the runner serve.
pytestmark = pytest.mark.filterwarnings("ignore")

def port(name):
    return int(os.environ[name])

def all_of(client):
    found = bytearray()
    while data := client.recv(1 << 18):
        found += data
    return bytes(found)
"""

SUITE: Final = (
    HEAD
    + """
@pytest.mark.isolated(reach=port("TCP"))
def test_echo(pid1):
    with socket.create_connection(("127.0.0.1", port("TCP")), timeout=20) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b"over"
    assert [s.port for s in pid1.listening] == [port("TCP")]
    assert pid1.leftovers == ()

@pytest.mark.isolated(reach=[port("TCP")])
def test_nothing_else():
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port("OTHER")), timeout=20)

@pytest.mark.isolated
def test_not_by_itself():
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port("TCP")), timeout=20)

@pytest.mark.isolated(reach="@" + os.environ["UNIX"])
def test_abstract():
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect("\\0" + os.environ["UNIX"])
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b"helloover"

@pytest.mark.isolated(reach="udp:127.0.0.1:" + os.environ["UDP"])
def test_datagrams():
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for n, client in enumerate(clients):
        client.settimeout(20)
        client.connect(("127.0.0.1", port("UDP")))
        client.send(f"text {n}".encode())
    assert [client.recv(100) for client in clients] == [b"TEXT 0", b"TEXT 1", b"TEXT 2"]
    for client in clients:
        client.close()

@pytest.mark.isolated(reach=port("FREE"))
def test_nobody_listens_out_there():
    # The connection is accepted; its reset may come before connect() has seen that.
    with pytest.raises(ConnectionResetError):
        with socket.create_connection(("127.0.0.1", port("FREE")), timeout=20) as client:
            client.recv(10)

@pytest.mark.isolated(reach=port("TCP"), init=True, timeout=300)
def test_many_at_a_time(pytestconfig):
    count = 200 if hasattr(pytestconfig, "workerinput") else 1000  # it is the same with workers
    clients = [
        socket.create_connection(("127.0.0.1", port("TCP")), timeout=60) for _ in range(count)
    ]
    for n, client in enumerate(clients):
        client.sendall(str(n).encode())
        client.shutdown(socket.SHUT_WR)
    for n, client in enumerate(clients):
        assert all_of(client) == f"{n}over".encode()
        client.close()

@pytest.mark.isolated(reach=port("TCP"), timeout=60)
def test_both_ways_at_a_time():
    size, block = 16 << 20, os.urandom(1 << 20)
    with socket.create_connection(("127.0.0.1", port("TCP")), timeout=30) as client:
        def write():
            for _ in range(size >> 20):
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)
        writer = threading.Thread(target=write)
        writer.start()
        found = all_of(client)
        writer.join()
    assert found == block * (size >> 20) + b"over"

@pytest.mark.isolated(reach=port("MUCH"), timeout=300)
def test_a_gigabyte(pytestconfig):
    size = 64 << 20 if hasattr(pytestconfig, "workerinput") else 1 << 30
    with socket.create_connection(("127.0.0.1", port("MUCH")), timeout=60) as client:
        client.sendall(str(size).encode())
        found, room = 0, bytearray(4 << 20)
        # The kernel counts what has come, and throws it away.
        while count := client.recv_into(room, 0, socket.MSG_TRUNC):
            found += count
    assert found == size

@pytest.mark.isolated(reach=port("TCP"))
def test_a_reset_is_a_reset():
    with socket.create_connection(("127.0.0.1", port("TCP")), timeout=20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
    with socket.create_connection(("127.0.0.1", port("TCP")), timeout=20) as client:
        client.sendall(b"still there")
        assert client.recv(20) == b"still there"

@pytest.mark.isolated(reach=port("TCP"))
def test_crashes():
    os.abort()
"""
)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("options", [(), ("-n", "2", "-p", "xdist")], ids=["here", "workers"])
def test_what_is_reached_and_what_is_not(side: Side, options: tuple[str, ...]) -> None:
    """TCP, UDP and abstract names; both ends of a connection; nothing is left of it."""
    files = {"conftest.py": CONFTEST, "test_it.py": SUITE}
    result = run_batch(files, side, *options, clean=False, gone=True)
    every = {f"test_{line.partition('(')[0]}" for line in SUITE.split("def test_")[1:]}
    assert result.passed() == every - {"test_crashes"}, result.text
    assert "killed by SIG" in result.failure("test_crashes")


def test_the_marker_names_the_addresses(tmp_path: Path) -> None:
    """What the test itself tells of addresses counts for nothing: it is ended if it tries."""
    source = f"""{HEAD}
import gc, json
from pytest_nsisolate.child import helper_channel
from pytest_nsisolate.wire.frames import FrameWriter, Kind

def forge():
    writer = next(one for one in gc.get_objects() if isinstance(one, FrameWriter))
    listener = socket.create_server(("127.0.0.1", 4444))
    channel = helper_channel.ask(Kind.REACH, writer)
    words = json.dumps([f"tcp:127.0.0.1:{{port('TCP')}}"]).encode()
    helper_channel.hand_over(channel, words, [listener.fileno()])
    with socket.create_connection(("127.0.0.1", 4444), timeout=20) as client:
        client.shutdown(socket.SHUT_WR)
        print("reached", all_of(client))

@pytest.mark.isolated(timeout=60)
def test_none_named():
    forge()

@pytest.mark.isolated(reach=port("OTHER"), timeout=60)
def test_another_named():
    forge()
"""
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    result = run_source(tmp_path, source)
    assert "the test has no reach=" in result.failure("test_none_named")
    assert "asked for it twice" in result.failure("test_another_named")
    assert "reached" not in result.stdout


def test_more_connections_than_it_has_descriptors_for(tmp_path: Path) -> None:
    """Those that are too many wait until others have ended; none is lost."""
    source = f"""{HEAD}
@pytest.mark.isolated(reach=port("TCP"), timeout=120)
def test_it():
    clients = [
        socket.create_connection(("127.0.0.1", port("TCP")), timeout=60) for _ in range(300)
    ]
    for n, client in enumerate(clients):
        client.sendall(str(n).encode())
        client.shutdown(socket.SHUT_WR)
    for n, client in enumerate(clients):
        assert all_of(client) == f"{{n}}over".encode()
        client.close()
"""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))\n"
    (tmp_path / "conftest.py").write_text(limit + CONFTEST, encoding="utf-8")
    result = run_source(tmp_path, source)
    assert result.passed() == {"test_it"}, result.text


def test_several_tests_at_a_time(tmp_path: Path) -> None:
    """With ``--nsisolate-jobs`` each has a forwarder and addresses of its own."""
    source = f"""{HEAD}
EVERY = [port("TCP"), "udp:127.0.0.1:" + os.environ["UDP"], "@" + os.environ["UNIX"]]

@pytest.mark.parametrize("n", range(8))
@pytest.mark.isolated(reach=EVERY, timeout=120)
def test_each(n):
    text = str(n).encode()
    with (
        socket.create_connection(("127.0.0.1", port("TCP")), timeout=60) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        for client, address in (
            (udp, ("127.0.0.1", port("UDP"))),
            (unix, "\\0" + os.environ["UNIX"]),
        ):
            client.settimeout(60)
            client.connect(address)
        udp.send(b"u" + text)
        assert udp.recv(10) == b"U" + text
        for client in (tcp, unix):
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            assert all_of(client) == text + b"over"

@pytest.mark.isolated
def test_not_what_others_reach():
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port("TCP")), timeout=20)

@pytest.mark.isolated(reach=port("OTHER"), timeout=60)
def test_other():
    with socket.create_connection(("127.0.0.1", port("OTHER")), timeout=20) as client:
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b"over"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port("TCP")), timeout=20)
"""
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    result = run_source(tmp_path, source, "--nsisolate-jobs=4")
    assert len(result.passed()) == 10, result.text


@NEEDS_IPV6
def test_ipv6(tmp_path: Path) -> None:
    """In brackets."""
    source = f"""{HEAD}
@pytest.mark.isolated(reach="[::1]:" + os.environ["SIX"])
def test_it():
    with socket.create_connection(("::1", port("SIX")), timeout=20) as client:
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b"over"
"""
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    result = run_source(tmp_path, source)
    assert result.passed() == {"test_it"}, result.text


def test_below_an_init_and_with_threads_of_the_runner(tmp_path: Path) -> None:
    """The ways on which the test is not the runner's own child."""
    source = f"""{THREADED}{HEAD}
@pytest.mark.parametrize((), [
    pytest.param(marks=pytest.mark.isolated(reach=port("TCP"), **more), id=str(n))
    for n, more in enumerate([{{}}, {{"init": True}}, {{"user": "same"}}, {{"net": True}}])
])
def test_it():
    with socket.create_connection(("127.0.0.1", port("TCP")), timeout=20) as client:
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b"over"
"""
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    result = run_source(tmp_path, source)
    assert len(result.passed()) == 4, result.text


def test_a_port_that_only_root_binds_without_the_right(tmp_path: Path) -> None:
    """The step and its errno; not a line of the test has run."""
    source = """
import pytest
@pytest.mark.isolated(reach=80, caps=[])
def test_it():
    raise AssertionError("it has run")
"""
    result = run_source(tmp_path, source)
    said = result.failure("test_it")
    assert "open tcp:127.0.0.1:80 for the net namespace: EACCES" in said
    assert 'remedy: keep it (caps=["net_bind_service"])' in said
    assert "it has run" not in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "takes ports from 1 to 65535, not 0"),
        ("127.0.0.1", "takes HOST:PORT, not '127.0.0.1'"),
        ("localhost:80", "takes addresses, not the name 'localhost': say 127.0.0.1 or [::1]"),
        ("10.0.0.1:80", "takes addresses of the loopback, and 10.0.0.1 is none"),
        ("/run/x.sock", "is not for '/run/x.sock': a Unix socket with a path is a file, and rea"),
        ("@", "takes names of 1 to 106 bytes behind the @"),
        ([], "takes ports and addresses, [8080, "),
        (True, "takes ports and addresses, [8080, "),
        ([1.5], "takes ports and addresses as text, not 1.5"),
        (list(range(1, 100)), "takes at most 64 addresses, these are 99"),
    ],
)
def test_usage_errors(value: object, said: str) -> None:
    """What cannot be meant."""
    with pytest.raises(ReachError) as raised:
        check(value)
    assert said in str(raised.value)


def test_usage_errors_name_the_test(tmp_path: Path) -> None:
    """At collection; also where there is nothing to reach out of."""
    source = """
import pytest
@pytest.mark.isolated(reach="localhost:80")
def test_one(): pass
@pytest.mark.isolated(reach=80, pid=True)
def test_two(): pass
"""
    result = run_source(tmp_path, source)
    assert result.returncode == 4
    assert "isolated(reach='localhost:80'): reach takes addresses, not the name" in result.text
    assert "without a net namespace a test reaches what the runner reaches" in result.text
    assert not result.reports


def test_not_for_calls_by_isolate(tmp_path: Path) -> None:
    """Its error says where it belongs, and that of tty= too."""
    source = "def test_{0}(isolate):\n    isolate.using({0}={1})\n"
    result = run_source(tmp_path, source.format("reach", 80) + source.format("tty", True))
    for key in ("reach", "tty"):
        said = f"{key} is for the marker of a test, not for a call"
        assert said in result.failure(f"test_{key}")


def test_spellings() -> None:
    """One for each address."""
    given = [8080, "127.0.0.1:8080", "tcp:127.0.0.1:8080", ":8080", "[::1]:53", "udp::53", "@a:b"]
    assert check(given) == ("tcp:127.0.0.1:8080", "tcp:[::1]:53", "udp:127.0.0.1:53", "unix:@a:b")
    assert target_of("tcp", "[::1]:53") == ("::1", 53)
    assert target_of("unix", "@a:b") == "\0a:b"


DATABASE: Final = """
import os
import pathlib
import socket
import subprocess
import tempfile

import pytest

BIN = pathlib.Path({bin!r})

def as_postgres(*command):
    switch = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [str(part) for part in command]
    return [*switch, *command] if os.geteuid() == 0 else command

with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]

@pytest.fixture(scope="session")
def database():
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        data = pathlib.Path(folder, "data")
        run = lambda *c: subprocess.run(as_postgres(*c), check=True, capture_output=True, cwd="/")
        run(BIN / "initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync")
        options = f"-p {{PORT}} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -F"
        log = pathlib.Path(folder, "log")
        run(BIN / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start")
        yield
        run(BIN / "pg_ctl", "-D", data, "-m", "immediate", "stop")

@pytest.mark.isolated(reach=PORT)
def test_client(database):
    line = ["psql", "-h", "127.0.0.1", "-p", str(PORT), "-U", "tester", "-At", "postgres"]
    query = "select sum(n) from generate_series(1, 100000) n"
    done = subprocess.run([*line, "-c", query], capture_output=True, text=True, timeout=60)
    assert done.stdout == "5000050000\\n", done.stderr

@pytest.mark.isolated
def test_without(database):
    line = ["psql", "-h", "127.0.0.1", "-p", str(PORT), "-U", "tester", "-l"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert "Connection refused" in done.stderr
"""


@needs_program("initdb", "postgres", "psql")
def test_a_database_of_a_session_fixture(tmp_path: Path) -> None:
    """PostgreSQL in the runner, its client isolated."""
    result = run_source(tmp_path, DATABASE.format(bin=str(POSTGRES)))
    assert result.passed() == {"test_client", "test_without"}, result.text
