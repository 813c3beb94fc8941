# SPDX-License-Identifier: MIT
"""From a request to the steps of a launch, for this host and this moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from pytest_nsisolate import pytest_internals as internals
from pytest_nsisolate.kernel import idmap, mounts
from pytest_nsisolate.launch import LaunchPlan
from pytest_nsisolate.request import IsolationRequest
from pytest_nsisolate.run import Run


def plan_launch(config: pytest.Config, request: IsolationRequest, run: Run) -> LaunchPlan:
    """Work out everything that the forks need (read once here, not in every child).

    :raises StepError: when something about the runner itself cannot be read.
    """
    wanted = request.namespaces
    return LaunchPlan(
        namespaces=wanted,
        maps=_maps(request, run) if "user" in wanted else None,
        maps_by_runner=run.host.privileged,
        mounts=_mounts(config, wanted),
        time=request.time,
        hostname=request.hostname,
        keep_capabilities=_kept_capabilities(request, run),
        init=request.init,
        cwd=_cwd(),
    )


def _maps(request: IsolationRequest, run: Run) -> idmap.IdMaps:
    if run.host.privileged:
        return idmap.identity_maps()
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


def _mounts(config: pytest.Config, wanted: frozenset[str]) -> mounts.MountPlan | None:
    if "mount" not in wanted:
        return None
    return mounts.plan_mounts(own=wanted, in_use=_in_use(config))


def _in_use(config: pytest.Config) -> Iterator[str]:
    """What the test, the runner or another plugin needs, wherever it lies."""
    yield str(config.rootpath)
    yield _cwd()
    yield sys.prefix
    yield sys.base_prefix
    yield from (path for path in sys.path if path)
    base = internals.base_temp(config)
    if base is not None:
        yield base
    yield from internals.files_in_use(config)
    for name in ("COVERAGE_FILE", "HYPOTHESIS_STORAGE_DIRECTORY"):
        if name in os.environ:
            yield os.path.abspath(os.path.dirname(os.environ[name]) or ".")


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
