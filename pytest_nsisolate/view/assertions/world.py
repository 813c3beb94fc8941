# SPDX-License-Identifier: MIT
"""Assertions on mounts, and on what was left behind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.view.assertions import waiting
from pytest_nsisolate.view.assertions.failures import bound, failure, number_of
from pytest_nsisolate.view.mounts import Mount
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.view.snapshot import Difference, Snapshot

Target: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


class WorldAssertions(Readings):
    """Assertions on mounts and leaks."""

    __slots__ = ()

    def assert_mounted(
        self,
        target: Target,
        *,
        fstype: str | None = None,
        source: str | None = None,
        options: Iterable[str] = (),
        propagation: str | None = None,
        within: float = 0,
    ) -> Mount:
        """Something is mounted there, like that; what is left out does not matter.

        Of several at one place the last one counts, because it lies on top.

        :param target: where; links are followed.
        :param options: each of these (``"ro"``, ``"nosuid"``, ``"size=4k"``), of the mount or of
            its file system.
        :param propagation: as in :class:`~pytest_nsisolate.view.Mount`.
        :param within: seconds to wait for it.
        :returns: the mount.
        """
        __tracebackhide__ = True
        listed = (options,) if isinstance(options, str) else tuple(options)
        wanted = {"fstype": fstype, "source": source, "propagation": propagation}
        path = ""
        mounts: tuple[Mount, ...] = ()
        there: list[Mount] = []

        def look() -> bool:
            nonlocal path, mounts
            path, mounts = _real(target), self.mounts
            there[:] = [mount for mount in mounts if mount.target == path][-1:]
            return bool(there) and not _otherwise(there[0], wanted, listed)

        if waiting.until(look, within):
            return there[0]
        wishes = [f"{key} {value}" for key, value in wanted.items() if value is not None]
        wishes += [f"option {option}" for option in listed]
        near = there or [_holder(mounts, path)]
        raise failure(
            f"the mount on {path} is not as expected" if there else f"nothing is mounted on {path}",
            expected=f"a mount on {path}"
            + (f" with {', '.join(wishes)}" if wishes else "")
            + bound(within),
            seen="; ".join(_otherwise(there[0], wanted, listed))
            if there
            else f"it lies on {near[0].target}",
            rows=near,
        )

    def assert_not_mounted(self, target: Target) -> None:
        """Nothing is mounted there.

        :param target: as for :meth:`assert_mounted`.
        """
        __tracebackhide__ = True
        path = _real(target)
        there = [mount for mount in self.mounts if mount.target == path]
        if there:
            raise failure(
                f"something is mounted on {path}",
                expected="nothing",
                seen=number_of(there, "mount"),
                rows=there,
            )

    def assert_no_leak(self, since: Snapshot, *, within: float = 0) -> None:
        """Nothing that has appeared since a snapshot is still there.

        Zombies, multiprocessing's own processes and sockets that no process holds any more (in
        ``time_wait``) are no leaks. Nor is anything that is gone or has changed.

        :param since: what ``pid1.snapshot()`` gave.
        :param within: seconds to wait for what is about to go.
        """
        __tracebackhide__ = True
        last: list[Snapshot] = []

        def clean() -> bool:
            last[:] = [_leaked(self.snapshot() - since)]
            return not last[0]

        if waiting.until(clean, within):
            return
        raise failure(
            "something was left behind",
            expected="nothing that was not there at the snapshot" + bound(within),
            seen="this is new",
            text=str(last[0]),
        )


def _real(target: Target) -> str:
    """A place as the kernel writes it: without a slash at the end, and without links."""
    return os.path.realpath(os.fsdecode(target))


def _leaked(difference: Difference) -> Snapshot:
    new = difference.appeared
    return Snapshot(
        processes=tuple(p for p in new.processes if not p.is_zombie and not p.is_infrastructure),
        sockets=tuple(s for s in new.sockets if s.pids),
        mounts=new.mounts,
        interfaces=new.interfaces,
        routes=new.routes,
        ipc=new.ipc,
    )


def _otherwise(mount: Mount, wanted: dict[str, str | None], options: tuple[str, ...]) -> list[str]:
    """The fields in which it differs."""
    found = [
        f"its {name} is {getattr(mount, name)}"
        for name, value in wanted.items()
        if value not in (None, getattr(mount, name))
    ]
    missing = [option for option in options if not mount.has(option)]
    if missing:
        its = [*mount.options, *(o for o in mount.super_options if o not in mount.options)]
        found.append(f"it has no option {', '.join(missing)} among {','.join(its)}")
    return found


def _holder(mounts: tuple[Mount, ...], path: str) -> Mount:
    """The mount that a path lies on."""
    return max(
        # Of several at one place the last one lies on top, and max() takes the first of equals.
        (m for m in reversed(mounts) if f"{path}/".startswith(f"{m.target.rstrip('/')}/")),
        key=lambda mount: len(mount.target),
        default=mounts[0],
    )
