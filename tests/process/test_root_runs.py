# SPDX-License-Identifier: MIT
"""Roots of a test's own in whole runs: workers, coverage, kills, hosts that refuse them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from tests import seccomp
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import (
    NOBODY,
    SIDES,
    THREADED,
    Side,
    assert_nothing_alive,
    run_batch,
    said,
    start,
    suite_folder,
)
from tests.support import NEEDS_NAMESPACES, Result, run_source

pytestmark = NEEDS_NAMESPACES

MANY: Final = """
import os
import pytest

@pytest.mark.isolated(root="overlay")
@pytest.mark.parametrize("number", range(30))
def test_it(number):
    assert not os.path.exists("/etc/nsi-made")
    open("/etc/nsi-made", "w").close()
    os.unlink("/usr/bin/env")
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_many_share_nothing_and_leave_nothing(side: Side, conftest: str) -> None:
    """On both ways; the runner's descriptors and children are as before."""
    result = run_batch({"test_it.py": MANY, "conftest.py": conftest}, side)
    assert len(result.passed()) == 30, result.text


#: Who has made a tree, and for how many: a line each.
COUNTING: Final = """
import os
from pytest_nsisolate.process import lending

original = lending.LentTree._have_made

def counting(self, count):
    with open("made", "a") as file:
        file.write(f"{type(self).__name__} for {count}\\n")
    return original(self, count)

lending.LentTree._have_made = counting

def pytest_terminal_summary(terminalreporter):
    if os.path.exists("made"):
        terminalreporter.write("".join(f"made: {line}" for line in open("made")))
"""

#: A root that has nothing but what a test of the suite needs, as the host's.
ARCHIVE: Final = """
import pytest
import os

@pytest.mark.isolated(root="box.tar")
@pytest.mark.parametrize("number", range(30))
def test_archive(number):
    assert open("/etc/box").read() == "mine"
    open("/etc/box", "w").close()
"""

PACKING: Final = """
import io, os, tarfile
if not os.path.exists("box.tar"):
    with tarfile.open("box.tar", "w") as box:
        member = tarfile.TarInfo("etc/box")
        member.size = 4
        box.addfile(member, io.BytesIO(b"mine"))
"""

IN_WORKERS: Final = ("-p", "xdist", "-n", "3")


def made(result: Result) -> list[str]:
    """Which trees were made, for how many workers."""
    lines = (line.partition("made: ") for line in result.stdout.splitlines())
    return sorted(name for _, found, name in lines if found)


@pytest.mark.parametrize("side", SIDES)
def test_workers_have_one_layer_and_one_unpacked_archive(side: Side) -> None:
    """Made by one of them for all, once a run."""
    suite = {"test_it.py": MANY, "test_archive.py": ARCHIVE, "conftest.py": COUNTING + PACKING}
    result = run_batch(suite, side, *IN_WORKERS, clean=False, gone=True)
    assert len(result.passed()) == 60, result.text
    layers = ["OwnershipLayer for 3"] if side == "user" else []
    assert made(result) == ["Image for 3", *layers], result.text


#: The first worker that makes a tree is killed as it begins, while the others wait.
DYING: Final = """
import os, signal
from pytest_nsisolate.process import lending

def pytest_configure(config):
    original = lending.LentTree._have_made

    def dying(self, count):
        try:
            os.close(os.open("killed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return original(self, count)
        os.kill(os.getpid(), signal.SIGKILL)

    lending.LentTree._have_made = dying
"""


def test_a_worker_that_is_killed_as_it_makes_a_tree_keeps_no_other_waiting() -> None:
    """Another one makes it, and only the test that was being begun is lost."""
    suite = {"test_it.py": MANY, "conftest.py": DYING}
    result = run_batch(suite, "user", *IN_WORKERS, clean=False, gone=True, timeout=240)
    assert result.summary == "1 failed, 29 passed", result.text
    assert "crashed while running" in result.stdout, result.text


LOSING: Final = """
import pytest

@pytest.mark.isolated(root="overlay")
def test_first(): pass

@pytest.mark.isolated(root="overlay", files={"/etc": "x"})
def test_refused(): pass

@pytest.mark.isolated(root="overlay", files={"/etc/hosts/x": "x"})
def test_refused_too(): pass

@pytest.mark.isolated(root="overlay")
def test_refused_inside(): pass

@pytest.mark.isolated(root="overlay")
def test_crashes():
    import os
    os.abort()

@pytest.mark.isolated(root="overlay", user="same")
def test_another_one(): pass

@pytest.mark.isolated(root="overlay")
def test_last(): pass
"""

#: The kernel refuses the first directory of one test's root.
REFUSING: Final = """
import pytest
from pytest_nsisolate.kernel import overlays

_make = overlays.Folder.make

def _refuse(folder):
    raise OSError(28, "No space left on device", folder.path)

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    overlays.Folder.make = _refuse if item.name == "test_refused_inside" else _make
"""


def test_the_layer_is_made_once_and_handed_on() -> None:
    """By tests that pass, and by those that are refused; ``user="same"`` has another one."""
    result = run_batch({"test_it.py": MANY, "conftest.py": COUNTING}, "user")
    assert made(result) == ["OwnershipLayer for 1"], result.text
    result = run_batch({"test_it.py": LOSING, "conftest.py": COUNTING + REFUSING}, "user")
    refusal = "prepare the root for the mount namespace: ENOSPC"
    assert refusal in said(result, "test_refused_inside"), result.text
    assert result.passed() == {"test_first", "test_another_one", "test_last"}, result.text
    assert made(result) == ["OwnershipLayer for 1"] * 2, result.text


BELOW_OWN: Final = """
import os, shutil
import pytest

MINE, HOME = os.environ["MINE"], os.environ["HOME"]

@pytest.mark.isolated(root="overlay")
def test_it(pid1):
    for path in (MINE, f"{MINE}/deep", f"{MINE}/deep/theirs"):
        status = os.stat(path)
        assert (status.st_uid, status.st_mode & 0o777) == (0, 0o755 if "theirs" in path else 0o750)
    open(f"{MINE}/deep/theirs/made", "w").close()
    shutil.rmtree(f"{MINE}/deep/theirs/below")
    assert open(f"{MINE}/deep/file").read() == "mine"
    pid1.assert_files(created=f"{MINE}/deep/theirs/made", deleted=f"{MINE}/deep/theirs/below*")
    with pytest.raises(PermissionError):
        open(f"{HOME}/theirs/made", "w")

@pytest.mark.isolated(root="overlay", user="same")
def test_same():
    with pytest.raises(PermissionError):
        open(f"{MINE}/deep/theirs/made", "w")
"""


@NEEDS_ROOT
def test_what_others_own_below_a_directory_of_the_users() -> None:
    """Root inside owns it, too; the home is not looked through for it."""
    mine = Path("/var/tmp") / f"nsisolate-{os.getpid()}"
    try:
        for name in ("deep/theirs/below", "home/theirs"):
            (mine / name).mkdir(parents=True)
        for path in (mine, *mine.rglob("*")):
            theirs = "theirs" in str(path)
            path.chmod(0o755 if theirs else 0o750)
            os.chown(path, *((0, 0) if theirs else (NOBODY, NOBODY)))
        (mine / "deep" / "file").write_text("mine", encoding="ascii")
        env = {"MINE": str(mine), "HOME": str(mine / "home")}
        result = run_batch({"test_it.py": BELOW_OWN}, "user", env=env)
        assert result.passed() == {"test_it", "test_same"}, result.text
        assert os.listdir(mine / "deep" / "theirs") == ["below"]
    finally:
        shutil.rmtree(mine, ignore_errors=True)


WAITING: Final = """
import os, time
import pytest

@pytest.mark.isolated(root="overlay", writable=os.getcwd())
def test_it():
    open("/etc/nsi-made", "w").close()
    open("started", "w").close()
    time.sleep(60)
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_a_killed_runner_leaves_nothing(side: Side, conftest: str) -> None:
    """No process, and with them no mount: the tree of the layer was attached nowhere else."""
    before = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    with suite_folder({"test_it.py": WAITING, "conftest.py": conftest}, side) as folder:
        with start(folder, side) as running:
            running.wait_for("started")
            running.signal(signal.SIGKILL)
            running.process.wait(timeout=20)
        assert_nothing_alive(folder)
    assert not os.path.exists("/etc/nsi-made")
    own = [line for line in before.splitlines() if "nsisolate-" in line]
    assert own == []


@pytest.mark.parametrize("side", SIDES)
def test_a_runner_that_is_root_in_a_user_namespace(side: Side) -> None:
    """Of its one id; what is root's on the host has no owner there."""
    before = ("unshare", "--map-root-user")
    result = run_batch({"test_it.py": MANY, "conftest.py": COUNTING}, side, before=before)
    assert len(result.passed()) == 30, result.text
    assert side == "root" or made(result) == ["OwnershipLayer for 1"], result.text


NESTED: Final = """
import os
import pytest

def touch(path):
    open(path, "w").close()
    return os.path.exists(path)

@pytest.mark.isolated(root="overlay")
def test_it(isolate):
    overlay = isolate.using(root="overlay")

    def second():
        assert touch("/etc/second")
        return overlay(touch, "/etc/third")

    assert overlay(second)
"""


@pytest.mark.parametrize("side", SIDES)
def test_the_third_overlay_on_another_is_refused(side: Side) -> None:
    """With the directory, the cause and the remedy."""
    result = run_batch({"test_it.py": NESTED}, side)
    said = result.failure("test_it")
    assert "mount overlay on /" in said, result.text
    assert "overlays are nested more than two deep" in said
    assert "remedy: run outside of the other overlay" in said


ONE: Final = """
import pytest

@pytest.mark.isolated(root="overlay")
def test_overlay(): pass

@pytest.mark.isolated(root="readonly")
def test_readonly(): pass

@pytest.mark.isolated
def test_host(): pass
"""


@pytest.mark.parametrize(
    ("denied", "refused", "said", "works"),
    [
        (
            "fsetxattr=EOPNOTSUPP",
            "test_overlay",
            ("on a tmpfs", "boot Linux 6.6 or newer"),
            {"test_readonly", "test_host"},
        ),
        (
            "pivot_root=EPERM",
            "test_overlay",
            ("pivot_root", "which no capability opens"),
            {"test_readonly", "test_host"},
        ),
        # Without flags: what mounts overlays, and nothing else.
        (
            "mount/3/0=EPERM",
            "test_overlay",
            ("mount overlay on /", "none for ordinary users (before Linux 5.11)"),
            {"test_readonly", "test_host"},
        ),
        (
            "mount/3/0=ENODEV",
            "test_overlay",
            ("mount overlay on /", "CONFIG_OVERLAY_FS"),
            {"test_readonly", "test_host"},
        ),
        # An overlay needs it where something is shown read-only, as big files beside a mount are.
        (
            "mount_setattr=ENOSYS",
            "test_readonly",
            ("make / read-only", "boot Linux 5.12"),
            {"test_host"},
        ),
    ],
)
def test_a_host_that_lacks_something(
    tmp_path: Path, denied: str, refused: str, said: tuple[str, ...], works: set[str]
) -> None:
    """What cannot be had is refused with its cause and its remedy; all else works."""
    filtered = (sys.executable, seccomp.__file__, denied, "--")
    result = run_source(tmp_path, ONE, prefix=filtered)
    failure = result.failure(refused)
    assert all(text in failure for text in (*said, "cause: ", "remedy: ")), failure
    assert works <= result.passed(), result.text


def test_a_layer_that_takes_too_long() -> None:
    """As where a disk does not answer: refused with what to do, and all else works."""
    hurried = "from pytest_nsisolate.process import ownership_layer as o; o._SECONDS = 0.0"
    result = run_batch({"test_it.py": ONE, "conftest.py": hurried}, "user")
    failure = result.failure("test_overlay")
    said = ("make the ownership layer", "ETIMEDOUT", "did not end in time", "overloaded machine")
    assert all(text in failure for text in said), failure
    assert result.passed() == {"test_readonly", "test_host"}, result.text


COVERED: Final = """
import pytest

def deeds(number):
    if number:
        return "some"
    return "none"

@pytest.mark.isolated(root="overlay")
@pytest.mark.parametrize("number", [0, 1])
def test_it(number):
    assert deeds(number)
"""


def test_coverage_comes_back(tmp_path: Path) -> None:
    """It crosses by the frames; no file of the test's is needed for it."""
    options = ("-p", "pytest_cov", "--cov=test_it", "--cov-report=term-missing")
    result = run_source(tmp_path, COVERED, *options)
    assert "100%" in result.stdout, result.text
