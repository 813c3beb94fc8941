# SPDX-License-Identifier: MIT
"""``root=``, ``writable=``, ``files=``, ``hide=`` and ``root_size=``: checked at collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate.request.marker import check_keywords
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.request.options import Settings
from pytest_nsisolate.request.resolve import from_keywords
from pytest_nsisolate.request.wording import MarkerProblem
from tests.support import NEEDS_NAMESPACES, run_suite, write_files


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"root": "overlya"}, "or a path such as \"./box\", did you mean 'overlay'?"),
        ({"root": "box"}, 'takes "host", "overlay", "readonly", or a path such as "./box"'),
        ({"root": True}, 'takes "host", "overlay", "readonly", or a path'),
        ({"root": ""}, 'takes "host", "overlay", "readonly", or a path'),
        ({"root": b"/box"}, 'takes "host", "overlay", "readonly", or a path'),
        ({"root": "/a\0"}, "takes a path without NUL"),
        ({"writable": 1}, "takes a path, or a list of paths"),
        ({"writable": [b"/etc"]}, "takes paths, not b'/etc'"),
        ({"writable": "etc"}, "takes absolute paths without '..', not 'etc'"),
        ({"writable": ["/a/../b"]}, "takes absolute paths without '..'"),
        ({"writable": ["/a\0"]}, "takes absolute paths without '..'"),
        ({"writable": "/"}, "cannot name the root itself"),
        ({"writable": "/dev/shm"}, "cannot name '/dev/shm': that is no part of the root"),
        ({"writable": ["/sys"]}, "cannot name '/sys'"),
        ({"hide": ["//"]}, "cannot name the root itself"),
        ({"hide": None}, "takes a path, or a list of paths"),
        ({"files": ["/etc/x"]}, "takes a dict of paths to text, bytes or Path"),
        ({"files": {"x": ""}}, "takes absolute paths"),
        ({"files": {"/x": 1}}, "takes text, bytes or Path for '/x', not 1"),
        ({"files": {"/x": "\udc80"}}, "takes text that has a UTF-8 form for '/x'"),
        ({"files": {"/x": "", "//x/": ""}}, "names '/x' twice"),
        ({"files": {"/x": "", "/x/y": ""}}, "makes '/x' a file, and has '/x/y' below it"),
        ({"root_size": "0%"}, "takes 1% to 100% of the memory"),
        ({"root_size": "500%"}, "takes 1% to 100% of the memory"),
        ({"root_size": "much"}, 'takes a size from 64K on, bytes, "256M" or "50%", not \'much\''),
        ({"root_size": None}, "takes a size from 64K on"),
        ({"root_size": 100}, "takes a size from 64K on"),
    ],
    ids=str,
)
def test_bad_values_are_usage_errors(keywords: dict[str, Any], problem: str) -> None:
    """Wrong words and types, paths that are none, places that no root of a test takes over."""
    with pytest.raises(MarkerProblem) as found:
        check_keywords(keywords)
    assert problem in str(found.value)
    assert str(found.value).startswith("isolated(")


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"root": "overlay", "mount": False, "uts": True}, "files of its own need a mount"),
        ({"files": {"/x": ""}, "mount": False, "uts": True}, "need a mount namespace"),
        ({"hide": "/x", "mount": False, "uts": True}, r"using\(hide=\['/x'\], mount="),
        ({"root_size": "1M"}, "only what is written to root="),
        ({"root_size": "1M", "root": "readonly"}, "only what is written to root="),
        ({"files": {"/x": ""}, "hide": ["/x"]}, "a file of its own cannot be hidden"),
        ({"files": {"/x": Path("nsi-none")}}, "there is no file /nowhere/nsi-none"),
    ],
    ids=str,
)
def test_contradictions(keywords: dict[str, Any], problem: str) -> None:
    """Files of its own without a mount namespace, a limit that nothing holds, both and neither."""
    with pytest.raises(MarkerProblem, match=problem):
        from_keywords(keywords, Settings(rootdir="/nowhere"))


def test_a_default_root_needs_a_mount_namespace_too() -> None:
    """Nothing is isolated less than the options say, unless the marker says so."""
    settings = Settings(root="overlay")
    with pytest.raises(MarkerProblem, match='say root="host"'):
        from_keywords({"mount": False, "uts": True}, settings)
    request = from_keywords({"mount": False, "uts": True, "root": "host"}, settings)
    assert request.root is None
    assert request.namespaces == {"user", "uts"}


def test_a_path_is_seen_from_rootdir() -> None:
    """In a marker, by the option, and from the current directory where a hook replaces it."""
    for given in ("./box", "x/../box", Path("box")):
        request = from_keywords({"root": given, "root_size": "1M"}, Settings(rootdir="/suite"))
        assert (request.root, request.has_foreign_root) == ("/suite/box", True)
    assert from_keywords({"root": "/box/"}, Settings(rootdir="/suite")).root == "/box"
    settings = Settings(root="./box", rootdir="/suite")
    assert from_keywords({}, settings).root == "/suite/box"
    replaced = IsolationRequest(frozenset()).replace(root="./box")
    assert replaced.root == f"{Path.cwd()}/box"
    assert "mount" in replaced.namespaces


@pytest.mark.parametrize("value", [{"root": "overlay"}, {"hide": "/x"}, {"files": {"/x": b""}}])
def test_it_brings_a_mount_namespace(value: dict[str, object]) -> None:
    """Also beside namespaces that are named."""
    request = from_keywords({"uts": True, **value}, Settings())
    assert request.namespaces == {"user", "uts", "mount"}


def test_the_forms_that_values_may_have(tmp_path: Path) -> None:
    """One path or several, strings and Paths, with slashes too many; text, bytes and files."""
    (tmp_path / "given").touch()
    keywords = {
        "root": "overlay",
        "writable": [Path("/b"), "//a/./x/", "/b"],
        "hide": "/c",
        "files": {"/t": "ä", Path("/b"): bytearray(b"b"), "/p": Path("given")},
        "root_size": "50%",
    }
    request = from_keywords(keywords, Settings(rootdir=str(tmp_path)))
    assert request.writable == ("/a/x", "/b")
    assert request.hide == ("/c",)
    assert request.files == (("/b", b"b"), ("/p", tmp_path / "given"), ("/t", "ä".encode()))
    assert request.root_size == "50%"
    assert from_keywords({**keywords, "root_size": "1M"}, Settings(rootdir=str(tmp_path))).root_size


def test_a_hook_may_change_them() -> None:
    """``replace`` checks, and adds the namespace."""
    request = IsolationRequest(frozenset({"user", "uts"}))
    changed = request.replace(root="overlay", files={"/x": "y"}, hide="/z", root_size=1 << 20)
    assert changed.namespaces == {"user", "uts", "mount"}
    assert (changed.files, changed.hide, changed.root_size) == ((("/x", b"y"),), ("/z",), "1048576")
    assert changed.replace(root=None, files={}, hide=()).has_own_files is False
    with pytest.raises(ValueError, match="did you mean 'overlay'"):
        request.replace(root="overlai")


OPTIONS = ("--nsisolate-root=overlya", "-o", "nsisolate_root=overlya")


@pytest.mark.parametrize("given", [OPTIONS[:1], OPTIONS[1:]], ids=str)
def test_a_bad_option_is_a_usage_error(tmp_path: Path, given: tuple[str, ...]) -> None:
    """It names the option or the ini key."""
    result = run_suite(write_files(tmp_path, {"test_it.py": ""}), *given)
    assert result.returncode == 4
    named = "--nsisolate-root" if len(given) == 1 else "ini key nsisolate_root"
    assert (
        f'{named}: takes "host", "overlay", "readonly", or a path such as "./box", did you'
        in result.text
    )


SUITE = """
import os
import pytest

def makes():
    with open("/var/tmp/nsi-made", "w") as file:
        file.write("x")
    return os.path.exists("/var/tmp/nsi-made")

@pytest.mark.isolated
def test_marked():
    assert makes()

@pytest.mark.isolated(uts=True)
def test_named():
    assert makes()

@pytest.mark.isolated(root="readonly")
def test_other_root():
    with pytest.raises(OSError):
        makes()

def test_unmarked(isolate):
    assert makes()
    assert isolate(makes)

@pytest.mark.isolated(False)
def test_the_host():
    assert not os.path.exists("/var/tmp/nsi-made")
"""


@NEEDS_NAMESPACES
@pytest.mark.parametrize("given", ["--nsisolate-root=overlay", "-onsisolate_root=overlay"])
def test_a_root_for_a_whole_suite(tmp_path: Path, given: str) -> None:
    """Marked tests, unmarked ones and calls; a marker wins."""
    folder = write_files(tmp_path, {"test_it.py": SUITE})
    result = run_suite(folder, "--nsisolate=all", given)
    assert result.passed() == {
        *("test_marked", "test_named", "test_other_root", "test_unmarked", "test_the_host")
    }, result.text
