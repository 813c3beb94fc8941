# SPDX-License-Identifier: MIT
"""A folder as the root of everything that a child sees.

Fact: a process that may call chroot(2) again can leave its root by it. pivot_root(2) exchanges the
root mount itself; when the old one is unmounted only an open descriptor or the current directory
leads back. With both stacked on one point the old one needs no folder (pivot_root(2), "."), so
nothing is made in the new root.
What we do: the folder is bound onto itself, because only a mount can be a root, and the child's
``/proc`` and ``/sys``, which are fresh and protected by now, are bound into it. Its ``/dev`` is a
minimal one, so that a folder that holds a few programs is enough. All of that is in the child's own
mount namespace, on folders that exist: outside nothing changes.

Fact: in a user namespace a new ``/proc`` can only be mounted where one is in sight that is whole
(see :mod:`pytest_nsisolate.kernel.mounts`), and that one goes with the old root.
What we do: a whole one is mounted below the first bind, and the second bind covers both.

What still fails: where ``/`` is the initial ramdisk there is no other mount below it, and
pivot_root is EINVAL. What the command writes elsewhere in the folder stays there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from stat import S_ISDIR
from typing import Final

from pytest_nsisolate.kernel import devices, syscalls
from pytest_nsisolate.kernel.libc import Step, run_all, step_error
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.readonly import SAFE
from pytest_nsisolate.kernel.syscalls import MNT_DETACH, MS_BIND, MS_REC

#: On these something is mounted.
_NEEDED: Final = ("proc", "dev")


@dataclass(frozen=True, slots=True)
class RootPlan:
    """What makes a folder the root; made in the runner by :func:`plan_root`.

    :param path: the folder, absolute and real.
    """

    path: str
    steps: tuple[Step, ...] = field(repr=False, compare=False)
    exchange: tuple[Step, ...] = field(repr=False, compare=False)

    def enter(self) -> None:
        """In the child, when the rest of its mounts are made; it stands in the new ``/`` then.

        :raises StepError: naming the call and the path.
        """
        run_all(self.steps)
        _change_directory(self.path)
        run_all(self.exchange)
        _change_directory("/")

    @property
    def mounts(self) -> object:
        """Itself."""
        return self

    def launched(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""

    def release(self) -> None:
        """Nothing is held."""

    def descriptors(self) -> tuple[int, ...]:
        """None."""
        return ()

    def written(self) -> None:
        """It is in the folder."""


def problem(path: str) -> tuple[str, str] | None:
    """Why this folder cannot be a root, and what to do about it; None if it can.

    :param path: absolute and real.
    """
    if not os.path.isdir(path):
        return f"{path} is no directory", "name the folder that will be the root"
    if path == "/":
        return "/ is the root already", "leave --root out"
    missing = [name for name in _NEEDED if not _is_folder(f"{path}/{name}")]
    if missing:
        folders = " ".join(f"{path}/{name}" for name in missing)
        return f"{folders}: no such directory to mount on", f"mkdir {folders}"
    return None


def _is_folder(path: str) -> bool:
    """A link would lead out of the new root."""
    try:
        return S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def plan_root(path: str, *, own: frozenset[str], more_devices: tuple[str, ...] = ()) -> RootPlan:
    """The calls that make a folder the root, worked out in the runner.

    :param path: absolute and real, with nothing that :func:`problem` finds.
    :param own: the kinds of namespace that the child will have for itself.
    :param more_devices: what its ``/dev`` has besides, by names below the host's.
    """
    steps = [_bind(path, path)]
    if "pid" in own:
        steps += _whole_proc(path)
    steps.append(_bind("/proc", f"{path}/proc"))
    if _is_folder(f"{path}/sys"):
        steps.append(_bind("/sys", f"{path}/sys"))
    steps += devices.plan_devices(f"{path}/dev", more=more_devices, own_ipc="ipc" in own)
    exchange = (
        Step(f"pivot_root {path}", "mount", syscalls.prepare_pivot_root(".", ".")),
        Step("unmount the old root", "mount", syscalls.prepare_umount2(".", MNT_DETACH)),
    )
    return RootPlan(path, tuple(steps), exchange)


def _whole_proc(path: str) -> Iterator[Step]:
    """One that no path reaches; with it a user namespace below may mount another."""
    place = f"{path}/proc"
    yield Step("bind /proc", "pid", syscalls.prepare_mount("/proc", place, None, MS_BIND))
    yield Step("mount proc", "pid", syscalls.prepare_mount("proc", f"{place}/sys", "proc", SAFE))


def _bind(source: str, target: str) -> Step:
    # With all that is mounted below: in a user namespace it must not be uncovered (EINVAL).
    call = syscalls.prepare_mount(source, target, None, MS_BIND | MS_REC)
    return Step(f"bind {source}", "mount", call)


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise step_error(f"enter {path}", "mount", error) from error
