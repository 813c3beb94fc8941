# SPDX-License-Identifier: MIT
"""The first fork: ``runner -fork-> supervisor -fork-> PID 1``.

Fact: libc's locks and the interpreter's are only in order after ``os.fork``. A raw ``clone`` from a
runner with threads inherits locks that are never released (it hung in up to one of five tries),
and so does libc's ``fork`` called through ctypes, which leaves the GIL unrepaired.

Consequence: the fork is ``os.fork``. Everything that the child needs is worked out before it, in a
:class:`~pytest_nsisolate.process.plan.LaunchPlan`; the child looks nothing up and imports
nothing.

The short way: in a runner with one task, by the kernel's own count, no other thread can hold a
lock. Then one ``clone`` with all the flags makes PID 1 directly, which saves a third of the cost of
a test; the watchdog (:mod:`pytest_nsisolate.process.watchdog`) sees to the end of such a child.
A process that is PID 1 itself needs none: with it the kernel ends everything below, also in
namespaces that were made there (pid_namespaces(7)).
Where that clone is refused, the long way is taken, because it can tell which namespace it was. The
short way is never taken without a PID namespace, with a time namespace (offsets are written between
unshare and fork), or when other code waits for the runner's children.

What still fails: a library that starts a thread in an at-fork hook does so here too
(:mod:`pytest_nsisolate.process.supervisor` says what happens then), and ``pthread_atfork`` handlers
do not run on the short way; OpenSSL's, the one that matters, is made up for in the child. A Ctrl-C
that another thread of the runner receives is not held back: if it falls into the fork, the child
ends without its time to tear down, and is reaped when the run ends.
"""

from __future__ import annotations

import errno
import warnings
from _socket import socketpair  # pytest-socket forbids the one of the module above
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.kernel import birthmark, proc, process
from pytest_nsisolate.kernel.clone import raw_clone
from pytest_nsisolate.kernel.originals import gc, os, posix, signal, socket
from pytest_nsisolate.process import after_fork, reaping, supervisor
from pytest_nsisolate.process.channel import Link, Output, RunnerEnd, Shared
from pytest_nsisolate.process.plan import LaunchPlan
from pytest_nsisolate.wire.frames import FrameWriter
from pytest_nsisolate.wire.steps import Steps

#: Links of the directory of tasks of a process with one: ".", "..", and the task.
_ONE_TASK: Final = 3


def launch(
    plan: LaunchPlan,
    output: Output,
    shared: Shared,
    held: tuple[int, ...],
    register: Callable[[RunnerEnd], None],
    steps: Steps | None = None,
) -> FrameWriter | None:
    """Clone the runner into new namespaces. Returns twice.

    In the runner: None, after ``register`` got the runner's end, which owns ``output`` from then
    on. In the test's own process: the way to the runner, when everything in the plan stands.
    A child that cannot get there says why on its pipe and ends.

    :param held: descriptors of other children, which this one must not have.
    :param steps: notes when each step on the way has ended; None: there is no trace.
    :raises StepError: in the runner, when it cannot fork or has no descriptor left; ``output`` is
        still the caller's then, and nothing else is left open.
    """
    with failing("getrandom", None):
        nonce = os.urandom(8)
    frames, frames_write, control, child_control = open_channel()
    # Blocked so that a Ctrl-C cannot fall between the fork and its registration in the runner, and
    # so that no handler of the runner's runs in the supervisor.
    channel = (frames, frames_write, control, child_control)
    mask = None
    try:
        mask = process.block_signals()
        after_fork.keep_tracker(True)
        # Made here, where that costs no page.
        writer = FrameWriter(frames_write, nonce, steps)
        not_ours = (frames, control, *shared.foreign, *held)
        link = Link(child_control, writer, not_ours, shared, mask, gc.isenabled())
        direct, pid = _clone(plan, shared, writer)
    except OSError as error:
        _give_up(mask, channel)
        step = "sigprocmask" if mask is None else "fork"
        raise StepError(step, None, error.errno or 0) from error
    except BaseException:
        # Another thread took the signal, and Python raises here: a child that has been born all
        # the same sees its channel close, and ends.
        _give_up(mask, channel)
        raise
    if pid == 0:
        if direct:
            supervisor.enter_directly(plan, link)
        else:
            supervisor.enter(plan, link)
        after_fork.settle_helpers(own_ipc="ipc" in plan.namespaces)
        return writer
    after_fork.keep_tracker(False)
    try:
        os.close(frames_write)
        os.close(child_control)
        pidfd = _pidfd(pid, frames, control)
        try:
            register(RunnerEnd(pid, pidfd, direct, control, frames, nonce, output))
        except (OSError, StepError) as error:
            _abandon(pid, pidfd, frames, control)
            raise StepError("take on the child", None, error.errno or 0) from error
    finally:
        process.restore_signals(mask)
    return None


def _give_up(mask: frozenset[int] | None, channel: tuple[int, ...]) -> None:
    after_fork.keep_tracker(False)
    if mask is not None:
        process.restore_signals(mask)
    for fd in channel:
        os.close(fd)


def has_one_task() -> bool:
    """Whether this process has one thread, by the kernel's own count, if it tells.

    ``/proc/PID/task`` has a link for each thread, beside the two of any directory: one call, and
    no page of a listing. Where a kernel counts otherwise the long way is taken.
    """
    try:
        return os.stat("/proc/self/task").st_nlink == _ONE_TASK
    except OSError:
        return False


def _is_init() -> bool:
    """Whether the kernel ends all children with this process."""
    return os.getpid() == 1


def _clone(plan: LaunchPlan, shared: Shared, writer: FrameWriter) -> tuple[bool, int]:
    """(the short way was taken, what fork(2) returns)."""
    writer.note("prepare")
    if (
        (shared.watchdog is not None or _is_init())
        and plan.may_go_direct
        and signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        and has_one_task()
    ):
        try:
            return True, raw_clone(plan.flags)
        except OSError:
            pass  # the long way says which namespace it was
    return False, fork()


def fork() -> int:
    """``os.fork`` without the DeprecationWarning of Python 3.12 and newer.

    The warning means a deadlock in the child if another thread holds a lock, which is what the
    shape of this module answers. The filter is put into the list and taken out again by hand:
    ``catch_warnings`` would reset every module's once-per-location registry, and a warning of the
    test's would then be counted twice.

    :raises OSError: EPROTO when it has returned 0, and this is the process that has called it.
    """
    entry = ("ignore", None, DeprecationWarning, None, 0)
    filters: list[object] = getattr(warnings, "filters")  # noqa: B009 (typeshed has it read-only)
    filters.insert(0, entry)
    birthmark.leave()
    try:
        # Not os.fork: a debugger puts its own in there, which would follow every process of ours.
        pid = posix.fork()
    finally:
        filters.remove(entry)
    if pid == 0:
        if birthmark.is_original():
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        debuggers.mute()
    return pid


def open_channel() -> tuple[int, int, int, int]:
    """The frame pipe (read, write) and the control socket (runner's, child's)."""
    try:
        frames, frames_write = os.pipe()
    except OSError as error:
        raise StepError("pipe2", None, error.errno or 0) from error
    try:
        ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        os.close(frames)
        os.close(frames_write)
        raise StepError("socketpair", None, error.errno or 0) from error
    return frames, frames_write, ours.detach(), theirs.detach()


def _pidfd(pid: int, *descriptors: int) -> int:
    """A pidfd of the supervisor; without one nothing here is bounded, so the supervisor must go."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        _abandon(pid, *descriptors)
        raise StepError("pidfd_open", None, error.errno or 0) from error


def _abandon(pid: int, *descriptors: int) -> None:
    """End a child that was not registered, and what it has made: that has PDEATHSIG.

    Where this process is PID 1 or a subreaper, it is the one that has to reap what is below the
    supervisor. In a namespace that was joined, PID 1 could not end before (pid_namespaces(7)).
    """
    with suppress(OSError):
        os.kill(pid, signal.SIGSTOP)  # it makes no more
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    below = []
    with suppress(OSError):
        below = proc.children_of(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        reaping.reap(pid, over=reaping.ask_after(pid))
    for orphan in below:
        reaping.reap(orphan, over=True)
    for fd in descriptors:
        os.close(fd)
