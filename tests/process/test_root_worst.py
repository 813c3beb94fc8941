# SPDX-License-Identifier: MIT
"""Many tests that do their worst with files, and a host that has nothing of it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import Final

import pytest

from tests.inner_runs import SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

#: ``NSISOLATE_WHOLE=1``: more of them, and a look at every path below more of the host.
WHOLE: Final = os.environ.get("NSISOLATE_WHOLE") == "1"
_LOOKED_AT: Final = ("/etc", "/usr", "/var/lib", "/home", "/srv") if WHOLE else ("/etc", "/usr/bin")

#: How many; each does every deed somewhere.
_TESTS: Final = 200 if WHOLE else 24

#: How many files of the host they aim at, all of them together.
_AIMS: Final = 2000

#: What Python and its libraries are in: a test needs it after its deeds.
_NEEDED: Final = ("/usr/lib", "/usr/local/lib")

#: Parts of the names, and a mode, that only these tests give.
_MARK: Final = "nsi-worst"
_ODD: Final = 0o1357

WORST: Final = """
import contextlib, mmap, os, random, shutil, subprocess, tempfile
import pytest

MARK, ODD = os.environ["MARK"], int(os.environ["ODD"])
AIMS = open("aims").read().splitlines()
TREE = tempfile.mkdtemp(prefix="tree-", dir=os.environ["HOME"])
VICTIMS = [f"/etc/{name}" for name in ("passwd", "group", "hosts", "hostname", "fstab", "profile")]
VICTIMS = [path for path in VICTIMS if os.path.exists(path)]


def plant():
    for number in range(12):
        folder = f"{TREE}/{number % 4}/{number}"
        os.makedirs(folder)
        for name in ("file", "other"):
            with open(f"{folder}/{name}", "w") as file:
                file.write("as it was\\n")
        os.symlink("file", f"{folder}/link")
        os.link(f"{folder}/file", f"{folder}/second-name")


def paths(top):
    for folder, folders, files in os.walk(top):
        yield from (os.path.join(folder, name) for name in (*folders, *files))


def look(top):
    found = {}
    for path in (top, *paths(top)):
        status = os.lstat(path)
        content = open(path, "rb").read() if os.path.isfile(path) else b""
        found[path] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns,
            status.st_nlink, status.st_ino, content,
        )
    return found


plant()
BEFORE = look(TREE)


# What is done to a path ---------------------------------------------------------------------------

def append(path):
    with open(path, "a") as file: file.write(MARK)

def through_a_map(path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:1] = b"!"

def through_a_directory(path):
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try: os.unlink(os.path.basename(path), dir_fd=fd)
    finally: os.close(fd)

def upwards(path):
    os.chdir(os.path.dirname(path))
    os.unlink("./../" + os.path.basename(os.path.dirname(path)) + "/" + os.path.basename(path))

def by_proc(path): os.unlink(f"/proc/1/root{path}")
def by_the_current_directory(path):
    os.chdir(os.path.dirname(path))
    os.unlink(f"/proc/self/cwd/{os.path.basename(path)}")

def by_a_descriptor(path):
    fd = os.open(path, os.O_RDONLY)
    with open(f"/proc/self/fd/{fd}", "a") as file: file.write(MARK)
    os.close(fd)

def replace(path):
    # A name of its own: what opens a fifo waits for its other end.
    with open(f"{path}.{MARK}-new", "w") as file: file.write(MARK)
    os.replace(f"{path}.{MARK}-new", path)

def unnamed(path):
    fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR)
    os.link(f"/proc/self/fd/{fd}", f"{path}.{MARK}", follow_symlinks=True)

def other_kind(path):
    os.unlink(path)
    os.mkdir(path)

def by_a_program(path):
    folder = os.path.dirname(path)
    subprocess.run(["rm", "-rf", path, folder if folder.startswith(TREE) else path])
def by_sed(path): subprocess.run(["sed", "-i", f"1i{MARK}", path])
def covered(path):
    subprocess.run(["mount", "-t", "tmpfs", "none", os.path.dirname(path)], check=True)
    append(path)

PROGRAMS = [by_a_program, by_sed, covered]
DEEDS = [
    append, through_a_map, through_a_directory, upwards, by_proc, by_the_current_directory,
    by_a_descriptor, replace, unnamed, other_kind,
    os.unlink, os.utime, shutil.rmtree,
    lambda path: os.chmod(path, ODD),
    lambda path: os.chown(path, os.geteuid(), os.getegid()),
    lambda path: os.truncate(path, 0),
    lambda path: os.rename(path, f"{path}.{MARK}"),
    lambda path: os.link(path, f"{path}.{MARK}"),
    lambda path: os.symlink("/nowhere", f"{path}.{MARK}"),
    lambda path: os.mkdir(f"{path}.{MARK}"),
    lambda path: os.mkfifo(f"{path}.{MARK}"),
    lambda path: os.setxattr(path, "user.nsi", b"x"),
]


@pytest.mark.isolated(root="overlay", timeout=300)
@pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))
def test_worst(number):
    chance = random.Random(number)
    targets = [*VICTIMS, *paths(TREE), *chance.choices(AIMS, k=50)]
    done = 0
    # A program takes longer than all the rest.
    deeds = [*DEEDS, *chance.choices(DEEDS, k=15), *PROGRAMS[number % 7 :][:1]]
    for deed in deeds:
        path = chance.choice(targets)
        with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
            deed(path)
            done += 1
        os.chdir("/")
    assert done > 5
    if number % 10 == 0:
        for top in os.environ["TOPS"].split(":"):
            shutil.rmtree(top, ignore_errors=True)
        assert not os.path.exists(VICTIMS[0])
        shutil.rmtree(TREE, ignore_errors=True)
        # A directory that a tmpfs covers stays.
        assert [path for path in paths(TREE) if not os.path.isdir(path)] == []
    if number % 10 == 1:
        os.abort()


def test_the_host_is_as_it_was():
    assert look(TREE) == BEFORE
    assert [path for path in VICTIMS if not os.path.exists(path)] == []
    assert [path for path in VICTIMS if MARK in open(path).read()] == []


def test_the_look_can_see_it():
    append(f"{TREE}/0/0/file")
    assert look(TREE) != BEFORE
"""


@pytest.mark.parametrize("side", SIDES)
def test_the_host_is_identical(side: Side) -> None:
    """A tree of the tests' own, in all that lstat(2) tells and in content; and the host's files.

    Others work on this host: those that the tests aim at are old, so no one else changes them, and
    of the rest counts what no one else does to a file.
    """
    before = dict(_host())
    old = time.time() - 86_400
    aims = [
        path
        for path, status in before.items()
        if S_ISREG(status.st_mode)
        and status.st_mtime < old
        and path.isprintable()
        and not path.startswith(_NEEDED)
    ]
    assert aims
    aims = sorted(random.Random(0).sample(aims, min(_AIMS, len(aims))))
    options = ("-p", "no:randomly")
    result = run_batch(
        {"test_it.py": WORST, "aims": "\n".join(aims)},
        side,
        *options,
        env={"TESTS": str(_TESTS), "TOPS": "/etc:/home", "MARK": _MARK, "ODD": str(_ODD)},
        timeout=1200 if WHOLE else 240,
    )
    after = dict(_host())
    crashed = {f"test_worst[{number}]" for number in range(1, _TESTS, 10)}
    failed = {r["nodeid"].partition("::")[2] for r in result.reports if r["outcome"] == "failed"}
    assert failed == crashed, result.text
    assert {"test_the_host_is_as_it_was", "test_the_look_can_see_it"} <= result.passed()
    assert _differences(before, after, aims) == {}


def test_the_comparison_sees_each_change(tmp_path: Path) -> None:
    """Of a file that was aimed at, and of any other."""
    made = [tmp_path / name for name in ("aim", "gone", "odd", "given", "another")]
    for path in made:
        path.touch()
    before = dict(_walk(str(tmp_path)))
    made[0].write_text("changed")
    made[1].unlink()
    made[2].chmod(_ODD)
    made[3].chmod(0o600)
    made[4].write_text("by another run")
    (tmp_path / f"new.{_MARK}").touch()
    found = _differences(before, dict(_walk(str(tmp_path))), [str(path) for path in made[:2]])
    assert {os.path.basename(path) for path in found} == {
        *("aim", "gone", "odd", "given", f"new.{_MARK}")
    }


def _host() -> Iterator[tuple[str, os.stat_result]]:
    for top in _LOOKED_AT:
        yield from _walk(top)


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    for folder, folders, files in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in (*folders, *files))):
            with suppress(FileNotFoundError):
                yield path, os.lstat(path)


def _differences(
    before: dict[str, os.stat_result], after: dict[str, os.stat_result], aims: list[str]
) -> dict[str, tuple[object, object]]:
    """Of the files that were aimed at all; of the others new owners and modes, and marks."""
    found: dict[str, tuple[object, object]] = {}
    for path in aims:
        if _whole(before[path]) != (now := _whole(after.get(path))):
            found[path] = (_whole(before[path]), now)
    for path, status in after.items():
        was = before.get(path)
        same = was is not None and was.st_ino == status.st_ino
        if same and was is not None and _rights(was) != _rights(status):
            found[path] = (_rights(was), _rights(status))
        elif _MARK in path or S_IMODE(status.st_mode) == _ODD:
            found[path] = (None, _rights(status))
    return found


def _rights(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_uid, status.st_gid)


def _whole(status: os.stat_result | None) -> tuple[int, ...]:
    if status is None:
        return ()
    return (*_rights(status), status.st_size, status.st_mtime_ns, status.st_ino)
