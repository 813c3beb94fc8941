# SPDX-License-Identifier: MIT
"""Networks, hosts, and what runs on them, by the fixture ``testbed``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from neighbours import ask, is_cut_off, reaches, serve  # type: ignore[import-not-found]

import pytest_nsisolate as nsi

expect = pytest.mark.expect
pytestmark = pytest.mark.isolated


# In names, because a failure shows the lines of its test.
SAID_BY_ERROR_IN_A_WITH_BLOCK = (
    "RuntimeError: in the middle",
    "host a (10.0.0.1):",
    "runs: 3 sleep 1000",
)


#: Its child makes a session of its own, and never waits for the grandchild, a zombie in the group.
HOLDS_A_ZOMBIE = """
import os, signal, time
if not os.fork():
    if not os.fork():
        os._exit(0)
    os.setsid()
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    print("zombie", flush=True)
time.sleep(1000)
"""


# Networks and hosts ------------------------------------------------------------------------------


@expect("passed")
def test_two_hosts(testbed: nsi.Testbed) -> None:
    """Names, addresses in order, commands, a server, both families."""
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert (a.addresses, b.address) == (("10.0.0.1", "fd00::1"), "10.0.0.2")
    assert a.run("hostname").stdout == "a\n"
    with serve(b) as server:
        assert a.call(ask, "b") in ("ok to ::ffff:10.0.0.1", "ok to fd00::1")
        assert a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"
        assert a.call(ask, "fd00::2") == "ok to fd00::1"
        assert b.call(ask, "localhost").startswith("ok to ")
        assert server.running()
    assert not server.running()
    assert server.status == -signal.SIGTERM


@expect("passed")
def test_the_test_itself_is_on_no_network(testbed: nsi.Testbed) -> None:
    """It has its own network, in which nothing is new; and nothing is in /run/netns."""
    lan = testbed.network("10.0.0.0/24")
    testbed.host("a", lan)
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert not Path("/run/netns").exists() or not os.listdir("/run/netns")


@expect("passed")
def test_each_host_is_a_world(testbed: nsi.Testbed) -> None:
    """Processes, names, shared memory and ports are its own."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    before = socket.gethostname()
    a.shell("echo 1 > /dev/shm/only-a")
    assert b.run("ls /dev/shm").stdout == ""
    kinds = ("pid", "net", "uts", "ipc", "mnt")
    worlds = [host.call(_identities) for host in (a, b)]
    own = _identities()
    assert all(len({world[kind] for world in (*worlds, own)}) == 3 for kind in kinds)
    assert len({world["user"] for world in (*worlds, own)}) == 1
    assert socket.gethostname() == before


def _identities() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}


@expect("passed")
def test_names_of_later_hosts_are_known(testbed: nsi.Testbed) -> None:
    """/etc/hosts has everybody, whoever came first; the test's own is as it was."""
    own = Path("/etc/hosts").read_text()
    lan = testbed.network("10.0.0.0/24")
    a = testbed.host("a", lan)
    testbed.host("later", lan)
    assert a.call(socket.gethostbyname, "later") == "10.0.0.2"
    assert Path("/etc/hosts").read_text() == own


@expect("passed")
def test_addresses_of_ones_own_choice(testbed: nsi.Testbed) -> None:
    """Named ones are left out for the others."""
    lan = testbed.network("10.0.0.0/29", "fd00::/64")
    hosts = [
        testbed.host("a", lan["10.0.0.1"]),
        testbed.host("b", lan),
        testbed.host("c", lan["10.0.0.6", "fd00::c"]),
        testbed.host("d", lan),
    ]
    assert [host.addresses for host in hosts] == [
        ("10.0.0.1", "fd00::1"),
        ("10.0.0.2", "fd00::2"),
        ("10.0.0.6", "fd00::c"),
        ("10.0.0.3", "fd00::3"),
    ]
    assert reaches(hosts[0], hosts[2])


@expect("passed")
def test_a_host_on_two_networks(testbed: nsi.Testbed) -> None:
    """An interface for each, in their order; it does not forward."""
    left, right = testbed.network("10.0.1.0/24"), testbed.network("10.0.2.0/24")
    a, b = testbed.host("a", left), testbed.host("b", right)
    both = testbed.host("both", right, left)
    assert [wire.interface for wire in both.wires.values()] == ["eth0", "eth1"]
    assert both.wires[left].addresses == both.wires[left].addresses
    assert reaches(both, a)
    assert reaches(both, b)
    assert is_cut_off(a, b)
    with pytest.raises(nsi.TestbedError, match="both has 2 wires"):
        both.wire  # noqa: B018


@expect("passed")
def test_a_router(testbed: nsi.Testbed) -> None:
    """Each host has a default route, of both families, whether it came before or after."""
    left = testbed.network("10.0.1.0/24", "fd01::/64")
    right = testbed.network("10.0.2.0/24", "fd02::/64")
    a = testbed.host("a", left)
    router = testbed.router("r", left, right)
    b = testbed.host("b", right)
    with serve(b):
        assert a.call(ask, "10.0.2.2") == "ok to ::ffff:10.0.1.1"
        assert a.call(ask, "fd02::2") == "ok to fd01::1"
    a.view.assert_route("default", via="10.0.1.2")
    assert router.addresses == ("10.0.1.2", "10.0.2.1", "fd01::2", "fd02::1")


@expect("passed")
def test_nat(testbed: nsi.Testbed) -> None:
    """Who is outside sees the router's address, and does not know the way inside."""
    inside = testbed.network("192.168.0.0/24", "fd01::/64")
    outside = testbed.network("10.0.0.0/24", "fd02::/64")
    a = testbed.host("a", inside)
    router = testbed.router("r", inside, outside, nat=True)
    b = testbed.host("b", outside)
    assert router.outside is outside
    with serve(b):
        assert a.call(ask, "10.0.0.2") == "ok to ::ffff:10.0.0.1"
        assert a.call(ask, "fd02::2") == "ok to fd02::1"
    b.view.assert_no_route_to("192.168.0.1")
    assert is_cut_off(b, a)


@expect("passed")
def test_two_routers_in_a_row(testbed: nsi.Testbed) -> None:
    """Each knows the way to the other one's networks; no other route is there without a router."""
    nets = [testbed.network(f"10.0.{n}.0/24") for n in range(3)]
    a, b = testbed.host("a", nets[0]), testbed.host("b", nets[2])
    a.view.assert_no_route_to("10.0.2.1")
    testbed.router("r1", nets[0], nets[1])
    testbed.router("r2", nets[1], nets[2])
    assert reaches(a, b)
    lonely = testbed.host("c", nets[0], routes=False)
    assert is_cut_off(lonely, b)


@expect("passed")
def test_many_hosts_in_a_small_network(testbed: nsi.Testbed) -> None:
    """A /31 has two, a /30 too, and no more."""
    lan = testbed.network("10.0.0.0/31")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    assert (a.address, b.address) == ("10.0.0.0", "10.0.0.1")
    assert reaches(a, b)
    with pytest.raises(nsi.TestbedError, match="no room for another host, there are 2"):
        testbed.host("c", lan)
    assert [*testbed.hosts] == ["a", "b"]


@pytest.mark.isolated(net=True, addresses=["10.53.0.1/32", "fd92::1", "10.53.1.1/24"])
@expect("passed")
def test_addresses_of_the_test_s_own_loopback(pid1: nsi.Pid1View) -> None:
    """Usable at once, beside its own; networks are reached through it."""
    (loopback,) = pid1.interfaces
    found = {f"{address.address}/{address.prefix}" for address in loopback.addresses}
    assert found == {"127.0.0.1/8", "::1/128", "10.53.0.1/32", "fd92::1/128", "10.53.1.1/24"}
    for address in ("10.53.0.1", "10.53.1.77"):
        with socket.create_server((address, 53)), socket.create_connection((address, 53)):
            pass
    with socket.create_server(("fd92::1", 53), family=socket.AF_INET6):
        pass


@expect("passed")
def test_addresses_of_a_call_and_of_a_host(testbed: nsi.Testbed, isolate: nsi.Isolate) -> None:
    def bind(address: str) -> str:
        with socket.create_server((address, 53)) as server:
            return str(server.getsockname()[0])

    assert isolate.using(addresses="10.9.9.9")(bind, "10.9.9.9") == "10.9.9.9"
    lan = testbed.network("10.0.0.0/24")
    host = testbed.host("a", lan, addresses=["10.9.9.9"])
    assert host.call(bind, "10.9.9.9") == "10.9.9.9"


@expect("passed")
def test_files_of_a_host(testbed: nsi.Testbed) -> None:
    """Contents, hidden paths and what it writes are its own, as of a box; a crash loses them."""
    lan = testbed.network("10.0.0.0/24")
    hosts = [
        testbed.host(name, lan, root="overlay", files={"/etc/app.conf": f"I am {name}"})
        for name in "ab"
    ]
    bare = testbed.host("bare", lan, hide=["/etc/passwd"])
    router = testbed.router("r", lan, root="readonly")
    for host in hosts:
        assert host.run("cat /etc/app.conf").stdout == f"I am {host.name}"
        host.call(Path("/etc/written").write_text, host.name)
    assert [host.run("cat /etc/written").stdout for host in hosts] == ["a", "b"]
    with pytest.raises(OSError, match="/etc/passwd"):
        bare.call(open, "/etc/passwd")
    assert not bare.call(os.path.exists, "/etc/app.conf")
    with pytest.raises(OSError, match="Read-only file system"):
        router.call(Path("/etc/written").write_text, "")
    for host in (*hosts, bare, router):
        assert host.call(socket.gethostbyname, "b") == "10.0.0.2"
    assert not os.path.exists("/etc/app.conf")
    assert not os.path.exists("/etc/written")
    assert os.path.exists("/etc/passwd")
    hosts[0].crash()
    hosts[0].boot()
    assert hosts[0].run("cat /etc/app.conf").stdout == "I am a"
    assert not hosts[0].call(os.path.exists, "/etc/written")


# What runs on a host -----------------------------------------------------------------------------


@expect("passed")
def test_commands(testbed: nsi.Testbed) -> None:
    """Split as a shell does, run without one; checked; their errors name the host."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    assert a.run("echo 'one  two' $HOME").stdout == "one  two $HOME\n"
    assert a.run(["echo", "$HOME"]).stdout == "$HOME\n"
    assert a.shell("echo $WHAT | tr a-z A-Z", env={**os.environ, "WHAT": "x"}).stdout == "X\n"
    assert a.run("cat", input="in").stdout == "in"
    assert a.run("false", check=False).returncode == 1
    with pytest.raises(subprocess.CalledProcessError) as failed:
        a.shell("echo no >&2; exit 3")
    assert failed.value.returncode == 3
    assert failed.value.__notes__ == ["Standard error:\nno", "on host a"]
    with pytest.raises(FileNotFoundError, match="nonesuch") as missing:
        a.run("/nonesuch --help")
    assert missing.value.__notes__ == ["on host a"]
    with pytest.raises(subprocess.TimeoutExpired):
        a.run("sleep 100", timeout=0.1)


@expect("passed")
def test_functions(testbed: nsi.Testbed) -> None:
    """Values and exceptions come back."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    assert a.call(socket.gethostname) == "a"
    with pytest.raises(ZeroDivisionError):
        a.call(divmod, 1, 0)


@expect("passed")
def test_the_view_of_a_host(testbed: nsi.Testbed) -> None:
    """Data and assertions of pid1, seen from there, without what is there for the testbed."""
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    with serve(b) as server:
        pids = [process.pid for process in b.view.processes]
        assert pids == [1, server.pid]
        assert [found.port for found in b.view.listening] == [80]
        b.view.assert_listening(80)
        b.view.assert_interface("eth0", up=True)
        a.view.assert_not_listening(80)
        with pytest.raises(AssertionError, match="80"):
            a.view.assert_listening(80)
    assert [found.name for found in a.view.interfaces] == ["lo", "eth0"]
    with pytest.raises(AttributeError):
        a.view.nonsense  # type: ignore[attr-defined]  # noqa: B018


# Programs in the background ----------------------------------------------------------------------


@expect("passed")
def test_readiness(testbed: nsi.Testbed, tmp_path: Path) -> None:
    """A port, UDP too; a path; a text or a pattern in the log; a function."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    there = tmp_path / "ready"
    script = (
        "import pathlib, socket, time; s = socket.socket(type=socket.SOCK_DGRAM); "
        f"s.bind(('', 53)); print('name=x', flush=True); pathlib.Path({str(there)!r}).touch(); "
        "time.sleep(1000)"
    )
    conditions: list[Any] = [53, str(there), there, "name=[xyz]", there.exists]
    for ready in conditions:
        with a.start([sys.executable, "-c", script], ready=ready, within=30) as program:
            assert program.running()
            assert program.pid > 1
        there.unlink(missing_ok=True)


@expect("passed")
def test_a_program_that_ends_too_early(testbed: nsi.Testbed) -> None:
    """Its status and its log are in the error; likewise if it is too slow, and ended then."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    with pytest.raises(nsi.NotReadyError) as ended:
        a.start(["sh", "-c", "echo no such config; exit 3"], ready=80, within=30)
    assert str(ended.value) == (
        "a: sh -c 'echo no such config; exit 3': ended with status 3 before it was ready, "
        "expected: port 80\n  no such config"
    )
    with pytest.raises(nsi.NotReadyError, match=r"killed by SIGKILL before it was ready"):
        a.start(["sh", "-c", "kill -9 $$"], ready="up", within=30)
    with pytest.raises(nsi.NotReadyError, match=r"not ready after 0.1 s, expected: /nonesuch"):
        a.start("sleep 1000", ready="/nonesuch", within=0.1)
    assert not a.view.leftovers


@expect("passed")
def test_a_program_that_is_not_there(testbed: nsi.Testbed) -> None:
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    with pytest.raises(FileNotFoundError, match="nonesuch") as missing:
        a.start("/nonesuch -d", ready=80)
    assert missing.value.__notes__ == ["on host a"]


@expect("passed")
def test_the_end_of_a_program(testbed: nsi.Testbed) -> None:
    """By itself, by a signal, by SIGKILL when SIGTERM is not enough, with its children."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    assert a.start(["sh", "-c", "exit 7"]).wait(30) == 7
    stubborn = "trap '' TERM; echo up; while :; do sleep 1000; done"
    program = a.start(["sh", "-c", stubborn], ready="up", within=30)
    assert program.stop(within=0.1) == -signal.SIGKILL
    program = a.start(["sh", "-c", "sleep 1000 & echo up; wait"], ready="up", within=30)
    assert program.log == "up\n"
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.05)
    assert program.stop(30) == -signal.SIGTERM
    # Alone: a shell without job control lets its background commands ignore SIGINT.
    program = a.start(["sleep", "1000"])
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == -signal.SIGINT
    assert runs_nothing(a)


@expect("passed")
def test_the_group_of_a_program_ends_with_it(testbed: nsi.Testbed) -> None:
    """Also those that outlive the program, that ignore SIGTERM, and that another one holds."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    # The shell ends at once, its child goes on: wait() is for the program alone.
    program = a.start(["sh", "-c", "sleep 1000 & exit 3"])
    assert program.wait(30) == 3
    assert len(a.view.leftovers) == 1
    assert program.status == program.stop() == 3
    assert runs_nothing(a)
    # Its child is deaf; SIGKILL is for all.
    deaf = "(trap '' TERM; echo up; while :; do sleep 1000; done) & wait"
    program = a.start(["sh", "-c", deaf], ready="up", within=30)
    assert program.stop(within=0.1) in (-signal.SIGTERM, -signal.SIGKILL)
    assert runs_nothing(a)
    # A zombie that its parent does not wait for is no reason to wait. The parent is elsewhere.
    program = a.start([sys.executable, "-c", HOLDS_A_ZOMBIE], ready="zombie", within=30)
    assert program.stop(30) == -signal.SIGTERM
    others = [process.is_zombie for process in a.view.processes if process.pid != 1]
    assert sorted(others) == [False, True]


def runs_nothing(host: nsi.Host) -> bool:
    """Not even a zombie."""
    return [process.pid for process in host.view.processes] == [1]


@expect("passed")
def test_a_program_that_is_stopped_twice(testbed: nsi.Testbed) -> None:
    """By a signal that stops processes, and by two calls."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    with a.start(["sh", "-c", "echo up; sleep 1000; :"], ready="up", within=30) as program:
        program.send_signal(signal.SIGSTOP)
        assert program.stop(30) == -signal.SIGTERM
        assert program.kill() == -signal.SIGTERM
        program.send_signal(signal.SIGTERM)
    assert runs_nothing(a)


@expect("passed")
def test_what_runs_at_the_end_is_ended(testbed: nsi.Testbed) -> None:
    """Without a with block: no complaint, and no process is left (the suite's own check)."""
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    a.start("sleep 1000")
    a.shell("setsid sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 &")


@expect("call failed", *SAID_BY_ERROR_IN_A_WITH_BLOCK)
def test_an_error_in_a_with_block(testbed: nsi.Testbed) -> None:
    a = testbed.host("a", testbed.network("10.0.0.0/24"))
    a.start("sleep 1000")
    with a.start("sleep 1000"):
        raise RuntimeError("in the middle")
