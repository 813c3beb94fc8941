# SPDX-License-Identifier: MIT
"""The minimal ``/dev``: what is in it, that it works, and what of the host's stays reachable."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import devices, mounts, namespaces, syscalls
from tests.support import NEEDS_ROOT

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

EVERYTHING = frozenset(namespaces.NAMESPACES) - {"time"}
MS_SHARED = 1 << 20
USUAL = {"fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm"}

NEEDS_TUN = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun here")


@pytest.fixture(name="minimal")
def minimal_fixture(world: World) -> World:
    """A world with a minimal ``/dev``."""
    world.devices = ()
    return world


@pytest.fixture
def in_dev_shm() -> Iterator[Path]:
    """A directory of everybody's on the host's /dev/shm, with a file in it."""
    with tempfile.TemporaryDirectory(prefix="nsi-devices-", dir="/dev/shm") as folder:
        os.chmod(folder, 0o777)
        Path(folder, "there").touch()
        yield Path(folder)


def names() -> set[str]:
    return set(os.listdir("/dev")) - {"mqueue"}


def test_what_is_in_it(minimal: World) -> None:
    """The harmless nodes that the host has, links, terminals and shared memory; nothing else."""
    there = {name for name in devices.HARMLESS if os.path.exists(f"/dev/{name}")}
    assert minimal.run(names, outside=lambda: sorted(os.listdir("/dev"))) == USUAL | there


def test_it_works(minimal: World) -> None:
    """null swallows, zero gives, full is full, random numbers come, a terminal is made."""

    def body() -> Any:
        Path("/dev/null").write_bytes(b"x")
        with open("/dev/zero", "rb") as zeros, open("/dev/urandom", "rb") as randoms:
            zero, random = zeros.read(8), randoms.read(8)
        with pytest.raises(OSError, match="No space left") as full:
            Path("/dev/full").write_bytes(b"x")
        master, slave = os.openpty()
        os.write(slave, b"hello")
        said, name = os.read(master, 9), os.ttyname(slave)
        return zero, len(random), full.value.errno, said, name

    zero, length, full, said, name = minimal.run(body)
    assert (zero, length, full, said) == (bytes(8), 8, errno.ENOSPC, b"hello")
    assert name == "/dev/pts/0"


def test_modes_do_not_follow_the_umask(minimal: World) -> None:
    """Whoever the test becomes may enter its directories, whatever the runner's umask was."""
    minimal.devices = ("net/tun",) if os.path.exists("/dev/net/tun") else ()

    def body() -> dict[str, str]:
        return {name: oct(os.stat(f"/dev/{name}").st_mode & 0o7777) for name in folders}

    folders = [".", "pts", "shm", *(["net"] if minimal.devices else [])]
    before = os.umask(0o077)
    try:
        modes = minimal.run(body)
    finally:
        os.umask(before)
    assert modes.pop("shm") == oct(0o1777)
    assert set(modes.values()) == {oct(0o755)}


def test_without_an_ipc_namespace_shared_memory_is_the_hosts(
    minimal: World, in_dev_shm: Path
) -> None:
    """``/dev/shm`` of the host is bound into it, and written through it."""

    def body() -> Any:
        listed = os.listdir(in_dev_shm)
        (in_dev_shm / "back").touch()
        return listed, names() >= USUAL, os.path.exists("/dev/mem")

    found = minimal.run(body, own=EVERYTHING - {"ipc"}, in_use=[str(in_dev_shm)])
    assert found == (["there"], True, False)
    assert (in_dev_shm / "back").exists()


def test_what_is_in_use_below_it_is_kept(minimal: World, in_dev_shm: Path) -> None:
    """With an IPC namespace ``/dev/shm`` is new, but for the directory that the run uses."""

    def body() -> Any:
        return os.listdir("/dev/shm"), os.listdir(in_dev_shm)

    assert minimal.run(body, in_use=[str(in_dev_shm)]) == ([in_dev_shm.name], ["there"])


@pytest.mark.parametrize("path", ["/dev", "/dev/null", "/dev/pts/0", "/dev/stdout", "/dev/shm/"])
def test_what_it_has_itself_needs_no_keeping(path: str) -> None:
    """A root directory ``/dev`` (``-c /dev/null``) or a log file on a terminal is no obstacle."""
    plan = mounts.plan_mounts(own=EVERYTHING - {"ipc"}, in_use=[path], more_devices=())
    assert plan.keep == ()


def test_who_stands_in_it_is_moved(minimal: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current directory in the host's ``/dev`` would be a way back to it."""
    monkeypatch.chdir("/dev")
    assert mounts.plan_mounts(own=EVERYTHING, in_use=(), more_devices=()).displaced
    assert not mounts.plan_mounts(own=EVERYTHING, in_use=(), more_devices=None).displaced
    monkeypatch.chdir("/")
    assert not mounts.plan_mounts(own=EVERYTHING, in_use=(), more_devices=()).displaced
    assert minimal.run(lambda: os.path.exists("/dev/mem")) is False


@NEEDS_TUN
def test_more_by_name(minimal: World) -> None:
    """Further nodes of the host's, in directories too; the same nodes."""
    minimal.devices = ("net/tun",)
    node = os.stat("/dev/net/tun").st_rdev
    assert minimal.run(lambda: os.stat("/dev/net/tun").st_rdev) == node


def test_it_can_be_made_again_in_itself(minimal: World) -> None:
    """A minimal ``/dev`` in a minimal ``/dev``, as an isolated test of an isolated test has it."""

    def body() -> Any:
        for step in devices.plan_devices():
            step.run()
        Path("/dev/null").write_bytes(b"x")
        return names() >= USUAL, os.ttyname(os.openpty()[1])

    assert minimal.run(body) == (True, "/dev/pts/0")


def test_at_another_place(world: World) -> None:
    """Below a root that is being built; the host's ``/dev`` stays where it is."""

    def body() -> Any:
        syscalls.prepare_mount("tmpfs", "/mnt", "tmpfs", 0)()
        os.mkdir("/mnt/dev")
        before = names()
        for step in devices.plan_devices("/mnt/dev"):
            step.run()
        Path("/mnt/dev/null").write_bytes(b"x")
        links = {os.readlink(f"/mnt/dev/{name}") for name in ("fd", "ptmx")}
        return names() == before, links, stat.S_ISCHR(os.stat("/mnt/dev/pts/ptmx").st_mode)

    assert world.run(body) == (True, {"/proc/self/fd", "pts/ptmx"}, True)


@NEEDS_ROOT
def test_a_host_with_less(minimal: World) -> None:
    """Where a container has no ``full`` and no ``tty`` there is none; the rest is there."""

    def prepare() -> None:
        # Nothing can be moved out of a shared mount.
        syscalls.prepare_mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)()
        for step in devices.plan_devices():
            step.run()
        for name in ("full", "tty"):
            syscalls.prepare_umount2(f"/dev/{name}", syscalls.MNT_DETACH)()
            os.unlink(f"/dev/{name}")
        syscalls.prepare_mount(None, "/", None, syscalls.MS_REC | MS_SHARED)()

    minimal.prepare = prepare
    mounts._steps.cache_clear()
    try:
        found = minimal.run(names)
    finally:
        mounts._steps.cache_clear()
    assert found == USUAL | {"null", "zero", "random", "urandom"}


@pytest.mark.parametrize(
    ("name", "number"), [("nsisolate-none", errno.ENOENT), ("shm/..", errno.ENOTBLK)]
)
def test_what_is_no_device_is_refused(name: str, number: int) -> None:
    """In the runner, before anything is done."""
    with pytest.raises(StepError) as refusal:
        devices.plan_devices(more=[name])
    assert (refusal.value.step, refusal.value.errno) == (f"find /dev/{name}", number)


@pytest.mark.parametrize("failing", ["mount /dev", "fill /dev", "bind /dev/null", "mount devpts"])
def test_each_step_names_itself(in_child: InChild, failing: str) -> None:
    """A refusal says which step it was: here each is tried without any right to it."""

    def body() -> None:
        if os.geteuid() == 0:
            os.setresuid(61_234, 61_234, 61_234)
        (step,) = (step for step in devices.plan_devices() if step.name == failing)
        step.run()

    with pytest.raises(StepError) as refusal:
        in_child(body)
    assert (refusal.value.step, refusal.value.namespace) == (failing, "mount")
    assert refusal.value.errno in (errno.EPERM, errno.EACCES, errno.ENOENT)


@NEEDS_ROOT
def test_a_device_node_cannot_be_made(user_world: World) -> None:
    """The reason for the bind mounts: mknod(2) in a user namespace is EPERM, for root too."""
    user_world.devices = ()

    def body() -> str:
        try:
            os.mknod("/dev/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "made"

    assert user_world.run(body) == "EPERM"
