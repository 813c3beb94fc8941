# SPDX-License-Identifier: MIT
"""What a child sees of ``/proc``, ``/sys`` and ``/dev``, and what it cannot do to the host."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import mounts, namespaces, syscalls
from tests.support import NEEDS_ROOT, ON_THE_HOST

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

EVERYTHING = frozenset(namespaces.NAMESPACES) - {"time"}
HOSTS_SYSCTLS = ("kernel/panic", "kernel/core_pattern", "vm/overcommit_memory", "fs/file-max")


#: The ways into the namespaces that :func:`world` is to take.
WITHOUT_USER = pytest.mark.parametrize(
    "world", [pytest.param("root without user", marks=NEEDS_ROOT)], indirect=True
)
IN_USER_NAMESPACE = pytest.mark.parametrize(
    "world", [pytest.param("root", marks=NEEDS_ROOT), "rootless"], indirect=True
)


def write_back(path: str) -> str:
    """Write what is there already; the name of the error, or "written"."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        os.write(fd, os.read(fd, 4096))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(fd)
    return "written"


def refusal_of(world: World) -> str:
    """For what root may write the mount is in the way; for the others the owner is first."""
    return "EACCES" if world.kind == "rootless" else "EROFS"


def mount_options(path: str) -> list[str]:
    """Of the topmost mount at ``path``."""
    found: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == path:
            found = [fields[5], *fields[fields.index("-") + 1 :]]
    return found


def mount_points(below: str) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted({point for line in lines if (point := line.split()[4]).startswith(below)})


@pytest.fixture
def in_dev_shm() -> Iterator[Path]:
    """A directory of everybody's on the host's /dev/shm."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize("own", [EVERYTHING, frozenset({"user", "mount"})], ids=["all", "mount"])
def test_sysctls_of_the_host_are_read_only(world: World, own: frozenset[str]) -> None:
    def body() -> Any:
        return [write_back(f"/proc/sys/{name}") for name in HOSTS_SYSCTLS]

    assert world.run(body, own=own) == [refusal_of(world)] * len(HOSTS_SYSCTLS)


def test_other_ways_to_the_host_are_closed(world: World) -> None:
    """Whichever of them this machine has."""
    names = ("irq/default_smp_affinity", "sysrq-trigger", "mtrr", "acpi/wakeup")
    paths = [path for name in names if os.path.exists(path := f"/proc/{name}")]
    assert paths

    assert set(world.run(lambda: [write_back(path) for path in paths])) == {refusal_of(world)}


@pytest.mark.usefixtures("attributes")
def test_sysctls_of_own_namespaces_are_writable(world: World) -> None:
    def body() -> Any:
        names = ["net/ipv4/ip_forward", "kernel/ns_last_pid"]
        if world.kind != "root without user":
            names.append("user/max_net_namespaces")
        if world.kind != "rootless":  # the file is root's; sethostname(2) works for all
            names.append("kernel/hostname")
        return {name: result for name in names if (result := write_back(f"/proc/sys/{name}"))}

    assert set(world.run(body).values()) == {"written"}


def test_a_host_name_written_in_proc_stays_inside(world: World) -> None:
    def body() -> Any:
        if world.kind == "rootless":
            namespaces.set_hostname("inside")
        else:
            Path("/proc/sys/kernel/hostname").write_text("inside")
        return os.uname().nodename

    assert world.run(body, outside=lambda: os.uname().nodename) == "inside"


@pytest.mark.parametrize("gone", ["net", "uts", "ipc", "pid"])
def test_a_namespace_that_is_not_own_has_no_writable_sysctls(world: World, gone: str) -> None:
    path = {
        "net": "net/ipv4/ip_forward",
        "uts": "kernel/hostname",
        "ipc": "kernel/shmmax",
        "pid": "kernel/ns_last_pid",
    }[gone]

    # The permissions of ns_last_pid leave everything to the capabilities of the writer.
    expected = "EPERM" if (gone, world.kind) == ("pid", "rootless") else refusal_of(world)
    assert world.run(lambda: write_back(f"/proc/sys/{path}"), own=EVERYTHING - {gone}) == expected


#: A process that enters each kind of namespace in turn, and looks which mounts below its
#: ``/proc/sys`` are listed there, but cannot be reached.
REACH: Final = r"""
import os, sys
def listed():
    for line in open("/proc/self/mountinfo"):
        number, _, _, _, point = line.split()[:5]
        if point.startswith("/proc/sys"):
            yield point, number
def reached(point):
    fd = os.open(point, os.O_PATH)
    for line in open(f"/proc/self/fdinfo/{fd}"):
        if line.startswith("mnt_id:"):
            return line.split()[1]
last = dict(listed())
print(*(point for point, number in last.items() if reached(point) != number))
"""


def test_each_mount_in_proc_sys_is_reached_from_other_namespaces_too(world: World) -> None:
    """On what lies in a table of its namespace nothing may be mounted: EINVAL for who remounts."""

    def body() -> Any:
        unreached = {}
        for kind in ("--mount", "--pid", "--ipc", "--net", "--uts", "--user"):
            command = ["unshare", kind, "--fork", sys.executable, "-c", REACH]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
            unreached[kind] = done.stdout.split() or done.stderr
        return unreached

    assert set(map(str, world.run(body).values())) == {""}


def test_who_cannot_be_the_hosts_root_has_nothing_covered_in_proc(world: World) -> None:
    expected = [] if world.kind == "rootless" else ["/proc/sys"]
    assert world.run(
        lambda: [point for point in mount_points("/proc/") if "/sys" in point][:1]
    ) == (expected)


@NEEDS_ROOT
@pytest.mark.parametrize(("held", "answer"), [("+setuid", "True"), ("-all", "False")])
def test_who_may_choose_any_id_can_be_the_hosts_root(held: str, answer: str) -> None:
    """A runner that is not root, but holds CAP_SETUID: its map has the host's root in it."""
    script = "from pytest_nsisolate.kernel import readonly; print(readonly.may_write_the_hosts())"
    capabilities = [f"--inh-caps={held}", f"--ambient-caps={held}"]
    command = ["setpriv", "--reuid=65534", "--clear-groups", *capabilities]
    done = subprocess.run(
        [*command, sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.strip(), done.stderr) == (answer, "")


def test_proc_is_fresh_and_shows_only_this_pid_namespace(world: World) -> None:
    def body() -> Any:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
        return pids, os.readlink("/proc/self")

    assert world.run(body) == (["1"], "1")


def test_processes_own_files_stay_writable(world: World) -> None:
    assert world.run(lambda: write_back("/proc/self/comm")) == "written"


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize("gone", ["", "net"])
def test_sys_is_read_only_and_cgroups_are_reachable(world: World, gone: str) -> None:
    cgroups = mount_points("/sys/fs/cgroup")

    def body() -> Any:
        def make(point: str) -> str:
            try:
                os.mkdir(f"{point}/nsisolate-probe")
            except OSError as error:
                return errno.errorcode[error.errno or 0]
            return "made"

        # By a path that leads there: one more is covered, and writable.
        flags = {os.statvfs(point).f_flag & os.ST_RDONLY for point in mount_points("/sys")}
        return mount_points("/sys/fs/cgroup"), {make(point) for point in cgroups}, flags

    seen, made, flags = world.run(body, own=EVERYTHING - {gone})

    assert (seen, flags) == (cgroups, {os.ST_RDONLY})
    assert made <= {"EROFS"}


def test_sys_shows_only_own_devices(world: World) -> None:
    assert world.run(lambda: os.listdir("/sys/class/net")) == ["lo"]


def test_dev_shm_and_mqueue_are_private(world: World, in_dev_shm: Path) -> None:
    name = f"nsisolate-inside-{os.getpid()}"  # other tests make files there at the same time

    def body() -> Any:
        empty = os.listdir("/dev/shm") == []
        Path("/dev/shm", name).touch()
        mode = oct(os.stat("/dev/shm").st_mode)
        return empty, mode, mount_options("/dev/shm")[0], mount_options("/dev/mqueue")[1:2]

    empty, mode, options, mqueue = world.run(body, outside=lambda: name in os.listdir("/dev/shm"))

    assert (empty, mode) == (True, "0o41777")
    assert options.startswith("rw,nosuid,nodev")
    assert mqueue == (["mqueue"] if os.path.isdir("/dev/mqueue") else [])


def test_a_directory_in_use_is_kept(world: World, in_dev_shm: Path) -> None:
    base = in_dev_shm / "pytest-of-me" / "pytest-0"
    base.mkdir(parents=True)
    base.chmod(0o777)
    (base / "before").write_text("there")
    log = in_dev_shm / "log"
    log.write_text("one\n")
    log.chmod(0o666)
    in_use = [str(path) for path in (base, base / "deeper" / "not yet", log, "/usr", "/sys/fs")]

    def body() -> Any:
        (base / "inside").write_text((base / "before").read_text())
        with log.open("a") as file:
            file.write("two\n")
        return os.listdir("/dev/shm"), sorted(os.listdir(in_dev_shm))

    seen = world.run(body, in_use=in_use)

    assert seen == ([in_dev_shm.name], ["log", "pytest-of-me"])
    assert (base / "inside").read_text() == "there"
    assert log.read_text() == "one\ntwo\n"


def test_a_mount_below_what_is_kept_stays_inside(world: World, in_dev_shm: Path) -> None:
    """The clone of a shared mount is shared: a plan that took it too early leaked this one."""
    point = in_dev_shm / "point"
    point.mkdir()

    def body() -> Any:
        syscalls.prepare_mount("tmpfs", str(point), "tmpfs", 0)()
        return os.path.ismount(point)

    assert world.run(body, in_use=[str(in_dev_shm)]) is True


def test_a_path_that_does_not_exist_yet_is_kept_by_its_parent(in_dev_shm: Path) -> None:
    plan = mounts.plan_mounts(
        own=EVERYTHING,
        in_use=[f"{in_dev_shm}/a/b", "/dev/shm/nsisolate-nobody-made-this", "/", "/usr"],
    )

    assert plan.keep == (str(in_dev_shm),)


def test_only_the_outermost_of_nested_paths_is_kept(in_dev_shm: Path) -> None:
    for name in ("a/b", "a-b", "c"):
        (in_dev_shm / name).mkdir(parents=True)
    in_use = [str(in_dev_shm / name) for name in ("a/b", "a-b", "a", "c", "c")]

    kept = mounts.plan_mounts(own=EVERYTHING, in_use=in_use).keep

    assert sorted(kept) == [str(in_dev_shm / name) for name in ("a", "a-b", "c")]


def test_a_link_to_what_is_covered_counts(in_dev_shm: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(in_dev_shm)

    assert mounts.plan_mounts(own=EVERYTHING, in_use=[str(link)]).keep == (str(in_dev_shm),)


def test_nothing_is_kept_where_nothing_is_covered(in_dev_shm: Path) -> None:
    own = frozenset({"user", "pid", "mount"})

    assert mounts.plan_mounts(own=own, in_use=[str(in_dev_shm)]).keep == ()


def test_a_path_that_must_be_covered_itself_is_refused_by_name(world: World) -> None:
    with pytest.raises(StepError) as refusal:
        world.run(lambda: None, in_use=["/dev/shm"])

    assert (refusal.value.step, refusal.value.errno) == ("keep /dev/shm", errno.EBUSY)


def test_a_path_that_vanished_is_refused_by_name(
    world: World, in_dev_shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = in_dev_shm / "gone"
    gone.mkdir()
    apply = mounts.apply

    def remove_first(plan: mounts.MountPlan) -> None:
        gone.rmdir()
        apply(plan)

    monkeypatch.setattr(mounts, "apply", remove_first)
    with pytest.raises(StepError) as refusal:
        world.run(lambda: None, in_use=[str(gone)])

    assert (refusal.value.step, refusal.value.errno) == (f"keep {gone}", errno.ENOENT)


def test_a_mount_inside_never_reaches_the_host(world: World) -> None:
    def body() -> Any:
        syscalls.prepare_mount("tmpfs", "/mnt", "tmpfs", 0)()
        return os.path.ismount("/mnt")

    assert world.run(body) is True  # and world.run has compared the host's mount table


@WITHOUT_USER
def test_without_the_first_step_it_would(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the host of these tests is really shared.

    A user namespace would make the copies slaves by itself, mount_namespaces(7).
    """

    def body() -> Any:
        syscalls.prepare_mount("tmpfs", "/mnt", "tmpfs", 0)()

    monkeypatch.setattr(mounts, "apply", lambda plan: None)
    with pytest.raises(AssertionError, match="mountinfo"):
        world.run(body)


def test_run_netns_is_private(world: World) -> None:
    def prepare() -> None:
        syscalls.prepare_mount("tmpfs", "/run", "tmpfs", 0)()
        os.mkdir("/run/netns")
        Path("/run/netns/host").touch()

    world.prepare = prepare

    def body() -> Any:
        if not os.path.isdir("/run/netns"):
            return []  # without root nothing could be prepared
        Path("/run/netns/inside").touch()
        return os.listdir("/run/netns")

    assert world.run(body, outside=lambda: sorted(os.listdir("/run"))) in (["inside"], [])


def test_nothing_of_the_runner_changes(world: World) -> None:
    def outside() -> Any:
        return (
            os.listdir("/sys/class/net"),
            Path("/proc/sys/net/ipv4/ip_forward").read_text(),
            Path("/proc/sys/kernel/pid_max").read_text(),
            os.stat("/dev/shm").st_dev,
        )

    assert world.run(lambda: 1, outside=outside) == 1


def test_an_isolated_test_can_isolate_in_turn(world: World) -> None:
    """The masked /proc of the outer one would forbid a fresh one in a further user namespace."""
    own = EVERYTHING - ({"user"} if world.kind == "root without user" else set())
    inner = type(world)("root without user" if "user" not in own else "root")

    def body(depth: int = 2) -> Any:
        sysctl = write_back("/proc/sys/net/ipv4/ip_forward")
        seen = [os.getpid(), os.listdir("/sys/class/net"), sysctl]
        deeper = inner.isolate(lambda: body(depth - 1), own) if depth else []
        return [seen, *deeper]

    assert world.run(body) == [[1, ["lo"], "written"]] * 3


def test_a_user_namespace_inside_can_have_its_own_file_systems(world: World) -> None:
    script = "mount -t sysfs -o ro sysfs /sys && echo $$ $(ls /sys/class/net)"

    def body() -> Any:
        command = ["unshare", "-Urpfmn", "--mount-proc", "sh", "-c", script]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return result.stdout, result.stderr

    assert world.run(body) == ("1 lo\n", "")


#: As mount(8) does it since util-linux 2.39: fsopen, fsconfig, fsmount, and read-only afterwards.
FSMOUNT: Final = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    made = libc.syscall(ctypes.c_long(number), *arguments)
    if made < 0:
        sys.exit(f"{number}: {os.strerror(ctypes.get_errno())}")
    return made
for kind in sys.argv[1:]:
    context = call(430, kind.encode(), 0)
    call(431, context, 6, None, None, 0)
    call(432, context, 0, 0)
"""


def test_the_new_calls_mount_in_a_user_namespace_too(world: World) -> None:
    """They say read-only too late: without a writable one it would be too revealing."""

    def body() -> Any:
        inner = [sys.executable, "-c", FSMOUNT, "proc", "sysfs"]
        command = ["unshare", "-Urpfmn", *inner]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return done.returncode, done.stderr

    assert world.run(body) == (0, "")


@NEEDS_ROOT
class TestWithMessageQueues:
    """``/dev/mqueue`` is there on most hosts, but not on all."""

    @pytest.fixture
    def world(self, world: World) -> World:
        def prepare() -> None:
            syscalls.prepare_mount("tmpfs", "/dev", "tmpfs", 0)()
            for name in ("shm", "mqueue"):
                os.mkdir(f"/dev/{name}", 0o777)
            os.chmod("/dev/shm", 0o1777)

        world.prepare = prepare
        return world

    def test_they_are_private(self, world: World) -> None:
        def body() -> Any:
            with open("/dev/mqueue/inside", "x"):
                pass
            return mount_options("/dev/mqueue")[1]

        assert world.run(body, outside=lambda: os.listdir("/dev/mqueue")) == "mqueue"

    @IN_USER_NAMESPACE
    def test_those_of_the_host_are_refused(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = mounts.plan_mounts

        def as_if_own(*, own: frozenset[str], **arguments: Any) -> mounts.MountPlan:
            return plan(own=own | {"ipc"}, **arguments)

        monkeypatch.setattr(mounts, "plan_mounts", as_if_own)
        with pytest.raises(StepError) as refusal:
            world.run(lambda: None, own=EVERYTHING - {"ipc"})

        seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
        assert seen == ("mount /dev/mqueue", "ipc", errno.EPERM)


def other_procs() -> list[str]:
    """One whole /proc anywhere, in a chroot say, lets a user namespace have a new one."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    whole = [line.split() for line in lines if " - proc " in line]
    return [point for _, _, _, root, point, *_ in whole if (root, point != "/proc") == ("/", True)]


@NEEDS_ROOT
class TestAsInAContainer:
    """``/proc`` as Docker leaves it: parts of it are read-only, others are masked."""

    @pytest.fixture
    def world(self, world: World) -> World:
        def prepare() -> None:
            for name in ("sys", "irq", "bus"):
                path = f"/proc/{name}"
                if os.path.exists(path):
                    syscalls.prepare_mount(path, path, None, syscalls.MS_BIND | syscalls.MS_REC)()
                    read_only = syscalls.MOUNT_ATTR_RDONLY
                    syscalls.prepare_mount_setattr(path, read_only, recursive=True)()
            syscalls.prepare_mount("tmpfs", "/proc/fs", "tmpfs", syscalls.MS_RDONLY)()
            for proc in ("/proc", *other_procs()):
                syscalls.prepare_mount("/dev/null", f"{proc}/keys", None, syscalls.MS_BIND)()

        world.prepare = prepare
        return world

    @pytest.mark.usefixtures("attributes")
    def test_the_old_proc_is_kept_without_a_pid_namespace(self, world: World) -> None:
        def body() -> Any:
            return write_back("/proc/sys/kernel/panic"), write_back("/proc/sys/net/ipv4/ip_forward")

        # What still fails, as the module says: the net part was read-only before.
        assert world.run(body, own=EVERYTHING - {"pid"}) == (refusal_of(world), "EROFS")

    @ON_THE_HOST
    def test_a_fresh_proc_is_refused_in_a_user_namespace(self, world: World) -> None:
        if world.kind == "root without user":
            assert world.run(os.getpid) == 1
            return
        with pytest.raises(StepError) as refusal:
            world.run(lambda: None)

        seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
        assert seen == ("mount proc", "pid", errno.EPERM)


@NEEDS_ROOT
def test_a_sysctl_tree_mounted_apart_stays_writable_if_own(world: World) -> None:
    """LXC mounts /proc/sys read-only and /proc/sys/net writable on top of it."""

    def prepare() -> None:
        for path in ("/proc/sys/net", "/proc/sys/vm"):
            syscalls.prepare_mount(path, path, None, syscalls.MS_BIND)()

    world.prepare = prepare

    def body() -> Any:
        return write_back("/proc/sys/net/ipv4/ip_forward"), write_back("/proc/sys/vm/swappiness")

    assert world.run(body, own=EVERYTHING - {"pid"}) == ("written", refusal_of(world))


@NEEDS_ROOT
def test_mounts_that_a_later_one_covers_are_left_out(world: World) -> None:
    """``unshare --mount-proc`` leaves what was mounted below the old ``/proc`` in the list."""

    def prepare() -> None:
        syscalls.prepare_mount("/proc/sys/vm", "/proc/sys/vm", None, syscalls.MS_BIND)()
        syscalls.prepare_mount("/proc", "/proc", None, syscalls.MS_BIND)()

    world.prepare = prepare

    def body() -> Any:
        return write_back("/proc/sys/vm/swappiness")

    assert world.run(body, own=EVERYTHING - {"pid"}) == refusal_of(world)


@NEEDS_ROOT
def test_mounts_below_sys_with_strange_names_are_kept(world: World) -> None:

    def prepare() -> None:
        syscalls.prepare_mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0)()
        os.makedirs("/sys/fs/cgroup/a b\\c")
        syscalls.prepare_mount("tmpfs", "/sys/fs/cgroup/a b\\c", "tmpfs", 0)()
        Path("/sys/fs/cgroup/a b\\c/file").touch()
        os.chmod("/sys/fs/cgroup/a b\\c/file", 0o666)

    world.prepare = prepare

    def body() -> Any:
        return os.listdir("/sys/fs/cgroup/a b\\c"), write_back("/sys/fs/cgroup/a b\\c/file")

    assert world.run(body, own=EVERYTHING - {"pid"}) == (["file"], "EROFS")


@pytest.mark.parametrize(
    ("missing", "step", "namespace"),
    [
        ("pid", "mount proc", "pid"),
        ("net", "mount sysfs", "net"),
    ],
)
def test_a_refused_mount_names_its_step(
    user_world: World, missing: str, step: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for a namespace that is not entered: the kernel refuses its file system."""
    plan = mounts.plan_mounts(own=EVERYTHING, in_use=())
    monkeypatch.setattr(mounts, "plan_mounts", lambda **arguments: plan)

    with pytest.raises(StepError) as refusal:
        user_world.run(lambda: None, own=EVERYTHING - {missing})

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == (step, namespace, errno.EPERM)


def test_without_privileges_the_first_step_is_refused(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    plan = mounts.plan_mounts(own=EVERYTHING, in_use=())

    def body() -> Any:
        become_stranger()
        mounts.apply(plan)

    with pytest.raises(StepError) as refusal:
        in_child(body)

    assert re.match("make / private", refusal.value.step)
    assert refusal.value.errno == errno.EPERM
