# SPDX-License-Identifier: MIT
"""Tests that do their worst with files: none of it may be seen on the host.

What is marked runs in roots of its own. The unmarked tests run in the runner: they look at the host
before and after.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nsisolate import Pid1View

expect = pytest.mark.expect("passed")
isolated = pytest.mark.isolated

ROOT: Final = os.geteuid() == 0
HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "kept"
LOST: Final = HERE / "lost"
SHARED: Final = HERE / "shared"

#: On the host, where each test would leave its traces.
LOOKED_AT: Final = ("/etc", "/home", "/usr/local", "/var/lib/dpkg")


def state(*folders: str) -> dict[str, tuple[int, ...]]:
    """Kind, mode, owner, size and content of everything that can be seen.

    No times: on a machine with other work somebody writes the same content again.
    """
    found: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        for place, names, files in os.walk(folder):
            for name in (*names, *files):
                with_path = os.path.join(place, name)
                status = os.lstat(with_path)
                content = 0
                if stat.S_ISREG(status.st_mode) and os.access(with_path, os.R_OK):
                    content = zlib.crc32(Path(with_path).read_bytes())
                found[with_path] = (
                    *(status.st_mode, status.st_uid, status.st_gid, status.st_size),
                    content,
                )
    return found


def refused(attempt: Callable[[], object]) -> str:
    """The name of the error that it meets, ``""`` for none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def make(path: str | Path) -> str:
    return refused(lambda: Path(path).write_text("made", encoding="ascii"))


@pytest.fixture(scope="session")
def before() -> dict[str, tuple[int, ...]]:
    """The host's files as they were."""
    return state(*LOOKED_AT)


@pytest.fixture(scope="session")
def kept() -> Path:
    """Files of the suite's, on the host."""
    for folder in (KEPT, LOST, SHARED):
        folder.mkdir()
        (folder / "file").write_text("the host's", encoding="ascii")
    return KEPT


@pytest.fixture(scope="session")
def folder(kept: Path) -> Iterator[int]:
    """An open directory of the host's, inherited by every test."""
    fd = os.open(kept, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@expect
def test_a_look_at_the_host(before: dict[str, tuple[int, ...]], kept: Path, folder: int) -> None:
    assert before
    assert kept.is_dir()


# root="overlay" ----------------------------------------------------------------------------------


def write_everywhere() -> None:
    made = ["/nsi-made", "/etc/nsi-made", "/usr/local/bin/nsi-made", "/var/lib/nsi-made"]
    assert not [path for path in made if os.path.exists(path)]
    assert [path for path in made if make(path)] == []
    os.mkdir("/opt/nsi-made")
    with open("/etc/hosts", "a", encoding="ascii") as hosts:
        hosts.write("127.0.0.1 nsi-made\n")
    os.unlink(shutil.which("ls") or "")
    shutil.rmtree("/usr/share/doc", ignore_errors=True)
    assert not os.path.exists("/usr/share/doc")
    os.mkdir("/usr/share/doc")
    assert os.listdir("/usr/share/doc") == []


@isolated(root="overlay")
@expect
def test_everything_can_be_written() -> None:
    write_everywhere()


@isolated(root="overlay")
@expect
def test_and_is_thrown_away() -> None:
    write_everywhere()


@isolated(root="overlay")
@expect
def test_owners_and_modes_are_roots() -> None:
    for path in ("/", "/etc", "/usr/bin", "/var/lib", "/tmp"):
        status = os.stat(path)
        mode = 0o1777 if path == "/tmp" else 0o755
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, mode), path
    os.chown("/etc", 0, 0)


@isolated(root="overlay")
@expect
def test_it_can_be_removed() -> None:
    """As ``rm -rf /`` begins; the whole of it would take the test half a minute."""
    remove = "rm -rf --no-preserve-root /boot /etc /home /media /srv /usr/bin /usr/local /var"
    subprocess.run(["/bin/sh", "-c", remove], capture_output=True, check=False)
    assert os.listdir("/etc") == []  # a mount of the root's own lies below, so it stays
    assert not os.path.exists("/usr/bin")


@isolated(root="overlay")
@expect
def test_tmp_path_is_the_hosts(tmp_path: Path, kept: Path) -> None:
    (tmp_path / "reached").write_text(str(tmp_path), encoding="ascii")
    (kept / "file").unlink()
    (kept / "more").write_text("", encoding="ascii")


@isolated(root="overlay", writable=[SHARED])
@expect
def test_what_is_writable_is_the_hosts(kept: Path) -> None:
    (SHARED / "file").write_text("the test's", encoding="ascii")


@expect
def test_the_host_after_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert [path.name for path in KEPT.iterdir()] == ["file"]
    assert (KEPT / "file").read_text(encoding="ascii") == "the host's"
    assert (SHARED / "file").read_text(encoding="ascii") == "the test's"
    reached, *_ = tmp_path_factory.getbasetemp().glob("*/reached")
    assert reached.read_text(encoding="ascii") == str(reached.parent.resolve())


@isolated(root="overlay", root_size="1M")
@expect
def test_a_size_is_a_limit(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        with open(path, "wb") as file:
            for _ in range(32):
                file.write(b"x" * (1 << 16))
                file.flush()

    assert refused(lambda: fill(Path("/var/tmp/nsi-big"))) == "ENOSPC"
    fill(tmp_path / "big")


@isolated(root="overlay", user="same")
@expect
def test_the_same_user_may_no_more_than_outside() -> None:
    writable = "" if ROOT else "EACCES"
    assert make("/etc/nsi-made") == writable
    assert refused(lambda: os.unlink("/usr/bin/env")) == writable
    assert make("/tmp/nsi-made") == ""
    assert os.getuid() == os.stat("/tmp/nsi-made").st_uid


@isolated(root="overlay", pid=True, net=False)
@expect
def test_other_namespaces_do_as_well() -> None:
    assert make("/etc/nsi-made") == ""


@isolated(root="overlay", mount=True)
@expect
def test_the_mount_namespace_alone() -> None:
    assert make("/etc/nsi-made") == ""


@isolated(root="overlay", init=True, hostname="box")
@expect
def test_below_an_init() -> None:
    assert os.getpid() != 1
    assert make("/proc/1/root/etc/nsi-made") == ""
    assert os.path.exists("/etc/nsi-made")


@isolated(root="overlay")
@expect
def test_another_proc_can_be_mounted() -> None:
    """The whole ``/proc`` that the kernel asks for is there, out of reach."""
    inner = "unshare --user --map-root-user --pid --fork --mount-proc cat /proc/1/comm"
    done = subprocess.run(inner.split(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "cat\n"), done.stderr


@isolated(root="overlay")
@expect
def test_no_mount_of_the_hosts_is_left() -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        mounted = [(line.split()[4], line.split(" - ")[1].split()[0]) for line in lines]
    assert dict(mounted)["/"] == "overlay"
    assert [kind for point, kind in mounted if point == "/"] == ["overlay"]


# Ways out ----------------------------------------------------------------------------------------


@isolated(root="overlay")
@expect
def test_directories_do_not_lead_out(folder: int) -> None:
    """The current one, one that a wider fixture has opened, and what is above them."""
    os.unlink("kept/file")
    os.chdir("/")
    assert not (KEPT / "file").exists()
    assert os.listdir(folder) == []
    made = os.open("by-descriptor", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.close(made)
    assert (KEPT / "by-descriptor").exists()
    up = "../" * 40
    assert os.path.samestat(os.stat(up, dir_fd=folder), os.stat("/"))


@isolated(root="overlay")
@expect
def test_proc_does_not_lead_out() -> None:
    os.chdir(HERE)
    for way in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/thread-self/root"):
        os.stat(way)
        path = f"{way}{HERE}/by-proc" if way.endswith("root") else f"{way}/by-proc"
        assert make(path) == ""
        (HERE / "by-proc").unlink()
    for entry in os.listdir("/proc/self/fd"):
        way = f"/proc/self/fd/{entry}"
        if os.path.isdir(way):
            assert os.path.samestat(os.stat(f"{way}{'/..' * 40}"), os.stat("/"))


@isolated(root="overlay")
@expect
def test_the_view_of_the_host_is_read_only(pid1: Pid1View) -> None:
    """``pid1.files`` has a descriptor of what was there, through which nothing is written."""
    assert not pid1.files
    folders = [
        int(fd) for fd in os.listdir("/proc/self/fd") if os.path.isdir(f"/proc/self/fd/{fd}")
    ]
    met = set()
    for fd in folders:
        for name in ("by-view", "kept/by-view"):
            flags = os.O_CREAT | os.O_WRONLY
            path = f"{HERE}/{name}".lstrip("/")
            met.add(refused(lambda: os.close(os.open(path, flags, dir_fd=fd))))  # noqa: B023
    assert "EROFS" in met


@isolated(root="overlay")
@expect
def test_a_chroot_does_not_lead_out() -> None:
    """The classic: a second chroot while the current directory stays above it."""
    os.mkdir("/nsi-jail")
    os.chroot("/nsi-jail")
    os.chdir("../" * 40)
    os.chroot(".")
    assert make(f"{HERE}/by-chroot") == ""


@isolated(root="overlay")
@expect
def test_unmounting_does_not_lead_out() -> None:
    subprocess.run(["umount", "-l", "/usr", "/etc", "/"], capture_output=True, check=False)
    make(f"{HERE}/by-umount")


@isolated(root="overlay")
@expect
def test_the_disk_of_the_host_does_not_lead_out() -> None:
    """It has no node in ``/dev``, none can be made, and by its name it cannot be mounted."""
    with open("/proc/1/mountinfo", encoding="utf-8") as lines:
        device = next(line for line in lines if f" {HERE.anchor} " in line).split()[2]
    assert device.startswith("0:")  # an overlay has no disk of its own
    for number in (os.makedev(8, 0), os.makedev(254, 0), os.makedev(7, 0), os.stat("/etc").st_dev):
        for name in ("/nsi-disk", "/dev/nsi-disk", "/usr/nsi-disk"):
            node = lambda: os.mknod(name, stat.S_IFBLK | 0o600, number)  # noqa: B023, E731
            assert refused(node) == "EPERM"
    for disk in ("/dev/sda", "/dev/vda", "/dev/root", "/dev/loop0"):
        assert not os.path.exists(disk)
        assert subprocess.run(["mount", disk, "/mnt"], capture_output=True, check=False).returncode


@isolated
@expect
def test_the_control_reaches_the_host(folder: int) -> None:
    """Without a root of its own each of these ways is open."""
    os.unlink("lost/file")
    made = os.open("by-descriptor", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.close(made)
    assert make(f"/proc/1/root{HERE}/by-proc") == ""


@expect
def test_the_host_after_the_ways_out() -> None:
    assert sorted(path.name for path in KEPT.iterdir()) == ["by-descriptor", "file"]
    assert list(LOST.iterdir()) == []
    left = {path.name for path in HERE.iterdir() if path.name.startswith("by-")}
    assert left == {"by-proc"}
    (KEPT / "by-descriptor").unlink()
    (HERE / "by-proc").unlink()


# root="readonly" ---------------------------------------------------------------------------------


@isolated(root="readonly", writable=[SHARED])
@expect
def test_nothing_can_be_written_but_what_is_named(tmp_path: Path) -> None:
    paths = ["/nsi-made", "/etc/nsi-made", "/tmp/nsi-made", "/var/tmp/nsi-made", f"{KEPT}/made"]
    assert {make(path) for path in paths} == {"EROFS"}
    assert refused(lambda: os.unlink(KEPT / "file")) == "EROFS"
    assert [make(path) for path in (SHARED / "made", tmp_path / "made", "/dev/shm/made")] == [
        ""
    ] * 3
    (SHARED / "made").unlink()
    with open("/dev/null", "w", encoding="ascii") as null:
        null.write("x")


@isolated(root="readonly")
@expect
def test_read_only_means_what_was_writable_before() -> None:
    assert make(SHARED / "made") == "EROFS"


# files= and hide= --------------------------------------------------------------------------------

GIVEN: Final[dict[str, Any]] = {"/etc/hosts": "127.0.0.1 db\n", "/etc/hostname": b"box\n"}


@isolated(files=GIVEN, hide=["/usr/bin/env", "/srv"])
@expect
def test_contents_of_its_own_on_the_hosts_root() -> None:
    assert Path("/etc/hosts").read_text(encoding="ascii") == "127.0.0.1 db\n"
    assert Path("/etc/hostname").read_bytes() == b"box\n"
    assert refused(lambda: open("/usr/bin/env", "rb")) == "EACCES"  # noqa: SIM115
    assert refused(lambda: subprocess.run(["/usr/bin/env"], check=False)) == "EACCES"
    assert os.listdir("/srv") == []
    Path("/etc/hosts").write_text("changed", encoding="ascii")
    assert os.getcwd() == str(HERE)


@isolated(root="readonly", files=GIVEN, hide=["/usr/bin/env"])
@expect
def test_contents_of_its_own_on_a_read_only_root() -> None:
    assert Path("/etc/hosts").read_text(encoding="ascii") == "127.0.0.1 db\n"
    assert make("/etc/nsi-made") == "EROFS"
    assert refused(lambda: open("/usr/bin/env", "rb")) == "EACCES"  # noqa: SIM115


@isolated(
    root="overlay",
    files={**GIVEN, "/etc/nsi/deep/new.conf": "new", "/nsi-top": "top", "/nsi/sub": "sub"},
    hide=["/usr/bin/env", "/usr/share/doc", "/srv"],
)
@expect
def test_contents_of_its_own_on_an_overlay() -> None:
    assert Path("/etc/hosts").read_text(encoding="ascii") == "127.0.0.1 db\n"
    assert Path("/etc/nsi/deep/new.conf").read_text(encoding="ascii") == "new"
    assert Path("/nsi-top").read_text(encoding="ascii") == "top"
    assert Path("/nsi/sub").read_text(encoding="ascii") == "sub"
    assert stat.S_IMODE(os.stat("/etc/nsi/deep/new.conf").st_mode) == 0o644
    assert stat.S_IMODE(os.stat("/etc").st_mode) == 0o755
    assert not [p for p in ("/usr/bin/env", "/usr/share/doc", "/srv") if os.path.lexists(p)]
    assert os.path.exists("/usr/share")
    os.unlink("/etc/hosts")
    os.rename("/etc/nsi/deep/new.conf", "/etc/nsi/deep/renamed")


@isolated(root="overlay", files={"/proc/cpuinfo": "none\n", f"{SHARED}/file": "private"})
@expect
def test_contents_where_no_overlay_is(kept: Path) -> None:
    assert Path("/proc/cpuinfo").read_text(encoding="ascii") == "none\n"
    assert (SHARED / "file").read_text(encoding="ascii") == "private"


@isolated(root="overlay", writable=[SHARED], files={f"{SHARED}/file": "private"})
@expect
def test_contents_in_what_is_the_hosts(kept: Path) -> None:
    (SHARED / "file").write_text("changed", encoding="ascii")


@isolated(files={str(HERE / "shared/file"): Path("given"), "/etc/hosts": Path("given")})
@expect
def test_contents_of_a_file() -> None:
    assert (SHARED / "file").read_text(encoding="ascii") == "given"
    assert Path("/etc/hosts").read_text(encoding="ascii") == "given"


@expect
def test_the_host_after_contents() -> None:
    assert (SHARED / "file").read_text(encoding="ascii") == "the test's"


# Calls -------------------------------------------------------------------------------------------


def _makes(path: str) -> bool:
    return make(path) == "" and os.path.exists(path)


@expect
def test_a_call_has_a_root_of_its_own(isolate: Any) -> None:
    calls = isolate.using(root="overlay")
    assert calls(_makes, "/etc/nsi-made")
    with calls.open() as box:
        assert box.run(_makes, "/etc/nsi-made")
        assert box.run(os.path.exists, "/etc/nsi-made")
        assert box.command(["cat", "/etc/nsi-made"], check=True).stdout == "made"
    tasks = [calls.start(_makes, "/etc/nsi-made") for _ in range(4)]
    assert [task.result() for task in tasks] == [True] * 4


@isolated(root="overlay")
@expect
def test_an_isolated_call_inside_an_isolated_test(isolate: Any) -> None:
    """An overlay on an overlay; a third one is refused, with the reason."""
    assert _makes("/etc/nsi-outer")

    def inner() -> bool:
        return os.path.exists("/etc/nsi-outer") and _makes("/etc/nsi-inner")

    assert isolate.using(root="overlay")(inner)
    assert not os.path.exists("/etc/nsi-inner")


# Refusals ----------------------------------------------------------------------------------------


@isolated(files={"/etc/nsi-none": "x"})
@pytest.mark.expect("setup failed", "place /etc/nsi-none", 'add root="overlay"')
def test_a_file_that_the_host_does_not_have() -> None:
    raise AssertionError


@isolated(files={"/etc": "x"})
@pytest.mark.expect("setup failed", "place /etc for", "a directory of this host")
def test_a_file_over_a_directory() -> None:
    raise AssertionError


@isolated(root="overlay", writable=["/nsi-none"])
@pytest.mark.expect("setup failed", "leave /nsi-none writable", "does not have")
def test_writable_but_not_there() -> None:
    raise AssertionError


@isolated(root="overlay", hide=[sys.prefix])
@pytest.mark.expect("setup failed", "EBUSY", "hide less")
def test_what_the_run_needs_cannot_be_hidden() -> None:
    raise AssertionError


@isolated(hide=["/nsi-none"], missing="skip")
@expect
def test_what_is_not_there_is_hidden_already() -> None:
    assert not os.path.exists("/nsi-none")


@expect
def test_the_host_in_the_end(before: dict[str, tuple[int, ...]]) -> None:
    after = state(*LOOKED_AT)
    assert {
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    } == set()
    assert not [
        path for path in ("/nsi-made", "/nsi-top", "/nsi", "/nsi-jail") if os.path.lexists(path)
    ]
