# SPDX-License-Identifier: MIT
"""IPC objects: what the view says is what ipcs and the file systems say."""

from __future__ import annotations

import os
import socket
import subprocess
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.view import IpcObject, ipc
from tests.host_observer import mq_open, shm_create, shm_remove
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST
from tests.view.tools import NEEDS_FINDMNT, NEEDS_IPCS, run

pytestmark = NEEDS_NAMESPACES

KEY = 0x4E534957


def objects_of_ipcs() -> set[tuple[object, ...]]:
    found: set[tuple[object, ...]] = set()
    for kind, option in (("shm", "-m"), ("sem", "-s"), ("msg", "-q")):
        for line in run("ipcs", option).splitlines():
            if line.startswith("0x"):
                key, number, _, mode, size = line.split()[:5]
                found.add((kind, int(key, 16), int(number), int(mode, 8) & 0o777, int(size)))
    return found


def facts_of(found: IpcObject) -> tuple[object, ...]:
    return (found.kind, found.key, found.id, found.mode, found.size)


def system_v(view: Pid1View) -> set[tuple[object, ...]]:
    return {facts_of(found) for found in view.ipc if found.api == "sysv"}


@NEEDS_IPCS
@pytest.mark.isolated
def test_system_v_is_as_ipcs_says(pid1: Pid1View) -> None:
    """Kind, key, number, rights and size."""
    run("ipcmk", "--shmem", "8192", "--mode", "0640")
    run("ipcmk", "--semaphore", "3")
    run("ipcmk", "--queue")
    shm_create(KEY)
    seen = system_v(pid1)
    assert seen == objects_of_ipcs()
    assert [kind for kind, *_ in sorted(seen, key=str)] == ["msg", "sem", "shm", "shm"]
    assert {found.uid for found in pid1.ipc} == {os.geteuid()}


@pytest.mark.isolated
def test_posix_memory_and_semaphores_are_files(pid1: Pid1View) -> None:
    """By the names under which they are opened."""
    memory = shared_memory.SharedMemory("nsisolate", create=True, size=4096)
    semaphore = Path("/dev/shm/sem.nsisolate")
    semaphore.write_bytes(b"\0" * 32)
    semaphore.chmod(0o640)
    listed = run("stat", "--format", "%n %a %s", *map(str, Path("/dev/shm").iterdir()))
    seen = {(f"{found.kind} {found.name}", found.mode, found.size) for found in pid1.ipc}
    assert seen == {("shm /nsisolate", 0o600, 4096), ("sem /nsisolate", 0o640, 32)}
    assert len(listed.splitlines()) == len(pid1.ipc) == 2
    memory.close()
    memory.unlink()


@NEEDS_FINDMNT
@pytest.mark.isolated
def test_whatever_lies_in_the_shared_folder_is_seen(pid1: Pid1View) -> None:
    """A directory with files in it, as joblib makes, and every other kind of file."""
    before = pid1.snapshot()
    top = Path("/dev/shm")
    (top / "joblib" / "deep").mkdir(parents=True)
    (top / "joblib" / "deep" / "sem.memmap.pkl").write_bytes(b"12345")
    (top / "loop").symlink_to("joblib")
    os.mkfifo(top / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    (top / "other").mkdir()
    run("mount", "-t", "tmpfs", "none", str(top / "other"))
    (top / "other" / "elsewhere").touch()
    seen = {(f"{found.kind} {found.name}", found.size) for found in pid1.ipc}
    assert seen == {
        ("directory /joblib", 0),
        ("directory /joblib/deep", 0),
        ("shm /joblib/deep/sem.memmap.pkl", 5),
        ("symlink /loop", 0),
        ("fifo /fifo", 0),
        ("socket /socket", 0),
        ("unread /other", 0),
    }
    assert next(found.mode for found in pid1.ipc if found.kind == "fifo") == 0o640
    run("umount", str(top / "other"))
    (top / "other").rmdir()
    with pytest.raises(AssertionError, match=r"posix +directory +/joblib "):
        pid1.assert_no_leak(before)


@pytest.mark.isolated
def test_of_a_huge_tree_the_top_is_seen(pid1: Pid1View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a bound, and what was not looked at is said to be so."""
    monkeypatch.setattr(ipc, "MOST_FILES", 5)
    top = Path("/dev/shm")
    for name in "ab":
        (top / name / "deep").mkdir(parents=True)
        (top / name / "file").touch()
    (top / "z").touch()
    found = [f"{found.kind} {found.name}" for found in pid1.ipc]
    assert found == [
        "directory /a",
        "unread /a/deep",
        "shm /a/file",
        "unread /b",
        "shm /z",
    ]
    monkeypatch.setattr(ipc, "MOST_FILES", 2)
    assert [str(found) for found in pid1.ipc] == [
        "posix unread /",
        "posix unread /a",
        "posix unread /b",
    ]


@NEEDS_FINDMNT
@pytest.mark.isolated
def test_posix_queues_are_seen_where_they_are_mounted(pid1: Pid1View) -> None:
    """Also where the host has no /dev/mqueue, on a /dev of the test's own."""
    if not Path("/dev/mqueue").is_dir():
        run("mount", "-t", "tmpfs", "none", "/dev")
        Path("/dev/mqueue").mkdir()
        run("mount", "-t", "mqueue", "none", "/dev/mqueue")
    queue = mq_open("/nsisolate", os.O_CREAT | os.O_RDWR)
    (found,) = (found for found in pid1.ipc if found.kind == "msg")
    assert (found.api, found.name, found.mode & 0o400, found.size) == (
        "posix",
        "/nsisolate",
        0o400,
        0,
    )
    os.close(queue)


@pytest.fixture(scope="module")
def at_home() -> set[tuple[object, ...]]:
    """A segment of the runner's, there for one look only."""
    shm_create(KEY)
    try:
        return system_v(Pid1View())
    finally:
        shm_remove(KEY)


@ON_THE_HOST
def test_the_host_has_its_own(at_home: set[tuple[object, ...]]) -> None:
    """The control: the same reading in the runner showed its segment."""
    assert KEY in {key for _, key, *_ in at_home}


@pytest.mark.isolated
def test_a_fresh_world_has_none(pid1: Pid1View, at_home: set[tuple[object, ...]]) -> None:
    """Neither System V's nor files in /dev/shm."""
    assert pid1.ipc == ()


@pytest.mark.isolated
def test_nothing_is_started_to_look(pid1: Pid1View) -> None:
    """A helper process would be seen by the test."""
    pid1.snapshot()
    pid1.assert_alone()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert subprocess._active == []  # type: ignore[attr-defined]
