# SPDX-License-Identifier: MIT
"""From a request to the steps of a launch, for this host and this moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from pytest_nsisolate.host import CAP_SETPCAP
from pytest_nsisolate.kernel import idmap
from pytest_nsisolate.kernel.mounts import MountPlan
from pytest_nsisolate.process.mount_plans import current_directory
from pytest_nsisolate.process.supervisor import LaunchPlan
from pytest_nsisolate.request import grants
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner.run import Run

_EVERY: Final = (1 << 64) - 1


def plan_launch(config: pytest.Config, request: IsolationRequest, run: Run) -> LaunchPlan:
    """Work out everything that the forks need (read once here, not in every child).

    :raises StepError: when something about the runner itself cannot be read.
    """
    mounts = _mounts(config, request, run) if "mount" in request.namespaces else None
    plan = plan_world(request, run, mounts)
    if request.limits is None:
        return plan
    held = run.limit_mechanisms.enforce(request.limits, request.namespaces, init=request.init)
    return replace(plan, limits=held)


def plan_world(request: IsolationRequest, run: Run, mounts: MountPlan | None) -> LaunchPlan:
    """The same for whoever has worked out the mounts himself.

    :raises StepError: when something about the runner itself cannot be read.
    """
    wanted = request.namespaces
    return LaunchPlan(
        namespaces=wanted,
        maps=_maps(request, run) if "user" in wanted else None,
        maps_by_runner=run.host.privileged,
        mounts=mounts,
        time=request.time,
        hostname=request.hostname,
        keep_capabilities=kept_capabilities(request, run),
        no_new_privs=request.no_new_privs,
        sheltered=not request.has_host_powers,
        init=request.init,
        cwd=current_directory(),
    )


def _mounts(config: pytest.Config, request: IsolationRequest, run: Run) -> MountPlan:
    devices = None if request.has_host_powers else request.devices
    return run.mount_plans.plan(config, request.namespaces, devices)


def _maps(request: IsolationRequest, run: Run) -> idmap.IdMaps:
    if run.host.privileged:
        return run.identity_maps()
    uid, gid = run.host.euid, run.host.egid
    same = request.user == "same"
    return idmap.single_maps(
        inside_uid=uid if same else 0,
        inside_gid=gid if same else 0,
        outside_uid=uid,
        outside_gid=gid,
    )


def kept_capabilities(request: IsolationRequest, run: Run) -> tuple[int, int | None] | None:
    """Which ones stay, permitted and in the bounding set; None: all of them.

    ``user="same"``: no more than the runner itself holds. Where the host refuses a user namespace
    that nobody has named, none of those that reach beyond the test.
    """
    if request.caps is not None:
        mask = grants.mask(request.caps)
    elif request.guarded:
        mask = ~grants.mask(grants.HOST_WIDE) & _EVERY
    elif request.user == "same":
        return run.capabilities
    else:
        return None
    # Without CAP_SETPCAP nothing leaves the bounding set; asked for by name, that is a refusal.
    if request.caps is None and not run.host.holds(CAP_SETPCAP):
        return mask, None
    return (mask & run.capabilities[0], mask) if request.user == "same" else (mask, mask)
