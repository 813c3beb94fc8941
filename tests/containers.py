# SPDX-License-Identifier: MIT
"""What a container engine does to a process, without an engine: namespaces, masks, profile, rights.

    python -m tests.containers docker -- python -m pytest_nsisolate doctor

Of the seccomp profile this is the part that concerns the plugin, opened as the profile opens it
for the capabilities of a container. That of containerd, and with it Kubernetes' RuntimeDefault,
is the same in this part.

Source: moby, ``profiles/seccomp/default.json``, ``oci/caps/defaults.go`` and ``oci/defaults.go``.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Final

from tests.hosts import MASK_OTHERS
from tests.seccomp import deny

#: What a container's root may do where nothing was added or dropped.
DOCKER_CAPABILITIES: Final = (
    *("chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid"),
    *("setfcap", "setpcap", "net_bind_service", "sys_chroot", "kill", "audit_write"),
)

#: Calls by x86_64 and aarch64 number that the profile lets through with one capability only;
#: those below "" with none at all.
_PROFILE: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "sys_admin": {
        "mount": (165, 40),
        "umount2": (166, 39),
        "unshare": (272, 97),
        "setns": (308, 268),
        "sethostname": (170, 161),
        "setdomainname": (171, 162),
        "open_tree": (428, 428),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "quotactl": (179, 60),
        "fanotify_init": (300, 262),
        "lookup_dcookie": (212, 18),
    },
    "sys_module": {
        "init_module": (175, 105),
        "delete_module": (176, 106),
        "finit_module": (313, 273),
    },
    "sys_boot": {"reboot": (169, 142)},
    "sys_chroot": {"chroot": (161, 51)},
    "sys_pacct": {"acct": (163, 89)},
    "sys_time": {"settimeofday": (164, 170), "clock_settime": (227, 112)},
    "sys_tty_config": {"vhangup": (153, 58)},
    "dac_read_search": {"open_by_handle_at": (304, 265)},
    "": {
        "pivot_root": (155, 41),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "keyctl": (250, 219),
        "kexec_load": (246, 104),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "userfaultfd": (323, 282),
        "move_pages": (279, 239),
    },
}

#: The flags of clone(2) that make namespaces, all but CLONE_NEWTIME.
_NEW_NAMESPACES: Final = 0x7E020000

#: Covered, and made read-only.
_MASKED: Final = (
    "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats"
    " /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware"
    " /sys/devices/virtual/powercap"
)
_READ_ONLY: Final = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"

_FRESH_SYS: Final = """
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 -o ro,nosuid,nodev,noexec cgroup /sys/fs/cgroup 2>/dev/null || true
"""
_MASK: Final = f"""
{MASK_OTHERS}
for path in {_READ_ONLY}; do
    [ ! -e $path ] || {{ mount --bind $path $path; mount -o remount,bind,ro $path; }}
done
for path in {_MASKED}; do
    if [ -d $path ]; then mount -t tmpfs -o ro tmpfs $path
    elif [ -e $path ]; then mount --bind /dev/null $path
    fi
done
"""

_INSTALL: Final = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.containers import install_profile
install_profile(frozenset(sys.argv[1].split(",")))
os.execvp(sys.argv[2], sys.argv[2:])
"""

_SEPARATE: Final = (
    *("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--net", "--ipc", "--uts", "--cgroup"),
)
_TO_BE: Final = {
    "root": ("--map-root-user",),
    "user": ("--user", "--map-user=1000", "--map-group=1000", "--keep-caps"),
    "host-root": (),
}


def container(
    who: str = "root",
    *,
    capabilities: tuple[str, ...] = DOCKER_CAPABILITIES,
    profile: bool = True,
    masked: bool = True,
    no_new_privs: bool = False,
) -> tuple[str, ...]:
    """What to put before a command to have it run in such a container.

    :param who: ``"root"`` and ``"user"`` (uid 1000) of a user namespace; ``"host-root"`` is the
        machine's own root, as Docker's is, and only that one can make such a container.
    :param capabilities: the bounding set, and root's other sets.
    :param profile: install the seccomp profile.
    :param masked: cover and protect parts of ``/proc`` and ``/sys``.
    """
    script = _FRESH_SYS + (_MASK if masked else "") + 'exec "$@"'
    inner: tuple[str, ...] = ()
    if profile:
        inner = (sys.executable, "-c", _INSTALL, ",".join(capabilities))
    bounding = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    drop = ["--ambient-caps=-all"] if who == "user" else []
    drop += ["--no-new-privs"] if no_new_privs else []
    rights = ("setpriv", *drop, "--inh-caps=-all", f"--bounding-set={bounding}")
    return ("unshare", *_TO_BE[who], *_SEPARATE, "sh", "-ec", script, "sh", *inner, *rights)


def install_profile(capabilities: frozenset[str]) -> None:
    """Put this process under the profile, for good."""
    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    if "sys_admin" not in capabilities:
        deny("clone", errno.EPERM, argument=0, mask=_NEW_NAMESPACES)
        deny("clone3", errno.ENOSYS)
    for capability, calls in _PROFILE.items():
        if capability not in capabilities:
            for numbers in calls.values():
                deny(numbers[column], errno.EPERM)


_OPEN: Final = {"profile": False, "masked": False}

#: What to put before a command, by the name of the container.
CONTAINERS: Final[dict[str, tuple[str, ...]]] = {
    "docker": container(),
    "docker-user": container("user"),
    "docker-sys-admin": container("host-root", capabilities=(*DOCKER_CAPABILITIES, "sys_admin")),
    "docker-sys-admin-user": container("user", capabilities=(*DOCKER_CAPABILITIES, "sys_admin")),
    "docker-sys-admin-unmasked": container(
        "user", capabilities=(*DOCKER_CAPABILITIES, "sys_admin"), masked=False
    ),
    "docker-no-seccomp": container(profile=False),
    "docker-no-seccomp-user": container("user", profile=False),
    "docker-unconfined": container(profile=False, masked=False),
    "docker-unconfined-user": container("user", profile=False, masked=False),
    "kubernetes-restricted": container("user", capabilities=(), no_new_privs=True),
    "kubernetes-unconfined": container(
        "user", capabilities=(), no_new_privs=True, profile=False, masked=False
    ),
}


def main(arguments: list[str]) -> None:
    """``CONTAINER -- COMMAND ...``."""
    name, _, *command = arguments
    prepared = [*CONTAINERS[name], *command]
    os.execvp(prepared[0], prepared)


if __name__ == "__main__":
    main(sys.argv[1:])
