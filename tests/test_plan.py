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
from pytest_nsisolate.process.plan import plan_launch
from pytest_nsisolate.request.model import IsolationRequest, TimeOffsets
from pytest_nsisolate.request.options import Settings
from pytest_nsisolate.runner.run import Run
from tests.support import NEEDS_NAMESPACES, needs

pytestmark = NEEDS_NAMESPACES  # it reads the runner's /proc

ROOT = Host(True, True, 0, 0, (1 << 41) - 1, (6, 18))
USER = replace(ROOT, privileged=False, euid=1234, egid=5678, capabilities=0)
EVERYTHING = frozenset(namespaces.NAMESPACES) - {"time"}


@pytest.fixture
def run() -> Iterator[Run]:
    """The state of a run that has isolated nothing yet."""
    made = Run(Settings())
    yield made
    made.close()


def stand_on(run: Run, host: Host) -> None:
    """Make this run's host look like that one."""
    run._host = host


@pytest.mark.parametrize("user", ["map", "same"])
def test_privileged_runner_maps_its_own_ids(
    run: Run, pytestconfig: pytest.Config, user: Any
) -> None:
    """Root's ids, as many as it has, one to one; the runner writes the maps."""
    stand_on(run, ROOT)
    plan = plan_launch(pytestconfig, IsolationRequest(EVERYTHING, user), run)
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
    run: Run, pytestconfig: pytest.Config, user: Any, uid_map: bytes, gid_map: bytes
) -> None:
    """Without capabilities: one user and one group, after setgroups was given up."""
    stand_on(run, USER)
    plan = plan_launch(pytestconfig, IsolationRequest(EVERYTHING, user), run)
    assert plan.maps is not None
    assert (plan.maps.uid_map, plan.maps.gid_map) == (uid_map, gid_map)
    assert plan.maps.deny_setgroups is True
    assert plan.maps_by_runner is False


def test_no_user_namespace_no_maps(run: Run, pytestconfig: pytest.Config) -> None:
    """``user=False`` writes none."""
    stand_on(run, ROOT)
    plan = plan_launch(pytestconfig, IsolationRequest(EVERYTHING - {"user"}, "none"), run)
    assert plan.maps is None
    assert "user" not in plan.namespaces


@pytest.mark.parametrize(("user", "limited"), [("map", False), ("same", True), ("none", False)])
def test_only_same_gives_capabilities_up(
    run: Run, pytestconfig: pytest.Config, user: Any, limited: bool
) -> None:
    """``user="same"`` keeps what the runner holds, permitted and bounding; the others keep all."""
    stand_on(run, ROOT)
    own = EVERYTHING if user != "none" else EVERYTHING - {"user"}
    plan = plan_launch(pytestconfig, IsolationRequest(own, user), run)
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    expected = (int(status["CapPrm"], 16), int(status["CapBnd"], 16))
    assert plan.keep_capabilities == (expected if limited else None)


@pytest.mark.parametrize(("names", "mounts"), [({"uts"}, False), ({"uts", "mount"}, True)])
def test_mounts_are_planned_with_a_mount_namespace_only(
    run: Run, pytestconfig: pytest.Config, names: set[str], mounts: bool
) -> None:
    """Without one, nothing may be mounted: it would be the host's."""
    stand_on(run, ROOT)
    plan = plan_launch(pytestconfig, IsolationRequest(frozenset(names | {"user"})), run)
    assert (plan.mounts is not None) is mounts


def test_the_rest_is_the_requests(run: Run, pytestconfig: pytest.Config) -> None:
    """Namespaces, clocks, name and init are as asked for."""
    stand_on(run, ROOT)
    request = IsolationRequest(
        EVERYTHING | {"time"}, time=TimeOffsets(1.5, 2.5), hostname="db1", init=True
    )
    plan = plan_launch(pytestconfig, request, run)
    assert plan.namespaces == request.namespaces
    assert (plan.time, plan.hostname, plan.init) == (TimeOffsets(1.5, 2.5), "db1", True)
    assert plan.cwd == os.getcwd()


def test_each_plan_sees_the_current_directory(
    run: Run, pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read for each launch, and one that was removed becomes the root."""
    stand_on(run, ROOT)
    monkeypatch.chdir(tmp_path)
    request = IsolationRequest(EVERYTHING)
    assert plan_launch(pytestconfig, request, run).cwd == str(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert plan_launch(pytestconfig, request, run).cwd == "/"
    os.chdir(tmp_path)


class TestKept:
    """What is in use below ``/dev/shm`` is found, wherever it is named."""

    def kept(self, config: pytest.Config) -> tuple[str, ...]:
        run = Run(Settings())
        stand_on(run, ROOT)
        plan = plan_launch(config, IsolationRequest(EVERYTHING), run)
        run.close()
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
