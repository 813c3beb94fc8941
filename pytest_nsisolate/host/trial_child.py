# SPDX-License-Identifier: MIT
"""The host check's throw-away processes: the machinery's way in, and an end instead of a test.

One socket leads back to the runner; what goes over it is one short JSON text per message:
``{"map": pid}`` asks for the id map of that process, ``{"step": …}`` is the first refusal, ``{}``
says that everything stands. Both processes are armed with PR_SET_PDEATHSIG: no code of a user's
runs here that could lose it, so nothing of the check outlives its parent.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import posix
import select
import signal
from _socket import SocketType
from dataclasses import dataclass
from typing import Final, NoReturn, TypedDict

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import (
    idmap,
    mounts,
    namespaces,
    network,
    process,
    rlimits,
    syscalls,
)
from pytest_nsisolate.launch import fork
from pytest_nsisolate.outcome import signal_name

#: The step of a child that ended without saying why.
START: Final = "start the host check"

#: What PID 1 unshares; user, time and pid must come before it is born.
_BY_PID1: Final = ("mount", "net", "ipc", "uts", "cgroup")


class Message(TypedDict, total=False):
    """What a child says: ``map`` alone, the first refusal, or nothing at all."""

    map: int
    step: str
    namespace: str | None
    errno: int
    detail: str
    filtered: bool | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What to try, worked out in the runner: the children look nothing up.

    :param seconds: how long PID 1 may take before the process in the middle kills it.
    :param keep_capabilities: drop all but these at the end; None keeps what is.
    :param limit: of the PID namespace; None: it gets none.
    """

    namespaces: frozenset[str]
    maps: idmap.IdMaps | None
    maps_by_runner: bool
    mounts: mounts.MountPlan | None
    keep_capabilities: int | None
    hostname: str
    seconds: float
    limit: rlimits.PidMax | None = None


def run(trial: Trial, link: SocketType, runner: int) -> NoReturn:
    """In the fresh fork of the runner: try everything, report, end.

    :param link: the children's end of the socket.
    :param runner: a pidfd of the runner.
    """
    try:
        gc.disable()
        # Where the runner ignores it, PID 1 would be reaped by the kernel and its end not be seen.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        own = _arm(runner)
        if trial.maps is not None:
            own = _enter_user(trial, trial.maps, link, own)
        if "time" in trial.namespaces:
            namespaces.enter("time")
            namespaces.write_time_offsets(0.0, 0.0)
        if "pid" in trial.namespaces:
            namespaces.enter("pid")
        with failing("fork", "pid" if "pid" in trial.namespaces else None):
            pid = fork()
        if pid == 0:
            _be_pid1(trial, link, own)
        else:
            _await(pid, trial.seconds)
    except BaseException as error:
        _report(link, error)
    finally:
        posix._exit(0)


def _arm(parent: int) -> int:
    """Die with this parent from now on; a pidfd of this process, for its own child."""
    process.die_with_parent(parent)
    with failing("pidfd_open", None):
        return os.pidfd_open(os.getpid())


def _enter_user(trial: Trial, maps: idmap.IdMaps, link: SocketType, own: int) -> int:
    """Enter a user namespace and have its ids mapped; returns a pidfd of who goes on from here.

    With a thread beside it (an at-fork hook has started one) a process may not unshare it, but be
    born into it: then the rest is a second child's, and the first one only waits.
    """
    try:
        namespaces.enter("user")
    except StepError as error:
        if error.errno != errno.EINVAL or len(os.listdir("/proc/self/task")) == 1:
            raise
        with failing("clone", "user"):
            pid = syscalls.raw_clone(namespaces.FLAGS["user"])
        if pid:
            _await(pid, trial.seconds)
            posix._exit(0)
        own = _arm(own)
    if trial.maps_by_runner:
        link.send(json.dumps({"map": os.getpid()}).encode())
        link.settimeout(trial.seconds)
        with failing("wait for the id map", "user"):
            link.recv(1)
    else:
        idmap.write_maps(maps, None)
    return own


def _be_pid1(trial: Trial, link: SocketType, parent: int) -> None:
    process.die_with_parent(parent)
    with failing("setsid", None):
        os.setsid()
    for name in _BY_PID1:
        if name in trial.namespaces:
            namespaces.enter(name)
    if trial.mounts is not None:
        mounts.apply(trial.mounts)
    if trial.limit is not None:
        trial.limit.apply()
    if "net" in trial.namespaces:
        network.bring_loopback_up()
    if "uts" in trial.namespaces:
        namespaces.set_hostname(trial.hostname)
    if trial.keep_capabilities is not None:
        process.limit_capabilities(trial.keep_capabilities)
    link.send(b"{}")


def _await(pid: int, seconds: float) -> None:
    """Reap the child; kill it when its time is over, or when it was killed say by what."""
    child = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(child, select.POLLIN)
    in_time = bool(poller.poll(seconds * 1000))
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not in_time:
        raise StepError(START, None, errno.ETIMEDOUT)
    if os.WIFSIGNALED(status):
        how = f"PID 1 was killed by {signal_name(os.WTERMSIG(status))}"
        raise StepError(START, None, errno.EPIPE, how)


def _report(link: SocketType, error: BaseException) -> None:
    if not isinstance(error, StepError):
        number = error.errno if isinstance(error, OSError) else None
        error = StepError(START, None, number or 0, repr(error)[:500])
    message: Message = {
        "step": error.step,
        "namespace": error.namespace,
        "errno": error.errno,
        "detail": error.detail[:500],
        "filtered": _is_filtered() if error.errno == errno.EPERM else None,
    }
    with contextlib.suppress(OSError):
        link.send(json.dumps(message).encode())


def _is_filtered() -> bool:
    """Every kernel grants ``unshare(0)``, so whoever refuses it is a filter (seccomp(2))."""
    try:
        syscalls.unshare(0)
    except OSError:
        return True
    return False
