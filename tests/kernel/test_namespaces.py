# SPDX-License-Identifier: MIT
"""Entering each kind of namespace, its identity, its clock, its name."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import namespaces, process, syscalls

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

STEPS = {
    "user": "unshare(CLONE_NEWUSER)",
    "pid": "unshare(CLONE_NEWPID)",
    "mount": "unshare(CLONE_NEWNS)",
    "net": "unshare(CLONE_NEWNET)",
    "uts": "unshare(CLONE_NEWUTS)",
    "ipc": "unshare(CLONE_NEWIPC)",
    "cgroup": "unshare(CLONE_NEWCGROUP)",
    "time": "unshare(CLONE_NEWTIME)",
}


def test_each_kind_has_a_flag_and_a_name() -> None:
    assert set(STEPS) == set(namespaces.NAMESPACES)
    assert set(namespaces.FLAGS) == set(namespaces.PROC_NAMES) == set(STEPS)


def test_all_namespaces_are_new_inside(world: World) -> None:
    host = namespaces.identities()
    inside = world.run(namespaces.identities)

    same = {name for name in host if host[name] == inside[name]}
    assert same == ({"time", "user"} if world.kind == "root without user" else {"time"})


def test_an_identity_is_the_inode_of_the_namespace() -> None:
    numbers = {
        name: os.stat(f"/proc/self/ns/{file}").st_ino
        for name, file in namespaces.PROC_NAMES.items()
    }

    assert namespaces.identities() == numbers


def test_a_kind_that_the_kernel_lacks_has_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = namespaces._NS_PATHS | {"time": "/proc/self/ns/nonexistent"}
    monkeypatch.setattr(namespaces, "_NS_PATHS", paths)

    assert set(namespaces.identities()) == set(namespaces.NAMESPACES) - {"time"}


@pytest.mark.parametrize("namespace", [name for name in STEPS if name != "user"])
def test_a_refusal_names_its_kind(
    in_child: InChild, become_stranger: Callable[[], None], namespace: str
) -> None:
    def body() -> None:
        become_stranger()
        namespaces.enter(namespace)

    with pytest.raises(StepError) as refusal:
        in_child(body)

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == (STEPS[namespace], namespace, errno.EPERM)


def test_a_user_namespace_is_refused_in_a_process_with_threads(in_child: InChild) -> None:
    def body() -> None:

        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        namespaces.enter("user")

    with pytest.raises(StepError) as refusal:
        in_child(body)

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == (STEPS["user"], "user", errno.EINVAL)


@pytest.mark.parametrize("namespace", [name for name in STEPS if name not in ("user", "net")])
def test_a_limit_of_zero_is_enospc(user_world: World, namespace: str) -> None:
    kind = {"mount": "mnt"}.get(namespace, namespace)

    def body() -> None:
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
        namespaces.enter(namespace)

    with pytest.raises(StepError) as refusal:
        user_world.run(body)

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == (STEPS[namespace], namespace, errno.ENOSPC)


@pytest.mark.parametrize(
    ("limit", "patience"), [("0", (0.0, 0.1)), ("1", (0.2, 2.0))], ids=["zero", "reached"]
)
def test_only_a_limit_that_may_be_passing_is_waited_for(
    user_world: World, limit: str, patience: tuple[float, float]
) -> None:
    def body() -> Any:
        Path("/proc/sys/user/max_net_namespaces").write_text(limit)  # one is there already
        began = time.monotonic()
        try:
            namespaces.enter("net")
        except StepError as error:
            return error.step, error.namespace, error.errno, time.monotonic() - began
        return None

    step, namespace, number, seconds = user_world.run(body)

    assert (step, namespace, number) == (STEPS["net"], "net", errno.ENOSPC)
    assert patience[0] <= seconds < patience[1]


def test_enospc_that_passes_is_waited_out(
    user_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network namespaces end later than their processes, so a low limit is full for a while."""
    # On a busy machine longer than anyone would wait for a test.
    monkeypatch.setattr(namespaces, "_PATIENCE", 30.0)

    def body() -> int:
        Path("/proc/sys/user/max_net_namespaces").write_text("2")
        for _ in range(4):
            namespaces.enter("net")
        return 4

    assert user_world.run(body) == 4


def test_an_error_on_a_later_try_is_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([errno.ENOSPC, errno.ENOSPC, errno.EPERM])

    def unshare(flags: int) -> None:
        raise OSError(next(numbers), "")

    monkeypatch.setattr(syscalls, "unshare", unshare)
    monkeypatch.setattr(namespaces, "_net_limit", lambda: None)

    with pytest.raises(StepError) as refusal:
        namespaces.enter("net")

    assert (refusal.value.step, refusal.value.errno) == (STEPS["net"], errno.EPERM)


def in_time_namespace(monotonic: float, boottime: float) -> Callable[[], Any]:
    """In PID 1: clocks before, of a grandchild in a time namespace with these offsets, after."""

    def body() -> Any:
        namespaces.enter("time")
        namespaces.write_time_offsets(monotonic, boottime)
        read, write = os.pipe()
        clocks = time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME

        def now() -> list[float]:
            return [time.clock_gettime(clock) for clock in clocks]

        before = now()
        pid = os.fork()
        if pid == 0:
            os.write(write, repr(now()).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        return list(zip(before, eval(os.read(read, 1000)), now(), strict=True))

    return body


@pytest.mark.parametrize(
    ("monotonic", "boottime"), [(1e6, 3600.5), (0.0, 0.0), (0.25, 1e8), (-1.5, -0.5)]
)
def test_clocks_are_moved_by_the_offsets(
    user_world: World, monotonic: float, boottime: float
) -> None:
    clocks = user_world.run(in_time_namespace(monotonic, boottime))

    # Not nearer than a busy machine lets them be read.
    for (before, inside, after), offset in zip(clocks, (monotonic, boottime), strict=True):
        assert before - 1e-6 <= inside - offset <= after + 1e-6


def test_a_clock_below_zero_is_refused(user_world: World) -> None:
    with pytest.raises(StepError) as refusal:
        user_world.run(in_time_namespace(-1e9, 0.0))

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == ("write timens_offsets", "time", errno.ERANGE)


def test_offsets_after_the_first_fork_are_refused(user_world: World) -> None:
    def body() -> None:
        namespaces.enter("time")
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        namespaces.write_time_offsets(1.0, 1.0)

    with pytest.raises(StepError) as refusal:
        user_world.run(body)

    assert (refusal.value.step, refusal.value.errno) == ("write timens_offsets", errno.EACCES)


@pytest.mark.parametrize("name", ["db1", "n" * 64, "näme"])
def test_a_host_name_is_set_inside_alone(world: World, name: str) -> None:
    def body() -> str:
        namespaces.set_hostname(name)
        return socket.gethostname()

    assert world.run(body, outside=socket.gethostname) == name


def test_a_host_name_that_is_too_long_is_refused(user_world: World) -> None:
    with pytest.raises(StepError) as refusal:
        user_world.run(lambda: namespaces.set_hostname("n" * 65))

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == ("sethostname", "uts", errno.EINVAL)


def test_a_host_name_without_the_capability_is_refused(user_world: World) -> None:
    def body() -> None:
        process.limit_capabilities(0)
        namespaces.set_hostname("db1")

    with pytest.raises(StepError) as refusal:
        user_world.run(body)

    assert (refusal.value.step, refusal.value.errno) == ("sethostname", errno.EPERM)
