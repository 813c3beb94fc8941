# SPDX-License-Identifier: MIT
"""Roots of a test's own on hosts of other kinds: file systems, and a root that is an overlay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from tests import seccomp
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import NOBODY, SIDES, Side, run_batch
from tests.support import NEEDS_AUTOFS, NEEDS_NAMESPACES, needs_program

pytestmark = [NEEDS_NAMESPACES, NEEDS_ROOT]

ROOT: Final = Path(__file__).parents[2]

SUITE: Final = """
import os, shutil
from pathlib import Path
import pytest

ROOT = os.geteuid() == 0

@pytest.mark.isolated(root="overlay")
@pytest.mark.parametrize("number", range(2))
def test_overlay(pid1, number):
    assert Path("/srv/folder/file").read_text() == "the host's\\n"
    with open("/srv/folder/new", "w") as file: file.write("new\\n")
    os.unlink("/srv/folder/file")
    shutil.rmtree("/srv/other")
    os.mkdir("/srv/other")
    os.symlink("x", "/srv/other/link")
    os.setxattr("/srv/folder/new", "user.nsi", b"x")
    pid1.assert_files(
        created=["/srv/folder/new", "/srv/other/link"],
        deleted=["/srv/folder/file", "/srv/other/file"],
    )
    with open("/etc/nsi-made", "x"): pass

@pytest.mark.isolated(root="readonly")
def test_readonly():
    with pytest.raises(OSError): open("/srv/folder/new", "w")

@pytest.mark.isolated(files={"/srv/folder/file": "mine\\n"}, hide=["/srv/other"])
def test_files():
    assert Path("/srv/folder/file").read_text() == "mine\\n"
    assert os.listdir("/srv/other") == []

def test_the_host():
    assert sorted(os.listdir("/srv")) == ["folder", "other"]
    assert os.listdir("/srv/folder") == os.listdir("/srv/other") == ["file"]
    assert not os.path.exists("/etc/nsi-made")
"""

_FILL: Final = """
rm -rf /srv/*
mkdir /srv/folder /srv/other
echo "the host's" > /srv/folder/file
echo "the host's" > /srv/other/file
"""

#: A file system of a kind on /srv, in an image; what makes it, and bytes that it takes.
_IMAGE: Final = """
mount -t tmpfs none /mnt
truncate --size {size} /mnt/image
{make} /mnt/image > /dev/null
mount -o loop /mnt/image /srv
umount --lazy /mnt
"""

HOSTS: Final = {
    "btrfs": _IMAGE.format(size="128M", make="mkfs.btrfs --quiet"),
    "xfs": _IMAGE.format(size="320M", make="mkfs.xfs -q"),
    "ext4": _IMAGE.format(size="16M", make="mkfs.ext4 -q"),
    "tmpfs": "mount -t tmpfs none /srv\n",
}

#: As Docker does it: the root is an overlay, and what else is mounted is there too.
_CONTAINER: Final = """
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
here=$PWD
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
for name in proc sys dev tmp; do mount --rbind /$name /mnt/root/$name; done
cd /mnt/root
mkdir -p mnt/old
pivot_root . mnt/old
umount --lazy /mnt/old
cd "$here"
mount -t tmpfs none /srv
"""


def machine(script: str, side: Side) -> tuple[str, ...]:
    """Before a command of root's: the machine, and the user."""
    switch = ""
    if side == "user":
        switch = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "
    owner = f"chown -R {NOBODY}:{NOBODY} /srv\n" if side == "user" else ""
    return (
        "unshare",
        "--mount",
        "sh",
        "-ec",
        f'{script}{_FILL}{owner}exec {switch}"$@"',
        "sh",
        "env",
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("btrfs", marks=needs_program("mkfs.btrfs")),
        pytest.param("xfs", marks=needs_program("mkfs.xfs")),
        pytest.param("ext4", marks=needs_program("mkfs.ext4")),
        "tmpfs",
    ],
)
def test_file_systems(kind: str, side: Side) -> None:
    """Each as what lies below an overlay."""
    suite = {"test_it.py": SUITE}
    options = ("-p", "no:randomly")
    result = run_batch(suite, side, *options, switch=machine(HOSTS[kind], side), timeout=240)
    assert len(result.passed()) == 5, result.text


#: A directory with many files, below which an automount is.
_CROWD: Final = f"""
mount -t tmpfs -o mode=1777 none /srv
mkdir /srv/auto /srv/folder
cd /srv
seq 1 {{count}} | xargs touch
echo "the host's" > /srv/of-another
echo "the host's" > /srv/folder/file
head -c 1000000 /dev/zero > /srv/growing
head -c 2000000 /dev/zero > /srv/big
chown {NOBODY + 1}:{NOBODY + 1} /srv/of-another
chmod 0666 /srv/growing
chmod 0777 /srv/folder
touch -d @1000000000 /srv/of-another
cd - > /dev/null
env -i PYTHONPATH={ROOT} {sys.executable} -m tests.automounts /srv/auto /srv/asked $$
"""

CROWDED: Final = """
import os
from pathlib import Path
import pytest

@pytest.mark.isolated(root="overlay")
def test_many_files(pid1):
    assert len(os.listdir("/srv")) == 3000 + 5
    status = os.stat("/srv/of-another")
    assert (status.st_mtime, status.st_mode & 0o777) == (1e9, 0o644)
    assert status.st_uid == (OWNER if os.getresuid()[0] == 0 and PRIVILEGED else 0)
    assert Path("/srv/of-another").read_text() == "the host's\\n"
    with open("/srv/of-another", "w") as file: file.write("mine\\n")
    os.unlink("/srv/7")
    os.unlink("/srv/folder/file")
    with open("/srv/new", "w"): pass
    assert os.path.getsize("/srv/big") == 2_000_000
    with pytest.raises(OSError): open("/srv/big", "w")
    pid1.assert_files(
        created=["/srv/new"], modified=["/srv/of-another"], deleted=["/srv/7", "/srv/folder/file"]
    )

def test_a_file_grows():
    with open("/srv/growing", "a") as file: file.write("x" * 500_000)

@pytest.mark.isolated(root="overlay")
def test_what_has_grown_is_whole():
    assert os.path.getsize("/srv/growing") == 1_500_000

@pytest.mark.isolated(root="overlay")
def test_the_automount_is_there():
    kinds = [line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo")
             if line.split()[4] == "/srv/auto"]
    assert kinds == ["autofs"]
    with pytest.raises(OSError): os.mkdir("/srv/auto")

@pytest.mark.isolated(root="readonly", writable="/srv/folder")
def test_readonly():
    with pytest.raises(OSError): open("/srv/new", "w")
    with open("/srv/folder/new", "w"): pass

@pytest.mark.isolated(files={"/srv/folder/file": "mine\\n"}, hide="/srv/8")
def test_files():
    assert Path("/srv/folder/file").read_text() == "mine\\n"

@pytest.mark.isolated
def test_bare():
    # os.path.ismount() looks at "/srv/auto/.." from Python 3.14 on, which asks the daemon.
    assert os.stat("/srv/auto").st_dev != os.stat("/srv").st_dev

def test_the_daemon_was_not_asked_and_the_host_is_as_it_was():
    assert len(os.listdir("/srv")) == 3000 + 5
    assert Path("/srv/folder/file").read_text() == "the host's\\n"
"""


@NEEDS_AUTOFS
@pytest.mark.parametrize("side", SIDES)
def test_a_crowded_directory_with_an_automount(side: Side) -> None:
    """Its files are there as they are, and the daemon, which never answers, is not asked."""
    privileged = f"PRIVILEGED, OWNER = {side == 'root'}, {NOBODY + 1}\n"
    switch = crowd(side, 3000)
    options = ("-p", "no:randomly")
    result = run_batch(
        {"test_it.py": privileged + CROWDED}, side, *options, switch=switch, timeout=240
    )
    assert result.summary == "8 passed", result.text


@NEEDS_AUTOFS
def test_too_crowded_a_directory_is_refused() -> None:
    """Naming it, and what to do."""
    result = run_batch({"test_it.py": CROWDED}, "root", "-k", "many", switch=crowd("root", 5000))
    failure = result.failure("test_many_files")
    assert "take /srv apart" in failure, failure
    assert "more files than can be copied for each test" in failure


@NEEDS_AUTOFS
def test_what_cannot_be_shown_read_only_is_refused() -> None:
    """Naming the path; a kernel without the call has no other way past an automount."""
    denying = (sys.executable, seccomp.__file__, "mount_setattr=ENOSYS", "--")
    switch = (*crowd("root", 10), *denying)
    result = run_batch({"test_it.py": CROWDED}, "root", "-k", "whole", switch=switch)
    failure = result.failure("test_what_has_grown_is_whole")
    assert "bind /srv/auto read-only" in failure, failure
    assert "remedy: boot Linux 5.12 or newer" in failure


def crowd(side: Side, count: int) -> tuple[str, ...]:
    """Before a command of root's: the machine, and the user."""
    switch = ""
    if side == "user":
        switch = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "
    script = f'{_CROWD.format(count=count)}exec {switch}"$@"'
    return ("unshare", "--mount", "sh", "-ec", script, "sh", "env")


NESTED: Final = """
@pytest.mark.isolated(root="overlay")
def test_nested(isolate):
    isolate.using(root="overlay")(os.getpid)

@pytest.mark.isolated(root="overlay")
def test_nested_without(isolate):
    assert isolate(os.getpid) == 1
"""


@pytest.mark.parametrize("side", SIDES)
def test_a_root_that_is_an_overlay(side: Side) -> None:
    """As a container's: one more lies on it, and the second is a refusal that names the remedy."""
    suite = {"test_it.py": f"{SUITE}\n{NESTED}"}
    options = ("-p", "no:randomly")
    # What the runner writes, records among it, is in the container's upper layer.
    switch = machine(_CONTAINER, side)
    result = run_batch(suite, side, *options, switch=switch, timeout=240, clean=False)
    assert result.summary == "1 failed, 6 passed", result.text
    assert "FAILED test_it.py::test_nested - " in result.stdout
    assert "cause: overlays are nested more than two deep" in result.stdout
    assert "remedy: run outside of the other overlay" in result.stdout
