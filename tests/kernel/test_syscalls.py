# SPDX-License-Identifier: MIT
"""The shims: errno and path of a failure, and the ones that nothing else here covers."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import libc, syscalls
from tests.support import NEEDS_MOUNT_SETATTR, NEEDS_ROOT

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

SECONDS = 10
NOWHERE = "/nonexistent/b"


@pytest.mark.parametrize(
    "call",
    [
        syscalls.prepare_mount("a", NOWHERE, "tmpfs", 0),
        syscalls.prepare_umount2(NOWHERE, syscalls.MNT_DETACH),
        lambda: syscalls.open_tree(NOWHERE, 0),
        syscalls.prepare_mount_setattr(NOWHERE, 1, recursive=True),
    ],
    ids=["mount", "umount2", "open_tree", "mount_setattr"],
)
def test_a_failure_has_its_errno_and_its_path(call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as failure:
        call()

    assert failure.value.errno in (errno.ENOENT, errno.EPERM)  # EPERM: not even looked at
    assert failure.value.filename == NOWHERE


def test_move_mount_names_its_target() -> None:
    with pytest.raises(OSError) as failure:
        syscalls.move_mount(-1, "/mnt")

    assert failure.value.errno in (errno.EBADF, errno.EPERM)
    assert failure.value.filename == "/mnt"


def test_unshare_refuses_nonsense() -> None:
    with pytest.raises(OSError) as failure:
        syscalls.unshare(1)

    assert failure.value.errno == errno.EINVAL


def test_unshare_of_nothing_is_allowed_by_every_kernel(in_child: InChild) -> None:
    assert in_child(lambda: syscalls.unshare(0)) is None


def test_a_path_of_any_bytes(world: World) -> None:
    strange = os.fsdecode(b"/dev/shm/\xff \xc3\xa4")

    def body() -> Any:
        os.mkdir(strange)
        syscalls.prepare_mount("tmpfs", strange, "tmpfs", 0, "mode=0700")()
        mounted = os.path.ismount(strange)
        syscalls.prepare_umount2(strange, syscalls.MNT_DETACH)()
        return mounted, os.path.ismount(strange)

    assert world.run(body) == (True, False)


@NEEDS_MOUNT_SETATTR
def test_attributes_are_cleared_too(world: World) -> None:
    def body() -> Any:
        seen = []
        for changes in ((syscalls.MOUNT_ATTR_RDONLY, 0), (0, syscalls.MOUNT_ATTR_RDONLY)):
            syscalls.prepare_mount_setattr("/dev/shm", *changes, recursive=False)()
            seen.append(os.access("/dev/shm", os.W_OK))
        return seen

    assert world.run(body) == [False, True]


def test_a_kernel_or_a_filter_without_mount_setattr(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for number in (errno.EINVAL, errno.ENOSYS, errno.EPERM):

        def call(number: int = number) -> int:
            raise OSError(number, "")

        monkeypatch.setattr(syscalls, "by_number", lambda *arguments, call=call: call)
        found[number] = syscalls.supports_mount_setattr.__wrapped__()

    assert found == {errno.EINVAL: True, errno.ENOSYS: False, errno.EPERM: False}


def test_capset_cannot_add(in_child: InChild, become_stranger: Callable[[], None]) -> None:
    def body() -> Any:
        become_stranger()
        try:
            syscalls.capset(1, 1, 0)
        except OSError as error:
            return error.errno
        return None

    assert in_child(body) == errno.EPERM


def blocked(pid: int) -> int:
    """The signal mask of a process's main thread."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigBlk"):
            return int(line.split()[1], 16)
    raise AssertionError(pid)


def test_a_blocked_process_gets_its_signals_again(in_child: InChild) -> None:
    def body() -> Any:
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.write(tell, b"!")
            time.sleep(SECONDS)
            os._exit(0)
        os.read(ready, 1)
        before = blocked(pid)
        syscalls.unblock_signals(pid)
        after = blocked(pid)
        pidfd = os.pidfd_open(pid)
        still_there = not select.select([pidfd], [], [], 0.05)[0]
        os.kill(pid, signal.SIGUSR1)
        _, status = os.waitpid(pid, 0)
        return before != 0, after, still_there, os.waitstatus_to_exitcode(status)

    assert in_child(body) == (True, 0, True, -signal.SIGUSR1)


@NEEDS_ROOT
def test_a_process_of_somebody_else_stays_blocked(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> Any:
        parent = os.getppid()
        become_stranger()
        try:
            syscalls.unblock_signals(parent)
        except OSError as error:
            return error.errno
        return None

    assert in_child(body) == errno.EPERM


def test_a_step_names_call_namespace_errno_and_path() -> None:
    call = syscalls.prepare_mount(None, "/nonexistent/b", None, syscalls.MS_BIND)
    with pytest.raises(StepError) as refusal:
        libc.Step("bind it", "mount", call).run()

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.detail)
    assert seen == ("bind it", "mount", "/nonexistent/b")


def test_importing_looks_nothing_up(in_child: InChild) -> None:
    """So that any platform can import it: libc is looked for when something is called."""
    program = """
import builtins, ctypes, os, sys
for name in [n for n in dir(os) if n.startswith(("pidfd", "CLONE", "unshare", "setns", "sched"))]:
    delattr(os, name)
def refuse(*a, **k): raise AssertionError("libc was looked up")
ctypes.PyDLL.__init__ = refuse
ctypes.pythonapi = None
real = builtins.__import__
def importing(name, *rest):
    if name in ("fcntl", "resource", "prctl", "_prctl"): raise ImportError(name)
    return real(name, *rest)
builtins.__import__ = importing
from pytest_nsisolate.kernel import idmap, mounts, namespaces, network, process, syscalls
print("imported")
"""
    import subprocess

    root = str(Path(libc.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (result.stdout, result.stderr) == ("imported\n", "")
