# SPDX-License-Identifier: MIT
"""Tests whose root is a folder: what they see, what they write, and what does not lead out.

The folder has busybox and links that lead out. The unmarked tests run in the runner and look at the
folder before and after.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nsisolate import Pid1View

expect = pytest.mark.expect("passed")
isolated = pytest.mark.isolated

HERE: Final = Path(__file__).parent
BOX: Final = HERE / "box"
ODD: Final = HERE / "odd"
OUTSIDE: Final = HERE / "outside"
PROGRAMS: Final = ("sh", "cat", "id", "ls", "mount", "chroot", "mkdir", "umount")
BUSYBOX: Final = shutil.which("busybox", path=f"{os.environ.get('PATH', '')}:/bin:/usr/bin") or ""


def make_folders() -> None:
    for name in ("bin", "etc/app", "var/lib", "usr", "locked"):
        (BOX / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, BOX / "bin" / "busybox")
    for name in PROGRAMS:
        (BOX / "bin" / name).symlink_to("busybox")
    (BOX / "etc" / "name").write_text("the folder's", encoding="ascii")
    (BOX / "etc" / "app" / "conf").write_text("old", encoding="ascii")
    (BOX / "etc" / "app" / "conf").chmod(0o640)
    (BOX / "var" / "sticky").mkdir()
    (BOX / "var" / "sticky").chmod(0o1777)
    # Links that lead out of the folder for a process outside, and nowhere else inside.
    (BOX / "lib").symlink_to("/usr/lib")
    (BOX / "usr" / "out").symlink_to(OUTSIDE)
    OUTSIDE.mkdir()
    (OUTSIDE / "file").write_text("the host's", encoding="ascii")
    # A folder in which all that is mounted on is something else.
    ODD.mkdir()
    for name in ("proc", "dev", "sys", "usr", "tmp", HERE.parts[1]):
        if not (ODD / name).is_symlink():
            (ODD / name).symlink_to("/elsewhere")
    os.mkfifo(ODD / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(ODD / "socket"))


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below it, with what changes when it is touched."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        link = os.readlink(path) if path.is_symlink() else ""
        found[str(path)] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns, link),
        )
    return found


def refused(attempt: Callable[[], object]) -> str:
    """The name of the error that it meets, ``""`` for none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def shell(script: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", script], text=True, capture_output=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def before() -> dict[str, tuple[object, ...]]:
    make_folders()
    return {**state(BOX), **state(ODD), **state(OUTSIDE)}


@pytest.fixture(scope="session")
def folder(before: object) -> Iterator[int]:
    """An open directory of the host's, inherited by every test."""
    fd = os.open(OUTSIDE, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@expect
def test_a_look_at_the_folders(before: dict[str, tuple[object, ...]], folder: int) -> None:
    assert str(BOX / "bin" / "sh") in before


@isolated(root="./box")
@expect
def test_the_folder_is_the_root(tmp_path: Path) -> None:
    """With its programs, /proc, /dev and /sys, a /tmp, and what the suite needs."""
    assert shell("cat /etc/name") == "the folder's"
    assert os.getpid() == 1
    assert shell("cat /proc/self/comm") == "cat\n"
    assert {"null", "pts", "shm"} <= {*os.listdir("/dev")}
    assert not os.path.exists("/dev/kmsg")
    assert os.path.isdir("/sys/class")
    assert stat.S_IMODE(os.stat("/tmp").st_mode) == 0o1777
    assert stat.S_IMODE(os.stat("/etc/app/conf").st_mode) == 0o640
    assert stat.S_IMODE(os.stat("/var/sticky").st_mode) == 0o1777
    assert not os.path.exists("/etc/passwd")
    assert not os.path.exists("/usr/bin/env")
    (tmp_path / "file").write_text("stays", encoding="ascii")


@expect
def test_what_was_in_tmp_path_stays(tmp_path: Path) -> None:
    found = tmp_path.parent / "test_the_folder_is_the_root0" / "file"
    assert found.read_text(encoding="ascii") == "stays"


@isolated(root=BOX)
@expect
def test_python_works_in_it() -> None:
    """What is imported later, and the interpreter as a program, with its libraries."""
    import wave  # noqa: F401

    script = "import ctypes, json, pytest_nsisolate; print(json.dumps(1))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert os.getcwd() == str(HERE)


@isolated(root="./box")
@expect
def test_the_suite_is_read_only() -> None:
    assert refused(lambda: open(__file__, "ab")) in ("EROFS", "EACCES")  # noqa: SIM115
    assert refused((HERE / "made").touch) == "EROFS"
    assert refused((BOX / "made").touch) == "EROFS"


@isolated(root="./box", writable=[OUTSIDE])
@expect
def test_what_is_writable_is_the_hosts() -> None:
    assert (OUTSIDE / "file").read_text(encoding="ascii") == "the host's"
    with open(OUTSIDE / "file", "r+", encoding="ascii") as file:
        file.write("the host's")


def write_everywhere() -> None:
    for path in ("/made", "/etc/made", "/usr/made", "/var/lib/made", "/tmp/made"):
        assert not os.path.exists(path)
        Path(path).write_text("made", encoding="ascii")
    Path("/etc/name").write_text("changed", encoding="ascii")
    shutil.rmtree("/etc/app")
    os.mkdir("/etc/app")
    assert os.listdir("/etc/app") == []
    os.rename("/var/lib/made", "/var/renamed")
    shell("busybox rm -rf /bin")
    assert not os.path.exists("/bin/sh")


@isolated(root="./box")
@expect
def test_everything_can_be_written() -> None:
    write_everywhere()


@isolated(root="./box", user="same")
@expect
def test_by_the_same_user_too() -> None:
    write_everywhere()


@isolated(root="./box")
@expect
def test_once_more() -> None:
    """Nothing of the tests before is there."""
    write_everywhere()


@isolated(root="./box", root_size="1M")
@expect
def test_a_limit() -> None:
    assert refused(lambda: Path("/var/big").write_bytes(bytes(4 << 20))) == "ENOSPC"


@isolated(root="./box")
@expect
def test_what_was_changed(pid1: Pid1View) -> None:
    """Compared with the folder, and not with the host."""
    Path("/etc/name").write_text("changed\n", encoding="ascii")
    Path("/etc/passwd").write_text("made", encoding="ascii")
    os.unlink("/bin/cat")
    with open("/etc/app/conf", "r+", encoding="ascii") as file:
        file.write("old")
    os.unlink("/usr/out")
    os.mkdir("/usr/out")
    Path("/usr/out/file").write_text("made", encoding="ascii")
    pid1.assert_files(
        created=["/etc/passwd", "/usr/out/file"],
        modified=["/etc/name", "/usr/out"],
        deleted="/bin/cat",
    )
    pid1.assert_unchanged("/var", "/etc/app")
    assert pid1.files.diff("/etc/name").endswith("-the folder's\n+changed\n")


@isolated(root="./box")
@pytest.mark.expect("call failed", "modified  /etc/name", "created   /etc/made")
def test_what_a_crash_has_changed() -> None:
    Path("/etc/name").write_text("changed\n", encoding="ascii")
    Path("/etc/made").write_text("made", encoding="ascii")
    os.kill(os.getpid(), 11)
    os.abort()


@isolated(
    root="./box", hide=["/bin/cat", "/etc/app"], files={"/etc/name": "own", "/lib/a/b": "new"}
)
@expect
def test_contents_and_what_is_hidden() -> None:
    """The link /lib leads to a place inside; a link that is hidden is gone, not what it means."""
    assert os.path.exists("/bin/busybox")
    assert not os.path.lexists("/bin/cat")
    assert not os.path.lexists("/etc/app")
    assert Path("/etc/name").read_text(encoding="ascii") == "own"
    assert Path("/usr/lib/a/b").read_text(encoding="ascii") == "new"
    assert os.readlink("/lib") == "/usr/lib"


# No way out --------------------------------------------------------------------------------------


@isolated(root="./box")
@expect
def test_nothing_leads_out(folder: int) -> None:
    """Links, an open directory, /proc, a second chroot, unmounting."""
    assert os.path.islink("/usr/out")
    top = os.stat("/")
    assert os.path.samestat(os.stat("/.."), top)
    assert os.path.samestat(os.stat("/proc/1/root"), top)
    assert os.path.samestat(os.stat("/proc/self/root/../.."), top)
    assert refused(lambda: os.open("../../../../../../etc/passwd", 0, dir_fd=folder)) in (
        "ENOENT",
        "ENOTDIR",
    )
    assert "passwd" not in shell(
        "mkdir /x; cd /; chroot /x 2>&1; umount -l / 2>&1; ls /../etc /proc/1/root/etc"
    )
    os.mkdir("/y")
    os.chroot("/y")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    assert "passwd" not in os.listdir("/etc")


@isolated(root="./odd")
@expect
def test_links_in_place_of_directories() -> None:
    """What is mounted goes where the path says, and not to where a link leads."""
    assert os.path.isdir("/proc/self")
    assert not os.path.islink("/proc")
    assert os.path.exists("/dev/null")
    assert os.path.isfile(__file__)
    assert subprocess.run([sys.executable, "-c", ""], check=False).returncode == 0


# By other ways -----------------------------------------------------------------------------------


def names_in(path: str) -> list[str]:
    return sorted(os.listdir(path))


def write_name(path: str) -> None:
    Path(path).write_text("kept", encoding="ascii")


@expect
def test_calls_and_boxes(isolate: Any, before: object) -> None:
    """A call by isolate, and a box that keeps its root while it lives."""
    assert isolate.using(root="./box")(names_in, "/etc") == ["app", "name"]
    with isolate.using(root=BOX).open() as box:
        box.run(write_name, "/etc/kept")
        assert box.run(names_in, "/etc") == ["app", "kept", "name"]
    assert isolate.using(root=BOX)(names_in, "/etc") == ["app", "name"]


@isolated(root="./box")
@expect
def test_a_call_inside_has_the_same_root(isolate: Any) -> None:
    Path("/etc/made").write_text("made", encoding="ascii")
    assert isolate(names_in, "/etc") == ["app", "made", "name"]
    assert isolate.using(root="overlay")(names_in, "/etc") == ["app", "made", "name"]


@isolated(pid=True)
@expect
def test_inside_another_test(isolate: Any, before: object) -> None:
    assert isolate.using(root=BOX)(names_in, "/etc") == ["app", "name"]


# Refusals ----------------------------------------------------------------------------------------


@isolated(root="./none")
@pytest.mark.expect(
    "setup failed", "take ", "/none as root for the mount namespace: ENOENT", "make it before"
)
def test_a_path_that_is_not_there() -> None: ...


@isolated(root="./box/etc/name/x")
@pytest.mark.expect("setup failed", "as root for the mount namespace: ENOTDIR")
def test_a_path_below_a_file() -> None: ...


NO_FILE: Final = (
    "Operation not supported",
    "names a device, a FIFO or a socket",
    "remedy: name a folder",
)


@isolated(root="/dev/zero")
@pytest.mark.expect("setup failed", "take /dev/zero as root for the mount namespace", *NO_FILE)
def test_a_device() -> None: ...


@isolated(root="./odd/fifo")
@pytest.mark.expect("setup failed", "/odd/fifo as root for the mount namespace", *NO_FILE)
def test_a_fifo() -> None: ...


@isolated(root="./odd/socket")
@pytest.mark.expect("setup failed", "/odd/socket as root for the mount namespace", *NO_FILE)
def test_a_socket() -> None: ...


@isolated(root="/")
@pytest.mark.expect("setup failed", "take / as root", 'take root="overlay"')
def test_the_root_itself() -> None: ...


@isolated(root="/proc/self/net")
@pytest.mark.expect("setup failed", "as root for the mount namespace: EBUSY", "cp -a")
def test_a_folder_that_is_each_tests_own() -> None: ...


@isolated(root="./box", hide="/dev")
@pytest.mark.expect("setup failed", "hide /dev for the mount namespace: EBUSY")
def test_hiding_what_is_mounted() -> None: ...


@isolated(root="./box", files={__file__: ""})
@pytest.mark.expect("setup failed", "place ", "EBUSY", "the host's in this root")
def test_contents_in_what_is_the_hosts() -> None: ...


@isolated(root="./box", files={"/etc/app": ""})
@pytest.mark.expect("setup failed", "place /etc/app for the mount namespace: EISDIR")
def test_contents_for_a_directory() -> None: ...


@isolated(root="./box", files={"/etc/name/x": ""})
@pytest.mark.expect("setup failed", "place /etc/name/x for the mount namespace: ENOTDIR")
def test_contents_below_a_file() -> None: ...


@isolated
@pytest.mark.expect("call failed", "IsolatedRefusal", "is mounted in it", "unmount what")
def test_a_folder_with_a_mount(isolate: Any, before: object) -> None:
    command = ["mount", "-t", "tmpfs", "none", str(BOX / "var" / "lib")]
    subprocess.run(command, check=True)
    isolate.using(root=BOX)(names_in, "/etc")


@expect
def test_the_folders_in_the_end(before: dict[str, tuple[object, ...]]) -> None:
    now = {**state(BOX), **state(ODD), **state(OUTSIDE)}
    # This one was written by test_what_is_writable_is_the_hosts.
    written = str(OUTSIDE / "file")
    assert {**now, written: ()} == {**before, written: ()}
    assert Path(written).read_text(encoding="ascii") == "the host's"
