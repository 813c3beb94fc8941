# SPDX-License-Identifier: MIT
"""The file systems of a private mount namespace: what is fresh, covered, and kept.

Fact: a fresh sysfs hides what was mounted below the old one, cgroups above all, and a mount that
is covered cannot be named any more.
What we do: the new sysfs is first mounted over ``/proc``, for that is always there and nothing
looks at it meanwhile; the mounts are bound into it; then it is moved to ``/sys``. That is one
call for each mount, where a detached clone (open_tree, move_mount, close) would take three.
The directories that users work in are few and may hold anything: those are detached clones,
taken before anything is covered and put back below the cover.

Fact: in a user namespace a file system of processes or of devices is only mounted if one is there
already that is at least as open: no part covered, and writable if the new one is to be
(mount_too_revealing() in the kernel). Ours has parts that are covered, by themselves, read-only.
Consequence: a test that runs ``unshare``, a container, or an isolated test of its own would be
refused there. What we do: where parts are covered ``/proc`` is mounted twice. The first one is
whole, and out of reach: below the old ``/proc``, which the second one covers. Of ``/sys`` a
writable one lies below the old one, which the new one covers: mount(8) of util-linux 2.39 and newer
asks for read-only only after fsmount(2) has compared what it mounts with those that are there.

Fact: every call, and every object made for it, is paid by every test.
What we do: all that can be known or built before the fork is; the child runs a list of calls.

What still fails: where ``/proc`` is protected a test without a PID namespace of its own cannot
mount a new one in a user namespace, for the old one is the only one. ``/run`` itself is shared, so
that the first ``ip netns add`` of a machine that has no ``/run/netns`` yet leaves that directory
behind.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from stat import S_ISDIR

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import covered, devices, proc, syscalls
from pytest_nsisolate.kernel.libc import Prepared, Step, run_all, step_error
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.kernel.readonly import SAFE, may_write_the_hosts, protect_proc, read_only
from pytest_nsisolate.kernel.syscalls import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
)


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What :func:`apply` will do; made in the runner by :func:`plan_mounts`.

    :param own: the kinds of namespace that the child has for itself.
    :param keep: real paths that would be covered and are put back; the outermost only.
    :param covers: real paths that will be covered.
    :param displaced: the current directory lies in what will be covered.
    :param writable: real paths that stay writable where all else becomes read-only.
    :param read_only: makes everything read-only that is not mounted by this plan; None: it stays
        as it is.
    """

    own: frozenset[str]
    keep: tuple[str, ...]
    covers: tuple[str, ...]
    displaced: bool
    writable: tuple[str, ...]
    read_only: Step | None = field(repr=False, compare=False)
    private: Step = field(repr=False, compare=False)
    steps: tuple[Step, ...] = field(repr=False, compare=False)


def plan_mounts(
    *,
    own: frozenset[str],
    in_use: Iterable[str],
    more_devices: tuple[str, ...] | None = None,
    writable: tuple[str, ...] | None = None,
) -> MountPlan:
    """Decide, read and prepare everything for :func:`apply`, in the runner.

    :param own: the kinds of namespace that the child will have for itself.
    :param in_use: absolute paths that must stay reachable: root directory, base temp,
        ``sys.path`` ...
    :param more_devices: what a minimal ``/dev`` has besides, by names below it; None: no minimal
        one, the host's stays.
    :param writable: everything else becomes read-only: real paths, outermost only; None: nothing.
    :raises StepError: ``read mountinfo``, ``look at /proc``.
    """
    covers = covered.covers(own, own_dev=more_devices is not None)
    keep = tuple(covered.to_keep(covers, in_use)) if covers else ()
    with failing("read mountinfo", "mount"):
        mount_points = _mount_points()
    with failing("look at /proc", "mount"):
        steps = _steps(own, mount_points, covers, more_devices, may_write_the_hosts())
    return MountPlan(
        own=own,
        keep=keep,
        covers=covers,
        displaced=covered.holds_current_directory(covers),
        writable=writable or (),
        read_only=None if writable is None else _all_read_only(),
        private=_private(),
        steps=steps,
    )


def apply(plan: MountPlan, note: Callable[[str], object] | None = None) -> None:
    """Make a new mount namespace private and carry out the plan in it.

    Afterwards the current directory may lie in what was covered: change to it by path.

    :param note: is told of each part that is done.
    :raises StepError: naming the call, or ``keep PATH`` for a path that cannot be kept.
    """
    plan.private.run()  # first: the clone of a shared mount is shared, and stays so
    kept = [_detach(path, plan.covers) for path in plan.keep]
    if plan.read_only is not None:
        writable = [_detach(path, ()) for path in plan.writable]
        plan.read_only.run()
        for path, fd in zip(plan.writable, writable, strict=True):
            _put_back(path, fd)
    if note is None:
        run_all(plan.steps)
    else:
        note("make / private")
        for part, steps in groupby(plan.steps, _part):
            run_all(steps)
            note(part)
    for path, fd in zip(plan.keep, kept, strict=True):
        _put_back(path, fd)


def _part(step: Step) -> str:
    """What a step serves, by the name that the doctor has for it."""
    parts = {"proc": "mount proc", "sys": "mount sysfs", "dev": "mount /dev"}
    return next((part for word, part in parts.items() if word in step.name), step.name)


def _detach(path: str, covers: tuple[str, ...]) -> int:
    if path in covers:
        detail = "it is in use and has to be covered"
        raise StepError(f"keep {path}", "ipc", errno.EBUSY, detail)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
    try:
        return syscalls.open_tree(path, flags)
    except OSError as error:
        raise step_error(f"keep {path}", "ipc", error) from error


def _put_back(path: str, fd: int) -> None:
    try:
        if S_ISDIR(os.fstat(fd).st_mode):
            os.makedirs(path, exist_ok=True)
        elif not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        syscalls.move_mount(fd, path)
    except OSError as error:
        raise step_error(f"keep {path}", "ipc", error) from error
    finally:
        os.close(fd)


# What follows runs in the runner.


def _mount_points() -> tuple[str, ...]:
    """The mount points at and below ``/sys`` and those below ``/proc``, each once."""
    with open("/proc/self/mountinfo", "rb") as file:
        found = set(_uncovered(proc.mounts(file.read())))
    return tuple(sorted(point for point in found if point.startswith(("/sys", "/proc/"))))


def _uncovered(mounts: Iterable[proc.Mount]) -> Iterator[str]:
    """Points of mounts that a path can reach, of those at and below ``/``, ``/proc`` and ``/sys``.

    A later mount further up hides them: ``unshare --mount-proc`` leaves everything listed that was
    mounted below the old ``/proc``. Such a cover is mounted on the same parent, at a point above.
    """
    seen = [
        mount
        for mount in mounts
        if mount.point == "/" or f"{mount.point}/".startswith(("/sys/", "/proc/"))
    ]
    hidden: set[int] = set()
    beside: dict[int, list[str]] = {}
    for mount in seen:
        beside.setdefault(mount.parent, []).append(mount.point)
    for mount in seen:  # parents come before what is mounted on them
        covers = (cover for cover in beside[mount.parent] if cover != mount.point)
        if mount.parent in hidden or any(_is_below(mount.point, cover) for cover in covers):
            hidden.add(mount.number)
        else:
            yield mount.point


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


@functools.cache
def _private() -> Step:
    # Without MS_REC a mount made below another mount point still reaches the host.
    call = syscalls.prepare_mount(None, "/", None, MS_REC | MS_PRIVATE)
    return Step("make / private", "mount", call)


def _all_read_only() -> Step:
    if not syscalls.supports_mount_setattr():
        # A remount would have to repeat the flags of every single mount.
        raise StepError("make / read-only", "mount", errno.ENOSYS)
    call = syscalls.prepare_mount_setattr("/", syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    return Step("make / read-only", "mount", call)


@functools.lru_cache(maxsize=16)
def _steps(
    own: frozenset[str],
    mount_points: tuple[str, ...],
    covers: tuple[str, ...],
    more_devices: tuple[str, ...] | None,
    protect: bool,
) -> tuple[Step, ...]:
    # What does not exist is itself covered, or hidden from this user.
    visible = [point for point in mount_points if os.path.exists(point)]
    below_sys = tuple(point for point in visible if point.startswith("/sys/"))
    below_proc = tuple(point for point in visible if point.startswith("/proc/"))
    steps: list[Step] = []
    if more_devices is not None and covered.DEV in covers:
        steps += devices.plan_devices(more=more_devices, own_ipc="ipc" in own)
        covers = tuple(cover for cover in covers if not devices.provides(cover))
    if "net" in own:
        steps += _fresh_sys(below_sys)
    if "net" in own or "/sys" in mount_points:
        steps += read_only("/sys", below_sys)
    if "pid" in own:
        steps += _fresh_proc(whole_below=protect)
        below_proc = ()
    if protect:
        steps += protect_proc(own, below_proc)
    for cover in covers:
        steps.append(_cover(cover))
    return tuple(steps)


def _new(fstype: str, target: str, flags: int, data: str | None = None) -> Prepared:
    return syscalls.prepare_mount(fstype, target, fstype, flags, data)


def _fresh_proc(*, whole_below: bool) -> Iterator[Step]:
    for place in ("/proc/sys", "/proc") if whole_below else ("/proc",):
        yield Step("mount proc", "pid", _new("proc", place, SAFE))


@dataclass(frozen=True, slots=True)
class _OrElse:
    """A mount that needs one as open in a user namespace, and what to do without."""

    call: Prepared
    instead: Callable[[], int]

    def __call__(self) -> int:
        try:
            return self.call()
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return self.instead()


def _nothing() -> int:
    return 0


def _fresh_sys(below: tuple[str, ...]) -> Iterator[Step]:
    writable = _new("sysfs", "/proc", SAFE)
    # One superblock for all in this network namespace: read-only for all, if the first one is.
    call = _OrElse(writable, _new("sysfs", "/proc", SAFE | MS_RDONLY))
    yield Step("mount sysfs", "net", call)
    points = tuple(covered.outermost(below))
    for point in points:
        target = f"/proc{point.removeprefix('/sys')}"
        bind = syscalls.prepare_mount(point, target, None, MS_BIND | MS_REC)
        yield Step(f"keep {point}", "net", bind)
    # Where its path leads to a mount from above too: there are programs that look.
    hidden = points[0] if points else "/sys/kernel"
    if os.path.isdir(hidden):
        yield Step("mount sysfs", "net", _OrElse(_new("sysfs", hidden, SAFE), _nothing))
    yield Step("move sysfs", "net", syscalls.prepare_mount("/proc", "/sys", None, MS_MOVE))


def _cover(path: str) -> Step:
    name = os.path.basename(path)
    if name == "mqueue":
        return Step(f"mount {path}", "ipc", _new("mqueue", path, SAFE))
    namespace, mode = ("net", "0755") if name == "netns" else ("ipc", "1777")
    call = _new("tmpfs", path, MS_NOSUID | MS_NODEV, f"mode={mode}")
    return Step(f"mount {path}", namespace, call)
