# SPDX-License-Identifier: MIT
"""What a fork leaves in a copy of a process, and has to be put right there.

Fact: runner and child may have the same process number (1, in a container), which some libraries
take for "no fork happened"; others keep their threads, event loops or unfinished business without
asking.

Consequence: it is put right by name, for the modules that are loaded; nothing is imported.

Fact: the resource tracker and the fork server of :mod:`multiprocessing` do their work when the
process that uses them has ended, and at the end of PID 1 the kernel kills them instead.

Consequence: those that this process has started are let go of, and waited for, before it ends.

Fact: with an IPC namespace of its own, a copy that uses the runner's tracker has it remove objects
of the same name outside. The runner's fork server would start workers outside, and a copy cannot
even use it: it is not the copy's child, and ``waitpid`` raises.

Consequence: the copy forgets the runner's fork server, and in an IPC namespace of its own the
tracker too. It starts its own when it needs one.

Fact: where runner and copy share an IPC namespace, a tracker of the copy's own removes at the
copy's end what the copy has only attached to. Newer Pythons (3.14.10, 3.15) close the runner's
tracker after every fork but that of a ``multiprocessing.Process``.

Consequence: our forks pass for those of a ``Process``, and the copy keeps the runner's tracker.

What still fails: a helper whose pipe another process holds open, a forked worker that the test has
left, does not end by itself. It is killed with that process.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os, select, signal, threading

#: Seconds that multiprocessing's helpers have to come to their end.
_PATIENCE: Final = 2.0

#: Seconds after which a helper is given up whose pipe another process holds.
_GRACE: Final = 0.2

#: Module, its one object, and there: the number of the process, the pipe that keeps it alive.
_HELPERS: Final = (
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid", "_forkserver_alive_fd"),
    ("multiprocessing.resource_tracker", "_resource_tracker", "_pid", "_fd"),
)

#: Other attributes of each; a copy sets those that it forgets to None.
_FORGOTTEN: Final = ("_forkserver_address", "_forkserver_authkey")

#: What each object had at the clone: the number is the runner's, and may come again here.
_inherited: dict[str, tuple[object, object]] = {}

_here: list[object] = [object()]


def here() -> object:
    """This very process: another object in every copy that ``os.fork`` makes of it.

    A number does not tell: runner and child may both be 1.
    """
    return _here[0]


def _after_fork() -> None:
    _here[0] = object()


if hasattr(os, "register_at_fork"):  # nowhere else anything can be isolated
    os.register_at_fork(after_in_child=_after_fork)


def wake_openssl() -> None:
    """In the runner, before the clone: the first random byte of a process takes 250 page faults,
    and :func:`end_twinship` would have each child pay for that again.
    """
    ssl: Any = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_bytes(1)


def end_twinship() -> None:
    """OpenSSL does not reseed, ``tempfile`` repeats its names, and :mod:`multiprocessing` would
    run the runner's finalizers, because by its number this process is the runner.
    """
    ssl: Any = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
    psutil: Any = sys.modules.get("psutil")
    if psutil is not None and hasattr(psutil.process_iter, "cache_clear"):
        # It knows processes by number, and would take PID 1 for the host's, "reused".
        psutil.process_iter.cache_clear()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        # The runner's: by pid they would be taken for this process's own.
        util._finalizer_registry.clear()
    for module, name, pid, pipe in _HELPERS:
        helper: Any = getattr(sys.modules.get(module), name, None)
        _inherited[name] = (getattr(helper, pid, None), getattr(helper, pipe, None))


def keep_tracker(keep: bool) -> None:
    """Say whether the forks of this thread, from now on, leave the tracker's pipe to the copy.

    Switched on before the clone, and off in the runner after it and in :func:`settle_helpers`.
    """
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    intent: Any = getattr(tracker, "_fork_intent", None)
    if intent is not None:
        intent.preserve_fd = keep


def settle_helpers(*, own_ipc: bool) -> None:
    """In the copy, when its namespaces stand: forget those of the runner that it must not use.

    :param own_ipc: it has an IPC namespace of its own.
    """
    keep_tracker(False)
    for module, name, pid, pipe in _HELPERS:
        helper: Any = getattr(sys.modules.get(module), name, None)
        descriptor = getattr(helper, pipe, None)
        if isinstance(descriptor, int) and (own_ipc or name == "_forkserver"):
            with suppress(OSError):
                os.close(descriptor)
            _forget(helper, pid, pipe)


def _forget(helper: Any, *names: str) -> None:
    for name in (*names, *_FORGOTTEN):
        if hasattr(helper, name):
            setattr(helper, name, None)


def renew_thread_id() -> None:
    """``Thread.native_id`` of the one thread that a fork leaves, which it does not change."""
    renew = getattr(threading.current_thread(), "_set_native_id", None)
    if renew is not None:
        renew()


def leave_event_loop() -> None:
    """A caller that awaits has a running loop, which in this copy does not run."""
    events: Any = sys.modules.get("asyncio.events")
    if events is not None:
        events._set_running_loop(None)
        # A signal here would wake the caller's loop.
        signal.set_wakeup_fd(-1)


def finish_multiprocessing() -> None:
    """What a test has left to :mod:`multiprocessing` to clean up at exit, which never comes."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._run_finalizers()
        _end_helpers()


def _end_helpers() -> None:
    """As at an exit: both lose their pipe at once, and do what they are there for."""
    ending = dict(found for helper in _HELPERS if (found := _let_go(*helper)) is not None)
    if not ending:
        return
    poller, deadline = select.poll(), monotonic() + _PATIENCE
    for pidfd in ending:
        poller.register(pidfd, select.POLLIN)
    while ending and (left := deadline - monotonic()) > 0:
        ended = [pidfd for pidfd, _ in poller.poll(min(left, _GRACE) * 1000)]
        for pidfd in ended:
            poller.unregister(pidfd)
            del ending[pidfd]
            with suppress(OSError):  # the test ignores SIGCHLD, or has a thread that waits
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
            os.close(pidfd)
        if not ended and _is_held(set(ending.values())):
            break
    for pidfd in ending:
        os.close(pidfd)


def _let_go(module: str, name: str, pid: str, pipe: str) -> tuple[int, str] | None:
    """Close the pipe of a helper that this process has started, and forget the helper.

    :returns: a pidfd of it, and the pipe as ``/proc`` names it; None if there is no helper to
        wait for.
    """
    helper: Any = getattr(sys.modules.get(module), name, None)
    number, descriptor = getattr(helper, pid, None), getattr(helper, pipe, None)
    if not isinstance(number, int) or not isinstance(descriptor, int):
        return None
    if (number, descriptor) == _inherited.get(name):
        return None
    try:
        held = f"pipe:[{os.fstat(descriptor).st_ino}]"
        # A child of this process keeps its number; any other number may be another process's.
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        pidfd = os.pidfd_open(number)
    except OSError:
        return None
    # The server's socket was in multiprocessing's directory, which the finalizers have removed.
    _forget(helper, pid, pipe)
    with suppress(OSError):
        os.close(descriptor)
    return pidfd, held


def _is_held(pipes: set[str]) -> bool:
    """Whether a process can still write to one of them; True if that is not known."""
    try:
        pids = proc.pids()
    except OSError:
        return True
    for pid in pids:
        with suppress(OSError):  # it has ended, or is not ours to look at
            for descriptor, target in proc.descriptors(pid):
                path = f"/proc/{pid}/fd/{descriptor}"
                if target in pipes and os.lstat(path).st_mode & 0o200:
                    return True
    return False


def cover(descriptor: int) -> None:
    """Put ``/dev/null`` over the frame pipe: what a copy writes to that number goes nowhere."""
    if descriptor < 0:
        return  # abandoned before: this is a copy of a copy
    try:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, descriptor, inheritable=False)
        os.close(null)
    except OSError:
        pass  # no descriptor is left
