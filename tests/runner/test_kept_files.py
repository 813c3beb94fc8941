# SPDX-License-Identifier: MIT
"""``--nsisolate-keep-root``: what a failed test has written is there afterwards, and where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES, Result

pytestmark = NEEDS_NAMESPACES

SUITE: Final = """
import os
import time
import pytest

pytestmark = pytest.mark.isolated(root="overlay")

def write():
    os.makedirs("/opt/nsi-kept/empty")
    with open("/opt/nsi-kept/set-uid", "w") as file: file.write("kept\\n")
    os.chmod("/opt/nsi-kept/set-uid", 0o4750)
    os.symlink("/etc/shadow", "/opt/nsi-kept/link")
    os.symlink("/root", "/opt/nsi-kept/folder-elsewhere")
    os.mkfifo("/opt/nsi-kept/fifo")
    with open("/etc/hosts", "a") as file: file.write("192.0.2.7 nsi\\n")
    with open("/nsi-top", "w"): pass
    open("/etc/hostname", "a").close()
    os.unlink("/usr/bin/env")

def test_fails():
    write()
    assert False

def test_crashes():
    write()
    os.abort()

@pytest.mark.isolated(timeout=15)
def test_is_late():
    write()
    time.sleep(100)

@pytest.fixture
def failing():
    yield
    write()
    assert False

def test_fails_twice(failing):
    open("/opt/nsi-first", "w").close()
    assert False

def test_passes():
    write()

def test_changes_nothing():
    assert False

@pytest.mark.isolated(root="host")
def test_has_no_root():
    assert False

# In the runner, because the base temp goes with this run -----------------------------------------

import re
from pathlib import Path

KEPT = Path(__file__).parent / ".temp" / "nsisolate-root"
NAMES = os.environ["NAMES"].split()
here = pytest.mark.isolated(False)

@here
@pytest.mark.parametrize("name", [*NAMES, "fails_twice-2"])
def test_all_is_there(name):
    folder = KEPT / f"test_it.py_test_{name}"
    files = folder / "files"
    assert (files / "opt/nsi-kept/set-uid").read_text() == "kept\\n"
    assert (files / "opt/nsi-kept/set-uid").stat().st_mode & 0o7777 == 0o750
    assert (files / "opt/nsi-kept/link").is_symlink()
    assert (files / "opt/nsi-kept/folder-elsewhere").is_symlink()
    assert (files / "opt/nsi-kept/empty").is_dir()
    assert (files / "etc/hosts").read_text().endswith("192.0.2.7 nsi\\n")
    assert (files / "nsi-top").exists()
    assert not (files / "opt/nsi-kept/fifo").exists()
    assert not (files / "etc/hostname").exists()
    listed = (folder / "changes").read_text()
    assert re.search(r"^deleted +/usr/bin/env ", listed, re.MULTILINE), listed
    assert re.search(r"^created +/opt/nsi-kept/fifo ", listed, re.MULTILINE), listed

@here
def test_no_more_is_there():
    names = (*NAMES, "fails_twice", "fails_twice-2")
    assert {path.name for path in KEPT.iterdir()} == {f"test_it.py_test_{name}" for name in names}
    assert (KEPT / "test_it.py_test_fails_twice/files/opt/nsi-first").exists()
"""


def kept_by(result: Result, name: str) -> list[str]:
    text = "\n".join(str(report["text"]) for report in result.of(name))
    sections = "\n".join(t for report in result.of(name) for _, t in report["sections"])
    return re.findall(r"they are kept in (.*)", f"{text}\n{sections}")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("view", ["all", "none"])
def test_what_a_failed_test_has_written(side: Side, view: str) -> None:
    """Also one that has crashed, or was killed; with the view of PID 1 and without."""
    options = ["-p", "no:randomly", "--nsisolate-keep-root", f"--nsisolate-postmortem={view}"]
    names = ["fails", "crashes"]
    if view == "all":
        names.append("is_late")
    else:
        options += ["-k", "not test_is_late"]  # its time is long, so that it is enough
    environment = {"NAMES": " ".join(names)}
    result = run_batch({"test_it.py": SUITE}, side, *options, env=environment, timeout=240)
    looks = {name for name in result.passed() if "is_there" in name}
    assert len(looks) == len(names) + 2, result.text
    for name, times in (*((name, 1) for name in names), ("fails_twice", 2)):
        kept = kept_by(result, f"test_{name}")
        folders = [f"test_it.py_test_{name}{number}" for number in ("", "-2")][:times]
        assert [Path(folder).name for folder in kept] == folders, result.text
    for name in ("test_passes", "test_changes_nothing", "test_has_no_root"):
        assert kept_by(result, name) == []


LEADING_OUT: Final = """
import os
from pathlib import Path
import pytest

@pytest.mark.isolated(root="overlay")
def test_it(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    victim = base / "victim"
    victim.mkdir()
    os.symlink(victim, base / "nsisolate-root")
    Path("/etc/nsi-written").touch()
    assert False

def test_nothing_is_there(tmp_path_factory):
    assert os.listdir(tmp_path_factory.getbasetemp() / "victim") == []
"""


@pytest.mark.parametrize("side", SIDES)
def test_a_link_in_its_place_is_not_followed(side: Side) -> None:
    result = run_batch({"test_it.py": LEADING_OUT}, side, "--nsisolate-keep-root", clean=False)
    assert result.passed() == {"test_nothing_is_there"}, result.text


def test_nothing_is_kept_without_it() -> None:
    """Negative control."""
    result = run_batch({"test_it.py": SUITE}, "user", "-k", "test_fails", env={"NAMES": "fails"})
    assert result.of("test_fails")
    assert kept_by(result, "test_fails") == []
