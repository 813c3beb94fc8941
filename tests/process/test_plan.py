# SPDX-License-Identifier: MIT
"""From a request to a launch plan, for a runner with and without privileges."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate.host import Host
from pytest_nsisolate.kernel import namespaces
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import LaunchPlan
from pytest_nsisolate.request.model import IsolationRequest, TimeOffsets
from pytest_nsisolate.runner.surroundings import make_launcher
from tests.support import NEEDS_NAMESPACES, needs

pytestmark = NEEDS_NAMESPACES  # it reads the runner's /proc

ROOT = Host(True, True, 0, 0, (1 << 41) - 1, (6, 18))
USER = replace(ROOT, privileged=False, euid=1234, egid=5678, capabilities=0)
EVERYTHING = frozenset(namespaces.NAMESPACES) - {"time"}


@pytest.fixture
def launcher(pytestconfig: pytest.Config) -> Iterator[Launcher]:
    """That of a run by root, which has isolated nothing yet."""
    made = make_launcher(pytestconfig)
    made.host = ROOT
    yield made
    made.close()


def plan_of(launcher: Launcher, request: IsolationRequest) -> LaunchPlan:
    """What would be done; nothing is."""
    with launcher.preparing(request) as launch:
        return launch.plan


@pytest.mark.parametrize("user", ["map", "same"])
def test_privileged_runner_maps_its_own_ids(launcher: Launcher, user: Any) -> None:
    """Root's ids, as many as it has, one to one; the runner writes the maps."""
    plan = plan_of(launcher, IsolationRequest(EVERYTHING, user))
    assert plan.maps is not None
    extents = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    written = [line.split() for line in plan.maps.uid_map.decode().splitlines()]
    assert sum(int(count) for _, _, count in written) == sum(int(row[2]) for row in extents)
    assert all(inside == outside for inside, outside, _ in written)
    assert plan.maps.deny_setgroups is False
    assert plan.maps_by_runner is True


@pytest.mark.parametrize(
    ("user", "uid_map", "gid_map"),
    [("map", b"0 1234 1\n", b"0 5678 1\n"), ("same", b"1234 1234 1\n", b"5678 5678 1\n")],
)
def test_ordinary_runner_maps_one_id(
    launcher: Launcher, user: Any, uid_map: bytes, gid_map: bytes
) -> None:
    """Without capabilities: one user and one group, after setgroups was given up."""
    launcher.host = USER
    plan = plan_of(launcher, IsolationRequest(EVERYTHING, user))
    assert plan.maps is not None
    assert (plan.maps.uid_map, plan.maps.gid_map) == (uid_map, gid_map)
    assert plan.maps.deny_setgroups is True
    assert plan.maps_by_runner is False


def test_no_user_namespace_no_maps(launcher: Launcher) -> None:
    """``user=False`` writes none."""
    plan = plan_of(launcher, IsolationRequest(EVERYTHING - {"user"}, "none"))
    assert plan.maps is None
    assert "user" not in plan.namespaces


@pytest.mark.parametrize(("user", "limited"), [("map", False), ("same", True), ("none", False)])
def test_only_same_gives_capabilities_up(launcher: Launcher, user: Any, limited: bool) -> None:
    """``user="same"`` keeps what the runner holds, permitted and bounding; the others keep all."""
    own = EVERYTHING if user != "none" else EVERYTHING - {"user"}
    plan = plan_of(launcher, IsolationRequest(own, user))
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    expected = (int(status["CapPrm"], 16), int(status["CapBnd"], 16))
    assert plan.keep_capabilities == (expected if limited else None)


@pytest.mark.parametrize(("names", "mounts"), [({"uts"}, False), ({"uts", "mount"}, True)])
def test_mounts_are_planned_with_a_mount_namespace_only(
    launcher: Launcher, names: set[str], mounts: bool
) -> None:
    """Without one, nothing may be mounted: it would be the host's."""
    plan = plan_of(launcher, IsolationRequest(frozenset(names | {"user"})))
    assert (plan.mounts is not None) is mounts


def test_the_rest_is_the_requests(launcher: Launcher) -> None:
    """Namespaces, clocks, name and init are as asked for."""
    request = IsolationRequest(
        EVERYTHING | {"time"}, time=TimeOffsets(1.5, 2.5), hostname="db1", init=True
    )
    plan = plan_of(launcher, request)
    assert plan.namespaces == request.namespaces
    assert (plan.time, plan.hostname, plan.init) == (TimeOffsets(1.5, 2.5), "db1", True)
    assert plan.cwd == os.getcwd()


def test_each_plan_sees_the_current_directory(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read for each launch, and one that was removed becomes the root."""
    monkeypatch.chdir(tmp_path)
    request = IsolationRequest(EVERYTHING)
    assert plan_of(launcher, request).cwd == str(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert plan_of(launcher, request).cwd == "/"
    os.chdir(tmp_path)


class TestKept:
    """What is in use below ``/dev/shm`` is found, wherever it is named."""

    def kept(self, config: pytest.Config) -> tuple[str, ...]:
        launcher = make_launcher(config)
        launcher.host = ROOT
        plan = plan_of(launcher, IsolationRequest(EVERYTHING))
        launcher.close()
        assert plan.mounts is not None
        return plan.mounts.keep

    @pytest.fixture
    def folder(self) -> Iterator[str]:
        path = f"/dev/shm/nsi-plan-{os.getpid()}"
        os.mkdir(path)
        yield path
        os.rmdir(path)

    @needs(os.path.isdir("/dev/shm"), "this machine has no /dev/shm")
    @pytest.mark.parametrize("where", ["sys.path", "cwd", "COVERAGE_FILE"])
    def test_in_use(
        self,
        pytestconfig: pytest.Config,
        folder: str,
        where: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A path entry, the working directory, coverage's data: each is kept, when it is there."""
        assert folder not in self.kept(pytestconfig)
        match where:
            case "sys.path":
                monkeypatch.syspath_prepend(folder)
            case "cwd":
                monkeypatch.chdir(folder)
            case _:
                monkeypatch.setenv("COVERAGE_FILE", f"{folder}/data")
        assert folder in self.kept(pytestconfig)
