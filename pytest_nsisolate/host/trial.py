# SPDX-License-Identifier: MIT
"""The runner's side of one throw-away child: fork it, listen, be rid of it.

Every wait here is bounded: the process in the middle kills its PID 1 after :data:`SECONDS`, and the
runner kills the process in the middle one second later. Signals are blocked from before the fork
until the child is owned by a ``finally``, and again while it is killed and reaped, so a Ctrl-C
leaves neither a process nor a zombie. The child's end is its pidfd, and it alone is waited for: a
``waitpid(-1)`` would take away somebody else's child.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
from _socket import SocketType, socketpair  # pytest-socket forbids those of socket
from typing import Final, NamedTuple

from pytest_nsisolate.clock import monotonic
from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host import Host, facts, trial_child
from pytest_nsisolate.host.trial_child import START, Message, Trial
from pytest_nsisolate.kernel import idmap, mounts, network, process, rlimits, syscalls
from pytest_nsisolate.launch import fork
from pytest_nsisolate.outcome import signal_name
from pytest_nsisolate.remedies.table import UserMode

#: How long one child may take before it is killed, in seconds.
SECONDS: Final = 10.0

#: A child that was killed is gone within this many seconds, or the kernel itself is stuck.
_GRACE: Final = 2.0


class Denial(NamedTuple):
    """The first step that failed.

    :param filtered: ``unshare(0)`` was refused too; None where that was not tried.
    """

    error: StepError
    filtered: bool | None


def attempt(
    namespaces: frozenset[str],
    user: UserMode,
    host: Host,
    limit: bool = False,
    *,
    seconds: float = SECONDS,
) -> Denial | None:
    """Go all the way into these namespaces in a child; None if every step worked.

    :param limit: also limit the number of processes in the PID namespace, which must be its own.
    :param seconds: when to kill it.
    """
    try:
        if not host.linux:
            raise StepError("clone", None, errno.ENOSYS)
        pretender = facts.pretender()
        if pretender is not None:
            raise StepError("look at the runner", None, errno.EPERM, pretender)
        # There a write would change the host.
        if limit and host.kernel < rlimits.FIRST_OWN_PID_MAX:
            raise StepError("write pid_max", "pid", errno.ENOSYS)
        trial = _plan(namespaces, user, host, seconds, limit)
        answer, status = _fork_and_listen(trial)
    except StepError as error:
        return Denial(error, None)
    if answer is None:
        return Denial(StepError(START, None, errno.EPIPE, _how_it_ended(status)), None)
    if not answer:
        return None
    step = StepError(answer["step"], answer["namespace"], answer["errno"], answer["detail"])
    return Denial(step, answer["filtered"])


def _plan(
    namespaces: frozenset[str], user: UserMode, host: Host, seconds: float, limit: bool
) -> Trial:
    _preload()
    return Trial(
        namespaces=namespaces,
        maps=_id_maps(user, host) if "user" in namespaces else None,
        maps_by_runner=host.privileged,
        mounts=_mounts(namespaces, user) if "mount" in namespaces else None,
        keep_capabilities=host.capabilities if user == "same" else None,
        hostname=os.uname().nodename,
        seconds=seconds,
        limit=_limit() if limit else None,
    )


def _limit() -> rlimits.PidMax:
    """As many processes as the runner's namespace may have."""
    with failing("write pid_max", "pid"):
        return rlimits.plan_pid_max()


def _mounts(namespaces: frozenset[str], user: UserMode) -> mounts.MountPlan:
    devices = None if user == "none" else ()
    return mounts.plan_mounts(own=namespaces, in_use=(), more_devices=devices)


def _id_maps(user: UserMode, host: Host) -> idmap.IdMaps:
    """The runner's ids one to one if it may write that, else its own id alone."""
    if host.privileged:
        return idmap.identity_maps()
    uid, gid = (0, 0) if user == "map" else (host.euid, host.egid)
    return idmap.single_maps(
        inside_uid=uid, inside_gid=gid, outside_uid=host.euid, outside_gid=host.egid
    )


def _preload() -> None:
    """Resolve, in the runner, whatever the child calls."""
    try:
        process.preload()
    except ImportError as error:
        raise StepError("import prctl", None, errno.ENOENT, str(error)) from error
    syscalls.preload()
    network.preload()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "the child is gone"
    if os.WIFSIGNALED(status):
        return f"the child was killed by {signal_name(os.WTERMSIG(status))}"
    return f"the child ended with status {os.waitstatus_to_exitcode(status)}"


def _fork_and_listen(trial: Trial) -> tuple[Message | None, int | None]:
    """The child's last message, if it sent one, and its wait status, if nobody else took it."""
    with contextlib.ExitStack() as owned:
        with failing("socketpair", None):
            ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        owned.callback(ours.close)
        owned.callback(theirs.close)
        with failing("pidfd_open", None):
            runner = os.pidfd_open(os.getpid())
        owned.callback(os.close, runner)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        owned.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        with failing("fork", None):
            pid = fork()
        if pid == 0:
            trial_child.run(trial, theirs, runner)
        patience = 0.0
        try:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            answer = _listen(trial, ours)
            patience = _GRACE
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            status = _end(pid, patience)
    return answer, status


def _listen(trial: Trial, ours: SocketType) -> Message | None:
    """The last word of the children; writes the id map when they ask. None if they end silent."""
    deadline = monotonic() + trial.seconds + 1
    while True:
        ours.settimeout(max(deadline - monotonic(), 0.001))
        try:
            text = ours.recv(4096)
        except TimeoutError:
            raise StepError(START, None, errno.ETIMEDOUT) from None
        except ConnectionError:
            return None
        if not text:
            return None
        message: Message = json.loads(text)
        if "map" not in message:
            return message
        if trial.maps is not None:
            idmap.write_maps(trial.maps, message["map"])
        with contextlib.suppress(ConnectionError):
            ours.send(b"G")


def _end(pid: int, patience: float) -> int | None:
    """Wait for the child, kill it when it takes too long, reap it. None: somebody else did."""
    try:
        child = os.pidfd_open(pid)
    except OSError:
        # No descriptor is left, or the child is gone because the runner ignores SIGCHLD.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return _reap(pid, 0)
    try:
        poller = select.poll()
        poller.register(child, select.POLLIN)
        if not poller.poll(patience * 1000):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            poller.poll(_GRACE * 1000)
    finally:
        os.close(child)
    return _reap(pid, os.WNOHANG)


def _reap(pid: int, options: int) -> int | None:
    try:
        reaped, status = os.waitpid(pid, options)
    except ChildProcessError:
        return None
    return status if reaped else None
