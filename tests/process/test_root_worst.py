# SPDX-License-Identifier: MIT
"""Many tests that do their worst with files, and a host that has nothing of it."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.inner_runs import SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

#: ``NSISOLATE_WHOLE=1``: more of them, and a look at every path below these, which takes a machine
#: that nothing else changes.
WHOLE: Final = os.environ.get("NSISOLATE_WHOLE") == "1"
_LOOKED_AT: Final = "/etc:/usr:/var/lib:/home:/root:/opt:/srv" if WHOLE else ""

#: How many; each does every deed somewhere.
_TESTS: Final = 200 if WHOLE else 24

WORST: Final = """
import contextlib, mmap, os, random, shutil, subprocess, tempfile
import pytest

MARK = "nsi-worst"
ODD = 0o1357  # a mode that no file has
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


def look_at_the_host():
    found = {}
    for top in filter(os.path.exists, os.environ["LOOKED_AT"].split(":")):
        for path in (top, *paths(top)):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path] = (
                    status.st_mode, status.st_uid, status.st_gid, status.st_size,
                    status.st_mtime_ns, status.st_ino,
                )
    return found


plant()
BEFORE = look(TREE)
HOST = look_at_the_host()


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
    with open(f"{path}.{MARK}", "w") as file: file.write(MARK)
    os.replace(f"{path}.{MARK}", path)

def unnamed(path):
    fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR)
    os.link(f"/proc/self/fd/{fd}", f"{path}.{MARK}", follow_symlinks=True)

def other_kind(path):
    os.unlink(path)
    os.mkdir(path)

def by_a_program(path): subprocess.run(["rm", "-rf", path, os.path.dirname(path)])
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


@pytest.mark.isolated(root="overlay")
@pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))
def test_worst(number):
    chance = random.Random(number)
    targets = [*VICTIMS, *paths(TREE)]
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
        assert not os.path.exists(f"{TREE}/0")
    if number % 10 == 1:
        os.abort()


def test_the_host_is_as_it_was():
    assert look(TREE) == BEFORE
    now = look_at_the_host()
    assert {path: (HOST.get(path), now.get(path)) for path in {*HOST, *now}
            if HOST.get(path) != now.get(path)} == {}
    assert [path for path in VICTIMS if not os.path.exists(path)] == []
    assert [path for path in VICTIMS if MARK in open(path).read()] == []
    marked = [
        path for path in paths("/etc")
        if MARK in path or (os.path.lexists(path) and os.lstat(path).st_mode & 0o7777 == ODD)
    ]
    assert marked == []


def test_the_look_can_see_it():
    append(f"{TREE}/0/0/file")
    assert look(TREE) != BEFORE
"""


@pytest.mark.parametrize("side", SIDES)
def test_the_host_is_identical(side: Side) -> None:
    """Every path of a tree, in mode, owner, size, time, links and content; no mark in ``/etc``."""
    options = ("-p", "no:randomly")
    result = run_batch(
        {"test_it.py": WORST},
        side,
        *options,
        env={"TESTS": str(_TESTS), "TOPS": "/etc:/home", "LOOKED_AT": _LOOKED_AT},
        timeout=1200 if WHOLE else 240,
    )
    crashed = {f"test_worst[{number}]" for number in range(1, _TESTS, 10)}
    failed = {r["nodeid"].partition("::")[2] for r in result.reports if r["outcome"] == "failed"}
    assert failed == crashed, result.text
    assert {"test_the_host_is_as_it_was", "test_the_look_can_see_it"} <= result.passed()
