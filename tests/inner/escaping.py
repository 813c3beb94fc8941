# SPDX-License-Identifier: MIT
"""Tests that try to change the machine, or to reach what is the runner's; the default set.

What must fail is harmless where it does not: arguments that lead nowhere, files that are opened
and not written. Where that is so the runner does the same (``outside``), to show that it is the
isolation that forbids it: for whoever holds the capability.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

expect = pytest.mark.expect("passed")
pytestmark = pytest.mark.isolated

MACHINE: Final = os.uname().machine
ROOT: Final = os.geteuid() == 0
LIBC: Final = ctypes.CDLL(None, use_errno=True)
EFFECTIVE: Final = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)

#: Nodes that do no harm: null, zero, full, random, urandom, tty, ptmx.
HARMLESS: Final = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}

KEYCTL_JOIN, KEYCTL_READ, KEYCTL_SEARCH = 1, 11, 10
SESSION_KEYRING: Final = -3


def number(x86_64: int, aarch64: int) -> int:
    """Of a system call on this machine; skips the test on others."""
    if MACHINE not in ("x86_64", "aarch64"):
        pytest.skip(f"the numbers of the system calls of {MACHINE} are not known here")
    return x86_64 if MACHINE == "x86_64" else aarch64


def call(x86_64: int, aarch64: int, *arguments: Any) -> int:
    """A system call by number.

    :raises OSError: with its errno.
    """
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = LIBC.syscall(ctypes.c_long(number(x86_64, aarch64)), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def refused(attempt: Callable[[], object]) -> str:
    """The name of the error that it meets, ``""`` for none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def descriptors() -> dict[int, str]:
    """What this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the listing
    return found


#: The runner's hard limit of core files.
OLD_CORE_LIMIT: Final = resource.getrlimit(resource.RLIMIT_CORE)[1]

#: Of pytest and its other plugins, before this one has opened anything.
OLD: Final = set(descriptors().values())


def can_open(path: str, flags: int = os.O_WRONLY) -> str:
    """What opening meets; nothing is read or written."""
    return refused(lambda: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)))


#: Name, what it tries, the capability's bit that it takes, what it comes to with that.
CALLS: Final[dict[str, tuple[Callable[[], object], int, set[str]]]] = {
    "set the clock": (lambda: call(164, 170, None, None), 25, {""}),
    "load a module": (lambda: call(175, 105, b"", 0, b""), 16, {"ENOEXEC"}),
    "unload a module": (lambda: call(176, 106, b"nsisolate_none", os.O_NONBLOCK), 16, {"ENOENT"}),
    "load a kernel": (lambda: call(246, 104, 0, 0, None, 0xFFFFFFF), 22, {"EINVAL"}),
    "swap": (lambda: call(167, 224, b"/nsisolate-none", 0), 21, {"ENOENT"}),
    "end swapping": (lambda: call(168, 225, b"/nsisolate-none"), 21, {"ENOENT"}),
    "account": (lambda: call(163, 89, b"/nsisolate-none"), 20, {"ENOENT"}),
    "quiet the console": (lambda: call(103, 116, 8, None, 0), 34, {"EINVAL"}),
}


@pytest.fixture(scope="session")
def outside() -> dict[str, str]:
    """What the same calls come to in the runner."""
    return {name: refused(attempt) for name, (attempt, _, _) in CALLS.items()}


@expect
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "shape",
    [
        "default",
        pytest.param("net", marks=pytest.mark.isolated(net=False)),
        pytest.param("same", marks=pytest.mark.isolated(user="same")),
        pytest.param("init", marks=pytest.mark.isolated(init=True)),
    ],
)
def test_no_power_over_the_machine(outside: dict[str, str], name: str, shape: str) -> None:
    """Clock, modules, kexec, swap, accounting, console: EPERM, where the host's root is heard."""
    attempt, capability, heard = CALLS[name]
    assert refused(attempt) in ("EPERM", "ENOSYS")
    if EFFECTIVE >> capability & 1:
        assert outside[name] in {*heard, "ENOSYS"}


@expect
def test_no_reboot() -> None:
    """``reboot`` is about the test's own PID namespace: ctrl-alt-del is not the test's."""
    before = Path("/proc/sys/kernel/ctrl-alt-del").read_text()
    assert os.getpid() == 1
    for command in (0x00000000, 0x89ABCDEF):  # to switch ctrl-alt-del off and on
        attempt = lambda: call(169, 142, 0xFEE1DEAD, 672274793, command, None)  # noqa: B023, E731
        assert refused(attempt) == "EINVAL"
    assert Path("/proc/sys/kernel/ctrl-alt-del").read_text() == before


@expect
@pytest.mark.skipif(MACHINE != "x86_64", reason="ports are of x86")
def test_no_ports() -> None:
    """The hardware's ports are out of reach (iopl(2))."""
    assert refused(lambda: call(172, -1, 3)) in ("EPERM", "ENOSYS")


# Files of the kernel -----------------------------------------------------------------------------

KERNEL_FILES: Final = (
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/panic",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/kernel/random/boot_id",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)


@pytest.fixture(scope="session")
def opened_outside() -> dict[str, str]:
    return {path: can_open(path) for path in KERNEL_FILES}


@expect
@pytest.mark.parametrize("path", KERNEL_FILES)
def test_no_switch_of_the_kernel(opened_outside: dict[str, str], path: str) -> None:
    """SysRq, core pattern, kernel settings and ``/sys`` cannot be written."""
    assert can_open(path) in {"EROFS", "EACCES", "ENOENT", "EPERM"}
    if path == "/proc/sysrq-trigger" and ROOT:
        assert opened_outside[path] in ("", "ENOENT", "EROFS")


@expect
@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem"])
def test_no_memory_and_no_log_of_the_kernel(path: str) -> None:
    """The kernel's memory and its log can be neither read nor written."""
    for flags in (os.O_RDONLY, os.O_WRONLY):
        assert can_open(path, flags) in {"EPERM", "EACCES", "ENOENT"}


# Devices -----------------------------------------------------------------------------------------


def nodes(folder: str) -> dict[str, tuple[int, int]]:
    """Path to device number of every node at and below a folder."""
    found = {}
    for base, _, names in os.walk(folder):
        for path in (os.path.join(base, name) for name in names):
            status = os.stat(path, follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                found[path] = os.major(status.st_rdev), os.minor(status.st_rdev)
    return found


@pytest.fixture(scope="session")
def host_nodes() -> dict[str, tuple[int, int]]:
    return nodes("/dev")


@expect
def test_no_hardware(host_nodes: dict[str, tuple[int, int]]) -> None:
    """``/dev`` has no disk, no memory, no terminal of the host's: harmless nodes only."""
    assert set(nodes("/dev").values()) <= HARMLESS
    assert not set(host_nodes.values()) <= HARMLESS or not ROOT


@expect
def test_no_new_node(host_nodes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    """Nor can a node for a device of the host be made."""
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        for device in (os.makedev(1, 1), os.makedev(7, 0), os.makedev(254, 0)):
            attempt = lambda: os.mknod(tmp_path / "node", kind | 0o600, device)  # noqa: B023, E731
            assert refused(attempt) == "EPERM"


@pytest.fixture(scope="session")
def beside_the_host() -> Iterator[Path]:
    """A name in ``/dev`` that the host does not have, and has not after the test either."""
    path = Path(f"/dev/nsisolate-{os.getpid()}")
    assert not path.exists()
    yield path
    existed = path.exists()
    path.unlink(missing_ok=True)
    assert not existed


@expect
def test_files_in_dev_are_its_own(beside_the_host: Path) -> None:
    """What a test makes in ``/dev`` is not on the host: its fixture looks, and would remove it."""
    if os.access("/dev", os.W_OK):  # root inside; not so where an ordinary user keeps its id
        beside_the_host.touch()


# Processes, network, keys ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runner() -> int:
    pid = os.getpid()
    os.kill(pid, 0)
    return pid


@expect
def test_no_signal_to_the_host(runner: int) -> None:
    """Nobody of the host's processes can be signalled: there is nobody but the test."""
    assert refused(lambda: os.kill(-1, 0)) == "ESRCH"
    if runner != 1:
        assert refused(lambda: os.kill(runner, 0)) == "ESRCH"
    assert os.getppid() == 0


@expect
def test_no_tracing_of_the_host(runner: int) -> None:
    """Nor traced (PTRACE_SEIZE)."""
    for pid in {runner, 2, 3} - {1}:
        assert refused(lambda: call(101, 117, 0x4206, pid, 0, 0)) == "ESRCH"  # noqa: B023


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    """A port of the host's loopback interface that is listened on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 5).close()
        yield port


@expect
def test_no_host_network(server: int) -> None:
    """No interface but ``lo``, and nobody on it whom the host listens to."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    attempt = lambda: socket.create_connection(("127.0.0.1", server), 5)  # noqa: E731
    assert refused(attempt) == "ECONNREFUSED"


@pytest.fixture(scope="session")
def secret() -> int:
    """A key in a session keyring of the runner's, which a login would have given it."""
    try:
        call(250, 219, KEYCTL_JOIN, None, 0, 0, 0)
        key = call(248, 217, b"user", b"nsisolate-secret", b"secret", 6, SESSION_KEYRING)
    except OSError as error:
        pytest.skip(f"no keyrings here: {error}")
    assert call(250, 219, KEYCTL_READ, key, ctypes.create_string_buffer(8), 8, 0) == 6
    return key


@expect
@pytest.mark.parametrize(
    "shape", ["default", pytest.param("init", marks=pytest.mark.isolated(init=True))]
)
def test_no_key_of_the_session(secret: int, shape: str) -> None:
    """A key of the runner's session is neither read nor found, and the test can have its own."""
    buffer = ctypes.create_string_buffer(8)
    assert refused(lambda: call(250, 219, KEYCTL_READ, secret, buffer, 8, 0)) == "EACCES"
    search = (KEYCTL_SEARCH, SESSION_KEYRING, b"user", b"nsisolate-secret", 0)
    assert refused(lambda: call(250, 219, *search)) in ("ENOKEY", "EACCES")
    own = call(248, 217, b"user", b"nsisolate-own", b"own", 3, SESSION_KEYRING)
    assert call(250, 219, KEYCTL_READ, own, buffer, 8, 0) == 3


# The terminal ------------------------------------------------------------------------------------

HOLDER: Final = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.stdout.write("!")
sys.stdout.flush()
signal.pause()
"""


@pytest.fixture(scope="session")
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of somebody's session, as the runner's is: its two ends."""
    master, slave = os.openpty()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=slave, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.read(1) == b"!"
    os.set_blocking(master, False)
    yield master, slave
    holder.kill()
    holder.wait()
    holder.stdout.close()
    os.close(master)
    os.close(slave)


@pytest.fixture(scope="session")
def typed_outside(terminal: tuple[int, int]) -> str:
    """Type into it from the runner, by the privilege of root, and take it back."""
    met = refused(lambda: fcntl.ioctl(terminal[1], termios.TIOCSTI, b"r"))
    termios.tcflush(terminal[1], termios.TCIOFLUSH)
    return met


@expect
def test_no_typing_into_an_inherited_terminal(
    terminal: tuple[int, int], typed_outside: str
) -> None:
    """TIOCSTI into a terminal on descriptor 0 fails, and it cannot be made one's own."""
    _, slave = terminal
    os.dup2(slave, 0)
    assert refused(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x")) in ("EPERM", "EIO")
    for steal in (0, 1):
        assert refused(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, steal)) == "EPERM"  # noqa: B023
    assert can_open("/dev/tty") == "ENXIO"
    if EFFECTIVE >> 21 & 1:
        assert typed_outside == ""


# What is inherited -------------------------------------------------------------------------------


@expect
def test_no_core_file_and_no_helper() -> None:
    """A crash starts no helper of ``core_pattern`` and leaves no file: one byte, and for good."""
    assert resource.getrlimit(resource.RLIMIT_CORE) in ((0, 0), (1, 1))
    for hard in (2, resource.RLIM_INFINITY):
        with pytest.raises(ValueError, match="not allowed to raise maximum limit"):
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@expect
def test_no_descriptor_of_the_machinery(terminal: tuple[int, int], server: int) -> None:
    """Of the plugin's descriptors a test has its own pipe and the files of its own output."""
    found = descriptors()
    kinds = [target for target in found.values() if "pidfd" in target or "/mountinfo" in target]
    news = {fd: target for fd, target in found.items() if target not in OLD}
    sockets = [fd for fd, target in news.items() if target.startswith("socket:")]
    pipes = [fd for fd, target in news.items() if target.startswith("pipe:") and fd > 2]
    listening = [fd for fd in sockets if _port(fd) == server]
    assert kinds == []
    assert sockets == listening
    writable = [fd for fd in pipes if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY]
    assert len(writable) == 1  # its frames, which are about itself only


def _port(fd: int) -> int | None:
    with socket.socket(fileno=os.dup(fd)) as one:
        name = one.getsockname()
    return name[1] if isinstance(name, tuple) else None


# By name -----------------------------------------------------------------------------------------


@expect
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this machine has no /dev/fuse")
@pytest.mark.isolated(devices=["fuse", "/dev/net/tun"], missing="skip")
def test_devices_by_name(host_nodes: dict[str, tuple[int, int]]) -> None:
    """``devices=`` gives single nodes of the host's, and only these."""
    more = {path: host_nodes[path] for path in ("/dev/fuse", "/dev/net/tun")}
    given = {path: node for path, node in nodes("/dev").items() if node not in HARMLESS}
    assert given == more
    if ROOT:
        assert can_open("/dev/fuse", os.O_RDWR) == ""
    assert os.stat("/dev/net").st_mode & 0o777 == 0o755


@expect
@pytest.mark.skipif(not ROOT, reason="for the host's root")
@pytest.mark.isolated(user=False)
def test_the_hosts_powers_by_name(
    outside: dict[str, str], host_nodes: dict[str, tuple[int, int]], secret: int
) -> None:
    """``user=False`` is the control: the same calls are heard, and the devices are there."""
    assert {name: refused(attempt) for name, (attempt, _, _) in CALLS.items()} == outside
    assert nodes("/dev").keys() >= {path for path in host_nodes if "/pts/" not in path}
    assert call(250, 219, KEYCTL_READ, secret, ctypes.create_string_buffer(8), 8, 0) == 6


@pytest.mark.skipif(not ROOT, reason="for the host's root")
@pytest.mark.isolated(user=False)
@expect
def test_the_hosts_powers_and_core_files() -> None:
    """There a test raises the limit as far as the runner may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    assert (soft in (0, 1), hard) == (True, OLD_CORE_LIMIT)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.mark.skipif(not ROOT, reason="for the host's root")
@pytest.mark.isolated(user=False)
@expect
def test_the_hosts_powers_and_terminals(terminal: tuple[int, int], typed_outside: str) -> None:
    """There a test types into an inherited terminal as the runner does."""
    assert refused(lambda: fcntl.ioctl(terminal[1], termios.TIOCSTI, b"x")) == typed_outside


# Undone on purpose -------------------------------------------------------------------------------

MS_RDONLY_REMOUNT: Final = 32 | 4096  # MS_REMOUNT | MS_BIND, and read-only no more
MNT_DETACH: Final = 2
NEW_USER_AND_MOUNTS: Final = 0x10000000 | 0x00020000


#: Who is not root needs no protection in ``/proc``.
PROTECTED: Final = b"/proc/sys" if ROOT else b"/sys"


def undo() -> list[str]:
    """What uncovering ``/dev`` and making the protected mount writable meet."""
    remount = (None, PROTECTED, None, ctypes.c_ulong(MS_RDONLY_REMOUNT), None)
    return [
        refused(lambda: call(165, 40, *remount)),
        refused(lambda: call(166, 39, b"/dev", MNT_DETACH)),
    ]


@expect
def test_who_may_mount_may_undo_it() -> None:
    """The limit that the page names: CAP_SYS_ADMIN takes the covers away again, on purpose."""
    assert undo() == ["", ""]


@expect
@pytest.mark.isolated(caps=["net_admin", "kill"])
def test_without_sys_admin_nobody_can_undo_it() -> None:
    """With ``caps=`` and no ``sys_admin`` it is final, also from a user namespace of its own."""
    assert undo() == ["EPERM", "EPERM"]
    child = os.fork()
    if child == 0:
        try:
            call(272, 97, NEW_USER_AND_MOUNTS)
            met = undo()
            os._exit(0 if set(met) <= {"EPERM", "EINVAL"} else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
