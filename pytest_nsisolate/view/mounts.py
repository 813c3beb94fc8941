# SPDX-License-Identifier: MIT
"""Mounts, from ``/proc/self/mountinfo`` (proc(5), mount_namespaces(7))."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount.

    :param id: its number; unique as long as it exists.
    :param parent: the number of the mount that it lies on.
    :param device: ``major:minor`` of the file system.
    :param root: the folder of the file system that is mounted; ``/`` for all of it.
    :param target: where.
    :param fstype: ``tmpfs``, ``proc``, ``ext4``...
    :param source: the device or name that was given.
    :param options: of this mount: ``("rw", "nosuid", "nodev")``.
    :param super_options: of the file system, wherever it is mounted: ``("rw", "size=4k")``.
    :param propagation: ``private``, ``shared``, ``slave``, ``shared,slave`` or ``unbindable``.
    """

    id: int
    parent: int
    device: str
    root: str
    target: str
    fstype: str
    source: str
    options: tuple[str, ...]
    super_options: tuple[str, ...]
    propagation: str

    def has(self, option: str) -> bool:
        """Whether it has an option, of its own or of the file system.

        ``rw`` and ``ro`` are asked of both: it can be written to only if neither says no.
        """
        if option == "rw":
            return "ro" not in self.options and "ro" not in self.super_options
        return option in self.options or option in self.super_options

    def __str__(self) -> str:
        return f"{self.fstype} on {self.target}"


def read_mounts() -> tuple[Mount, ...]:
    """Every mount of this namespace below the root, in the order in which they were made."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mounts(file.read())


def parse_mounts(content: bytes) -> tuple[Mount, ...]:
    """The same of what was read at another time."""
    return tuple(map(_as_mount, proc.mounts(content)))


def _as_mount(found: proc.Mount) -> Mount:
    return Mount(
        id=found.number,
        parent=found.parent,
        device=found.device,
        root=found.root,
        target=found.point,
        fstype=found.fstype,
        source=found.source,
        options=tuple(found.options.split(",")),
        super_options=tuple(map(proc.unescaped, found.super_options.split(","))),
        propagation=_propagation(found.tags),
    )


def _propagation(tags: tuple[str, ...]) -> str:
    kinds = {tag.partition(":")[0] for tag in tags}
    if "unbindable" in kinds:
        return "unbindable"
    found = [word for tag, word in (("shared", "shared"), ("master", "slave")) if tag in kinds]
    return ",".join(found) or "private"
