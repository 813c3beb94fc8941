# SPDX-License-Identifier: MIT
"""The eight kinds of namespace: enter one, tell which one this is, set its clock and its name.

Fact: one ``unshare`` with several flags says that something was refused, not what; one call for
each kind costs the same (namespaces(7)).
What we do: one call for each, so that a refusal names its kind.
Fact: network namespaces are dismantled asynchronously, so a low ``max_net_namespaces`` gives
ENOSPC for up to 71 ms after the last one ended.
What we do: try again for 250 ms, unless the limit is 0. Where the limit of an outer user
namespace is 0, which cannot be read from here, the 250 ms are lost.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Container
from typing import Final

from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.clock import monotonic as now
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import open, os, socket, time

NAMESPACES: Final = ("user", "pid", "mount", "net", "uts", "ipc", "cgroup", "time")

FLAGS: Final[dict[str, int]] = {
    "user": syscalls.CLONE_NEWUSER,
    "pid": syscalls.CLONE_NEWPID,
    "mount": syscalls.CLONE_NEWNS,
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}

# The name of each in /proc/PID/ns.
PROC_NAMES: Final[dict[str, str]] = {name: name for name in NAMESPACES} | {"mount": "mnt"}

#: What the step is called by which a process enters a new one.
STEPS: Final = {
    name: f"unshare(CLONE_NEW{'NS' if name == 'mount' else name.upper()})" for name in NAMESPACES
}
_NS_PATHS: Final = {name: f"/proc/self/ns/{PROC_NAMES[name]}" for name in NAMESPACES}
_PATIENCE: Final = 0.25  # seconds
_LONGEST_PAUSE: Final = 0.02
_NANOSECONDS: Final = 10**9


@functools.cache
def flags_at_birth(kinds: frozenset[str]) -> int:
    """``CLONE_NEW*`` of those that a process can be born into (clone(2)): all but ``time``."""
    return sum(FLAGS[name] for name in kinds - {"time"})


def enter(namespace: str) -> None:
    """Leave the namespace of this kind for a new one (unshare(2)).

    ``pid`` and ``time`` take effect in the next child that is forked.

    :param namespace: one of :data:`NAMESPACES`.
    :raises StepError: ``unshare(CLONE_NEW…)``, with the errno of the last try.
    """
    try:
        syscalls.unshare(FLAGS[namespace])
    except OSError as error:
        if namespace == "net" and error.errno == errno.ENOSPC and _enter_late():
            return
        raise step_error(STEPS[namespace], namespace, error) from error


def _enter_late() -> bool:
    """Try again for a while; False if it is ENOSPC to the end."""
    deadline = now() + _PATIENCE
    pause = 0.001
    while _net_limit() != 0 and now() + pause < deadline:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise step_error(STEPS["net"], "net", error) from error
        else:
            return True
    return False


def _net_limit() -> int | None:
    try:
        with open("/proc/sys/user/max_net_namespaces", "rb") as file:
            return int(file.read())
    except OSError:
        return None


def join(pidfd: int, names: Container[str]) -> None:
    """Move into namespaces of another process (setns(2), with a pidfd: Linux 5.8).

    ``pid`` takes effect in the next child that is forked. All at once, the user namespace first;
    if that is refused, one after the other, so that the refusal names its kind.

    :raises StepError: ``setns(CLONE_NEW…)``; ESRCH if that process is gone.
    """
    wanted = [name for name in NAMESPACES if name in names]
    try:
        syscalls.setns(pidfd, sum(FLAGS[name] for name in wanted))
    except OSError:
        for name in wanted:
            try:
                syscalls.setns(pidfd, FLAGS[name])
            except OSError as error:
                step = STEPS[name].replace("unshare", "setns")
                raise step_error(step, name, error) from error


def identities(pid: int | None = None) -> dict[str, int]:
    """The inode number of each namespace this process, or another one, is in (namespaces(7)).

    Two processes share a namespace exactly if the numbers are equal. A kind that the kernel does
    not have is left out.

    :raises OSError: EACCES when the other process may not be looked at.
    """
    found = {}
    for name, own in _NS_PATHS.items():
        path = own if pid is None else f"/proc/{pid}/ns/{PROC_NAMES[name]}"
        try:
            link = os.readlink(path)  # "net:[4026531840]"; stat would make an inode of it
        except FileNotFoundError:
            continue
        found[name] = int(link[link.index("[") + 1 : -1])
    return found


def write_time_offsets(monotonic: float, boottime: float) -> None:
    """Move the clocks of the time namespace just created (time_namespaces(7)).

    To be called after ``enter("time")`` and before the first fork: later it is EACCES.

    :param monotonic: seconds added to CLOCK_MONOTONIC, also for its COARSE and RAW variants.
    :param boottime: seconds added to CLOCK_BOOTTIME.
    :raises StepError: ``write timens_offsets``; ERANGE if a clock would show less than zero.
    """
    lines = []
    for clock, offset in (("monotonic", monotonic), ("boottime", boottime)):
        seconds, nanoseconds = divmod(round(offset * _NANOSECONDS), _NANOSECONDS)
        lines.append(f"{clock} {seconds} {nanoseconds}\n")
    try:
        fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, "".join(lines).encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise step_error("write timens_offsets", "time", error) from error


def set_hostname(name: str) -> None:
    """Set the host name of the UTS namespace this process is in (sethostname(2)).

    :raises StepError: ``sethostname``; EINVAL for more than 64 bytes.
    """
    try:
        socket.sethostname(name)
    except OSError as error:
        raise step_error("sethostname", "uts", error) from error
