# SPDX-License-Identifier: MIT
"""Mounts, from ``/proc/self/mountinfo`` (proc(5), mount_namespaces(7))."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.kernel.originals import open, os, re

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


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
        # The kernel escapes a newline, but no carriage return, at which text would be split too.
        return parse_mounts(os.fsdecode(file.read()).removesuffix("\n").split("\n"))


def parse_mounts(lines: Iterable[str]) -> tuple[Mount, ...]:
    """The same of lines that were read at another time."""
    return tuple(_parse(line) for line in lines if line)


def _parse(line: str) -> Mount:
    front, _, back = line.rstrip("\n").partition(" - ")
    number, parent, device, root, target, options, *tags = front.split(" ")
    fstype, source, super_options = back.split(" ", 2)
    return Mount(
        id=int(number),
        parent=int(parent),
        device=device,
        root=_plain(root),
        target=_plain(target),
        fstype=_plain(fstype),
        source=_plain(source),
        options=tuple(options.split(",")),
        super_options=tuple(map(_plain, super_options.split(","))),
        propagation=_propagation(tags),
    )


def _propagation(tags: list[str]) -> str:
    kinds = {tag.partition(":")[0] for tag in tags}
    if "unbindable" in kinds:
        return "unbindable"
    found = [word for tag, word in (("shared", "shared"), ("master", "slave")) if tag in kinds]
    return ",".join(found) or "private"


def _plain(text: str) -> str:
    """Without the kernel's escapes; a blank is ``\\040``."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
