# SPDX-License-Identifier: MIT
"""How a root is taken apart: by what is mounted, which this machine need not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import overlays, survey
from pytest_nsisolate.kernel.overlays import OverlayRoot, Owners, plan_overlays

Survey = Callable[..., survey.Survey]


@pytest.fixture
def taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Survey:
    """This machine's root with so many kinds of file system below ``tmp_path``, by name."""
    monkeypatch.setattr(survey, "_MOST_FILES", 10**9)  # beside tmp_path may be any number

    def take(**kinds: str) -> survey.Survey:
        points = {"/": survey.Mounted("ext4", 0)}
        for name, kind in kinds.items():
            folder = tmp_path / name
            folder.mkdir()
            (folder / "file").touch()
            points[str(folder)] = survey.Mounted(kind, 0)
        return survey.take_apart(points, ("/proc", "/sys", "/dev"), ())

    return take


@pytest.mark.parametrize("kind", ["vfat", "exfat", "hfsplus", "autofs", "ramfs", "nsfs"])
def test_what_no_overlay_can_lie_on_is_bound_read_only(
    taken_apart: Survey, tmp_path: Path, kind: str
) -> None:
    """And the directories beside it have overlays: the control."""
    found = taken_apart(strange=kind, usual="ext4")
    assert found.sealed == [str(tmp_path / "strange")]
    assert str(tmp_path / "usual") in found.places
    assert str(tmp_path) in found.folders


def plan(found: survey.Survey) -> OverlayRoot:
    owners = Owners(lambda _: None, lambda status, _: status.st_mode & 0o7777, frozenset())
    return plan_overlays(
        found, {}, size="50%", whole_proc=True, stays=(), owners=owners, contents=[]
    )


def test_files_are_copied_up_to_a_sum(
    taken_apart: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest first. The others are bound, and no more than a number of them."""
    for number in range(1, 5):
        (tmp_path / f"file{number}").write_bytes(bytes(number * 1000))
    found = taken_apart(below="ext4")
    found.files = sorted(str(path) for path in tmp_path.glob("file*"))
    monkeypatch.setattr(overlays, "_COPIED_IN_ALL", 4000)

    def copied() -> list[str]:
        return [Path(source).name for source, _, _ in plan(found).copies]

    assert copied() == ["file1", "file2"]
    names = {step.name for step in plan(found).mounts}
    assert {f"bind {tmp_path}/file{number} read-only" for number in (3, 4)} <= names
    monkeypatch.setattr(overlays, "_MOST_BOUND", 1)
    with pytest.raises(StepError, match="file4"):
        plan(found)
