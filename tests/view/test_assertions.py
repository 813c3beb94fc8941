# SPDX-License-Identifier: MIT
"""The assertions hold when they should, wait as long as they may, and refuse what means nothing.

What they say when they fail is in the gallery (``test_gallery.py``).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View
from tests.support import NEEDS_NAMESPACES
from tests.view.tools import NEEDS_IP, owned, run

pytestmark = [NEEDS_NAMESPACES, pytest.mark.isolated]

#: Far more than anything here takes.
LONG = 20.0


def later(command: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Something that happens after a moment."""
    return owned("sh", "-c", f"sleep 0.1; {command}")


class TestProcesses:
    def test_every_way_to_name_one(self, pid1: Pid1View, sleeper: subprocess.Popen[bytes]) -> None:
        """Name, number, Popen, row, condition."""
        asleep = pid1.assert_process(lambda p: p.state == "sleeping", within=LONG)
        row = pid1.assert_process("sleep")
        assert row == asleep
        for which in (sleeper.pid, sleeper, row, lambda p: "60" in p.argv):
            assert pid1.assert_process(which) == row
        assert pid1.assert_process("sleep", count=1) == row
        with pytest.raises(TypeError, match="no name, number, object with a pid, or condition"):
            pid1.assert_process(None)  # type: ignore[arg-type]

    def test_a_name_is_the_program_s_or_the_file_s(self, pid1: Pid1View) -> None:
        """A script is known by its interpreter, and a link by its own name."""
        with owned("nap", "60", executable="/bin/sleep") as process:
            assert pid1.assert_process("nap").pid == pid1.assert_process("sleep").pid
            process.kill()

    def test_it_waits_for_who_comes_and_who_goes(self, pid1: Pid1View) -> None:
        """``within`` is a bound, not a delay."""
        begin = time.monotonic()
        with later("exec sleep 60") as process:
            pid1.assert_process(lambda p: p.argv == ("sleep", "60"), within=LONG)
            process.kill()
            pid1.assert_no_process(process, within=LONG)
        with later("true"):
            pid1.assert_no_process("sh", within=LONG)
            pid1.assert_no_leftovers(within=LONG)
        pid1.assert_alone(within=LONG)
        assert time.monotonic() - begin < LONG

    def test_a_zombie_is_no_process(self, pid1: Pid1View) -> None:
        """But the message says that it was there."""
        with owned("true") as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            pid1.assert_no_process(process)
            with pytest.raises(
                AssertionError, match="hint: it has ended, and its parent has not waited"
            ):
                pid1.assert_process(process)

    def test_a_daemon_is_one(self, pid1: Pid1View) -> None:
        """Forked twice, with a session, without a terminal."""
        code = (
            "import os, time\n"
            "if os.fork(): os._exit(0)\n"
            "time.sleep(0.05); os.setsid(); os.chdir('/')\n"
            "if os.fork(): os._exit(0)\n"
            "time.sleep(60)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd="/usr")
        daemon = pid1.assert_daemon(lambda p: p.argv[-1:] == (code,), within=LONG)
        assert (daemon.ppid, daemon.cwd, daemon.tty) == (1, "/", None)
        pid1.assert_daemon(daemon, cwd=None)
        pid1.assert_dies(daemon, within=LONG)

    def test_no_daemon_at_all(self, pid1: Pid1View) -> None:
        """Another message than for one that is short of it."""
        with pytest.raises(AssertionError, match=r"no daemon named 'crond'\n.*\nseen: no such"):
            pid1.assert_daemon("crond")

    def test_too_many(self, pid1: Pid1View, sleeper: subprocess.Popen[bytes]) -> None:
        """``count`` is exact."""
        with pytest.raises(AssertionError, match=r"1 process named 'sleep'\nexpected: exactly 2"):
            pid1.assert_process("sleep", count=2)


class TestSignals:
    def test_the_result_is_that_of_the_child(self, pid1: Pid1View) -> None:
        """By a signal or by an exit; and it may still be waited for."""
        killed = subprocess.Popen(["sleep", "60"])
        assert pid1.assert_dies(killed, signal.SIGKILL) == -signal.SIGKILL == killed.wait()
        code = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"
        with owned("sh", "-c", code, stdout=subprocess.PIPE) as leaving:
            assert leaving.stdout is not None
            leaving.stdout.readline()
            assert pid1.assert_dies(leaving, within=LONG) == 7 == leaving.wait()
        pid1.assert_alone(within=LONG)

    def test_an_end_of_its_own(self, pid1: Pid1View) -> None:
        """Signal 0 sends nothing."""
        with later("exit 3") as process:
            assert pid1.assert_dies(process, 0, within=LONG) == 3

    def test_somebody_else_s_child_has_no_result(self, pid1: Pid1View) -> None:
        """Only its parent is told."""
        code = "sleep 60 & echo $!; read x"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with owned("sh", "-c", code, **pipes) as shell:
            assert shell.stdout is not None
            assert pid1.assert_dies(int(shell.stdout.readline()), within=LONG) is None
            shell.kill()

    def test_survivors(self, pid1: Pid1View, sleeper: subprocess.Popen[bytes]) -> None:
        """A signal that is ignored by default, and PID 1 that gets none."""
        pid1.assert_survives(sleeper, signal.SIGWINCH, within=0.05)
        pid1.assert_survives(1, signal.SIGKILL, within=0.05)
        with pytest.raises(AssertionError, match="hint: PID 1 gets no signal from inside"):
            pid1.assert_dies(1, within=0.01)

    def test_why_it_lives(self, pid1: Pid1View) -> None:
        """Stopped, or with a handler: the hint says so."""
        code = "trap : TERM; echo ready; while :; do sleep 0.01; done"
        with owned("sh", "-c", code, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(AssertionError, match="has a handler for SIGTERM"):
                pid1.assert_dies(process, within=0.05)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            with pytest.raises(AssertionError, match="is stopped, and does not see SIGHUP"):
                pid1.assert_dies(process, signal.SIGHUP, within=0.05)
            assert pid1.assert_dies(process, signal.SIGKILL) == -signal.SIGKILL

    def test_an_exit_is_told_as_one(self, pid1: Pid1View) -> None:
        """How it ended stands in the message."""
        with (
            later("exit 3") as process,
            pytest.raises(AssertionError, match=r"did not survive\n.*\nseen: exit status 3"),
        ):
            pid1.assert_survives(process, 0, within=LONG)

    def test_no_descriptor_is_left(self, pid1: Pid1View, sleeper: subprocess.Popen[bytes]) -> None:
        """Neither by success nor by failure."""
        before = os.listdir("/proc/self/fd")
        pid1.assert_survives(sleeper, 0, within=0)
        with pytest.raises(AssertionError):
            pid1.assert_dies(sleeper, 0, within=0.01)
        pid1.assert_dies(sleeper)
        assert os.listdir("/proc/self/fd") == before

    def test_multiprocessing_s_processes(self, pid1: Pid1View) -> None:
        """They have a pid too."""
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        assert pid1.assert_dies(process, within=LONG) == -signal.SIGTERM
        process.join()
        assert process.exitcode == -signal.SIGTERM


class TestNetwork:
    def test_ports_that_come_and_go(self, pid1: Pid1View) -> None:
        """TCP and UDP, by port and address."""
        code = (
            "import socket, time; time.sleep(0.05)\n"
            "a = socket.create_server(('127.0.0.1', 80)); b = socket.socket(type=2)\n"
            "b.bind(('127.0.0.1', 53)); time.sleep(60)"
        )
        with owned(sys.executable, "-c", code) as server:
            found = pid1.assert_listening(80, within=LONG)
            assert (found.pids, found.local) == ((server.pid,), "127.0.0.1:80")
            pid1.assert_listening(53, proto="udp", host="127.0.0.1", within=LONG)
            pid1.assert_not_listening(53)
            pid1.assert_stays_closed(81, for_=0.01)
            server.kill()
            pid1.assert_not_listening(80, within=LONG)

    def test_unix_sockets_by_path(self, pid1: Pid1View, tmp_path: Path) -> None:
        """Absolute, or abstract."""
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            os.chdir(tmp_path)
            one.bind("app.sock")
            pid1.assert_not_listening("app.sock")
            one.listen()
            two.bind("\0app")
            two.listen()
            assert pid1.assert_listening("app.sock").type == "stream"
            pid1.assert_listening("@app")

    def test_hints(self, pid1: Pid1View) -> None:
        """Another protocol, another address."""
        with socket.create_server(("127.0.0.1", 80)):
            with pytest.raises(AssertionError, match=r"hint: .* on that port, with proto='tcp'"):
                pid1.assert_listening(80, proto="udp")
            with pytest.raises(
                AssertionError, match=r"hint: something listens on 127\.0\.0\.1, not on"
            ):
                pid1.assert_listening(80, host="127.0.0.2")

    def test_what_means_nothing_is_an_error(self, pid1: Pid1View) -> None:
        """Not a failed assertion, and not one that holds."""
        with pytest.raises(ValueError, match="proto is 'tcp' or 'udp', not 'sctp'"):
            pid1.assert_not_listening(80, proto="sctp")
        for method in (pid1.assert_no_route_to, pid1.assert_route):
            with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6"):
                method("not an address")
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
            pid1.assert_not_listening(80, host="localhost")
        with pytest.raises(ValueError, match="no kind of namespace: network"):
            pid1.assert_isolated("network")

    @NEEDS_IP
    def test_interfaces_and_routes_that_come(self, pid1: Pid1View) -> None:
        """Waited for, and described in every way."""
        script = """
            ip link add v0 mtu 1400 type veth peer name v1
            ip address add 10.1.0.1/24 dev v0
            ip link set v0 up
            ip link set v1 up
            ip route add 10.9.0.0/16 via 10.1.0.2
        """
        with later(script):
            wanted = {"up": True, "address": "10.1.0.1/24", "mtu": 1400, "kind": "veth"}
            assert pid1.assert_interface("v0", within=LONG, **wanted).up  # type: ignore[arg-type]
            pid1.assert_route("10.9.0.0/16", via="10.1.0.2", interface="v0", within=LONG)
        pid1.assert_interfaces(["lo", "v0", "v1"])
        pid1.assert_route("10.1.0.1", table="local", kind="local")
        pid1.assert_no_route_to("192.0.2.1")
        run("ip", "link", "set", "lo", "down")
        pid1.assert_interface("lo", up=False)


class TestWorld:
    def test_it_is_isolated_as_asked(self, pid1: Pid1View) -> None:
        """Without names: all that the marker asked for."""
        pid1.assert_isolated()
        pid1.assert_isolated("pid", "net", "mount", "uts", "ipc", "cgroup", "user")
        pid1.assert_pid1()

    @pytest.mark.isolated(hostname="db1")
    def test_names_and_mounts(self, pid1: Pid1View) -> None:
        """What is right does not fail."""
        pid1.assert_hostname("db1")
        pid1.assert_mounted("/proc", fstype="proc", options="nosuid", propagation="private")
        pid1.assert_mounted(Path("/dev/shm"), within=LONG)
        pid1.assert_not_mounted("/dev/shm/none")
        with pytest.raises(
            AssertionError,
            match=r"nothing is mounted on .*\n.*\nseen: it lies on /dev/shm\n",
        ):
            pid1.assert_mounted("/dev/shm/none")


@pytest.mark.parametrize(
    ("method", "arguments", "hint"),
    [
        ("assert_hostname", ("other",), "add uts=True"),
        ("assert_interfaces", ({"none"},), "add net=True"),
        ("assert_interface", ("none",), "add net=True"),
        ("assert_listening", (1,), "add net=True"),
        ("assert_no_route_to", ("127.0.0.1",), "add net=True"),
        ("assert_isolated", ("ipc",), "add ipc=True"),
        ("assert_pid1", (), "add pid=True"),
    ],
)
@pytest.mark.isolated(False)
class TestShared:
    """What the test shares with the runner is named, with the way to get an own one."""

    def test_hint_says_how(
        self, fresh: Pid1View, method: str, arguments: tuple[object, ...], hint: str
    ) -> None:
        with pytest.raises(AssertionError, match=hint):
            getattr(fresh, method)(*arguments)


@pytest.fixture
def fresh() -> Pid1View:
    """A view of the runner itself, which shares everything with itself."""
    return Pid1View()
