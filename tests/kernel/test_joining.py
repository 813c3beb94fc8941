# SPDX-License-Identifier: MIT
"""Joining another process's namespaces, and keeping no descriptor of somebody else's."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import idmap, namespaces, process, syscalls

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild


def elsewhere(names: tuple[str, ...]) -> tuple[int, int]:
    """(pid, pidfd) of a child in new namespaces of these kinds, owned by a user namespace."""
    ready, says = os.pipe()
    uid, gid = os.geteuid(), os.getegid()
    parent = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        namespaces.enter("user")
        process.die_with_parent(parent)
        maps = idmap.single_maps(inside_uid=0, inside_gid=0, outside_uid=uid, outside_gid=gid)
        idmap.write_maps(maps, None)
        for name in names:
            namespaces.enter(name)
        os.write(says, b".")
        signal.pause()
    os.read(ready, 1)
    return pid, os.pidfd_open(pid)


def test_all_at_once(in_child: InChild) -> None:
    """The user namespace first, which gives the right to the others; and no other changes."""

    def body() -> list[Any]:
        before = namespaces.identities()
        pid, pidfd = elsewhere(("net", "uts"))
        namespaces.join(pidfd, {"user", "net", "uts"})
        inside = namespaces.identities()
        theirs = {
            name: os.stat(f"/proc/{pid}/ns/{namespaces.PROC_NAMES[name]}").st_ino
            for name in ("user", "net", "uts")
        }
        os.kill(pid, signal.SIGKILL)
        return [
            {name: inside[name] for name in theirs} == theirs,
            sorted(name for name in before if before[name] != inside[name]),
        ]

    assert in_child(body) == [True, ["net", "user", "uts"]]


def test_a_pid_namespace_takes_the_next_child(in_child: InChild) -> None:
    """The process that joins stays where it is."""

    def body() -> list[int]:
        first, first_pidfd = elsewhere(())
        ready, says = os.pipe()
        parent = os.pidfd_open(os.getpid())
        keeper = os.fork()
        if keeper == 0:
            process.die_with_parent(parent)
            namespaces.join(first_pidfd, {"user"})
            namespaces.enter("pid")
            own = os.pidfd_open(os.getpid())
            inner = os.fork()
            if inner == 0:
                process.die_with_parent(own)
                signal.pause()
            os.write(says, str(inner).encode())
            signal.pause()
        inner = int(os.read(ready, 20))
        namespaces.join(os.pidfd_open(inner), {"user", "pid"})
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, str(os.getpid()).encode())
            os._exit(0)
        number = int(os.read(reading, 20))
        for pid in (inner, keeper, first):
            os.kill(pid, signal.SIGKILL)
        return [number, int(child > 2)]

    assert in_child(body) == [2, 1]


@pytest.mark.parametrize("name", ["net", "uts", "ipc", "mount"])
def test_a_refusal_names_its_kind(
    in_child: InChild, become_stranger: Callable[[], None], name: str
) -> None:
    """Without the right to it; found by asking for one after the other."""

    def body() -> None:
        become_stranger()
        _, pidfd = elsewhere(("net", "uts", "ipc", "mount"))
        namespaces.join(pidfd, {name})

    with pytest.raises(StepError) as refusal:
        in_child(body)
    flag = "NS" if name == "mount" else name.upper()
    assert refusal.value.step == f"setns(CLONE_NEW{flag})"
    assert (refusal.value.namespace, refusal.value.errno) == (name, errno.EPERM)


def test_a_process_that_is_gone(in_child: InChild) -> None:
    """ESRCH, and the first of the kinds."""

    def body() -> None:
        pid, pidfd = elsewhere(())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        namespaces.join(pidfd, {"net", "user"})

    with pytest.raises(StepError) as refusal:
        in_child(body)
    assert (refusal.value.namespace, refusal.value.errno) == ("user", errno.ESRCH)


@pytest.mark.parametrize("old_kernel", [False, True])
def test_every_other_descriptor_is_closed(
    in_child: InChild, monkeypatch: pytest.MonkeyPatch, old_kernel: bool
) -> None:
    """Below, between and above those that are kept; before Linux 5.9 too."""

    def refuse(first: int, last: int) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    if old_kernel:
        monkeypatch.setattr(syscalls, "close_range", refuse)

    def body() -> list[int]:
        result = 0
        kept = [os.dup2(result, number) for number in (40, 41, 60)]
        for number in (39, 42, 59, 61, 500):
            os.dup2(result, number)
        writing = max(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) < 39)
        process.close_all_but(*kept, *range(writing + 1))
        return sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 38)

    assert in_child(body) == [40, 41, 60]
