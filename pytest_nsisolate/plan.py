# SPDX-License-Identifier: MIT
"""From a request to the steps of a launch, for this host and this moment."""

from __future__ import annotations

import pytest

from pytest_nsisolate.kernel import idmap
from pytest_nsisolate.mount_plans import current_directory
from pytest_nsisolate.request import IsolationRequest
from pytest_nsisolate.run import Run
from pytest_nsisolate.usher import LaunchPlan


def plan_launch(config: pytest.Config, request: IsolationRequest, run: Run) -> LaunchPlan:
    """Work out everything that the forks need (read once here, not in every child).

    :raises StepError: when something about the runner itself cannot be read.
    """
    wanted = request.namespaces
    return LaunchPlan(
        namespaces=wanted,
        maps=_maps(request, run) if "user" in wanted else None,
        maps_by_runner=run.host.privileged,
        mounts=run.mount_plans.plan(config, wanted) if "mount" in wanted else None,
        time=request.time,
        hostname=request.hostname,
        keep_capabilities=_kept_capabilities(request, run),
        init=request.init,
        cwd=current_directory(),
    )


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


def _kept_capabilities(request: IsolationRequest, run: Run) -> tuple[int, int] | None:
    """``user="same"``: no more than the runner itself holds."""
    if request.user != "same":
        return None
    return run.capabilities
