# SPDX-License-Identifier: MIT
"""Programs that need several hosts, as they are: a web server, dnsmasq, nginx, bird, PostgreSQL.

Each test builds its hosts by the fixture ``testbed``, disturbs them, and looks at what the programs
make of it. A test is skipped where its program is not installed (Debian: curl, iputils-ping,
dnsmasq-base, nginx-light, bird2, postgresql).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_nsisolate as nsi

pytestmark = pytest.mark.isolated

#: Seconds in which a program starts, or notices, on a busy machine.
PATIENCE = 60

POSTGRESQL = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nonesuch"))


def needs(*programs: str) -> pytest.MarkDecorator:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:{POSTGRESQL}"
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(autouse=True)
def _system_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    # An ordinary user of Debian does not find daemons without.
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")


def eventually(holds: Callable[[], object]) -> bool:
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


# A web server ------------------------------------------------------------------------------------


@needs("curl", "ping", "ip")
def test_a_web_server(testbed: nsi.Testbed) -> None:
    """By name and by both families, and with 20 ms each way."""
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    web = [sys.executable, "-m", "http.server", "--bind", "::", "80"]
    with b.start(web, ready=80, within=PATIENCE):
        assert "<title>" in a.run("curl -s http://b/").stdout
        assert "<title>" in a.run("curl -s -4 http://b/").stdout
    assert "fd00::/64 dev eth0" in a.run("ip -6 route").stdout
    assert " 0% packet loss" in a.run("ping -6 -c 2 -i 0.2 b").stdout
    b.wire.impair(delay=0.02)
    told = a.run("ping -4 -c 3 -i 0.2 b").stdout
    fastest = re.search(r"= ([\d.]+)/", told)
    assert fastest is not None
    assert float(fastest[1]) >= 40


# DHCP and DNS ------------------------------------------------------------------------------------


@needs("dnsmasq")
def test_dnsmasq(testbed: nsi.Testbed, tmp_path: Path) -> None:
    """It answers for a name, and offers an address."""
    lan = testbed.network("10.0.0.0/24")
    server, client = testbed.host("server", lan), testbed.host("client", lan)
    command = [
        # Not in the foreground only: it would want to be another user, and here may be just one.
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--log-facility=-"),
        *("--no-resolv", "--no-hosts", "--log-dhcp"),
        *(f"--pid-file={tmp_path}/pid", f"--dhcp-leasefile={tmp_path}/leases"),
        *("--address=/www.example/10.9.9.9", "--dhcp-range=10.0.0.100,10.0.0.110,1h"),
    ]
    with server.start(command, ready=67, within=PATIENCE) as dnsmasq:
        assert client.call(look_up, server.address, "www.example") == "10.9.9.9"
        assert client.call(discover) == server.address
    assert "DHCPOFFER(eth0) 10.0.0.1" in dnsmasq.log
    assert testbed.capture(client).count(udp_port=67, sent=False) == 1


def look_up(server: str, name: str) -> str:
    """The first address of a name (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as resolver:
        resolver.settimeout(PATIENCE)
        resolver.sendto(question, (server, 53))
        return socket.inet_ntoa(resolver.recv(512)[-4:])


def discover() -> str:
    """Who offers an address to a new host (RFC 2131)."""
    mac = bytes.fromhex(Path("/sys/class/net/eth0/address").read_text().replace(":", ""))
    head = struct.pack("!4BIHH4I", 1, 1, 6, 0, 42, 0, 0x8000, 0, 0, 0, 0) + mac.ljust(208, b"\0")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
        client.bind(("", 68))
        client.sendto(head + bytes.fromhex("63825363350101ff"), ("255.255.255.255", 67))
        server: str = client.recvfrom(1500)[1][0]
        return server


# A load balancer ---------------------------------------------------------------------------------

NGINX = """
daemon off; error_log stderr; pid {0}/pid; user root;
events {{}}
http {{
  access_log off;
  client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
  uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
  upstream apps {{ server app1:8000 max_fails=1; server app2:8000 max_fails=1; }}
  server {{
    listen 80;
    location / {{ proxy_pass http://apps; proxy_connect_timeout 1s; }}
  }}
}}
"""

APP = """
import http.server, socket
class Name(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(socket.gethostname().encode())
http.server.HTTPServer(("", 8000), Name).serve_forever()
"""


@needs("nginx", "curl")
def test_nginx_fails_over(testbed: nsi.Testbed, tmp_path: Path) -> None:
    """Nobody notices that a server has crashed, and it gets its share when it is back."""
    lan = testbed.network("10.0.0.0/24")
    client, balancer = testbed.host("client", lan), testbed.host("balancer", lan)
    apps = [testbed.host(name, lan) for name in ("app1", "app2")]

    def serve(app: nsi.Host) -> None:
        app.start([sys.executable, "-c", APP], ready=8000, within=PATIENCE)

    def get() -> str:
        return str(client.run("curl -sf http://balancer/").stdout)

    for app in apps:
        serve(app)
    settings = tmp_path / "nginx.conf"
    settings.write_text(NGINX.format(tmp_path))
    balancer.start(["nginx", "-c", str(settings), "-e", "stderr"], ready=80, within=PATIENCE)
    assert {get() for _ in range(4)} == {"app1", "app2"}
    apps[0].crash()
    assert {get() for _ in range(4)} == {"app2"}
    apps[0].boot()
    serve(apps[0])
    assert eventually(lambda: get() == "app1")


# A routing daemon --------------------------------------------------------------------------------

BIRD = """
log stderr all;
router id {0};
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; interface "eth*"; }}
protocol kernel {{ ipv4 {{ export where source != RTS_DEVICE; }}; }}
protocol ospf v2 {{
  ipv4 {{ import all; }};
  area 0 {{ interface "eth*" {{ hello 1; dead count 4; wait 2; type broadcast; }}; }};
}}
"""


@needs("bird", "ping", "ip")
def test_bird_finds_the_way_round(testbed: nsi.Testbed, tmp_path: Path) -> None:
    """Three routers in a ring; the short way is cut."""
    ab, bc, ca = (testbed.network(f"10.0.{number}.0/24") for number in range(3))
    ring = {"a": (ab, ca), "b": (ab, bc), "c": (bc, ca)}
    a, b, c = (testbed.router(name, *nets, routes=False) for name, nets in ring.items())
    for router in (a, b, c):
        settings = tmp_path / f"{router.name}.conf"
        settings.write_text(BIRD.format(router.address))
        control = str(tmp_path / f"{router.name}.ctl")
        router.start(["bird", "-f", "-c", str(settings), "-s", control])
    far = str(b.wires[bc].addresses[0])

    def arrives(by: str) -> bool:
        way = a.run(f"ip route get {far}", check=False).stdout
        return by in way and a.run(f"ping -c1 -W1 {far}", check=False).returncode == 0

    assert eventually(lambda: arrives("dev eth"))
    b.wires[ab].cut()
    assert eventually(lambda: arrives(f"via {c.wires[ca].addresses[0]}"))


# Replication -------------------------------------------------------------------------------------


@needs("initdb", "setpriv")
@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL refuses to run as uid 0, the only one")
def test_postgresql_catches_up(testbed: nsi.Testbed) -> None:
    """What is written while the network is parted arrives when it is healed."""
    lan = testbed.network("10.0.0.0/24")
    primary, standby = testbed.host("primary", lan), testbed.host("standby", lan)
    ids = ("--reuid=postgres", "--regid=postgres", "--clear-groups")
    user = ["setpriv", *ids, "env", "HOME=/tmp", "LC_ALL=C"]
    options = (
        *("-k", "", "-c", "fsync=off", "-c", "wal_receiver_timeout=2s"),
        *("-c", "wal_sender_timeout=2s", "-c", "wal_retrieve_retry_interval=500ms"),
    )

    def run(host: nsi.Host, name: str, *words: str, check: bool = True) -> str:
        done = host.run([*user, str(POSTGRESQL / name), *words], check=check)
        return str(done.stdout).strip()

    def sql(host: nsi.Host, text: str, *, check: bool = True) -> str:
        words = ("-h", host.address, "-U", "postgres", "-Atc", text)
        return run(host, "psql", *words, check=check)

    def serve(host: nsi.Host, data: str) -> None:
        program = [*user, str(POSTGRESQL / "postgres"), "-D", data, "-h", host.address, *options]
        host.start(program, ready=5432, within=PATIENCE)
        assert eventually(lambda: sql(host, "select 1", check=False) == "1")

    # Not below tmp_path, into which no other user may look.
    folder = primary.run([*user, "mktemp", "-d", "/tmp/nsisolate-XXXXXX"]).stdout.strip()
    try:
        run(primary, "initdb", "-D", f"{folder}/a", "-A", "trust", "-U", "postgres", "-N")
        with open(f"{folder}/a/pg_hba.conf", "a", encoding="utf-8") as access:
            access.write("host all,replication all 10.0.0.0/24 trust\n")
        serve(primary, f"{folder}/a")
        sql(primary, "create table words (word text)")
        source = ("-h", "primary", "-U", "postgres", "-R")
        run(standby, "pg_basebackup", "-D", f"{folder}/b", *source)
        serve(standby, f"{folder}/b")

        def arrived() -> str:
            return sql(standby, "select string_agg(word, ' ') from words")

        sql(primary, "insert into words values ('one')")
        assert eventually(lambda: arrived() == "one")
        testbed.partition({primary}, {standby})
        sql(primary, "insert into words values ('two')")
        assert arrived() == "one"
        testbed.heal()
        assert eventually(lambda: arrived() == "one two")
    finally:
        testbed.close()
        shutil.rmtree(folder)
