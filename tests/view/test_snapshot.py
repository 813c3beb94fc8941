# SPDX-License-Identifier: MIT
"""Snapshots: their difference is what appeared, what went and what changed, and nothing else."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_nsisolate import Difference, Pid1View, Snapshot
from tests.host_observer import shm_create, shm_remove
from tests.support import NEEDS_NAMESPACES
from tests.view.tools import NEEDS_FINDMNT, NEEDS_IP, run

pytestmark = NEEDS_NAMESPACES

KEY = 0x4E534958


@NEEDS_IP
@NEEDS_FINDMNT
@pytest.mark.isolated
def test_what_appears_and_goes_is_listed(pid1: Pid1View, tmp_path: Path) -> None:
    """One of each kind, there and gone again."""
    before = pid1.snapshot()
    child = subprocess.Popen(["sleep", "60"])
    server = socket.create_server(("127.0.0.1", 8080))
    run("mount", "-t", "tmpfs", "none", str(tmp_path))
    run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    run("ip", "route", "add", "blackhole", "10.8.0.0/16")
    shm_create(KEY)
    Path("/dev/shm/left").touch()
    middle = pid1.snapshot()

    new = (middle - before).appeared
    assert [process.argv for process in new.processes] == [("sleep", "60")]
    assert [found.port for found in new.sockets] == [8080]
    assert [mount.target for mount in new.mounts] == [str(tmp_path)]
    assert [interface.name for interface in new.interfaces] == ["v1", "v0"]
    assert [route.kind for route in new.routes] == ["blackhole"]
    assert [(found.key, found.name) for found in new.ipc] == [(KEY, None), (None, "/left")]
    assert (middle - before).gone == Snapshot()
    assert (before - middle).gone == new

    child.kill()
    child.wait()
    server.close()
    run("umount", str(tmp_path))
    run("ip", "link", "del", "v0")
    run("ip", "route", "del", "blackhole", "10.8.0.0/16")
    shm_remove(KEY)
    Path("/dev/shm/left").unlink()
    after = pid1.snapshot()
    assert (after - middle).gone == new
    assert after - before == Difference()
    assert not after - before
    assert str(after - before) == "no difference"


@NEEDS_IP
@NEEDS_FINDMNT
@pytest.mark.isolated
def test_changes_of_interfaces_and_mounts(pid1: Pid1View) -> None:
    """Neither new nor gone: what has changed, field by field."""
    before = pid1.snapshot()
    run("ip", "link", "set", "lo", "mtu", "1400", "down")
    run("mount", "-o", "remount,bind,ro", "/dev/shm")
    difference = pid1.snapshot() - before
    assert difference.appeared == Snapshot()
    (of_mount,), of_interface = (change.fields for change in difference.changed)
    assert (of_mount, of_interface[:3]) == ("options", ("up", "state", "mtu"))
    text = str(difference)
    assert "interface lo: up yes -> no, state unknown -> down, mtu 65536 -> 1400" in text
    assert "tmpfs on /dev/shm: options rw nosuid nodev relatime -> ro nosuid nodev relatime" in text


@pytest.mark.isolated
def test_the_text_is_a_table(pid1: Pid1View) -> None:
    """By kind, with headings; repr is the same, for the message of a plain assert."""
    before = pid1.snapshot()
    server = socket.create_server(("127.0.0.1", 8080))
    difference = pid1.snapshot() - before
    name = Path("/proc/self/comm").read_text().strip()
    assert str(difference) == repr(difference)
    assert str(difference).splitlines() == [
        "1 socket appeared:",
        "  PROTO  STATE   LOCAL           PEER  HELD BY",
        f"  tcp    listen  127.0.0.1:8080  -     1 ({name})",
    ]
    server.close()


@pytest.mark.isolated
def test_a_number_used_again_is_another_process(pid1: Pid1View) -> None:
    """Known by number and start."""
    first = subprocess.Popen(["sleep", "60"])
    before = pid1.snapshot()
    first.kill()
    first.wait()
    time.sleep(0.02)  # the start is told in hundredths of a second
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
    second = subprocess.Popen(["sleep", "60"])
    assert second.pid == first.pid
    difference = pid1.snapshot() - before
    assert len(difference.appeared.processes) == len(difference.gone.processes) == 1
    with pytest.raises(AssertionError, match=f"no process with number {first.pid}"):
        pid1.assert_process(before.processes[-1])
    second.kill()
    second.wait()


@pytest.mark.isolated
def test_no_leak(pid1: Pid1View) -> None:
    """What has gone, zombies, multiprocessing's own and closed connections are none."""
    gone = subprocess.Popen(["sleep", "60"])
    before = pid1.snapshot()
    pid1.assert_no_leak(before)
    gone.kill()
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    with socket.create_server(("127.0.0.1", 8080)) as server:
        client = socket.create_connection(("127.0.0.1", 8080))
        peer, _ = server.accept()
        client.close()
        peer.close()
    assert "time_wait" in {found.state for found in pid1.sockets}
    pid1.assert_no_leak(before)
    child = subprocess.Popen(["sh", "-c", "sleep 0.05"])
    pid1.assert_no_leak(before, within=10)
    child.wait()
    gone.wait()


@pytest.fixture
def shared() -> Iterator[Callable[[], None]]:
    """How to end a forked worker that holds a listener of the test's too."""
    server = socket.create_server(("127.0.0.1", 8080))
    worker = os.fork()
    if not worker:
        while True:
            signal.pause()

    @functools.cache
    def end() -> None:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)

    yield end
    end()
    server.close()


@pytest.mark.isolated
def test_a_socket_is_the_same_with_other_holders(
    pid1: Pid1View, shared: Callable[[], None]
) -> None:
    """A worker that ends, or a new one, makes nothing of what it shares new."""
    before = pid1.snapshot()
    assert [len(found.pids) for found in before.sockets] == [2]
    shared()
    alone = pid1.snapshot()
    assert [found.pids for found in alone.sockets] == [(1,)]
    pid1.assert_no_leak(before)
    assert (before - alone).appeared.sockets == (alone - before).appeared.sockets == ()


@pytest.mark.isolated
def test_a_socket_is_the_same_in_another_state(pid1: Pid1View) -> None:
    """Its peer has closed, it listens now, it has been accepted."""
    server = socket.create_server(("127.0.0.1", 8080))
    client = socket.create_connection(("127.0.0.1", 8080))
    local = socket.socket(socket.AF_UNIX)
    local.bind("\0nsisolate")
    before = pid1.snapshot()
    assert [found.inode for found in before.sockets if not found.pids] == [None]
    peer, _ = server.accept()
    local.listen()
    pid1.assert_no_leak(before)
    client.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""
    assert "close_wait" in {found.state for found in pid1.sockets}
    pid1.assert_no_leak(before)
    for each in (server, client, local, peer):
        each.close()


@pytest.mark.isolated
def test_a_socket_opened_again_is_no_leak_and_one_more_is(pid1: Pid1View) -> None:
    """In its place, by the one that has closed it; beside it, it is one."""
    first = socket.create_server(("127.0.0.1", 8080), reuse_port=True)
    before = pid1.snapshot()
    first.close()
    second = socket.create_server(("127.0.0.1", 8080), reuse_port=True)
    pid1.assert_no_leak(before)
    third = socket.create_server(("127.0.0.1", 8080), reuse_port=True)
    with pytest.raises(AssertionError, match=r"1 socket:\n.*\n +tcp +listen +127.0.0.1:8080"):
        pid1.assert_no_leak(before)
    second.close()
    third.close()


@pytest.mark.isolated
def test_a_plain_assert_on_a_difference_is_short(pid1: Pid1View) -> None:
    """pytest shows both sides of it, whose tables would be pages."""
    before = pid1.snapshot()
    assert repr(Snapshot()) == "<Snapshot of nothing>"
    assert repr(before).startswith("<Snapshot of 1 process, ")
    assert len(repr(before)) < 120
    with socket.create_server(("127.0.0.1", 8080)):
        with pytest.raises(AssertionError) as caught:
            assert not (pid1.snapshot() - before)
        assert "Mount(" not in str(caught.value)
