# SPDX-License-Identifier: MIT
"""``user="range"``: the ids of an account's ranges, and what is said where there are none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import examine, facts
from pytest_nsisolate.kernel import originals
from pytest_nsisolate.process import id_ranges
from tests.accounts import with_ranges
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import NOBODY, THREADED, run_batch, suite_folder
from tests.support import NEEDS_NAMESPACES, Result, needs_program, run_source

NEEDS_NEWUIDMAP: Final = needs_program("newuidmap")

SUITE: Final = """
import os, subprocess
import pytest

pytestmark = pytest.mark.isolated(user="range")

def ids(name):
    with open(f"/proc/self/{name}_map") as lines:
        return [tuple(map(int, line.split())) for line in lines]

def own(path):
    status = os.stat(path)
    return status.st_uid, status.st_gid

def take(uid):
    if (pid := os.fork()) == 0:
        try:
            os.setgroups([uid])
            os.setgid(uid)
            os.setuid(uid)
            os._exit(0 if os.getresuid() == (uid, uid, uid) and os.getgroups() == [uid] else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1]

def test_the_maps():
    assert os.getuid() == os.getgid() == 0
    assert ids("uid") == ids("gid") == EXPECTED

def test_chown(tmp_path):
    (tmp_path / "file").touch()
    for number in (1, 33, 1000, LAST):
        os.chown(tmp_path / "file", number, number)
        assert own(tmp_path / "file") == (number, number)
    with pytest.raises(OSError):
        os.chown(tmp_path / "file", LAST + 1, -1)

def test_becoming_another():
    assert [take(number) for number in (1, 1000, LAST)] == [0, 0, 0]
    assert subprocess.run(["id", "-u"], user=33, group=33, extra_groups=[], capture_output=True,
                          text=True, check=True).stdout == "33\\n"

@pytest.mark.isolated(root="overlay")
def test_in_an_overlay(pid1):
    os.makedirs("/srv/nsi/deep")
    for path in ("/srv/nsi", "/srv/nsi/deep", "/etc/hosts"):
        os.chown(path, 33, LAST)
        assert own(path) == (33, LAST)
    assert take(33) == 0
    pid1.assert_files(created="/srv/nsi", modified="/etc/hosts")
    os.chown("/etc/hosts", 0, 0)
    pid1.assert_files(created="/srv/nsi")

@pytest.mark.isolated(root="overlay")
def test_a_user_of_its_own(tmp_path):
    assert subprocess.run(["/usr/sbin/useradd", "--create-home", "nsiuser"]).returncode == 0
    assert own("/home/nsiuser")[0] == int(subprocess.check_output(["id", "-u", "nsiuser"]))

def test_it_is_ended_as_another():
    os.setgid(33)
    os.setuid(33)

@pytest.mark.isolated(timeout=1)
def test_it_is_killed_as_another():
    os.setuid(33)
    import time
    time.sleep(100)

def test_calls_and_boxes(isolate):
    ranged = isolate.using(user="range")
    assert sum(count for _, _, count in ranged(ids, "uid")) > LAST
    with ranged.open() as box:
        assert box.run(take, 33) == 0

@pytest.mark.isolated(user=True)
def test_one_id_without():
    assert take(33) != 0
"""

#: What is mapped: the own ids, and both ranges one after the other.
_TWO: Final = f"ranger:1000000:60000\n{NOBODY}:3000000:5536\nranger:1:0\nranger:x:1\nranger\n"
_MAP: Final = [(0, NOBODY, 1), (1, 1000000, 60000), (60001, 3000000, 5536)]


@NEEDS_ROOT
@NEEDS_NAMESPACES
@NEEDS_NEWUIDMAP
@pytest.mark.parametrize("conftest", ["", THREADED], ids=["short", "long"])
def test_an_ordinary_user_with_ranges(conftest: str) -> None:
    """Every id of them can own files, and can be taken; on both ways in."""
    source = f"EXPECTED = {_MAP}\nLAST = 65536\n{SUITE}"
    files = {"test_it.py": source, "conftest.py": conftest}
    result = run_batch(files, "user", switch=with_ranges(_TWO), timeout=240)
    assert_all_but_the_late_one(result)


@NEEDS_ROOT
@NEEDS_NAMESPACES
def test_root_has_all_ids() -> None:
    """Its own, one to one, and without a program."""
    source = f"LAST = 65536\n{SUITE}".replace(' == ids("gid") == EXPECTED', "[0][0] == 0")
    source = source.replace("with pytest.raises(OSError):", "if False:")
    source = source.replace("assert take(33) != 0", "assert take(33) == 0")
    assert_all_but_the_late_one(run_batch({"test_it.py": source}, "root", timeout=240))


def assert_all_but_the_late_one(result: Result) -> None:
    """One test is over its budget; nothing of any is left."""
    failed = {r["nodeid"].partition("::")[2] for r in result.reports if r["outcome"] == "failed"}
    assert failed == {"test_it_is_killed_as_another"}, result.text
    assert len(result.passed()) == 8, result.text


ARCHIVES: Final = """
import os, tarfile
import pytest

def owned(path):
    status = os.stat(path)
    return status.st_uid, status.st_gid

NEAR = {"zero": 0, "some": 33, "etc/last": 65536}

for archive, names in (("box", NEAR), ("far", {"far": 65537})):
    with tarfile.open(f"{archive}.tar", "w") as file:
        for name, number in names.items():
            member = tarfile.TarInfo(name)
            member.uid = member.gid = number
            file.addfile(member)
os.mkdir("folder")
open("folder/file", "w").close()

@pytest.mark.isolated(user="range", root="./box.tar")
def test_owners(pid1):
    assert [owned(path) for path in ("/zero", "/some", "/etc", "/etc/last")] == [
        (0, 0), (33, 33), (0, 0), (65536, 65536)
    ]
    os.chown("/zero", 5, 6)
    os.chown("/some", 7, 7)
    os.unlink("/etc/last")
    assert owned("/zero") == (5, 6)
    pid1.assert_files(modified=["/zero", "/some"], deleted="/etc/last")

@pytest.mark.isolated(root="./box.tar")
def test_one_id():
    assert owned("/some") == (0, 0)

@pytest.mark.isolated(user="range", root="./folder")
def test_a_folder(pid1):
    assert owned("/file") == (0, 0)
    os.chown("/file", 33, 65536)
    assert owned("/file") == (33, 65536)
    pid1.assert_files(modified="/file")

@pytest.mark.isolated(user="range")
def test_of_another():
    os.mkdir("folder/sub")
    for name in ("folder/sub/there", "folder/sub/other"):
        open(name, "w").close()
        os.chown(name, 33, 34)
    os.chown("folder/sub", 33, 65536)

@pytest.mark.isolated(user="range", root="./folder", files={"/sub/there": "x", "/sub/new/y": "y"})
def test_what_files_are_put_into(pid1):
    assert [owned(path) for path in ("/sub", "/sub/there", "/sub/other", "/sub/new/y")] == [
        (33, 65536), (33, 34), (33, 34), (0, 0)
    ]
    assert open("/sub/there").read() == "x"
    os.setgroups([])
    os.setgid(34)
    os.setuid(33)
    open("/sub/mine", "w").close()
    pid1.assert_files(created="/sub/mine")

@pytest.mark.isolated(user="range", root="./far.tar")
def test_beyond(): pass
"""


IN_A_ROOT: Final = {
    *("test_owners", "test_one_id", "test_a_folder", "test_of_another"),
    "test_what_files_are_put_into",
}


@NEEDS_ROOT
@NEEDS_NAMESPACES
@NEEDS_NEWUIDMAP
def test_a_root_with_ranges() -> None:
    """An archive's files have the owners that it says, or the test is refused."""
    options = ("-p", "no:randomly")
    switch = with_ranges(_TWO)
    result = run_batch({"test_it.py": ARCHIVES}, "user", *options, switch=switch, timeout=240)
    assert result.passed() == IN_A_ROOT, result.text
    said = result.failure("test_beyond")
    assert all(text in said for text in ("EINVAL", "do not reach", "a longer range")), said


@NEEDS_ROOT
@NEEDS_NAMESPACES
def test_a_root_with_all_ids_of_root() -> None:
    """A runner that is root has every id, with a range as without."""
    source = ARCHIVES.replace('owned("/some") == (0, 0)', 'owned("/some") == (33, 33)')
    result = run_batch({"test_it.py": source}, "root", "-p", "no:randomly", timeout=240)
    assert result.passed() == {*IN_A_ROOT, "test_beyond"}, result.text


@NEEDS_ROOT
@NEEDS_NAMESPACES
@NEEDS_NEWUIDMAP
def test_a_command_with_ranges() -> None:
    """``run --user range``, which can remove what such a test has left in ``tmp_path``."""
    run = (sys.executable, "-m", "pytest_nsisolate", "run", "--user", "range", "--", "sh", "-c")
    script = "cat /proc/self/uid_map; mkdir new; chown 33 new"
    with suite_folder({}, "user") as folder:
        command = [*with_ranges(_TWO), *run, script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / "new").stat().st_uid == 1000000 + 32
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert lines == _MAP


ONE: Final = """
import pytest

@pytest.mark.isolated(user="range")
def test_ranged(): pass

@pytest.mark.isolated
def test_one_id(): pass
"""


@NEEDS_ROOT
@NEEDS_NAMESPACES
@NEEDS_NEWUIDMAP
@pytest.mark.parametrize(
    ("ranges", "before", "said"),
    [
        (
            "",
            (),
            (
                "find a range in /etc/subuid for the user namespace: ENOENT",
                "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ranger",
            ),
        ),
        ("ranger:100000:70000\n", ("setpriv", "--no-new-privs"), ("newuidmap", "no_new_privs")),
    ],
    ids=["none", "no_new_privs"],
)
def test_refusals(ranges: str, before: tuple[str, ...], said: tuple[str, ...]) -> None:
    """Named by what is missing, with the line to type; a test with one id runs."""
    result = run_batch({"test_it.py": ONE}, "user", switch=with_ranges(ranges, *before))
    failure = result.failure("test_ranged")
    assert all(text in failure for text in (*said, "cause: ", "remedy: ")), failure
    assert result.passed() == {"test_one_id"}, result.text


@NEEDS_ROOT
@NEEDS_NAMESPACES
def test_a_uid_without_an_account() -> None:
    """As the ordinary user of all the inner runs is."""
    failure = run_batch({"test_it.py": ONE}, "user").failure("test_ranged")
    assert f"uid {NOBODY} has no account" in failure or "find newuidmap" in failure, failure


# On this side alone -------------------------------------------------------------------------------


def ranges_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> bytes:
    file = tmp_path / "subuid"
    file.write_text(text, encoding="ascii")
    monkeypatch.setattr(facts, "user_name", lambda _: "me")
    return id_ranges._map(str(file), 1000)


def test_which_lines_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the account, by its name or its number; nothing that is no line."""
    text = f"you:1:2\nme:10:20\n{os.getuid()}:50:5\nme:7:0\nme:x:1\nme:1\n\nme:-1:3\n"
    assert ranges_of(monkeypatch, tmp_path, text) == b"0 1000 1\n1 10 20\n21 50 5\n"
    with pytest.raises(StepError, match=r"find a range in .*subuid"):
        ranges_of(monkeypatch, tmp_path, "you:1:2\n")


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is in the step."""
    monkeypatch.setattr(originals.shutil, "which", lambda *_, **__: None)
    with pytest.raises(StepError) as caught:
        id_ranges.range_maps(examine())
    assert (caught.value.step, caught.value.errno) == ("find newuidmap", errno.ENOENT)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    def write(body: str) -> str:
        file = tmp_path / "newuidmap"
        file.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
        file.chmod(0o755)
        return str(file)

    return write


@pytest.mark.parametrize(
    ("body", "written", "expected"),
    [
        ("true", "1 1 1", None),
        ("exit 1", "1 1 1", None),  # nobody may have seen how it ended
        ('echo "range is not allowed: $*" >&2; exit 1', "", (errno.EPERM, "not allowed: 7 1 2 3")),
        ("exec sleep 1000", "", (errno.ETIMEDOUT, "")),
    ],
)
def test_what_counts_is_the_map(
    program: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    written: str,
    expected: tuple[int, str] | None,
) -> None:
    """Not how the program ends; what it has said is in the refusal."""
    if "sleep" in body:
        monkeypatch.setattr(id_ranges, "STEP_SECONDS", 0.2)
    (tmp_path / "map").write_text(written, encoding="ascii")
    arguments = (program(body), 7, str(tmp_path / "map"), b"1 2 3\n")
    if expected is None:
        id_ranges._run(*arguments)
        return
    with pytest.raises(StepError) as caught:
        id_ranges._run(*arguments)
    assert caught.value.step == "newuidmap"
    assert caught.value.errno == expected[0]
    assert expected[1] in caught.value.detail


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """The error number is that of the call."""
    with pytest.raises(StepError, match=r"newuidmap .*ENOENT"):
        id_ranges._run(str(tmp_path / "newuidmap"), 1, "/dev/null", b"")


def has_range() -> bool:
    if examine().privileged:
        return False
    try:
        id_ranges.range_maps(examine())
    except StepError:
        return False
    return True


@NEEDS_NAMESPACES
@pytest.mark.skipif(not has_range(), reason="this account has no range of ids")
def test_the_own_account(tmp_path: Path) -> None:
    """Where this user has one."""
    result = run_source(tmp_path, ONE)
    assert result.passed() == {"test_ranged", "test_one_id"}, result.text


@NEEDS_NAMESPACES
@pytest.mark.skipif(
    examine().privileged or has_range(), reason="root, or a user with a range of ids"
)
def test_the_own_account_without(tmp_path: Path) -> None:
    """Refused, and with what to do."""
    failure = run_source(tmp_path, ONE).failure("test_ranged")
    assert "remedy: " in failure
    assert sys.platform.startswith("linux")
