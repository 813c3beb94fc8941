# SPDX-License-Identifier: MIT
"""What one process is to the others: who it dies with, what it may do, whether it is alone.

Fact: PR_SET_PDEATHSIG fires when the parent dies after the call, not before.
Consequence: a parent killed in between leaves the child alive for ever.
What we do: arm it, then ask the parent's pidfd whether the parent is still there; the number of
the parent would not do, for it is 0 inside a PID namespace (prctl(2), pidfd_open(2)).
What still fails: a change of credentials clears it, so the supervisor watches as well.
Fact: python-prctl takes 10 ms to import. What we do: in the runner, once, and only here.
"""

from __future__ import annotations

import errno
import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import proc, syscalls
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import open, os, resource, select, signal

# fmt: off
# In the order of their bits (linux/capability.h); capabilities(7).
CAPABILITY_NAMES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
    "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
# fmt: on


_LAST_DESCRIPTOR: Final = (1 << 32) - 1
#: Each of them costs a call where there is no close_range(2).
_MANY_DESCRIPTORS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The sets of one process as bit masks; they count against its own user namespace."""

    effective: int
    permitted: int
    inheritable: int
    bounding: int


def preload() -> None:
    """Import python-prctl and read what a child needs to know, in the runner.

    :raises StepError: ``import prctl``.
    """
    try:
        _prctl()
    except ImportError as error:
        raise StepError("import prctl", None, errno.ENOENT, str(error)) from error
    _every_capability()
    _core_limit()
    _every_signal()


@functools.cache
def _prctl() -> Any:
    import prctl

    # What it has now: a suite may stand in for its functions.
    return SimpleNamespace(**vars(prctl))


def die_with_parent(parent_pidfd: int) -> None:
    """Be killed by SIGKILL as soon as the parent, or its thread that forked, is gone.

    :param parent_pidfd: of the parent, opened before the fork.
    :raises StepError: ``parent-death check`` with ESRCH if the parent is gone already;
        ``prctl(PR_SET_PDEATHSIG)``.
    """
    try:
        _prctl().set_pdeathsig(signal.SIGKILL)
    except OSError as error:
        raise step_error("prctl(PR_SET_PDEATHSIG)", None, error) from error
    poller = select.poll()
    poller.register(parent_pidfd, select.POLLIN)
    try:
        gone = poller.poll(0)
    except OSError as error:
        raise step_error("parent-death check", None, error) from error
    if gone:
        raise StepError("parent-death check", None, errno.ESRCH)


def block_signals() -> frozenset[int]:
    """Block all that can be blocked (pthread_sigmask(3)).

    :returns: what was blocked before, for :func:`restore_signals`.
    """
    return frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, _every_signal()))


def restore_signals(mask: frozenset[int]) -> None:
    """Back to the mask that :func:`block_signals` found."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@functools.cache
def _every_signal() -> frozenset[int]:
    return frozenset(signal.valid_signals())


def forbid_core_files(*, for_good: bool) -> None:
    """Leave no core file, and start no helper of ``core_pattern`` on the host.

    The limit is one byte and not zero: with zero a helper still gets the dump (core(5)).

    :param for_good: lower the hard limit as well; to raise it again takes CAP_SYS_RESOURCE
        against the first user namespace (setrlimit(2)).
    :raises StepError: ``setrlimit(RLIMIT_CORE)``.
    """
    soft, hard = _core_limit()
    try:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (soft, soft if for_good else hard))
        except ValueError:
            # A fixture of the runner's has lowered the hard limit meanwhile.
            _, hard = resource.getrlimit(resource.RLIMIT_CORE)
            soft = _one_byte_of(hard)
            resource.setrlimit(resource.RLIMIT_CORE, (soft, soft if for_good else hard))
    except OSError as error:
        raise step_error("setrlimit(RLIMIT_CORE)", None, error) from error


@functools.cache
def _core_limit() -> tuple[int, int]:
    """The limits: soft as it will be, and hard as it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return _one_byte_of(hard), hard


def _one_byte_of(hard: int) -> int:
    # RLIM_INFINITY is -1.
    return 1 if hard < 0 else min(1, hard)


def close_all_but(*kept: int) -> None:
    """Close every descriptor but these and the standard streams (close_range(2))."""
    first = 3
    for fd in sorted(fd for fd in kept if fd >= 3):
        if fd > first:
            _close_range(first, fd - 1)
        first = fd + 1
    _close_range(first, _LAST_DESCRIPTOR)


def _close_range(first: int, last: int) -> None:
    try:
        syscalls.close_range(first, last)
    except OSError:  # before Linux 5.9
        os.closerange(first, min(last, _MANY_DESCRIPTORS) + 1)


def become_subreaper() -> None:
    """Inherit every orphan among the descendants (PR_SET_CHILD_SUBREAPER).

    :raises StepError: ``prctl(PR_SET_CHILD_SUBREAPER)``.
    """
    try:
        _prctl().set_child_subreaper(1)
    except OSError as error:
        raise step_error("prctl(PR_SET_CHILD_SUBREAPER)", None, error) from error


def capabilities() -> Capabilities:
    """What this thread may do (``/proc/self/status``, proc(5)).

    :raises StepError: ``read capabilities``, without a ``/proc``.
    """
    with failing("read capabilities", None), open("/proc/thread-self/status", "rb") as file:
        fields = proc.status(file.read())
    return Capabilities(
        *(int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd"))
    )


def forbid_new_privileges() -> None:
    """No program run from here on gains a right by its file: set-uid, capabilities (prctl(2)).

    :raises StepError: ``prctl(PR_SET_NO_NEW_PRIVS)``.
    """
    try:
        _prctl().set_no_new_privs(1)
    except OSError as error:
        raise step_error("prctl(PR_SET_NO_NEW_PRIVS)", None, error) from error


def limit_capabilities(mask: int, bounding: int | None = None) -> None:
    """Give up, for good, every capability that is not in ``mask`` (capset(2)).

    The ambient set follows by itself. The bounding set has to be limited too where the user id
    is 0: a program run by that id gets all that is in it.

    :param mask: bit masks as in :class:`Capabilities`; bits not held are not gained.
    :param bounding: what may stay in the bounding set; None: leave it.
    :raises StepError: ``drop capabilities``; EPERM without CAP_SETPCAP for the bounding set.
    """
    try:
        if bounding is not None:
            _limit_bounding(bounding)
        effective, permitted, inheritable = syscalls.capget()
        syscalls.capset(effective & mask, permitted & mask, inheritable & mask)
    except OSError as error:
        raise step_error("drop capabilities", "user", error) from error


def _limit_bounding(mask: int) -> None:
    # What is in the set now need not be read: to drop what is not in it does no harm. Where the
    # mask has everything, as on most hosts, that is no call at all.
    excess = _every_capability() & ~mask
    for bit in range(excess.bit_length()):
        if excess >> bit & 1:
            _prctl().capbset_drop(bit)


@functools.cache
def _every_capability() -> int:
    """The mask of those that this kernel knows; it may know more than we have names for."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            last = int(file.read())
    except OSError:  # no /proc: that is refused later, with a better reason
        last = len(CAPABILITY_NAMES) - 1
    return (2 << last) - 1


def alone() -> bool:
    """Is there no other process, zombies included, in this PID namespace (kill(2))?

    Of any meaning only to PID 1 of a namespace of its own: elsewhere the host's processes count.
    """
    try:
        os.kill(-1, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # EPERM: there is another one; any other errno: a filter, so it is unknown
    return False
