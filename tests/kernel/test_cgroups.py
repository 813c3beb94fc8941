# SPDX-License-Identifier: MIT
"""Groups: where they can be made, what they bound, and that none is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import cgroups, originals
from pytest_nsisolate.kernel.cgroups import Place
from tests.support import ON_THE_HOST, needs

pytestmark = ON_THE_HOST


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose cgroups are mounted below ``tmp_path``: both versions, as containers do."""
    mountinfo = (
        f"30 1 0:1 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw\n"
        f"31 1 0:2 /box/one {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
        f"32 1 0:3 / {tmp_path}/pids rw - cgroup cgroup rw,pids\n"
    )
    own = "0::/user/app/run.scope\n4:memory:/box/one/deep\n8:pids:/..\n"
    known = {"/proc/self/mountinfo": mountinfo.encode(), "/proc/self/cgroup": own.encode()}
    read = cgroups._read
    monkeypatch.setattr(cgroups, "_read", lambda path: known.get(path) or read(path))


def _group(folder: Path, handed_out: str) -> None:
    folder.mkdir(parents=True)
    (folder / "cgroup.subtree_control").write_text(handed_out, encoding="ascii")
    (folder / "cgroup.procs").touch()


@pytest.mark.usefixtures("tell")
def test_version_2_is_the_nearest_group_that_hands_the_controller_out(tmp_path: Path) -> None:
    """The runner's own has a process in it, and cannot; version 1 comes behind."""
    _group(tmp_path / "v2", "cpu memory pids")
    _group(tmp_path / "v2/user", "memory pids")
    _group(tmp_path / "v2/user/app", "memory")
    _group(tmp_path / "v2/user/app/run.scope", "")
    (tmp_path / "memory/deep").mkdir(parents=True)
    assert cgroups.places("memory") == [
        Place(2, "memory", f"{tmp_path}/v2/user/app"),
        Place(1, "memory", f"{tmp_path}/memory/deep"),
    ]
    # One that lies outside what is mounted cannot be reached.
    assert cgroups.places("pids") == [Place(2, "pids", f"{tmp_path}/v2/user")]


@pytest.mark.usefixtures("tell")
def test_a_group_that_is_somebody_elses_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not write to ``cgroup.procs`` may not move a process across that group."""
    _group(tmp_path / "v2/user", "memory pids")
    monkeypatch.setattr(
        originals.os, "access", lambda path, mode: False
    )  # root may write to everything
    assert cgroups.places("memory") == []


def _real_places() -> list[Place]:
    return [
        place
        for name in cgroups.CONTROLLERS
        for place in cgroups.places(name)
        if os.access(place.folder, os.W_OK)
    ]


NEEDS_CGROUPS = needs(bool(_real_places()), "no cgroup is ours to divide")


@NEEDS_CGROUPS
def test_a_group_bounds_who_joins_it() -> None:
    """And is gone afterwards, with what was made below it."""
    place = next(place for place in _real_places() if place.controller == "pids")
    group = cgroups.make(place, 2_000_000)
    try:
        group.bound("pids", 2)
        assert group.door is not None
        assert group.hits("pids") == 0
        child = os.fork()
        if child == 0:
            status = 0
            try:
                os.write(group.door, b"0")
                first = os.fork()
                if first == 0:
                    os._exit(0)
                status = 1
                os.kill(first, 0)  # a zombie still counts
                os.fork()
            except BlockingIOError:
                status = 42
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert group.hits("pids") > 0
        os.mkdir(f"{group.folder}/deeper")
    finally:
        assert group.remove()
    assert not os.path.exists(group.folder)


def _own_version_2() -> str | None:
    """The directory of the runner's own group of version 2, if it may make others below it."""
    path = cgroups._own_groups().get("")
    for mount in cgroups._mounted("cgroup2"):
        folder = cgroups._reached(mount.root, mount.point, path) if path else None
        if folder is not None and os.access(folder, os.W_OK):
            return folder
    return None


NEEDS_VERSION_2 = needs(_own_version_2() is not None, "no cgroup of version 2 is ours to divide")


@NEEDS_VERSION_2
def test_a_group_of_version_2_is_joined() -> None:
    """Also one to which no controller is handed out, which then bounds nothing, and says so."""
    folder = _own_version_2()
    assert folder is not None
    group = cgroups.make(Place(2, "pids", folder), 5_000_000)
    try:
        assert group.door is not None
        child = os.fork()
        if child == 0:
            os.write(group.door, b"0")
            with open("/proc/self/cgroup", encoding="ascii") as file:
                os._exit(0 if f"/{os.path.basename(group.folder)}\n" in file.read() else 1)
        assert os.waitpid(child, 0)[1] == 0
        if not os.path.exists(f"{group.folder}/pids.max"):
            with pytest.raises(StepError) as caught:
                group.bound("pids", 10)
            assert (caught.value.step, caught.value.errno) == ("write cgroup", errno.ENOENT)
    finally:
        assert group.remove()


@NEEDS_CGROUPS
def test_the_next_run_removes_what_killed_ones_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By PID namespace, number and start time; those of the living and of others stay."""
    place = _real_places()[0]
    me = cgroups._runner()
    namespace, pid, start = me.split("-")
    gone = [f"{namespace}-{pid}-{int(start) - 1}", f"{namespace}-4194303-{start}"]
    other = f"1-4194303-{start}"
    made = []
    for name in (me, other, *gone):
        monkeypatch.setattr(cgroups, "_runner", lambda name=name: name)
        made.append(cgroups.make(place, 3_000_000))
    try:
        cgroups.sweep()
        assert [os.path.exists(group.folder) for group in made] == [True, True, False, False]
    finally:
        left = [group.folder for group in made if not group.remove()]
    assert left == []


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("controller", cgroups.CONTROLLERS)
def test_a_group_that_does_not_have_the_controller(
    tmp_path: Path, version: int, controller: str
) -> None:
    """The refusal names the file."""
    group = cgroups.Group(Place(version, controller, str(tmp_path)), str(tmp_path))
    with pytest.raises(StepError) as caught:
        group.bound(controller, 1 << 30)
    assert (caught.value.step, caught.value.errno) == ("write cgroup", errno.ENOENT)
    assert caught.value.detail.startswith(f"{tmp_path}/{controller}.")
    assert group.hits(controller) == 0


def test_a_folder_where_none_can_be_made(tmp_path: Path) -> None:
    """The step, and the place."""
    missing = Place(1, "pids", str(tmp_path / "missing"))
    with pytest.raises(StepError) as caught:
        cgroups.make(missing, 0)
    assert (caught.value.step, caught.value.errno) == ("mkdir cgroup", errno.ENOENT)
    with pytest.raises(StepError) as caught:
        cgroups.make(Place(1, "pids", str(tmp_path)), 0)  # no file system of cgroups
    assert (caught.value.step, caught.value.errno) == ("join the cgroup", errno.ENOENT)
    assert list(tmp_path.iterdir()) == []
