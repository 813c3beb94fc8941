# SPDX-License-Identifier: MIT
"""What one test asks for, as data; every process that this package starts follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.request import files, grants, reach
from pytest_nsisolate.request.limits import Limits
from pytest_nsisolate.request.wording import suggestion

#: How a request wants its user namespace; ``"none"`` is without one.
UserMode: TypeAlias = Literal["map", "range", "same", "none"]

#: ``1`` in the environment: a refused namespace fails the test, whatever the options say.
MUST_WORK: Final = "NSISOLATE_MUST_WORK"


@dataclass(frozen=True, slots=True)
class TimeOffsets:
    """Seconds by which the clocks of a time namespace run ahead, time_namespaces(7)."""

    monotonic: float = 0.0
    boottime: float = 0.0


#: What tests can share a world by, besides a name, from the narrowest on.
SCOPES: Final = ("class", "module", "package", "session")

#: Fixtures that are set up in the world that tests share, whatever ``inside`` says.
OF_WORLDS: Final = frozenset({"module_testbed"})

#: Namespaces that need a mount namespace, for /proc, /sys and /dev/shm.
NEED_MOUNT = ("pid", "net", "ipc")


@dataclass(frozen=True, slots=True)
class IsolationRequest:
    """What one test asked for, complete: nothing that it implies is left unsaid.

    :param namespaces: every namespace that will be fresh, ``user`` and ``time`` included.
    :param user: ``"map"`` for the marker's True, ``"range"``, ``"same"``, or ``"none"`` for False.
    :param named: the part of ``namespaces`` that a marker names, as opposed to implied ones
        and those of the default set.
    :param time: offsets of the time namespace, None without one.
    :param hostname: the UTS name, None for a copy of the host's.
    :param addresses: those that ``lo`` has besides its own, with their lengths.
    :param timeout: budget of one attempt in seconds, None for no limit.
    :param inside: higher-scope fixtures to set up in the child; True for all of them.
    :param leftovers: what becomes of processes that the test leaves behind.
    :param init: an init is PID 1 and the test its child.
    :param missing: what becomes of the test where the host refuses it; not a skip where
        ``NSISOLATE_MUST_WORK=1`` is set.
    :param limits: of memory, processor time, processes and files; None for none.
    :param devices: what the minimal ``/dev`` of a private mount namespace has besides, by names
        below it; without meaning with the host's powers.
    :param caps: the capabilities that are kept, by their full names; None for all.
    :param no_new_privs: no program gains rights by its file.
    :param root: ``"overlay"``, ``"readonly"``, or the absolute path of a folder, an archive or
        an image; None for the host's own files.
    :param writable: paths that stay the host's, whatever the root is.
    :param files: paths with contents of the test's own; a Path has the content, and is absolute.
    :param hide: paths that are not there.
    :param root_size: what may be written to a root of its own, as tmpfs(5) takes it; None for half
        of the memory.
    :param exclusive: names that no two tests at work at the same time have in common; ``"*"``: it
        runs alone.
    :param reach: addresses of the runner's host that the test reaches at the same address.
    :param tty: rows and columns of a controlling terminal of the test's own.
    :param share: the tests that live in one world: those of a ``"class"``, ``"module"``,
        ``"package"``, of the ``"session"``, or those that say the same name; None: it has its own.
    :param guarded: the host refuses the user namespace, which was not given up by ``user=False``.
    """

    namespaces: frozenset[str]
    user: UserMode = "map"
    named: frozenset[str] = frozenset()
    time: TimeOffsets | None = None
    hostname: str | None = None
    timeout: float | None = None
    inside: frozenset[str] | Literal[True] = frozenset()
    leftovers: Literal["ignore", "warn", "fail"] = "ignore"
    init: bool = False
    missing: Literal["fail", "skip"] = "fail"
    limits: Limits | None = None
    devices: tuple[str, ...] = ()
    caps: frozenset[str] | None = None
    no_new_privs: bool = False
    addresses: tuple[str, ...] = ()
    root: str | None = None
    writable: tuple[str, ...] = ()
    files: tuple[tuple[str, bytes | Path], ...] = ()
    hide: tuple[str, ...] = ()
    root_size: str | None = None
    reach: tuple[str, ...] = ()
    tty: tuple[int, int] | None = None
    guarded: bool = False
    exclusive: frozenset[str] = frozenset()
    share: str | None = None

    def excludes(self, other: IsolationRequest) -> bool:
        """Whether two tests may not run at the same time."""
        mine, theirs = self.exclusive, other.exclusive
        return "*" in mine or "*" in theirs or not mine.isdisjoint(theirs)

    @property
    def may_be_skipped(self) -> bool:
        """Whether a refusal skips the test, unless the environment forbids that."""
        return self.missing == "skip" and os.environ.get(MUST_WORK) != "1"

    @property
    def has_host_powers(self) -> bool:
        """By ``user=False``: the host's root, its ``/dev`` and its keys."""
        return self.user == "none" and not self.guarded

    @property
    def has_own_files(self) -> bool:
        """Some of its files are not the host's, which takes a mount namespace."""
        return bool(self.root or self.files or self.hide)

    @property
    def has_foreign_root(self) -> bool:
        """Its root is a folder or an image, and the host's files are not there."""
        return self.root is not None and self.root.startswith("/")

    def replace(self, **changes: Any) -> IsolationRequest:
        """A changed copy, with the namespaces that the change implies.

        ``user`` and ``time`` decide about their namespaces: ``replace(user="none")`` drops
        ``"user"``, ``replace(time=TimeOffsets(60))`` adds ``"time"``.

        :raises TypeError: on an unknown field.
        :raises ValueError: on an unknown namespace, capability or root, or what is no device or
            path.
        """
        if "namespaces" in changes and "time" not in changes:
            kept = self.time or TimeOffsets()
            changes["time"] = kept if "time" in changes["namespaces"] else None
        changed = replace(self, **changes)
        for name in changed.namespaces:
            if name not in NAMESPACES:
                raise ValueError(f"unknown namespace {name!r}, {suggestion(name, NAMESPACES)}")
        wanted = complete(changed.namespaces, changed.user, changed.time, changed.hostname)
        if "caps" in changes and changed.caps is not None:
            changed = replace(changed, caps=grants.check_caps(changed.caps))
        if "devices" in changes:
            changed = replace(changed, devices=grants.check_devices(changed.devices))
        for name in _CHECKED.keys() & changes.keys():
            value = getattr(changed, name)
            if value is not None:
                value = _CHECKED[name](dict(value) if name == "files" else value)
                if name == "root":
                    value = files.root_from(cast("str | None", value), os.getcwd())
            changed = replace(changed, **{name: value})
        if changed.devices or changed.tty or changed.has_own_files:
            wanted |= {"mount"}
        named = changed.named & wanted
        return replace(changed, namespaces=wanted, named=named)

    def without_user_namespace(self) -> IsolationRequest:
        """A copy for a host that refuses user namespaces, without the host's powers."""
        return self.replace(user="none", guarded=True)


_CHECKED: Final[dict[str, Callable[[Any], object]]] = {
    "root": files.check_root,
    "writable": files.check_writable,
    "files": files.check_files,
    "hide": files.check_hide,
    "root_size": files.check_size,
    "reach": reach.check,
    "tty": grants.check_tty,
}


def complete(
    namespaces: Iterable[str], user: str, time: TimeOffsets | None, hostname: str | None
) -> frozenset[str]:
    """The namespaces and what they imply; user, time and hostname decide about theirs."""
    complete = set(namespaces) - {"user", "time"}
    if not complete.isdisjoint(NEED_MOUNT):
        complete.add("mount")
    if hostname is not None:
        complete.add("uts")
    if time is not None:
        complete.add("time")
    if user != "none":
        complete.add("user")
    return frozenset(complete)
