# SPDX-License-Identifier: MIT
"""Tests that change files in a root of their own, and say what they have changed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.view import files

expect = pytest.mark.expect
isolated = pytest.mark.isolated
pytestmark = pytest.mark.isolated(root="overlay")

ROOT = os.geteuid() == 0


def append(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


@expect("passed")
def test_nothing(pid1: Pid1View) -> None:
    """Neither a look nor a copy that is as before is a change."""
    append("/etc/hosts", "")
    os.utime("/etc/hosts")
    with open("/etc/hostname", "r+b") as file:
        content = file.read()
        file.seek(0)
        file.write(content)
    os.mkdir("/etc/nsi")
    os.rmdir("/etc/nsi")
    os.makedirs("/var/tmp/nsi/__pycache__")
    Path("/var/tmp/nsi/__pycache__/x.pyc").touch()
    shutil.rmtree("/var/tmp/nsi")
    assert not pid1.files, str(pid1.files)
    assert str(pid1.files) == "no file was changed"
    pid1.assert_files()
    pid1.assert_unchanged()


@expect("passed")
def test_everything_by_its_kind(pid1: Pid1View) -> None:
    append("/etc/hosts", "192.0.2.1 nsi\n")
    Path("/etc/nsi/deep").mkdir(parents=True)
    Path("/etc/nsi/deep/file").write_text("new\n", encoding="ascii")
    os.symlink("file", "/etc/nsi/deep/link")
    Path("/nsi-top").touch()
    os.unlink("/usr/bin/env")
    shutil.rmtree("/usr/share/doc/bash")
    shutil.rmtree("/usr/share/doc/dash")
    os.mkdir("/usr/share/doc/dash")
    Path("/usr/share/doc/dash/copyright").touch(mode=0o600)
    os.chmod("/etc/hostname", 0o640)
    found = pid1.files
    assert [str(entry) for entry in found.created] == [
        *("/etc/nsi", "/etc/nsi/deep", "/etc/nsi/deep/file", "/etc/nsi/deep/link", "/nsi-top")
    ]
    kinds = {entry.path: (entry.kind, entry.size) for entry in found.created}
    assert kinds["/etc/nsi/deep/file"] == ("file", 4)
    assert kinds["/etc/nsi/deep/link"][0] == "link"
    assert [str(entry) for entry in found.modified] == [
        *("/etc/hostname", "/etc/hosts", "/usr/share/doc/dash/copyright")
    ]
    assert {entry.mode for entry in found.modified if "hostname" in entry.path} == {0o640}
    deleted = [str(entry) for entry in found.deleted]
    assert deleted[:2] == ["/usr/bin/env", "/usr/share/doc/bash"]
    assert all(path.startswith("/usr/share/doc/dash/") for path in deleted[2:])
    assert found.complete


@expect("passed")
def test_diffs(pid1: Pid1View) -> None:
    append("/etc/hosts", "192.0.2.1 nsi\n")
    append("/etc/nsi", "new\n")
    os.unlink("/etc/hostname")
    append("/usr/bin/nsi", "\0")
    found = pid1.files
    assert found.diff("/etc/hosts").splitlines()[-1] == "+192.0.2.1 nsi"
    assert found.diff("/etc/nsi") == "--- /dev/null\n+++ /etc/nsi\n@@ -0,0 +1 @@\n+new\n"
    assert found.diff("/etc/hostname").startswith("--- /etc/hostname\n+++ /dev/null\n")
    assert found.diff("/etc/passwd") == ""
    os.unlink("/usr/bin/env")
    shutil.copy("/bin/true", "/usr/bin/env")
    assert "binary content of /usr/bin/env: sha256 " in found.diff("/usr/bin/env")


@isolated(files={"/etc/given": "given\n", "/nsi-given": "given\n"}, hide=["/etc/hostname"])
@expect("passed")
def test_what_is_given_is_no_change(pid1: Pid1View) -> None:
    assert not pid1.files, str(pid1.files)
    append("/etc/given", "more\n")
    os.unlink("/nsi-given")
    append("/etc/hostname", "new\n")
    pid1.assert_files(created="/etc/hostname", modified="/etc/given", deleted="/nsi-given")
    assert pid1.files.diff("/etc/given").endswith(" given\n+more\n")


@expect("passed")
def test_between_two_moments(pid1: Pid1View) -> None:
    """Each way from one state of a file to another."""
    Path("/opt/nsi-moments").mkdir()
    for name in ("stays", "written", "goes"):
        append(f"/opt/nsi-moments/{name}", "x")
    append("/etc/hosts", "x")
    original = Path("/etc/hostname").read_bytes()
    append("/etc/hostname", "x")
    os.unlink("/usr/bin/env")
    before = pid1.files

    assert not pid1.files - before
    time.sleep(0.01)  # a tmpfs has the time of the last tick
    append("/opt/nsi-moments/new", "x")
    Path("/opt/nsi-moments/written").write_text("y", encoding="ascii")
    os.unlink("/opt/nsi-moments/goes")
    os.unlink("/etc/hosts")
    Path("/etc/hostname").write_bytes(original)
    Path("/usr/bin/env").touch()
    os.chmod("/etc/fstab" if os.path.exists("/etc/fstab") else "/etc/group", 0o640)
    found = pid1.files - before
    assert [str(entry) for entry in found.created] == ["/opt/nsi-moments/new", "/usr/bin/env"]
    modified = [str(entry) for entry in found.modified]
    assert modified[1:] == ["/etc/hostname", "/opt/nsi-moments/written"]
    assert modified[0] in ("/etc/fstab", "/etc/group")
    assert [str(entry) for entry in found.deleted] == ["/etc/hosts", "/opt/nsi-moments/goes"]
    assert found.complete
    assert pid1.files - files.Files() == pid1.files


@expect("passed")
def test_patterns(pid1: Pid1View) -> None:
    Path("/opt/nsi/bin").mkdir(parents=True)
    Path("/opt/nsi/bin/tool").touch()
    append("/etc/hosts", "x\n")
    pid1.assert_files(created="/opt/nsi", modified=["/etc/host?"])
    pid1.assert_files(created=[Path("/opt/nsi/bin/tool")], ignoring=["/etc/*"])
    pid1.assert_files(created="/opt/**", modified="**/hosts")
    pid1.assert_unchanged("/usr", "/var")
    with pytest.raises(ValueError, match="patterns are absolute"):
        pid1.assert_files(created="opt/*")


@expect(
    "call failed", "/etc/hosts was modified", "nothing was created like /opt/x", "+192.0.2.9 nsi"
)
def test_files_that_were_not_expected(pid1: Pid1View) -> None:
    append("/etc/hosts", "192.0.2.9 nsi\n")
    pid1.assert_files(created="/opt/x")


@expect("call failed", "something was changed in /etc", "created   /etc/nsi", "+++ /etc/hosts")
def test_a_change_where_none_may_be(pid1: Pid1View) -> None:
    append("/etc/nsi", "")
    append("/etc/hosts", "x\n")
    pid1.assert_unchanged("/etc")


@expect("passed")
def test_more_than_is_looked_at(pid1: Pid1View, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known to be unchanged does not count as that."""
    monkeypatch.setattr(files, "MOST", 3)
    for number in range(9):
        append(f"/etc/nsi-{number}", "")
    assert not pid1.files.complete
    with pytest.raises(AssertionError, match="not all of them were looked at"):
        pid1.assert_files(created="/etc/nsi-*")
    with pytest.raises(AssertionError, match="not all of them were looked at"):
        pid1.assert_unchanged("/var")


@isolated(root="host")
@expect("call failed", 'add root="overlay" to its marker')
def test_without_a_root_of_its_own(pid1: Pid1View) -> None:
    pid1.assert_files()


# Told of tests that cannot tell ------------------------------------------------------------------


@expect("call failed", "files changed by the test:", "created   /etc/nsi", "modified  /etc/hosts")
def test_a_failure() -> None:
    append("/etc/nsi", "")
    append("/etc/hosts", "x\n")
    raise AssertionError


@expect("call failed", "killed by SIGSEGV", "created   /etc/nsi-crash", "deleted   /usr/bin/env")
def test_a_crash() -> None:
    append("/etc/nsi-crash", "")
    os.unlink("/usr/bin/env")
    os.abort()


@isolated(timeout=2)
@expect("call failed", "timed out after 2 s", "created   /etc/nsi-late")
def test_a_timeout() -> None:
    append("/etc/nsi-late", "")
    time.sleep(60)


@isolated(init=True)
@expect("call failed", "killed by SIGKILL", "created   /etc/nsi-killed")
def test_a_kill() -> None:
    append("/etc/nsi-killed", "")
    os.kill(os.getpid(), signal.SIGKILL)


@expect("call failed")
def test_a_failure_without_a_change() -> None:
    raise AssertionError


@expect("call failed", "created   /etc/nsi-00", "... and 88 more")
def test_many_are_counted() -> None:
    for number in range(100):
        append(f"/etc/nsi-{number:02}", "")
    raise AssertionError
