# SPDX-License-Identifier: MIT
"""Container tools in isolated tests: what they do on a host they do here, as root and as a user."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import (
    BUSYBOX,
    NEEDS_BUBBLEWRAP,
    NEEDS_BUSYBOX,
    NEEDS_NAMESPACES,
    NEEDS_ROOT,
    eventually,
    needs_program,
)

pytestmark = NEEDS_NAMESPACES


def isolated(**keywords: Any) -> Any:
    """A parameter set of none, whose test is isolated in that way."""
    name = "-".join(f"{key}={value}" for key, value in keywords.items()) or "default"
    marks = [pytest.mark.isolated(**keywords)]
    if keywords.get("user") is False:
        marks.append(NEEDS_ROOT)
    return pytest.param(marks=marks, id=name)


AS_ROOT: Final = (isolated(), isolated(init=True), isolated(user=False))
EACH_FORM: Final = pytest.mark.parametrize((), [*AS_ROOT, isolated(user="same")])


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Both streams in one, bounded."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        **options,
    )


def failures(commands: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Those that fail, with what they say."""
    found = {}
    for command in commands:
        done = run(*command)
        if done.returncode != 0:
            found[" ".join(command)] = done.stdout.strip() or str(done.returncode)
    return found


# bubblewrap --------------------------------------------------------------------------------------

_READ_ONLY: Final = ("--ro-bind", "/", "/")

#: What it shows of the file system.
VIEWS: Final = {
    "read-only": _READ_ONLY,
    "writable": ("--bind", "/", "/"),
    "devices": ("--dev-bind", "/", "/"),
    "usr": (
        *("--ro-bind", "/usr", "/usr"),
        *(part for name in ("bin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", name)),
    ),
}

#: Its namespaces.
SEPARATE: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("--unshare-all",),
    ("--unshare-all", "--share-net"),
    ("--unshare-all", "--uid", "1000", "--gid", "1000"),
    ("--unshare-user", "--unshare-pid"),
    *((f"--unshare-{name}",) for name in ("user", "pid", "ipc", "net", "uts", "cgroup")),
)

#: What it makes anew.
FRESH: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("--proc", "/proc"),
    ("--dev", "/dev"),
    ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"),
    (
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--die-with-parent"),
        *("--new-session", "--unshare-pid", "--as-pid-1", "--unshare-uts", "--hostname", "box"),
    ),
)


@NEEDS_BUBBLEWRAP
@EACH_FORM
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_bubblewrap_in_every_combination(view: tuple[str, ...]) -> None:
    """Of what it shows, separates and makes anew."""
    options = itertools.product(SEPARATE, FRESH)
    assert failures(("bwrap", *view, *own, *new, "true") for own, new in options) == {}


@NEEDS_BUBBLEWRAP
@EACH_FORM
def test_bubblewrap_in_bubblewrap() -> None:
    """Namespaces of its own on both sides, and without a user namespace as far as that goes."""
    outer = ("bwrap", *_READ_ONLY, "--proc", "/proc", "--dev", "/dev", "--unshare-pid")
    inner = ("bwrap", *_READ_ONLY, "--dev", "/dev", "--unshare-net", "true")
    user = ("--unshare-user",)
    nested = [(*outer, *a, *inner[:1], *b, *inner[1:]) for a in ((), user) for b in ((), user)]
    assert failures(nested) == {}


@NEEDS_BUBBLEWRAP
@EACH_FORM
def test_bubblewrap_does_what_it_says() -> None:
    """One process and its namespaces, a file system that cannot be written to."""
    script = "cat /proc/1/comm; ls /sys/class/net /dev/shm; touch /usr/new || echo refused"
    options = ("--unshare-all", "--as-pid-1", "--proc", "/proc", "--dev", "/dev")
    done = run("bwrap", *_READ_ONLY, *options, "sh", "-c", script)
    assert "sh\n" in done.stdout
    assert done.stdout.endswith("refused\n"), done.stdout
    assert done.returncode == 0


@NEEDS_BUBBLEWRAP
@EACH_FORM
def test_what_dies_with_bubblewrap_dies_with_it() -> None:
    """``--die-with-parent`` is about the test, which ends it here."""
    command = ("bwrap", *_READ_ONLY, "--unshare-pid", "--die-with-parent", "sleep", "1000")
    with subprocess.Popen(command) as process:
        assert eventually(lambda: "sleep" in _names())
        process.kill()
    assert eventually(lambda: "sleep" not in _names())


def _names() -> set[str]:
    found = set()
    for folder in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, _, rest = Path("/proc", folder, "stat").read_text().partition(")")
        except OSError:
            continue
        if rest.split()[0] not in "ZX":
            found.add(name.partition("(")[2])
    return found


@NEEDS_BUBBLEWRAP
@pytest.mark.isolated(limits={"processes": 600})
def test_bubblewrap_under_a_limit_of_processes() -> None:
    """The limit is a mount on a setting where ``/proc/sys`` is not protected."""
    assert failures([("bwrap", *_READ_ONLY, "--unshare-all", "true")]) == {}


# util-linux --------------------------------------------------------------------------------------

_NAMESPACES: Final = ("mount", "uts", "ipc", "net", "pid", "user", "cgroup", "time")
_FLAGS: Final = tuple(f"--{name}" for name in _NAMESPACES)
_NEW_SYS: Final = "mount -t sysfs -o ro sysfs /sys && ls /sys/class/net"

UNSHARE: Final[tuple[tuple[str, ...], ...]] = (
    *((flag, "--fork", "true") for flag in _FLAGS),
    (*_FLAGS, "--fork", "true"),
    (*_FLAGS, "--map-root-user", "--fork", "--mount-proc", "true"),
    (*_FLAGS, "--map-current-user", "--fork", "true"),
    *(("--mount", "--propagation", how, "true") for how in ("private", "slave", "unchanged")),
    ("--mount", "--propagation", "shared", "true"),
    ("--pid", "--fork", "--mount-proc", "--kill-child", "true"),
    ("--map-root-user", "--pid", "--fork", "--mount-proc", "true"),
    ("--mount", "--root", "/", "--wd", "/usr", "true"),
    ("-rmpfn", "--mount-proc", "unshare", "-rmpfn", "--mount-proc", "sh", "-c", _NEW_SYS),
    ("-rmC", "mount", "-t", "cgroup2", "cgroup2", "/mnt"),
    ("-mpf", "sh", "-c", "mount -t proc proc /mnt && chroot / true && cat /mnt/1/comm"),
)


@pytest.mark.parametrize((), AS_ROOT)
def test_unshare_in_every_combination() -> None:
    """Namespaces of each kind, id maps, propagation, fresh file systems, and itself in itself."""
    assert failures(("unshare", *options) for options in UNSHARE) == {}


@needs_program("newuidmap")
@NEEDS_ROOT
@pytest.mark.isolated
def test_unshare_with_a_range_of_ids(tmp_path: Path) -> None:
    """``--map-auto``, by newuidmap and a subuid file of the test's own; the ids are there."""
    ranges = tmp_path / "ranges"
    ranges.write_text("root:100000:65536\n")
    for name in ("/etc/subuid", "/etc/subgid"):
        subprocess.run(["mount", "--bind", ranges, name], check=True)
    done = run("unshare", "--map-auto", "--map-root-user", "cat", "/proc/self/uid_map")
    *shown, last = done.stdout.split()
    assert shown == ["0", "0", "1", "1", "100000"], done.stdout
    assert int(last) >= 65535  # since util-linux 2.42 one more


@pytest.mark.parametrize((), AS_ROOT)
def test_named_networks() -> None:
    """In a ``/run`` of the test's own, in which ``/run/netns`` is made and mounted on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    commands = ("netns add blue", "netns exec blue ip link set lo up", "-n blue address")
    assert failures(("ip", *command.split()) for command in commands) == {}
    assert run("ip", "netns", "list").stdout == "blue\n"
    assert failures([("ip", "netns", "delete", "blue")]) == {}


@NEEDS_BUSYBOX
@pytest.mark.parametrize((), AS_ROOT)
def test_chroot_with_a_proc_of_its_own(tmp_path: Path) -> None:
    """The processes that it shows are the test's."""
    root = make_root(tmp_path / "root")
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    shown = run("chroot", str(root), "/bin/sh", "-c", "cat /proc/self/stat")
    assert shown.stdout.split()[1] == "(cat)", shown.stdout


# What a container engine does --------------------------------------------------------------------

#: In the order of runc's: the folder becomes a mount, everything is mounted in it, it becomes the
#: root, then parts of /proc are made read-only, and others are covered.
ENGINE: Final = """
mount --make-rslave /
mount --bind {root} {root}
cd {root}
mount -t proc proc proc
mount -t tmpfs -o nosuid,mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 shm dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue dev/mqueue
for name in null zero full random urandom tty; do
    touch dev/$name
    mount --bind /dev/$name dev/$name
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o ro,nosuid,nodev,noexec cgroup sys/fs/cgroup
{busybox} pivot_root . .
cd /
PATH=/bin
umount -l /
for path in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger; do
    [ ! -e $path ] || {{ mount -o bind $path $path; mount -o remount,bind,ro $path; }}
done
for path in /proc/kcore /proc/keys /proc/timer_list; do
    [ ! -e $path ] || mount -o bind /dev/null $path
done
mount -t tmpfs -o ro tmpfs /sys/firmware
hostname box
echo $$ $(hostname) $(ls /sys/class/net) $(cat /proc/1/comm)
"""


def make_root(folder: Path) -> Path:
    """A root folder with busybox in it, and the places to mount on."""
    for name in ("bin", "proc", "sys", "dev", "etc", "run", "tmp", "usr/lib"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin")
    for name in ("sh", "cat", "ls", "mount", "umount", "hostname", "true", "id"):
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "usr/lib/os-release").write_text("ID=nobodys\n")
    (folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    return folder


@NEEDS_BUSYBOX
@EACH_FORM
def test_the_steps_of_a_container_engine(tmp_path: Path) -> None:
    """Its namespaces, its mounts, the new root, and what it covers afterwards."""
    script = ENGINE.format(root=make_root(tmp_path / "root"), busybox=BUSYBOX)
    namespaces = (f"--{name}" for name in _NAMESPACES if name != "time")
    done = run("unshare", "--map-root-user", *namespaces, "--fork", "sh", "-ec", script)
    assert (done.stdout, done.returncode) == ("1 box lo sh\n", 0)


#: A cgroup tree that can be written to as far as its user may. The test's own is read-only.
_CGROUPS: Final = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"


@NEEDS_BUSYBOX
@pytest.mark.parametrize((), [isolated(), isolated(init=True)])
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(("crun", "--cgroup-manager=disabled"), marks=needs_program("crun"), id="crun"),
        pytest.param(("runc", "--rootless=true"), marks=needs_program("runc"), id="runc"),
    ],
)
def test_a_rootless_container(engine: tuple[str, ...], tmp_path: Path) -> None:
    """As an engine makes it that owns one id, which is what an ordinary user's test has."""
    subprocess.run(_CGROUPS.split(), check=True)
    make_root(tmp_path / "rootfs")
    subprocess.run([engine[0], "spec", "--rootless"], cwd=tmp_path, check=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["process"] |= {"terminal": False, "args": ["cat", "/proc/1/comm"]}
    path.write_text(json.dumps(config))
    done = run(*engine, "--root", str(tmp_path / "state"), "run", "box", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("cat\n", 0)


@pytest.fixture
def cgroups_of_nspawn() -> Iterator[None]:
    """What it makes there is the host's, and it leaves it behind."""
    subprocess.run(_CGROUPS.split(), check=True)
    yield
    for name in ("payload", "supervisor"):
        if (folder := Path("/sys/fs/cgroup", name)).exists():
            folder.rmdir()


@NEEDS_BUSYBOX
@NEEDS_ROOT
@needs_program("systemd-nspawn")
@pytest.mark.usefixtures("cgroups_of_nspawn")
@pytest.mark.isolated(user=False)
@pytest.mark.parametrize("options", [(), ("--as-pid2",), ("--private-network",)], ids=" ".join)
def test_systemd_nspawn(options: tuple[str, ...], tmp_path: Path) -> None:
    """With a ``/run`` of the test's own, and without systemd, whom it would tell of it.

    In a user namespace systemd 262 has hidden every /proc when it mounts one: EPERM.
    """
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    root = make_root(tmp_path / "root")
    alone = ("--quiet", "--register=no", "--keep-unit", "--pipe", f"--directory={root}")
    done = run("systemd-nspawn", *alone, *options, "/bin/sh", "-c", "echo number $$")
    assert done.returncode == 0, done.stdout
    number = 2 if "--as-pid2" in options else 1
    assert done.stdout.split()[-2:] == ["number", str(number)], done.stdout


@needs_program("firejail")
@pytest.mark.parametrize((), AS_ROOT)
def test_firejail() -> None:
    """It is set-uid root, and works for the root of a user namespace."""
    options = ("--net=none", "--private", "--private-dev", "--seccomp")
    assert failures([("firejail", "--quiet", "--noprofile", *options, "--", "true")]) == {}
