# SPDX-License-Identifier: MIT
"""Questions to the host that tell one cause of a refusal from another.

Each answer is one small file of ``/proc`` or ``/sys``, read when asked: sysctls and mounts can
change while a run lasts, and most runs never ask. A file that cannot be read is no answer, never
an error: the user needs an explanation even where half of ``/proc`` is masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.namespaces import PROC_NAMES
from pytest_nsisolate.kernel.originals import open, os, pwd, re, resource

#: Directories that are always empty may be covered without making /proc or /sys "masked" for the
#: kernel (fs/namespace.c, ``mnt_already_visible``).
_HARMLESS_COVERS: Final = re.compile(
    r"/proc/(sys/fs/binfmt_misc|fs/nfsd)(/|$)"
    r"|/sys/(fs/(cgroup|bpf|fuse/connections|pstore|selinux|resctrl|smackfs)"
    r"|kernel/(debug|tracing|security|config)|firmware/efi/efivars)(/|$)"
)


def status() -> dict[str, str]:
    """``/proc/self/status`` by field name (proc_pid_status(5)); empty where it is unreadable."""
    try:
        with open("/proc/self/status", "rb") as file:
            return proc.status(file.read())
    except OSError:
        return {}


def place() -> str | None:
    """The container engine or CI system around the runner, or None where nothing tells.

    A CI system comes before the engine that it uses, because its configuration is where the
    engine's switches have to be written.
    """
    marks = {
        "kubernetes": "KUBERNETES_SERVICE_HOST" in os.environ,
        "gitlab": os.environ.get("GITLAB_CI") == "true",
        "github": os.environ.get("GITHUB_ACTIONS") == "true",
        "podman": os.path.exists("/run/.containerenv"),
        "docker": os.path.exists("/.dockerenv"),
        "lxc": os.environ.get("container") == "lxc",
    }
    return next((name for name, is_here in marks.items() if is_here), None)


def pretender() -> str | None:
    """The program that answers the runner's system calls in the kernel's place, or None.

    fakeroot and pseudo do it in libc (LD_PRELOAD), proot as a tracer (ptrace(2)). The ids that they
    make up do not exist for the kernel, and mounts and namespaces are not what they seem.
    """
    preloaded = os.environ.get("LD_PRELOAD", "")
    for name in ("fakeroot", "pseudo"):
        if f"lib{name}" in preloaded and _is_mapped(f"lib{name}"):
            return name
    own = status()
    tracer = own.get("TracerPid", "0")
    if tracer != "0" and (_first_line(f"/proc/{tracer}/comm") or "").startswith("proot"):
        return "proot"
    ids = own.get("Uid", "").split()
    return "something" if ids and int(ids[1]) != os.geteuid() else None


def _is_mapped(library: str) -> bool:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            return any(library in line for line in file)
    except OSError:
        return False


def emulation() -> str | None:
    """What is here instead of Linux but answers as Linux: ``"gVisor"``, ``"WSL 1"``, or None."""
    kernel = os.uname()
    if "gvisor" in kernel.release or "Sun Jan 10 15:06:54 PST 2016" in kernel.version:
        return "gVisor"
    # That of WSL 2 is a Linux: 5.15.90.1-microsoft-standard-WSL2.
    return "WSL 1" if kernel.release.endswith("-Microsoft") else None


def is_offered(namespace: str) -> bool:
    """The kernel knows the namespace and its limit is not zero."""
    return has_namespace(namespace) and namespace_limit(namespace) != 0


def has_namespace(namespace: str) -> bool:
    """The kernel was built with this namespace (namespaces(7), ``/proc/self/ns``)."""
    return os.path.exists(f"/proc/self/ns/{PROC_NAMES[namespace]}")


def limit_name(namespace: str) -> str:
    """The sysctl that limits how many there may be, ``user.max_net_namespaces``."""
    return f"user.max_{PROC_NAMES[namespace]}_namespaces"


def namespace_limit(namespace: str) -> int | None:
    """How many of this type the runner's user namespace allows; None if it cannot be read."""
    text = sysctl(limit_name(namespace))
    return int(text) if text and text.isdecimal() else None


def sysctl(name: str) -> str | None:
    """The value of a sysctl, or None where the kernel has none of that name or hides it."""
    return _first_line("/proc/sys/" + name.replace(".", "/"))


def userns_clone_off() -> bool:
    """Debian's and Arch's own switch against unprivileged user namespaces is on."""
    return sysctl("kernel.unprivileged_userns_clone") == "0"


def apparmor_restricts() -> bool:
    """AppArmor takes the capabilities away inside unprivileged user namespaces (Ubuntu 23.10+)."""
    return (
        sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1"
        or sysctl("kernel.apparmor_restrict_unprivileged_unconfined") == "1"
    )


def security_label() -> str:
    """The security module's name for the runner: ``docker-default (enforce)``, or empty."""
    return (_first_line("/proc/self/attr/current") or "").rstrip("\0")


def selinux_enforcing() -> bool:
    """SELinux is on and enforces."""
    return _first_line("/sys/fs/selinux/enforce") == "1"


def user_name(uid: int) -> str:
    """The account's name (getpwuid(3)), or the number of an account without one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def ids_mapped(euid: int, egid: int) -> bool:
    """The runner's own ids have a number in the user namespace that the runner lives in.

    An id without one reads as the overflow id, which no range of the map contains.
    """
    return _in_map("/proc/self/uid_map", euid) and _in_map("/proc/self/gid_map", egid)


def covers_below(directory: str) -> tuple[str, ...]:
    """What is mounted below ``/proc`` or ``/sys`` and hides a part of it from the runner."""
    below = directory.rstrip("/") + "/"
    return tuple(
        mount.point
        for mount in _mounts()
        if mount.point.startswith(below) and not _HARMLESS_COVERS.match(mount.point)
    )


def is_read_only(mount_point: str) -> bool:
    """The last mount at exactly this place is read-only for the runner."""
    found = False
    for mount in _mounts():
        if mount.point == mount_point:
            found = "ro" in mount.options.split(",")
    return found


def in_chroot() -> bool:
    """No mount point of the runner's is ``/``: its root is a plain directory (chroot(2))."""
    points = [mount.point for mount in _mounts()]
    return bool(points) and "/" not in points


def _mounts() -> list[proc.Mount]:
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            return [*proc.mounts(file.read())]
    except OSError:
        return []


def _in_map(path: str, number: int) -> bool:
    try:
        with open(path, "rb") as file:
            ranges = proc.id_map(file.read())
    except OSError:
        return True
    return any(first <= number < first + count for first, _, count in ranges)


def _first_line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip("\n")
    except OSError:
        return None


def process_limit() -> str | None:
    """The limit that keeps this user from another process, if one of them is reached.

    fork(2) has one EAGAIN for the cgroup's ``pids.max``, RLIMIT_NPROC, ``kernel.pid_max`` and
    ``kernel.threads-max``.
    """
    for directory in _cgroups("pids"):
        current = _first_line(f"{directory}/pids.current")
        most = _first_line(f"{directory}/pids.max")
        if current and most and most.isdecimal() and int(current) + 2 >= int(most):
            return f"pids.max = {most} of the cgroup {directory}"
    everything = (_first_line("/proc/loadavg") or "0/0").rpartition("/")[2].split()
    tasks = int(everything[0]) if everything and everything[0].isdecimal() else 0
    for name in ("kernel.pid_max", "kernel.threads-max"):
        most = sysctl(name)
        if most and most.isdecimal() and tasks + 2 >= int(most):
            return f"{name} = {most}"
    return _process_rlimit()


def _process_rlimit() -> str | None:
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        if soft == resource.RLIM_INFINITY or _own_tasks() + 2 < soft:
            return None
    except OSError:
        return None  # no descriptor is left to look with
    return f"RLIMIT_NPROC = {soft} (ulimit -u)"


def _own_tasks() -> int:
    """Threads of this user, which is what RLIMIT_NPROC counts (getrlimit(2))."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):
                if entry.stat().st_uid == os.getuid():
                    count += len(os.listdir(f"{entry.path}/task"))
    return count


def processors() -> int:
    """How many processors this process may use at a time: its affinity, and its cgroups' quota.

    sched_getaffinity(2); ``cpu.max`` and ``cpu.cfs_quota_us``, rounded up.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    for directory in _cgroups("cpu"):
        words = (_first_line(f"{directory}/cpu.max") or "").split()
        if not words:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [_first_line(f"{directory}/{name}") or "" for name in names]
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            found = min(found, -(-int(words[0]) // int(words[1])))
    return found


def _cgroups(controller: str) -> Iterator[str]:
    """The runner's cgroups that can bound something, v2 and v1, and those above them."""
    try:
        with open("/proc/self/cgroup", "rb") as file:
            groups = proc.cgroups(file.read())
    except OSError:
        return
    for controllers, path in groups:
        if controllers == "" or controller in controllers.split(","):
            root = f"/sys/fs/cgroup/{controller}" if controllers else "/sys/fs/cgroup"
            yield root + path
            yield from (root + str(parent) for parent in PurePosixPath(path).parents)
