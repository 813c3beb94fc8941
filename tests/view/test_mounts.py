# SPDX-License-Identifier: MIT
"""Mounts: what the view says is what findmnt says, of the test's own mount namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.view import Mount
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST
from tests.view.tools import NEEDS_FINDMNT, run, run_json

pytestmark = [NEEDS_NAMESPACES, NEEDS_FINDMNT]

COLUMNS = "ID,PARENT,MAJ:MIN,FSROOT,TARGET,FSTYPE,SOURCE,VFS-OPTIONS,FS-OPTIONS,PROPAGATION"
PROPAGATION = {"private,slave": "slave", "private,unbindable": "unbindable"}


def mounts_of_findmnt() -> dict[int, tuple[object, ...]]:
    shown = run_json("findmnt", "--json", "--list", "--nofsroot", "--output", COLUMNS)
    return {
        row["id"]: (
            row["parent"],
            row["maj:min"],
            row["fsroot"],
            row["target"],
            row["fstype"],
            row["source"],
            row["vfs-options"],
            row["fs-options"],
            PROPAGATION.get(row["propagation"], row["propagation"]),
        )
        for row in shown["filesystems"]
    }


def facts_of(mount: Mount) -> tuple[object, ...]:
    return (
        mount.parent,
        mount.device,
        mount.root,
        mount.target,
        mount.fstype,
        mount.source,
        ",".join(mount.options),
        ",".join(mount.super_options),
        mount.propagation,
    )


@pytest.fixture
def furnished(tmp_path: Path) -> Path:
    """Mounts with options, an odd name, and each propagation."""
    names = ["with blank", "shared", "slave", "both", "unbindable", "part"]
    for name in names:
        (tmp_path / name).mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k,ro,nosuid", "a name", str(tmp_path / "with blank"))
    for name in names[1:]:
        run("mount", "-t", "tmpfs", "-o", "noexec", name, str(tmp_path / name))
    run("mount", "--make-shared", str(tmp_path / "shared"))
    for name in ("slave", "both"):
        run("mount", "--bind", str(tmp_path / "shared"), str(tmp_path / name))
        run("mount", "--make-slave", str(tmp_path / name))
    run("mount", "--make-shared", str(tmp_path / "both"))
    run("mount", "--make-unbindable", str(tmp_path / "unbindable"))
    (tmp_path / "shared" / "below").mkdir()
    run("mount", "--bind", str(tmp_path / "shared" / "below"), str(tmp_path / "part"))
    return tmp_path


@pytest.mark.isolated
def test_mounts_are_as_findmnt_says(pid1: Pid1View, furnished: Path) -> None:
    """Place, parts, type, source, both kinds of options, propagation."""
    seen = {mount.id: facts_of(mount) for mount in pid1.mounts}
    assert seen == mounts_of_findmnt()
    top = {mount.target.removeprefix(f"{furnished}/"): mount for mount in pid1.mounts}
    assert [top[name].propagation for name in ("shared", "slave", "both", "unbindable")] == [
        "shared",
        "slave",
        "shared,slave",
        "unbindable",
    ]
    assert (top["with blank"].source, top["part"].root) == ("a name", "/below")


@pytest.mark.isolated
def test_assertions_hold(pid1: Pid1View, furnished: Path) -> None:
    """Type, source, options of the mount and of its file system, propagation."""
    odd = furnished / "with blank"
    pid1.assert_mounted(odd, fstype="tmpfs", source="a name", options=["ro", "nosuid", "size=64k"])
    pid1.assert_mounted(furnished / "both", options="rw", propagation="shared,slave")
    run("umount", str(odd))
    pid1.assert_not_mounted(odd)


@pytest.mark.isolated
def test_a_path_may_have_any_character(pid1: Pid1View, tmp_path: Path) -> None:
    """Also one that ends a line for Python, and bytes that are no text."""
    for name in ("a\rb", "a\nb", "a\x85b\u2028", "a\udcff"):
        (tmp_path / name).mkdir()
        run("mount", "-t", "tmpfs", "none", str(tmp_path / name))
        pid1.assert_mounted(tmp_path / name, fstype="tmpfs")


@pytest.fixture(scope="module")
def at_home() -> set[int]:
    """The numbers of the runner's mounts."""
    return {mount.id for mount in Pid1View().mounts}


@ON_THE_HOST
def test_the_host_s_mounts_are_others(at_home: set[int]) -> None:
    """The control: the same reading in the runner is what findmnt says there."""
    assert set(mounts_of_findmnt()) == at_home


@pytest.mark.isolated(mount=True)
def test_a_namespace_of_its_own_has_mounts_of_its_own(pid1: Pid1View, at_home: set[int]) -> None:
    """Not one is the runner's, and all are private."""
    assert not {mount.id for mount in pid1.mounts} & at_home
    assert {mount.propagation for mount in pid1.mounts} == {"private"}
