# SPDX-License-Identifier: MIT
"""Roots of a test's own in whole runs: workers, coverage, kills, hosts that refuse them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from tests import seccomp
from tests.inner_runs import (
    SIDES,
    THREADED,
    Side,
    assert_nothing_alive,
    run_batch,
    start,
    suite_folder,
)
from tests.support import NEEDS_NAMESPACES, run_source

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


@pytest.mark.parametrize("side", SIDES)
def test_workers(side: Side) -> None:
    """Each has an ownership layer of its own."""
    options = ("-p", "xdist", "-n", "2")
    result = run_batch({"test_it.py": MANY}, side, *options, clean=False, gone=True)
    assert len(result.passed()) == 30, result.text


COUNTING: Final = """
from pytest_nsisolate.process import ownership_layer as layers

made = []
original = layers.OwnershipLayer._make
layers.OwnershipLayer._make = lambda self: made.append(1) or original(self)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"layers made: {len(made)}")
"""

LOSING: Final = """
import pytest

@pytest.mark.isolated(root="overlay")
def test_first(): pass

@pytest.mark.isolated(root="overlay", files={"/etc": "x"})
def test_refused(): pass

@pytest.mark.isolated(root="overlay", files={"/etc/hosts/x": "x"})
def test_refused_too(): pass

@pytest.mark.isolated(root="overlay")
def test_crashes():
    import os
    os.abort()

@pytest.mark.isolated(root="overlay", user="same")
def test_another_one(): pass

@pytest.mark.isolated(root="overlay")
def test_last(): pass
"""


def test_the_layer_is_made_once_and_handed_on() -> None:
    """By tests that pass, and by those that are refused; ``user="same"`` has another one."""
    result = run_batch({"test_it.py": MANY, "conftest.py": COUNTING}, "user")
    assert "layers made: 1\n" in result.stdout, result.text
    result = run_batch({"test_it.py": LOSING, "conftest.py": COUNTING}, "user")
    assert result.passed() == {"test_first", "test_another_one", "test_last"}, result.text
    assert "layers made: 2\n" in result.stdout, result.text


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
    ("denied", "refused", "said"),
    [
        ("setxattr=EOPNOTSUPP", "test_overlay", ("on a tmpfs", "boot Linux 6.6 or newer")),
        ("pivot_root=EPERM", "test_overlay", ("pivot_root", "which no capability opens")),
        ("mount_setattr=ENOSYS", "test_readonly", ("make / read-only", "boot Linux 5.12")),
    ],
)
def test_a_host_that_lacks_something(
    tmp_path: Path, denied: str, refused: str, said: tuple[str, ...]
) -> None:
    """What cannot be had is refused with its cause and its remedy; all else works."""
    filtered = (sys.executable, seccomp.__file__, denied, "--")
    result = run_source(tmp_path, ONE, prefix=filtered)
    failure = result.failure(refused)
    assert all(text in failure for text in (*said, "cause: ", "remedy: ")), failure
    others = {"test_overlay", "test_readonly", "test_host"} - {refused}
    assert result.passed() == others, result.text


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
