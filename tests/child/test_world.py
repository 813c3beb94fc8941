# SPDX-License-Identifier: MIT
"""What an isolated test sees: each namespace from inside, with the host asked at the same time.

The marker is used in the suite itself. ``runner`` and ``outside`` are module fixtures: they belong
to the runner, and the isolated test inherits them. Run as root and as an ordinary user (also by
``test_world_rootless.py``), the expectations follow what the runner holds.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Final

import pytest

from tests.host_observer import (
    Outside,
    connect_errno,
    mount_tmpfs,
    mounts,
    mq_exists,
    mq_open,
    mq_remove,
    namespaces,
    open_errno,
    processes,
    read,
    shm_create,
    shm_exists,
    shm_remove,
    status,
)
from tests.hosts import NEEDS_ROOT
from tests.support import NEEDS_IPV6, NEEDS_NAMESPACES, ON_THE_HOST, eventually, needs

pytestmark = NEEDS_NAMESPACES

DEFAULT: Final = {"user", "pid", "mount", "net", "uts", "ipc", "cgroup"}
KERNEL: Final = tuple(int(part) for part in os.uname().release.split(".")[:2])
DAY: Final = 86_400.0
HOUR: Final = 3_600.0


def isolated(*values: Any, **keywords: Any) -> Any:
    """A parameter set whose test is isolated in that way."""
    name = "-".join(f"{key}={value}" for key, value in keywords.items()) or "default"
    marks = [pytest.mark.isolated(**keywords)]
    if keywords.get("user") is False:
        marks.append(NEEDS_ROOT)
    return pytest.param(*values, marks=marks, id=name)


@dataclass(frozen=True)
class Facts:
    """The runner, as it was when the module's fixtures were set up."""

    namespaces: dict[str, int]
    status: dict[str, str]
    mounts: list[str]
    hostname: str
    uid_map: str
    owner_of_sysctls: int
    cgroup: str
    monotonic: float
    boottime: float
    realtime: float

    @property
    def is_root(self) -> bool:
        return self.status["Uid"].split()[1] == "0" == self.uid_map.split()[1]

    @property
    def owns_sysctls(self) -> bool:
        """Then only a read-only mount keeps it from writing to those of the machine."""
        return int(self.status["Uid"].split()[1]) == self.owner_of_sysctls


@pytest.fixture(scope="module")
def runner() -> Facts:
    """What there is to know about the runner."""
    return Facts(
        namespaces=namespaces(),
        status=status(),
        mounts=mounts(),
        hostname=socket.gethostname(),
        uid_map=read("/proc/self/uid_map"),
        owner_of_sysctls=os.stat("/proc/sys").st_uid,
        cgroup=read("/proc/self/cgroup"),
        monotonic=time.monotonic(),
        boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
        realtime=time.time(),
    )


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    """A process that stays on the host, to be asked from inside."""
    with Outside() as witness:
        yield witness


@pytest.fixture(scope="module", autouse=True)
def runner_stays_as_it_was(runner: Facts) -> Iterator[None]:
    """Whatever the tests of this module do, the runner itself is never changed (law 5)."""
    yield
    assert namespaces() == runner.namespaces
    assert mounts() == runner.mounts
    assert socket.gethostname() == runner.hostname
    for field in ("SigBlk", "SigIgn", "SigCgt", "CapEff", "CapBnd", "Uid", "NoNewPrivs"):
        assert status()[field] == runner.status[field]


class TestWhichNamespaces:
    @ON_THE_HOST
    def test_plain_test_is_where_the_runner_is(self, runner: Facts, outside: Outside) -> None:
        """An unmarked test stays in every namespace of the runner."""
        assert namespaces() == runner.namespaces == outside("namespaces()")

    @pytest.mark.isolated(False)
    def test_isolated_false_is_where_the_runner_is(self, runner: Facts) -> None:
        """``isolated(False)`` keeps a test in the runner."""
        assert namespaces() == runner.namespaces

    @pytest.mark.parametrize(
        "fresh",
        [
            isolated(DEFAULT),
            isolated(DEFAULT | {"time"}, time=1.0),
            isolated(DEFAULT - {"net"}, net=False),
            isolated(DEFAULT, init=True),
            isolated(DEFAULT, user="same"),
            isolated(DEFAULT - {"user"}, user=False),
            isolated({"user", "pid", "mount"}, pid=True),
            isolated({"user", "mount"}, mount=True),
            isolated({"user", "net", "mount"}, net=True),
            isolated({"user", "uts"}, uts=True),
            isolated({"user", "ipc", "mount"}, ipc=True),
            isolated({"user", "cgroup"}, cgroup=True),
            isolated({"uts"}, uts=True, user=False),
            isolated({"pid", "mount", "time"}, pid=True, user=False, time=1.0),
        ],
    )
    def test_those_named_and_implied_are_fresh(
        self, fresh: set[str], runner: Facts, outside: Outside
    ) -> None:
        """Exactly the namespaces that were asked for and what they imply differ, by inode."""
        here = namespaces()
        assert {name for name in here if here[name] != runner.namespaces[name]} == fresh
        assert outside("namespaces()") == runner.namespaces


class TestPid:
    @ON_THE_HOST
    def test_plain_test_is_an_ordinary_process(self, runner: Facts) -> None:
        """Control: unmarked, it has the runner's number, a parent, and company."""
        assert os.getpid() == int(runner.status["Pid"])
        assert os.getppid() == int(runner.status["PPid"]) or os.getppid() == 1
        assert len(processes()) > 1

    @pytest.mark.isolated
    def test_is_pid_1_without_a_parent(self) -> None:
        """The test is PID 1, nobody is its parent, and it leads its own session and group."""
        assert os.getpid() == 1
        assert os.getppid() == 0
        assert os.getsid(0) == os.getpgrp() == 1

    @pytest.mark.isolated
    def test_proc_is_fresh(self, outside: Outside) -> None:
        """/proc shows the test as process 1 and nothing of the host."""
        assert os.readlink("/proc/self") == "1"
        assert processes() == [1]
        own = Path("/proc/1/comm")
        own.write_text("it-is-me")
        assert Path("/proc/self/comm").read_text() == "it-is-me\n"
        assert len(outside("processes()")) > 1

    @pytest.mark.isolated
    @needs(shutil.which("ps") is not None, "needs ps (procps)")
    def test_ps_lists_only_the_test_and_itself(self) -> None:
        """A real program that reads /proc sees two processes."""
        listing = subprocess.check_output(["ps", "-e", "-o", "pid=,ppid="], text=True)
        first, ps = (line.split() for line in listing.splitlines())
        assert first == ["1", "0"]
        assert ps[1] == "1"  # whatever its number: pytest's faulthandler_timeout takes one

    @pytest.mark.isolated(net=True)
    def test_without_a_pid_namespace_the_host_is_there(self, runner: Facts) -> None:
        """Control: isolated in other ways only, it still sees the host's processes."""
        assert int(runner.status["Pid"]) in processes()
        assert os.getpid() > 1

    @pytest.mark.isolated
    def test_numbers_of_the_host_mean_nobody(self, outside: Outside) -> None:
        """A process of the host cannot be signalled by its number."""
        if outside.pid > 100:
            with pytest.raises(ProcessLookupError):
                os.kill(outside.pid, 0)

    @pytest.mark.isolated
    def test_orphan_stays_a_zombie_for_the_test_to_reap(self) -> None:
        """As PID 1, the test inherits every orphan and has to reap it itself."""
        orphan = make_orphan()
        assert eventually(lambda: status(orphan)["State"].startswith("Z"))
        assert status(orphan)["PPid"] == "1"
        assert os.waitpid(orphan, 0) == (orphan, 0)


def make_orphan() -> int:
    """A process that has ended or will soon, after its parent did: its number."""
    script = "exec 3<&0; cat <&3 >/dev/null & echo $!"
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        number = int(shell.stdout.readline())
        assert shell.wait() == 0
        shell.stdin.close()  # until now, cat had something to wait for
    return number


class TestInit:
    @pytest.mark.isolated(init=True)
    def test_is_pid_2_below_an_init(self) -> None:
        """With ``init=True`` another process is PID 1, and the test its child."""
        assert (os.getpid(), os.getppid()) == (2, 1)
        assert processes() == [1, 2]
        assert os.getsid(0) == os.getpgrp() == 2

    @pytest.mark.isolated(init=True)
    def test_orphans_are_reaped(self) -> None:
        """Nobody has to wait for an orphan: it vanishes."""
        orphan = make_orphan()
        assert eventually(lambda: not Path(f"/proc/{orphan}").exists())
        with pytest.raises(ChildProcessError):
            os.waitpid(orphan, 0)

    @pytest.mark.parametrize((), [isolated(init=True), isolated()])
    def test_exit_codes_of_own_children_are_not_eaten(self) -> None:
        """Two hundred children that fail are two hundred failures, with and without an init."""
        codes = [subprocess.run(["false"], check=False).returncode for _ in range(200)]
        assert codes == [1] * 200

    @pytest.mark.isolated(init=True)
    @pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGWINCH])
    def test_signals_to_init_are_forwarded(self, number: signal.Signals) -> None:
        """What PID 1 gets, the test gets."""
        got: list[int] = []
        signal.signal(number, lambda sent, _: got.append(sent))
        os.kill(1, number)
        assert eventually(lambda: got == [number])

    @pytest.mark.isolated(init=True)
    def test_a_signal_to_itself_has_its_default_action(self) -> None:
        """Unlike PID 1, the test behind an init can be killed by itself: its fork shows it."""
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert subprocess.run(["python3", "-c", code], check=False).returncode == -signal.SIGKILL


@pytest.fixture(scope="class")
def unusual_signals() -> Iterator[dict[str, str]]:
    """A runner with a blocked, an ignored and a handled signal that no other test has."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + 3})
    ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # Not SIGWINCH: readline's own handler, in C, cannot be put back from Python.
    handled = signal.signal(signal.SIGURG, lambda *_: None)
    yield status()
    signal.signal(signal.SIGURG, handled)
    signal.signal(signal.SIGUSR2, ignored)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def bits(*numbers: int) -> int:
    """Signals as a mask of /proc/PID/status."""
    return sum(1 << number - 1 for number in numbers)


class TestThreads:
    @pytest.mark.parametrize((), [isolated(), isolated(init=True)])
    def test_the_main_thread_knows_its_number(self) -> None:
        """A fork leaves the runner's in the object (``Thread.native_id``)."""
        assert threading.main_thread().native_id == threading.get_native_id()


class TestSignals:
    @ON_THE_HOST
    def test_plain_test_has_the_runners(self, unusual_signals: dict[str, str]) -> None:
        """Control: the fixture has changed what an unmarked test has."""
        here = status()
        assert {key: here[key] for key in ("SigBlk", "SigIgn", "SigCgt")} == {
            key: unusual_signals[key] for key in ("SigBlk", "SigIgn", "SigCgt")
        }
        assert int(here["SigBlk"], 16) & bits(signal.SIGRTMIN + 3)
        assert int(here["SigIgn"], 16) & bits(signal.SIGUSR2)
        assert int(here["SigCgt"], 16) & bits(signal.SIGURG)

    @pytest.mark.parametrize(
        (), [isolated(), isolated(init=True), isolated(user="same"), isolated(uts=True)]
    )
    def test_mask_and_dispositions_are_the_runners(self, unusual_signals: dict[str, str]) -> None:
        """Blocked, ignored and caught signals are the runner's; one more dumps the stacks."""
        here = status()
        assert here["SigBlk"] == unusual_signals["SigBlk"]
        assert here["SigIgn"] == unusual_signals["SigIgn"]
        faults = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)
        more = int(here["SigCgt"], 16) & ~int(unusual_signals["SigCgt"], 16)
        assert more & ~bits(*faults) == bits(signal.SIGRTMAX - 2)
        assert not int(unusual_signals["SigCgt"], 16) & ~int(here["SigCgt"], 16)

    @pytest.mark.isolated
    def test_what_a_child_process_inherits_is_the_runners(
        self, unusual_signals: dict[str, str]
    ) -> None:
        """A program started by the test has the mask and the ignored signals of the runner's."""
        text = subprocess.check_output(["cat", "/proc/self/status"], text=True)
        child = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert child["SigBlk"] == unusual_signals["SigBlk"]
        # subprocess itself resets SIGPIPE and SIGXFSZ.
        restored = bits(signal.SIGPIPE, signal.SIGXFSZ)
        assert int(child["SigIgn"], 16) == int(unusual_signals["SigIgn"], 16) & ~restored


class TestSession:
    """Signals that PID 1 sends to "everybody" stay inside: see also ``kill(2)``."""

    @pytest.fixture(autouse=True)
    def _safe(self, runner: Facts) -> None:
        # If the isolation were broken, these tests would kill the machine that runs them.
        assert namespaces()["pid"] != runner.namespaces["pid"]
        assert os.getpid() in (1, 2)

    @pytest.mark.parametrize((), [isolated(), isolated(user="same"), isolated(user=False)])
    def test_killing_the_parent_hurts_nobody(self, outside: Outside) -> None:
        """getppid() is 0, and signal 0's group is the test's own: not the runner's."""
        os.kill(os.getppid(), signal.SIGTERM)
        os.kill(0, signal.SIGTERM)
        assert outside("os.getpgrp()") != 0

    @pytest.mark.parametrize(
        (), [isolated(), isolated(init=True), isolated(user=False), isolated(pid=True)]
    )
    def test_kill_minus_1_reaches_all_inside_and_nobody_outside(self, outside: Outside) -> None:
        """``kill -9 -1`` ends what the test has started, and nothing of the host."""
        with subprocess.Popen(["sleep", "60"]) as sleeper:
            os.kill(-1, signal.SIGKILL)
            assert sleeper.wait() == -signal.SIGKILL
        assert outside("1 + 1") == 2

    @pytest.mark.isolated(init=True)
    def test_killing_the_group_under_init(self, outside: Outside) -> None:
        """Behind an init too, the group is the test's own."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(0, signal.SIGTERM)
        assert processes() == [1, 2]
        assert outside("1 + 1") == 2

    @pytest.mark.isolated
    def test_has_no_terminal(self) -> None:
        """The runner's terminal, if it has one, is not the test's: nobody can type into it."""
        with pytest.raises(OSError) as caught:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        assert caught.value.errno == errno.ENXIO


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """A port of the host's loopback that takes connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()


@pytest.fixture(scope="module")
def abstract_server() -> Iterator[str]:
    """An abstract Unix socket; those belong to the network namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"\0nsisolate-test-{os.getpid()}")
        listening.listen(64)
        yield listening.getsockname().decode()


class TestNet:
    @pytest.mark.parametrize((), [isolated(), isolated(net=True), isolated(user="same")])
    def test_only_lo_and_it_is_up(self) -> None:
        """One interface: lo, up, by system call, /proc and /sys alike."""
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in lines] == ["lo"]
        assert os.listdir("/sys/class/net") == ["lo"]
        assert int(read("/sys/class/net/lo/flags"), 16) & 1  # IFF_UP

    @ON_THE_HOST
    def test_plain_test_sees_the_hosts_interfaces(self, outside: Outside) -> None:
        """Control: unmarked, the interfaces are the host's."""
        assert socket.if_nameindex() == outside("socket.if_nameindex()")

    @pytest.mark.isolated
    @pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=NEEDS_IPV6)])
    def test_loopback_works(self, address: str) -> None:
        """127.0.0.1 and ::1 can be bound and connected at once."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with (
            socket.create_server((address, 0), family=family) as listening,
            socket.create_connection(listening.getsockname()[:2], 10) as client,
        ):
            accepted, _ = listening.accept()
            with accepted:
                client.sendall(b"hello")
                assert accepted.recv(5) == b"hello"

    @pytest.mark.isolated
    def test_no_route_leads_out(self) -> None:
        """No route but lo's: a foreign address is unreachable, not silent."""
        assert len(Path("/proc/net/route").read_text().splitlines()) == 1
        if Path("/proc/net/ipv6_route").exists():
            routes = Path("/proc/net/ipv6_route").read_text().splitlines()
            assert {line.split()[-1] for line in routes} <= {"lo"}
        assert connect_errno(("192.0.2.1", 80)) == errno.ENETUNREACH

    @pytest.mark.parametrize((), [isolated(), isolated(net=True), isolated(net=True, user="same")])
    def test_listening_sockets_of_the_host_are_out_of_reach(
        self, server: tuple[str, int], abstract_server: str, outside: Outside
    ) -> None:
        """Neither a port of the host's loopback nor an abstract socket takes the connection."""
        assert connect_errno(server) == errno.ECONNREFUSED
        assert connect_errno(abstract_server) == errno.ECONNREFUSED
        assert outside(f"connect_errno({server!r})") == 0

    @pytest.mark.isolated(net=False)
    def test_without_net_they_are_in_reach(
        self, server: tuple[str, int], abstract_server: str, outside: Outside
    ) -> None:
        """Control: isolated in every other way, the host's sockets take the connection."""
        assert connect_errno(server) == 0
        assert connect_errno(abstract_server) == 0
        assert socket.if_nameindex() == outside("socket.if_nameindex()")

    @pytest.mark.isolated
    def test_ports_below_1024_are_free(self) -> None:
        """Root inside may bind port 80, whoever runs the suite and whatever the host serves."""
        with socket.create_server(("0.0.0.0", 80)):
            assert connect_errno(("127.0.0.1", 80)) == 0


class TestUts:
    @pytest.mark.isolated(hostname="db1")
    def test_hostname_of_the_marker(self, runner: Facts, outside: Outside) -> None:
        """``hostname=`` is the name inside, by every way of asking, and not outside."""
        assert socket.gethostname() == os.uname().nodename == "db1"
        assert read("/proc/sys/kernel/hostname") == "db1"
        assert outside("socket.gethostname()") == runner.hostname

    @pytest.mark.isolated(uts=True)
    def test_hostname_is_a_copy_and_its_change_stays_inside(
        self, runner: Facts, outside: Outside
    ) -> None:
        """Without ``hostname=`` it begins as the host's name, and is the test's to change."""
        assert socket.gethostname() == runner.hostname
        socket.sethostname("changed-inside")
        assert os.uname().nodename == "changed-inside"
        assert outside("socket.gethostname()") == runner.hostname


@pytest.fixture(scope="module")
def unique() -> int:
    """A number that no other worker uses for its keys and names."""
    return 0x4E530000 | os.getpid() & 0xFFFF


@pytest.fixture(scope="module")
def host_ipc(unique: int) -> Iterator[tuple[int, str, Path]]:
    """A SysV segment, a POSIX queue and a file in /dev/shm, all of the host."""
    name, path = f"/nsi-{unique}", Path(f"/dev/shm/nsi-{unique}")
    shm_create(unique)
    os.close(mq_open(name, os.O_CREAT | os.O_RDWR))
    path.write_text("host")
    yield unique, name, path
    path.unlink()
    mq_remove(name)
    shm_remove(unique)


class TestIpc:
    @pytest.mark.parametrize((), [isolated(), isolated(ipc=True), isolated(user=False)])
    def test_what_the_host_has_is_unseen(
        self, host_ipc: tuple[int, str, Path], outside: Outside
    ) -> None:
        """SysV segments, POSIX queues and /dev/shm of the host are not there."""
        key, name, path = host_ipc
        assert not shm_exists(key)
        assert len(Path("/proc/sysvipc/shm").read_text().splitlines()) == 1
        assert not mq_exists(name)
        assert os.listdir("/dev/shm") == []
        assert stat.S_IMODE(os.stat("/dev/shm").st_mode) == 0o1777
        assert outside(f"shm_exists({key}) and mq_exists({name!r}) and read({str(path)!r})")

    @pytest.mark.isolated(ipc=False)
    def test_without_ipc_it_is_all_there(self, host_ipc: tuple[int, str, Path]) -> None:
        """Control: isolated in every other way, what the host has is seen."""
        key, name, path = host_ipc
        assert shm_exists(key)
        assert mq_exists(name)
        assert path.read_text() == "host"

    @pytest.mark.isolated
    def test_what_the_test_makes_is_unseen_outside(self, unique: int, outside: Outside) -> None:
        """And the other way round: nothing that the test makes is there on the host."""
        key, name = unique + 0x10000, f"/nsi-inside-{unique}"
        shm_create(key)
        os.close(mq_open(name, os.O_CREAT | os.O_RDWR))
        path = Path(f"/dev/shm/nsi-inside-{unique}")
        path.write_text("inside")
        memory = shared_memory.SharedMemory(create=True, size=64)
        try:
            assert shm_exists(key)
            assert mq_exists(name)
            assert not outside(f"shm_exists({key})")
            assert not outside(f"mq_exists({name!r})")
            assert not outside(f"os.path.exists({str(path)!r})")
            assert not outside(f"os.path.exists({'/dev/shm/' + memory.name!r})")
        finally:
            memory.close()
            memory.unlink()

    @pytest.mark.isolated
    @pytest.mark.skipif(not Path("/dev/mqueue").is_dir(), reason="this machine has no /dev/mqueue")
    def test_mqueue_is_fresh(self, host_ipc: tuple[int, str, Path], unique: int) -> None:
        """/dev/mqueue lists the test's own queues only."""
        assert os.listdir("/dev/mqueue") == []
        os.close(mq_open("/own", os.O_CREAT | os.O_RDWR))
        assert os.listdir("/dev/mqueue") == ["own"]


class TestMount:
    @pytest.mark.parametrize((), [isolated(), isolated(mount=True), isolated(user=False)])
    def test_mount_over_etc_is_unseen_outside(self, runner: Facts, outside: Outside) -> None:
        """An empty tmpfs over /etc hides it from the test, and from nobody else."""
        before = outside("os.listdir('/etc')")
        assert before
        mount_tmpfs("/etc")
        assert os.listdir("/etc") == []
        assert outside("os.listdir('/etc')") == before
        assert outside("mounts()") == runner.mounts

    @ON_THE_HOST
    def test_plain_test_has_the_runners_mounts(self, runner: Facts, outside: Outside) -> None:
        """Control: unmarked, there is one table of mounts."""
        assert mounts() == runner.mounts == outside("mounts()")

    @pytest.mark.isolated
    def test_no_mount_is_shared_with_the_host(self) -> None:
        """Every mount is private: nothing is passed on, and nothing comes in."""
        assert not [line for line in mounts() if " shared:" in line or " master:" in line]

    @pytest.mark.isolated
    def test_working_directory_is_valid(self) -> None:
        """The working directory is the same and can be used by name and without."""
        assert os.path.samefile(os.getcwd(), ".")


def capabilities(which: str = "CapEff") -> int:
    """One capability set of this process."""
    return int(status()[which], 16)


class TestUser:
    @pytest.mark.isolated
    def test_is_root_with_all_capabilities(self, runner: Facts) -> None:
        """``user=True``: uid 0 for an ordinary runner, its own ids for root; capable inside."""
        assert (os.geteuid(), os.getegid()) == (0, 0)
        assert capabilities() == capabilities("CapBnd") == capabilities("CapPrm")
        assert capabilities() & ~int(runner.status["CapBnd"], 16) >= 0
        if runner.is_root:
            assert read("/proc/self/uid_map").split()[::2] == runner.uid_map.split()[::2]
            assert read("/proc/self/setgroups") == "allow"
        else:
            uid = runner.status["Uid"].split()[1]
            assert read("/proc/self/uid_map").split() == ["0", uid, "1"]
            assert read("/proc/self/gid_map").split()[::2] == ["0", "1"]
            assert read("/proc/self/setgroups") == "deny"

    @pytest.mark.isolated(user="same")
    def test_same_is_the_runner_in_another_place(self, runner: Facts) -> None:
        """``user="same"``: the runner's ids, and only the capabilities that it holds itself."""
        here = status()
        for field in ("Uid", "Gid", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
            assert here[field] == runner.status[field], field
        inside, _, count = read("/proc/self/uid_map").split()[:3]
        if runner.is_root:
            assert [inside, count] == runner.uid_map.split()[::2]
        else:
            assert [inside, count] == [runner.status["Uid"].split()[1], "1"]

    @pytest.mark.isolated(user="same")
    def test_same_holds_for_programs_too(self, runner: Facts) -> None:
        """A program that the test executes gains nothing that the runner's would not have."""
        text = subprocess.check_output(["grep", "^Cap[EB]", "/proc/self/status"], text=True)
        fields = dict(line.split() for line in text.splitlines())
        assert fields["CapBnd:"] == runner.status["CapBnd"]
        expected = runner.status["CapPrm"] if runner.is_root else "0" * 16
        assert fields["CapEff:"] == expected

    @NEEDS_ROOT
    @pytest.mark.isolated(user=False)
    def test_false_is_the_hosts_root(self, runner: Facts) -> None:
        """``user=False``: no user namespace, the host's root powers."""
        here = status()
        for field in ("Uid", "CapEff", "CapBnd"):
            assert here[field] == runner.status[field], field
        assert read("/proc/self/uid_map") == runner.uid_map

    @pytest.mark.parametrize((), [isolated(), isolated(user="same")])
    def test_capabilities_do_not_count_against_the_host(self, tmp_path: Path) -> None:
        """What the kernel asks the initial user namespace for is refused, to root inside too."""
        with pytest.raises(PermissionError):
            os.nice(-1)
        with pytest.raises(PermissionError):
            os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    @NEEDS_ROOT
    @pytest.mark.isolated(user=False)
    def test_without_a_user_namespace_they_do(self, tmp_path: Path, runner: Facts) -> None:
        """Control: with ``user=False`` they count, where the runner holds them."""
        if int(runner.status["CapEff"], 16) >> 27 & 1:  # CAP_MKNOD
            os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            assert (tmp_path / "null").is_char_device()

    @pytest.mark.parametrize(
        (), [isolated(), isolated(user="same"), isolated(user=False), isolated(init=True)]
    )
    def test_files_belong_to_the_user_outside(
        self, tmp_path: Path, runner: Facts, outside: Outside
    ) -> None:
        """What root inside writes is, outside, a file of the user who runs the tests."""
        (tmp_path / "made").write_text("inside")
        owner = outside(f"os.stat({str(tmp_path / 'made')!r}).st_uid")
        assert owner == int(runner.status["Uid"].split()[1])
        assert outside(f"read({str(tmp_path / 'made')!r})") == "inside"


class TestCgroup:
    @pytest.mark.parametrize((), [isolated(), isolated(cgroup=True), isolated(user="same")])
    def test_own_cgroup_is_the_root(self, runner: Facts) -> None:
        """Every hierarchy begins at the test's own cgroup."""
        here = [line.split(":") for line in read("/proc/self/cgroup").splitlines()]
        assert {path for _, _, path in here} == {"/"}
        assert [line[:2] for line in here] == [
            line.split(":")[:2] for line in runner.cgroup.splitlines()
        ]

    @pytest.mark.isolated(cgroup=False)
    def test_without_cgroup_it_is_the_runners(self, runner: Facts) -> None:
        """Control: isolated in every other way, the paths are the host's."""
        assert read("/proc/self/cgroup") == runner.cgroup


class TestTime:
    @pytest.mark.isolated(time={"monotonic": DAY, "boottime": 2 * DAY})
    def test_clocks_are_ahead_and_the_calendar_is_not(
        self, runner: Facts, outside: Outside
    ) -> None:
        """The monotonic and boot-time clocks jump by their offsets; time.time() cannot."""
        assert DAY <= time.monotonic() - runner.monotonic < DAY + HOUR
        assert DAY <= time.monotonic() - outside("__import__('time').monotonic()") + 1 < DAY + HOUR
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert 2 * DAY <= boottime - runner.boottime < 2 * DAY + HOUR
        assert float(read("/proc/uptime").split()[0]) >= 2 * DAY
        assert -HOUR < time.time() - runner.realtime < HOUR

    @pytest.mark.isolated(time=DAY)
    def test_one_number_is_for_both(self, runner: Facts) -> None:
        """A plain number of seconds moves both clocks."""
        assert DAY <= time.monotonic() - runner.monotonic < DAY + HOUR
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert DAY <= boottime - runner.boottime < DAY + HOUR

    @pytest.mark.isolated(time={"monotonic": -1.5})
    def test_a_clock_may_be_behind(self, runner: Facts, outside: Outside) -> None:
        """A negative offset, with a fraction, is one too."""
        there = outside("__import__('time').monotonic()")
        assert time.monotonic() < there + HOUR
        lines = read("/proc/self/timens_offsets").splitlines()
        offsets = {name: (int(s), int(ns)) for name, s, ns in map(str.split, lines)}
        assert offsets["monotonic"] == (-2, 500_000_000)
        assert offsets["boottime"] == (0, 0)

    @pytest.mark.isolated
    def test_without_time_the_clocks_are_the_hosts(self, runner: Facts) -> None:
        """Control: no offset was asked for, none is there."""
        assert 0 <= time.monotonic() - runner.monotonic < HOUR


#: Sysctls that are the machine's, whatever namespaces a test has.
HOSTS: Final = (
    *("kernel/panic", "kernel/core_pattern", "kernel/printk", "fs/file-max"),
    *("vm/overcommit_memory", "vm/swappiness", "vm/drop_caches"),
)

#: Sysctls of a namespace of the test's own: path, value to write.
OWN: Final = {
    "kernel/hostname": "written-inside",
    "net/ipv4/ip_forward": "1",
    "kernel/shmmax": "1234567",
    "kernel/pid_max": "4321",
}

#: Those of them in a table of their namespace, where nothing may be mounted on them; and since
#: when it is their namespace's owner who may write to them.
IN_OWN_TABLE: Final = {"kernel/shmmax": (5, 19), "kernel/pid_max": (6, 14)}

FORMS: Final = [
    isolated(**{"user": user, **only})
    for user in (True, "same", False)
    for only in ({}, {"pid": True}, {"net": True}, {"mount": True}, {"init": True})
]


def is_read_only(path: str) -> bool:
    """Does the mount that shows this path refuse every write?"""
    return os.path.exists(path) and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def files_below(path: str) -> Iterator[str]:
    """A file itself, or every file of a directory's tree."""
    if not os.path.isdir(path):
        yield path
    for folder, _, files in os.walk(path):
        yield from (f"{folder}/{file}" for file in files)


class TestProtection:
    @pytest.mark.parametrize((), FORMS)
    def test_switches_of_the_machine_are_read_only(self, runner: Facts) -> None:
        """kernel.panic, vm.*, sysrq-trigger cannot be written, in any form of ``user``."""
        expected = errno.EROFS if runner.owns_sysctls else errno.EACCES
        paths = [*(f"/proc/sys/{name}" for name in HOSTS), "/proc/sysrq-trigger"]
        for path in filter(os.path.exists, paths):  # not every kernel has a sysrq-trigger
            assert (is_read_only(path), open_errno(path)) == (runner.owns_sysctls, expected), path

    @NEEDS_ROOT
    @needs(not is_read_only("/proc/sys"), "/proc/sys is read-only on this host")
    @ON_THE_HOST
    def test_plain_test_can_write_them(self) -> None:
        """Control: unmarked, root can open them for writing (and does not write)."""
        assert [open_errno(f"/proc/sys/{name}") for name in HOSTS] == [None] * len(HOSTS)

    @NEEDS_ROOT
    @needs(not is_read_only("/proc/sys"), "/proc/sys is read-only on this host")
    @pytest.mark.parametrize((), [isolated(uts=True), isolated(cgroup=True)])
    def test_they_are_the_hosts_without_a_mount_namespace(self) -> None:
        """The limit that the docs name: where none is implied, nothing can be made read-only."""
        assert [open_errno(f"/proc/sys/{name}") for name in HOSTS] == [None] * len(HOSTS)

    @pytest.mark.isolated
    def test_nothing_else_below_proc_is_writable(self, runner: Facts) -> None:
        """Of all files of /proc, only those of processes and the test's own sysctls are."""
        own = ["net/", "user/", "kernel/hostname", "kernel/domainname", "kernel/ns_last_pid"]
        if not runner.owns_sysctls:
            own += ["fs/mqueue/", "kernel/sem", "kernel/shm", "kernel/msg", "kernel/auto_msgmni"]
            own.append("kernel/pid_max")
        allowed = tuple(f"/proc/sys/{name}" for name in own)
        found = []
        # A pressure file's trigger belongs to the descriptor that sets it; the others are links
        # to processes.
        elsewhere = {"pressure", "self", "thread-self", "net", "mounts"}
        for top in set(os.listdir("/proc")) - elsewhere - {str(pid) for pid in processes()}:
            for path in files_below(f"/proc/{top}"):
                mode = os.lstat(path).st_mode
                # Both, for access(2) lets root write everywhere and others only what they may.
                writable = stat.S_ISREG(mode) and mode & 0o222 and os.access(path, os.W_OK)
                if writable and not path.startswith(allowed):
                    found.append(path)
        assert found == []

    @pytest.mark.parametrize((), FORMS)
    def test_sys_and_all_below_is_there_and_read_only(self, runner: Facts) -> None:
        """/sys and every mount below it, cgroups included, is kept and refuses every write."""
        below = {line.split()[4] for line in runner.mounts if line.split()[4].startswith("/sys")}
        assert below <= {line.split()[4] for line in mounts()}
        assert not [path for path in below if not is_read_only(path)]
        assert Path("/sys/kernel").is_dir()

    @pytest.mark.parametrize((), [isolated(), isolated(user=False), isolated(pid=True)])
    def test_no_cgroup_can_be_made(self, runner: Facts) -> None:
        """mkdir fails in every mounted cgroup hierarchy."""
        hierarchies = [
            line.split()[4]
            for line in runner.mounts
            if line.partition(" - ")[2].split()[0] in {"cgroup", "cgroup2"}
        ]
        for path in hierarchies:
            with pytest.raises(OSError) as caught:
                os.mkdir(f"{path}/nsisolate-test")
            assert caught.value.errno in (
                {errno.EROFS} if runner.owns_sysctls else {errno.EROFS, 13}
            )

    @pytest.mark.parametrize((), [isolated(), isolated(user=False), isolated(init=True)])
    def test_own_sysctls_are_writable_and_stay_inside(
        self, runner: Facts, outside: Outside
    ) -> None:
        """Those of its own namespaces are the test's to write, and the host keeps its values."""
        for name, value in OWN.items():
            path = f"/proc/sys/{name}"
            if runner.owns_sysctls and name in IN_OWN_TABLE:
                assert is_read_only(path)
                continue
            if not runner.owns_sysctls and IN_OWN_TABLE.get(name, (0, 0)) > KERNEL:
                assert open_errno(path) == errno.EACCES  # there it is the machine's
                continue
            if name == "kernel/hostname" and not runner.owns_sysctls:
                continue  # the file is the host's root's; sethostname(2) is the way
            before = outside(f"read({path!r})")
            Path(path).write_text(value)
            assert read(path) == value
            assert outside(f"read({path!r})") == before != value

    @pytest.mark.isolated(net=False, ipc=False, uts=False)
    def test_sysctls_of_namespaces_it_does_not_own_are_read_only(self, runner: Facts) -> None:
        """What belongs to a namespace that the test shares with the host is the host's."""
        expected = errno.EROFS if runner.owns_sysctls else errno.EACCES
        for name in ("kernel/hostname", "net/ipv4/ip_forward", "kernel/shmmax"):
            assert open_errno(f"/proc/sys/{name}") == expected, name
