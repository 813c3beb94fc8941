# SPDX-License-Identifier: MIT
"""Real processes in real namespaces: the supervisor's shape, without pytest in it.

Every process started here is owned: it dies with its parent, is killed after a minute, and is
reaped. Its result comes back as a Python literal, its :class:`StepError` as one.
"""

from __future__ import annotations

import ast
import ctypes
import os
import select
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest

from pytest_nsisolate import kernel
from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import examine
from pytest_nsisolate.kernel import idmap, mounts, namespaces, network, process, syscalls
from tests.support import NEEDS_MOUNT_SETATTR, NEEDS_ROOT

SECONDS = 60
STRANGER = 61_234  # an id that nobody has
PR_SET_DUMPABLE = 4
MS_SHARED = 1 << 20

Kind: TypeAlias = Literal["root", "root without user", "rootless"]
InChild: TypeAlias = Callable[[Callable[[], Any]], Any]
EVERYTHING = frozenset(namespaces.NAMESPACES) - {"time"}


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> None:
    kernel.preload()


def run_in_child(body: Callable[[], Any]) -> Any:
    """What ``body`` returns or the StepError it raises, from a fork of this process."""
    read, write = os.pipe()
    parent = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        try:
            process.die_with_parent(parent)
            signal.alarm(SECONDS)
            outcome: tuple[str, Any] = ("value", body())
        except StepError as error:
            outcome = ("refused", error.__reduce__()[1])
        except BaseException:
            outcome = ("broken", traceback.format_exc())
        os.write(write, repr(outcome).encode())
        os._exit(0)
    os.close(write)
    try:
        text = _read_all(read)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (read, parent):
            os.close(fd)
    what, value = ast.literal_eval(text.decode() or "('broken', 'no result')")
    if what == "refused":
        raise StepError(*value)
    assert what == "value", value
    return value


def _read_all(fd: int) -> bytes:
    """Up to the end, or to the first silence: a process further down may hold the pipe."""
    text = bytearray()
    patience = SECONDS * 1000
    while select.select([fd], [], [], patience / 1000)[0]:
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            break
        text += chunk
        patience = 100
    return bytes(text)


@pytest.fixture
def in_child() -> InChild:
    """Run a function in a fork of this process."""
    return run_in_child


@pytest.fixture(name="become_stranger")
def become_stranger_fixture() -> Callable[[], None]:
    """Make the calling process one without any privileges."""
    return become_stranger


def become_stranger() -> None:
    """Give up all privileges, and stay able to write one's own id map."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


@dataclass
class World:
    """Who runs the tests, on a host whose ``/`` is shared, as systemd leaves it."""

    kind: Kind
    prepare: Callable[[], None] = lambda: None  # on that host, as root if there is one
    devices: tuple[str, ...] | None = None  # of a minimal /dev; None: the host's

    def run(
        self,
        body: Callable[[], Any],
        *,
        own: Iterable[str] = EVERYTHING,
        in_use: Iterable[str] = (),
        outside: Callable[[], Any] = lambda: None,
    ) -> Any:
        """``body`` as PID 1 in its own namespaces; ``outside`` before and after must be equal."""
        return run_in_child(lambda: self._on_host(body, frozenset(own), tuple(in_use), outside))

    def _on_host(
        self,
        body: Callable[[], Any],
        own: frozenset[str],
        in_use: tuple[str, ...],
        outside: Callable[[], Any],
    ) -> Any:
        if examine().privileged:
            namespaces.enter("mount")
            syscalls.prepare_mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)()
            syscalls.prepare_mount(None, "/", None, syscalls.MS_REC | MS_SHARED)()
            self.prepare()
        if self.kind == "rootless":
            become_stranger()
        if self.kind == "root without user":
            own -= {"user"}
        before = outside()
        mounted = Path("/proc/self/mountinfo").read_bytes()
        value = self.isolate(body, own, in_use)
        assert outside() == before
        assert Path("/proc/self/mountinfo").read_bytes() == mounted
        return value

    def isolate(
        self, body: Callable[[], Any], own: frozenset[str], in_use: tuple[str, ...] = ()
    ) -> Any:
        """``body`` as PID 1, from this process as it is."""
        plan = None
        if "mount" in own:
            plan = mounts.plan_mounts(own=own, in_use=in_use, more_devices=self.devices)
        if "user" not in own:
            return run_in_child(lambda: _as_supervisor(own, plan, body))
        if self.kind == "rootless":
            uid, gid = os.geteuid(), os.getegid()
            maps = idmap.single_maps(inside_uid=0, inside_gid=0, outside_uid=uid, outside_gid=gid)

            def alone() -> Any:
                namespaces.enter("user")
                idmap.write_maps(maps, None)
                return _as_supervisor(own, plan, body)

            return run_in_child(alone)
        return self._supervisor_with_writer(own, plan, body)

    def _supervisor_with_writer(
        self, own: frozenset[str], plan: mounts.MountPlan | None, body: Callable[[], Any]
    ) -> Any:
        maps = idmap.identity_maps()
        entered, written = os.pipe(), os.pipe()

        def supervisor() -> Any:
            namespaces.enter("user")
            os.write(entered[1], str(os.getpid()).encode())
            os.read(written[0], 1)
            return _as_supervisor(own, plan, body)

        writer = os.fork()
        if writer == 0:
            try:
                signal.alarm(SECONDS)
                idmap.write_maps(maps, int(os.read(entered[0], 32)))
                os.write(written[1], b"!")
            finally:
                os._exit(0)
        try:
            return run_in_child(supervisor)
        finally:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)


def _as_supervisor(
    own: frozenset[str], plan: mounts.MountPlan | None, body: Callable[[], Any]
) -> Any:
    if "pid" in own:
        namespaces.enter("pid")

    def pid1() -> Any:
        for name in ("mount", "net", "ipc", "uts", "cgroup"):
            if name in own:
                namespaces.enter(name)
        if plan is not None:
            mounts.apply(plan)
        if "net" in own:
            network.bring_loopback_up()
        return body()

    return run_in_child(pid1)


@pytest.fixture(
    params=[
        pytest.param("root", marks=NEEDS_ROOT),
        pytest.param("root without user", marks=NEEDS_ROOT),
        "rootless",
    ]
)
def world(request: pytest.FixtureRequest) -> World:
    """Each way into the namespaces."""
    return World(request.param)


@pytest.fixture(params=[pytest.param("root", marks=NEEDS_ROOT), "rootless"])
def user_world(request: pytest.FixtureRequest) -> World:
    """The ways with a user namespace."""
    return World(request.param)


@pytest.fixture(params=[pytest.param("mount_setattr", marks=NEEDS_MOUNT_SETATTR), "remount"])
def attributes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With mount_setattr, and as on a kernel that has none."""
    if request.param == "remount":
        monkeypatch.setattr(syscalls, "supports_mount_setattr", lambda: False)
    mounts._steps.cache_clear()
    yield
    mounts._steps.cache_clear()
