# SPDX-License-Identifier: MIT
"""From a request to the plan of one launch, and what is kept for the plans that follow.

A launcher has one planner, from its first launch on. Ids, capabilities, mounts and the roots of
children are read once, and again when they have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from pytest_nsisolate.kernel import idmap, process
from pytest_nsisolate.process.plan import (
    LaunchPlan,
    MountPlans,
    current_directory,
    kept_capabilities,
    own_maps,
)

if TYPE_CHECKING:
    from pytest_nsisolate.kernel.mounts import MountPlan
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.process.place import Place
    from pytest_nsisolate.process.plan import InUse, OwnRoot
    from pytest_nsisolate.process.root import Roots
    from pytest_nsisolate.request.model import IsolationRequest


class Planner:
    """Makes the plans of one launcher.

    :param in_use: paths that must stay reachable in every child.
    """

    def __init__(self, launcher: Launcher, in_use: InUse) -> None:
        self._launcher = launcher
        self._in_use = in_use
        self._mount_plans: MountPlans | None = None
        self._roots: Roots | None = None

    def plan(
        self, request: IsolationRequest, join: Place | None, cwd: str | None, *, looks: bool
    ) -> LaunchPlan:
        """For the parameters, see :meth:`~pytest_nsisolate.process.launcher.Launcher.preparing`.

        :raises StepError: for what this host does not have, or has in use.
        """
        if join is not None:
            return self._joining(request, join)
        host = self._launcher.host
        wanted, maps, world = request.namespaces, None, None
        if "user" in wanted:
            maps = self._maps(request)
        if "mount" in wanted:
            # A root that is not the host's has a minimal /dev in any case.
            minimal = request.has_foreign_root or not request.has_host_powers
            world = self._mounts(request, request.devices if minimal else None)
        return LaunchPlan(
            namespaces=wanted,
            maps=maps,
            maps_by_runner=maps is not None and (host.privileged or maps.writer is not None),
            mounts=world,
            time=request.time,
            hostname=request.hostname,
            keep_capabilities=self._kept_capabilities(request),
            no_new_privs=request.no_new_privs,
            sheltered=not request.has_host_powers,
            add_addresses=_loopback(request.addresses),
            init=request.init,
            cwd=current_directory() if cwd is None else cwd,
            # Last: what fails after it would have to give it back.
            root=None if world is None else self._own_root(request, world, looks=looks),
        )

    def _joining(self, request: IsolationRequest, place: Place) -> LaunchPlan:
        """Everything is there already but the process itself."""
        bounding = place.bounding
        return LaunchPlan(
            namespaces=request.namespaces,
            maps=None,
            maps_by_runner=False,
            mounts=None,
            time=None,
            hostname=None,
            keep_capabilities=(
                self._kept_capabilities(request) if bounding is None else (bounding, bounding)
            ),
            no_new_privs=request.no_new_privs,
            sheltered=not request.has_host_powers,
            init=False,
            cwd=current_directory(),
            join=place,
        )

    def _kept_capabilities(self, request: IsolationRequest) -> tuple[int, int | None] | None:
        return kept_capabilities(request, self._launcher.host, self._capabilities)

    def _mounts(self, request: IsolationRequest, devices: tuple[str, ...] | None) -> MountPlan:
        writable = None
        if request.root == "readonly":
            from pytest_nsisolate.process.root import stays

            writable = stays(request, self._in_use)
        if self._mount_plans is None:
            self._mount_plans = MountPlans(self._in_use)
        return self._mount_plans.plan(request.namespaces, devices, writable)

    def _own_root(
        self, request: IsolationRequest, world: MountPlan, *, looks: bool
    ) -> OwnRoot | None:
        if not request.has_own_files:
            return None
        if self._roots is None:
            from pytest_nsisolate.process.root import Roots

            self._roots = Roots(self._launcher, self._in_use)
        assert self._mount_plans is not None
        return self._roots.plan(request, world, self._mount_plans.generation, looks=looks)

    def _maps(self, request: IsolationRequest) -> idmap.IdMaps:
        host = self._launcher.host
        if host.privileged:
            return self._identity_maps
        return self.range_maps if request.user == "range" else own_maps(request, host)

    @cached_property
    def _capabilities(self) -> tuple[int, int]:
        """The permitted and bounding capabilities (capabilities(7)), as masks."""
        held = process.capabilities()
        return held.permitted, held.bounding

    @cached_property
    def _identity_maps(self) -> idmap.IdMaps:
        """The own ids one to one; they cannot change while this process lives."""
        return idmap.identity_maps()

    @cached_property
    def range_maps(self) -> idmap.IdMaps:
        """The own ids, and those of the ranges of this account.

        :raises StepError: if there is none, or no program that maps them.
        """
        from pytest_nsisolate.process import id_ranges

        return id_ranges.range_maps(self._launcher.host)

    def descriptors(self) -> tuple[int, ...]:
        """What no child must have, but for what its plan gives it."""
        own = () if self._roots is None else self._roots.descriptors()
        return own if self._mount_plans is None else (*own, self._mount_plans.watched)

    def close(self) -> None:
        """Give everything back."""
        if self._roots is not None:
            self._roots.close()
            self._roots = None
        if self._mount_plans is not None:
            self._mount_plans.close()
            self._mount_plans = None


def _loopback(addresses: tuple[str, ...]) -> Callable[[], None] | None:
    if not addresses:
        return None
    from pytest_nsisolate.kernel import links

    return partial(links.add_to_loopback, links.parsed(addresses))
