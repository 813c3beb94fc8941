# SPDX-License-Identifier: MIT
"""Programs that answer a runner's system calls in the kernel's place: refused, by name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import NEEDS_NAMESPACES, Result, needs_program, run_source

pytestmark = NEEDS_NAMESPACES

SUITE = """
import pytest

@pytest.mark.isolated
def test_isolated(): pass

def test_plain(): pass
"""

#: What such a library does, as far as we can see. The id that it makes up must not reach the
#: kernel, and newer versions of ncurses open their files with setfsuid(geteuid()).
LIBRARY = """
unsigned geteuid(void) { return 4242; }
int setfsuid(unsigned id) { return 4242; }
"""


def run_under(folder: Path, *prefix: str) -> Result:
    return run_source(folder, SUITE, "-p", "no:randomly", prefix=prefix)


def assert_refused(result: Result, name: str, remedy: str) -> None:
    """The isolated test, before it was started, and nothing else."""
    assert result.phases("test_plain") == ["setup passed", "call passed", "teardown passed"]
    text = result.failure("test_isolated")
    assert text.startswith("isolation refused: look at the runner: EPERM, "), result.text
    assert f"({name})" in text.splitlines()[0]
    assert f"remedy: {remedy}" in text
    assert f"nsisolate: unavailable: the runner runs under {name}" in result.stdout


@pytest.mark.parametrize(
    ("library", "name", "remedy"),
    [
        ("libfakeroot-sysv.so", "fakeroot", "start pytest without fakeroot"),
        ("libpseudo.so", "pseudo", "start pytest without pseudo"),
        ("libsome.so", "something", "start pytest without it"),
    ],
)
def test_who_makes_up_ids_is_named(tmp_path: Path, library: str, name: str, remedy: str) -> None:
    """By the library's name, or else by what it says."""
    built = tmp_path / library
    options = ["-shared", "-fPIC", "-x", "c", "-", "-o", str(built)]
    subprocess.run(["gcc", *options], input=LIBRARY, text=True, check=True)
    assert_refused(run_under(tmp_path, "env", f"LD_PRELOAD={built}"), name, remedy)


def test_a_library_that_was_not_loaded_is_nobody(tmp_path: Path) -> None:
    """The variable alone is what a suite sets for the programs that it starts."""
    source = 'import os\nos.environ["LD_PRELOAD"] = "libfakeroot-sysv.so"\n' + SUITE
    result = run_source(tmp_path, source)
    assert result.passed() == {"test_isolated", "test_plain"}, result.text


@needs_program("fakeroot")
def test_fakeroot(tmp_path: Path) -> None:
    """The real one."""
    assert_refused(run_under(tmp_path, "fakeroot"), "fakeroot", "start pytest without fakeroot")


@needs_program("proot")
@pytest.mark.parametrize("options", [(), ("-0",)], ids=str)
def test_proot(tmp_path: Path, options: tuple[str, ...]) -> None:
    """It changes no id without ``-0``, but what a test mounts is not there either way."""
    assert_refused(run_under(tmp_path, "proot", *options), "proot", "start pytest outside of proot")


@pytest.mark.parametrize(
    "command",
    [pytest.param("fakechroot", marks=needs_program("fakechroot")), "unshare --map-root-user"],
)
def test_who_leaves_the_calls_alone_is_no_obstacle(tmp_path: Path, command: str) -> None:
    """A root of a user namespace is one."""
    result = run_under(tmp_path, *command.split())
    assert result.passed() == {"test_isolated", "test_plain"}, result.text
