# SPDX-License-Identifier: MIT
"""The process in the middle, and PID 1's way from its birth to the test's first line.

Fact: a process cannot move itself into a new PID namespace, only its later children are born there
(unshare(2), CLONE_NEWPID); and NEWUSER is EINVAL in a process that has threads.

Consequence: the supervisor, a fork of the runner with one thread, unshares and forks PID 1. From
then on it only watches two pidfds, the runner's and PID 1's. When the runner dies it kills PID 1,
and with PID 1 the kernel kills everything in the namespace (pid_namespaces(7)). Without a PID
namespace it is the subreaper of everything that the test starts, and kills until nothing is left.

Why not PR_SET_PDEATHSIG alone: a process that changes its ids loses it (prctl(2)), and tests of
system code do that: one process survived the usual arrangement, none survives this one. PID 1 has
it for the one case that the supervisor cannot serve, its own death; the pidfd that PID 1 polls
after arming closes the race with a parent that died before.

Why it does so little: each page that it touches is copied. It does what must come before the
second fork (user, time and PID namespace); PID 1 does the rest while the runner writes the id map.
One namespace per ``unshare`` call: that costs nothing and a refusal names its type.

What still fails: where an at-fork hook of the test suite starts a thread (OpenTelemetry's does),
NEWUSER is EINVAL here. Then, and only then, PID 1 is made by one raw ``clone`` with all the flags;
the locks that it may inherit are this process's own, and no other code has run here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import idmap, keyring, mounts, namespaces, network, proc, process
from pytest_nsisolate.kernel.clone import raw_clone
from pytest_nsisolate.kernel.originals import gc, open, os, posix, select, signal, traceback
from pytest_nsisolate.process import init, watchdog
from pytest_nsisolate.process.outcome import EXIT_REFUSED
from pytest_nsisolate.wire.frames import Kind

if TYPE_CHECKING:
    from pytest_nsisolate.process.channel import Link
    from pytest_nsisolate.process.plan import LaunchPlan

#: What PID 1 unshares, in this order; user and pid are the supervisor's.
_BY_PID1: Final = ("mount", "net", "ipc", "uts", "cgroup")


def enter(plan: LaunchPlan, link: Link) -> None:
    """In the fresh fork of the runner. Returns in the test's own process, and nowhere else."""
    pid = -1
    try:
        link.writer.note("fork")
        gc.disable()
        gc.freeze()
        named("setpgid", os.setpgid, 0, 0)
        parent: int = named("pidfd_open", os.pidfd_open, os.getpid())
        # An inherited SIG_IGN would have the kernel reap PID 1, and its status would be lost.
        before = named("sigaction(SIGCHLD)", signal.signal, signal.SIGCHLD, signal.SIG_DFL)
        pid, at_once = _unshare_and_fork(plan, link)
        if pid == 0:
            link.writer.note("fork")
            if before is not None:  # None: a handler that Python did not install
                named("sigaction(SIGCHLD)", signal.signal, signal.SIGCHLD, before)
            process.die_with_parent(parent)
            named("dup2", os.dup2, link.shared.null, parent, False)
            if link.shared.watchdog is not None:
                fd = link.shared.watchdog.fileno()
                named("dup2", os.dup2, link.shared.null, fd, False)
            _furnish(plan, link, at_once=at_once)
            return
        _watch(pid, plan, link)
    except StepError as error:
        link.refuse(error)
        posix._exit(EXIT_REFUSED)
    except BaseException as error:
        link.writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
        posix._exit(EXIT_REFUSED)
    finally:
        if pid != 0:
            posix._exit(0)


def enter_directly(plan: LaunchPlan, link: Link) -> None:
    """In PID 1, cloned straight from the runner. Returns in the test's own process only."""
    done = False
    try:
        link.writer.note("clone")
        gc.disable()
        gc.freeze()
        process.die_with_parent(link.shared.runner_pidfd)
        if link.shared.watchdog is not None:
            with failing("report to the watchdog", None):
                own = os.pidfd_open(os.getpid())
                watchdog.report_to(link.shared.watchdog, own)
            fd = link.shared.watchdog.fileno()
            named("dup2", os.dup2, link.shared.null, fd, False)
            os.close(own)
        _furnish(plan, link, at_once=True)
        done = True
    except StepError as error:
        link.refuse(error)
    except BaseException as error:
        link.writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
    finally:
        if not done:
            posix._exit(EXIT_REFUSED)


def _unshare_and_fork(plan: LaunchPlan, link: Link) -> tuple[int, bool]:
    """What must come before PID 1 is born, and its birth: (pid, all flags were used at once)."""
    if "pid" not in plan.namespaces:
        process.become_subreaper()
    if plan.join is not None:
        namespaces.join(plan.join.pidfd, plan.namespaces)
        link.writer.note("setns")
        return _fork("pid"), True
    if plan.maps is not None:
        try:
            namespaces.enter("user")
        except StepError as error:
            if error.errno == errno.EINVAL and len(os.listdir("/proc/self/task")) > 1:
                return _clone_at_once(plan, link)
            raise
        if plan.maps_by_runner:
            link.tell(b"U")
        else:
            idmap.write_maps(plan.maps, None)
        link.writer.note(namespaces.STEPS["user"])
    _enter_time(plan, link)
    if "pid" in plan.namespaces:
        namespaces.enter("pid")
        return _fork("pid"), False
    return _fork(None), False


def _enter_time(plan: LaunchPlan, link: Link) -> None:
    """For what is born next: a process that is in one already cannot write the offsets."""
    if plan.time is not None:
        namespaces.enter("time")
        namespaces.write_time_offsets(plan.time.monotonic, plan.time.boottime)
        link.writer.note(namespaces.STEPS["time"])


def _fork(namespace: str | None) -> int:
    try:
        return posix.fork()
    except OSError as error:
        raise StepError("fork", namespace, error.errno or 0) from error


def _clone_at_once(plan: LaunchPlan, link: Link) -> tuple[int, bool]:
    """PID 1 by one raw clone, because an at-fork hook has started a thread in the supervisor."""
    _enter_time(plan, link)
    try:
        pid = raw_clone(plan.flags)
    except OSError as error:
        raise StepError("clone", "user", error.errno or 0) from error
    if pid:
        link.tell(b"U", pid)
    return pid, True


def _furnish(plan: LaunchPlan, link: Link, *, at_once: bool) -> None:
    """Everything between PID 1's birth and the test; every failing step is a :class:`StepError`.

    :param at_once: it was born into all its namespaces.
    """
    # Before it has its root, in which an open directory of another test's would be opened anew.
    link.cover(*link.not_ours)
    # Inside, getppid() is 0: without a session of its own, kill(getppid()) in a test would hit the
    # runner's whole process group, and TIOCSTI could type into the runner's terminal.
    named("setsid", os.setsid)
    process.forbid_core_files(for_good=plan.sheltered)
    if plan.sheltered:
        keyring.leave_session_keyring()
    if plan.limits is not None:
        plan.limits.join_groups()
        if at_once and "cgroup" in plan.namespaces:
            namespaces.enter("cgroup")  # the first one has the runner's group as its root
        link.writer.note("join the groups of its limits")
    if plan.join is None:
        _make_world(plan, link, at_once=at_once)
    else:
        plan.join.enter(plan.cwd)  # setns(2) has moved it to the root
    if plan.init:
        init.fork_test(link.control, lean=plan.lean)
        link.writer.note("fork the test")
    if plan.limits is not None:
        # A supervisor that was not left outside is in the same user namespace.
        plan.limits.bound_process(beside=0 if at_once else 1)
    if plan.keep_capabilities is not None:
        process.limit_capabilities(*plan.keep_capabilities)
    if plan.no_new_privs:
        process.forbid_new_privileges()
    link.cover(link.control, link.shared.runner_pidfd)
    if link.collecting:
        gc.enable()
    named("sigprocmask", process.restore_signals, link.mask)
    link.writer.note("limit the rights")


def named(step: str, call: Callable[..., Any], *arguments: object) -> Any:
    """What the call gives.

    :raises StepError: with this step, if it raises an :class:`OSError`.
    """
    try:
        return call(*arguments)
    except OSError as error:
        raise StepError(step, None, error.errno or 0, str(error.filename or "")) from error


def _make_world(plan: LaunchPlan, link: Link, *, at_once: bool) -> None:
    for name in _BY_PID1:
        if name in plan.namespaces and not at_once:
            namespaces.enter(name)
            link.writer.note(namespaces.STEPS[name])
    if plan.maps is not None and (plan.maps_by_runner or at_once):
        link.await_word()
        link.writer.note("wait for the id map")
    if plan.mounts is not None:
        mounts.apply(plan.mounts, None if link.writer.steps is None else link.writer.note)
        if plan.mounts.displaced:
            named("chdir", os.chdir, plan.cwd)
    if plan.root is not None:
        plan.root.enter()
        named("chdir", os.chdir, plan.cwd)
        link.writer.note("enter the root")
    if plan.limits is not None:
        plan.limits.bound_namespace()
    if "net" in plan.namespaces:
        network.bring_loopback_up()
        if plan.add_addresses is not None:
            plan.add_addresses()
        link.writer.note("set lo up")
    if plan.hostname is not None:
        namespaces.set_hostname(plan.hostname)
        link.writer.note("sethostname")


def _watch(pid: int, plan: LaunchPlan, link: Link) -> None:
    """Until PID 1 or the runner is gone. Sends the exact wait status of PID 1."""
    pid1: int = named("pidfd_open", os.pidfd_open, pid)
    if plan.lean:
        process.close_all_but(link.control, link.writer.descriptor, link.shared.runner_pidfd, pid1)
    link.tell(b"P", pid)
    poller = select.poll()
    poller.register(link.shared.runner_pidfd, select.POLLIN)
    poller.register(pid1, select.POLLIN)
    if all(fd != pid1 for fd, _ in named("watch PID 1", poller.poll)):
        signal.pidfd_send_signal(pid1, signal.SIGKILL)
    else:
        # The runner opens its own pidfd of this number first: until then it must not be reused.
        poller.unregister(pid1)
        poller.register(link.control, select.POLLIN)
        named("wait for the runner's word", poller.poll)
    _, status = named("reap PID 1", os.waitpid, pid, 0)
    if "pid" not in plan.namespaces:
        named("end what the test left", kill_descendants)
    link.tell(b"S", status)


def kill_descendants() -> None:
    """Without a PID namespace: everything that the test left becomes our child, until none is."""
    while True:
        with open("/proc/thread-self/children", "rb") as listing:
            children = proc.children(listing.read())
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
