# SPDX-License-Identifier: MIT
"""A folder as the root of a test: what it shows, and what is refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import originals, survey
from pytest_nsisolate.process import interpreter, path_root
from pytest_nsisolate.process.plan import Fixed
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import Side, assert_expected, cases, run_batch, shared_batch
from tests.support import BUSYBOX, NEEDS_BUSYBOX, NEEDS_NAMESPACES, eventually


@NEEDS_NAMESPACES
@NEEDS_BUSYBOX
@cases("folder_roots")
def test_folder_roots(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    assert_expected(shared_batch(tmp_path_factory, "folder_roots", side), name, expected)


OF_OTHERS: Final = """
import os
import pytest

BOX = os.environ["BOX"]

def deeds():
    open("/etc/made", "w").close()
    os.unlink("/bin/sh")
    os.rename("/etc/folder/file", "/etc/moved")
    with open("/etc/name", "a") as file:
        file.write("more")

@pytest.mark.isolated(root=BOX)
@pytest.mark.parametrize("number", range(2))
def test_owned(number, pid1):
    deeds()
    assert (os.stat("/etc").st_uid, os.stat("/etc").st_mode & 0o777) == (0, 0o755)
    pid1.assert_files(created="/etc/m*", modified="/etc/name", deleted=["/bin/sh", "/etc/folder/*"])

@pytest.mark.isolated(root=BOX, user="same")
def test_same():
    with pytest.raises(PermissionError):
        open("/etc/made", "w").close()
"""


@NEEDS_NAMESPACES
@NEEDS_ROOT
def test_a_folder_that_others_own() -> None:
    """Root inside owns it, by an ownership layer of its own; ``user="same"`` gains no right."""
    box = Path("/var/tmp") / f"nsisolate-{os.getpid()}"
    try:
        for name in ("bin", "etc/folder"):
            (box / name).mkdir(parents=True)
        for name in ("bin/sh", "etc/folder/file", "etc/name"):
            (box / name).write_text("x", encoding="ascii")
        for path in (box, *box.rglob("*")):
            path.chmod(0o755)
        before = sorted(map(str, box.rglob("*")))
        result = run_batch({"test_it.py": OF_OTHERS}, "user", env={"BOX": str(box)})
        assert result.passed() == {"test_owned[0]", "test_owned[1]", "test_same"}, result.text
        assert sorted(map(str, box.rglob("*"))) == before
        assert (box / "etc" / "name").read_text(encoding="ascii") == "x"
    finally:
        shutil.rmtree(box, ignore_errors=True)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A folder of a process in another mount namespace."""
    script = "mount -t tmpfs none /mnt && mkdir /mnt/box && echo there && exec cat"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield f"/proc/{process.pid}/root/mnt"
        assert process.stdin is not None
        process.stdin.close()


@NEEDS_NAMESPACES
def test_a_folder_in_another_namespace_is_refused(elsewhere: str) -> None:
    """Its path would be read as one of this host's."""
    with pytest.raises(StepError) as found:
        path_root.check(elsewhere, (), {})
    assert found.value.errno == errno.EXDEV


def test_a_folder_that_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before anything is started."""
    asked = []

    def access(path: str, mode: int) -> bool:
        asked.append(path)
        return False

    monkeypatch.setattr(originals.os, "access", access)
    with pytest.raises(StepError) as found:
        path_root.check(str(tmp_path), (), {})
    assert (found.value.errno, asked) == (errno.EACCES, [str(tmp_path)])


def test_a_folder_in_which_something_is_mounted_is_refused(tmp_path: Path) -> None:
    """With the place."""
    mounts = {"/": survey.Mounted("ext4", 0), f"{tmp_path}/a": survey.Mounted("tmpfs", 0)}
    with pytest.raises(StepError, match=f"{tmp_path}/a is mounted in it"):
        path_root.check(str(tmp_path), (), mounts)
    assert path_root.check(f"{tmp_path}/../{tmp_path.name}", (), {}) == str(tmp_path)


def test_paths_are_resolved_as_inside(tmp_path: Path) -> None:
    """A link, absolute or with dots, never leads out; what is not there stays as it is said."""
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    for name, to in (
        ("lib", "usr/lib"),
        ("abs", "/usr"),
        ("up", "../../../../usr"),
        ("out", "/etc"),
        ("loop", "loop"),
    ):
        (tmp_path / name).symlink_to(to)
    tree = path_root.Tree(str(tmp_path))
    for path, target in (
        ("/lib/x", "/usr/lib/x"),
        ("/abs/lib/", "/usr/lib"),
        ("/up/lib", "/usr/lib"),
        ("/out/passwd", "/etc/passwd"),
        ("/usr/../../../x/y", "/x/y"),
        ("/", "/"),
    ):
        assert tree.resolve(path) == target
    assert tree.status("/etc/passwd") is None
    with pytest.raises(OSError, match="Too many levels"):
        tree.resolve("/loop/x")


def test_a_tree_holds_until_something_changes(tmp_path: Path) -> None:
    """Also what keeps the time of the content, as cp -p and tar do."""
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("/usr/lib")
    tree = path_root.Tree(str(tmp_path))

    def look() -> bool:
        """What was known held; look anew."""
        nonlocal tree
        held, tree = tree.holds(), path_root.Tree(str(tmp_path))
        tree.resolve("/lib/x/y")
        return held

    def change(folder: Path, call: Callable[[], object]) -> None:
        """And have its content look as old as before. A clock that ticks slowly has to go on."""
        before = folder.stat()
        call()

        def changed() -> bool:
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
            return folder.stat().st_ctime_ns != before.st_ctime_ns

        assert eventually(changed)
        assert folder.stat().st_mtime_ns == before.st_mtime_ns

    def relink() -> None:
        (tmp_path / "lib").unlink()
        (tmp_path / "lib").symlink_to("/old/lib")

    look()
    assert look()
    change(tmp_path / "usr" / "lib", (tmp_path / "usr" / "lib" / "x").mkdir)
    assert not look()
    change(tmp_path / "usr", lambda: (tmp_path / "usr").chmod(0o700))
    assert not look()
    change(tmp_path, lambda: (tmp_path / "usr").rename(tmp_path / "old"))
    assert not look()
    change(tmp_path, relink)
    assert not look()
    assert look()


def test_what_the_system_shares_is_not_bound() -> None:
    """A root has its own; Python's own folders are not among them."""
    shared = ("/", "/usr", "/usr/lib", "/usr/local", "/usr/local/bin", "/etc", "/tmp", "/lib64")
    assert all(map(interpreter.is_shared, shared))
    own = ("/usr/lib/python3.11", "/home/me/suite", "/opt/python", "/usr/lib/python3/dist-packages")
    assert not any(map(interpreter.is_shared, own))


@NEEDS_BUSYBOX
def test_a_root_with_a_loader_keeps_its_own_libraries(tmp_path: Path) -> None:
    """The host's would not fit; without one the interpreter gets those that it needs."""

    class Suite(Fixed):
        def shown(self) -> tuple[str, ...]:
            return ("/nowhere",)

    suite = Suite(())
    shutil.copy(BUSYBOX, tmp_path / "busybox")
    loader = interpreter.loader()
    if loader is None:
        return  # a static Python
    without = {one.path for one in path_root.shown(path_root.Tree(str(tmp_path)), (), suite)}
    assert loader in without
    assert any("libc." in path for path in without)
    (tmp_path / os.path.dirname(loader).lstrip("/")).mkdir(parents=True)
    (tmp_path / loader.lstrip("/")).touch()
    own = {one.path for one in path_root.shown(path_root.Tree(str(tmp_path)), (), suite)}
    assert own == set(interpreter.programs()) & without
