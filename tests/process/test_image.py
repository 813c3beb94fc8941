# SPDX-License-Identifier: MIT
"""Archives and images as roots: unpacked once, whole or refused, and never outside."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import (
    SIDES,
    Side,
    assert_expected,
    assert_nothing_alive,
    cases,
    prefix,
    run_batch,
    shared_batch,
    start,
    suite_folder,
)
from tests.support import BUSYBOX, NEEDS_BUSYBOX, NEEDS_NAMESPACES

pytestmark = [NEEDS_NAMESPACES, NEEDS_BUSYBOX]


@cases("images")
def test_images(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    assert_expected(shared_batch(tmp_path_factory, "images", side), name, expected)


COUNTING: Final = """
from pytest_nsisolate.process import image

made = []
original = image.Image._make
image.Image._make = lambda self: made.append(1) or original(self)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"unpacked: {len(made)}")
"""

MANY: Final = """
import os
import tarfile
import signal
from pathlib import Path
from typing import Final

import pytest

with tarfile.open("box.tar", "w") as archive:
    archive.addfile(tarfile.TarInfo("file"))

@pytest.mark.isolated(root="./box.tar")
@pytest.mark.parametrize("number", range(12))
def test_it(number):
    os.unlink("/file")

@pytest.mark.isolated(root="./box.tar")
def test_crashes():
    os.unlink("/file")
    os.kill(os.getpid(), 11)
    os.abort()

@pytest.mark.isolated(root="./box.tar", files={"/file/x": ""})
def test_refused(): ...

@pytest.mark.isolated(root="./box.tar")
def test_after():
    os.unlink("/file")
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_it_is_unpacked_once_a_run(side: Side, jobs: str) -> None:
    """For tests one after the other and at the same time, also after one that ends badly."""
    files = {"test_it.py": MANY, "conftest.py": COUNTING}
    result = run_batch(files, side, f"--nsisolate-jobs={jobs}")
    assert len(result.passed()) == 13, result.text
    assert "unpacked: 1\n" in result.stdout, result.text


@pytest.mark.parametrize("side", SIDES)
def test_a_command_takes_an_archive_too(side: Side) -> None:
    """As ``docker run`` does; nothing of the host's is there."""
    with suite_folder({}, side) as folder:
        with tarfile.open(folder / "box.tar.xz", "w:xz") as archive:
            archive.add(BUSYBOX, "bin/sh")
        (folder / "box.tar.xz").chmod(0o644)
        command = (sys.executable, "-m", "pytest_nsisolate", "run", "--root", "box.tar.xz")
        script = "echo * && echo gone > /made && pwd"
        done = subprocess.run(
            (*prefix(side), "env", "-C", str(folder), *command, "sh", "-c", script),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.stdout, done.stderr) == ("bin dev proc sys tmp\n/\n", "")
        assert [path.name for path in folder.iterdir()] == ["box.tar.xz"]


WAITING: Final = """
import tarfile, time
import signal
from pathlib import Path
from typing import Final

import pytest

with tarfile.open("box.tar", "w") as archive:
    archive.addfile(tarfile.TarInfo("file"))

@pytest.mark.isolated(root="./box.tar", writable=[__import__("os").getcwd()])
def test_it():
    open("started", "w").close()
    time.sleep(60)
"""


REWRITTEN: Final = """
import os
import tarfile

def seen(): return os.path.exists("/new")

def folders():
    return sum(os.path.isdir(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))

def test_it(isolate, tmp_path):
    path = tmp_path / "box.tar"
    counts = []
    for name in ("old", "older", "oldest", "new"):
        before = path.stat().st_ctime_ns if counts else 0
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        os.utime(path, ns=(1, 1))
        while path.stat().st_ctime_ns == before:  # a clock that ticks slowly
            os.utime(path, ns=(1, 1))
        assert isolate.using(root=str(path))(seen) == (name == "new")
        counts.append(folders())
    assert len({*counts}) == 1, counts
"""


@pytest.mark.parametrize("side", SIDES)
def test_an_archive_that_is_written_anew(side: Side) -> None:
    """Its old content is let go of, also if size and time are as before (``cp -p``)."""
    result = run_batch({"test_it.py": REWRITTEN}, side)
    assert result.passed() == {"test_it"}, result.text


@pytest.mark.parametrize("side", SIDES)
def test_a_killed_runner_leaves_nothing(side: Side) -> None:
    """No process, no mount, and no unpacked file: the tree was attached nowhere else."""
    with suite_folder({"test_it.py": WAITING}, side) as folder:
        with start(folder, side) as running:
            running.wait_for("started")
            running.signal(signal.SIGKILL)
            running.process.wait(timeout=30)
        assert_nothing_alive(folder)
        assert sorted(path.name for path in folder.glob("*.tar")) == ["box.tar"]
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert "box.tar" not in mounts
