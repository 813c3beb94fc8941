# SPDX-License-Identifier: MIT
"""Refusals of limits: cgroups, ``kernel.pid_max``, rlimits (cgroups(7), setrlimit(2))."""

from __future__ import annotations

from errno import EACCES, EINVAL, ENODEV, ENOSYS, EPERM, EROFS
from typing import Final

from pytest_nsisolate.host.remedies.table import DELEGATE, REPORT, UNCONFINE, Row, always

#: With a cgroup namespace of its own a container sees no group below which it may make others.
_CONTAINER: Final = "Docker, Podman: --cgroupns=host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw"

_CGROUP: Final = r"(find|mkdir|join|write) (the |a )?cgroup"

LIMITS: Final = (
    Row(
        "limit processes=1$",
        (EINVAL,),
        always,
        "with init=True two processes are the least",
        "ask for more processes, or for init=False",
    ),
    Row(
        "limit processes",
        (),
        always,
        "nothing here holds it: a cgroup has to be the runner's to divide, RLIMIT_NPROC does not"
        " bind root, and kernel.pid_max of a PID namespace begins at 300 processes",
        "ask for 300 processes or more (Linux 6.14), or for none (None); or let the runner have"
        " cgroups: " + DELEGATE + "; " + _CONTAINER,
    ),
    Row(
        "limit files",
        (EINVAL,),
        always,
        "the runner itself has too many files open to leave a test any",
        "ask for more files, or find what leaves files open in the runner",
    ),
    Row(
        "limit ",
        (),
        always,
        "nothing here holds it: no cgroup is the runner's to divide, and the runner's own hard"
        " limit (ulimit -H) is used up",
        "raise that limit, or let the runner have cgroups: " + DELEGATE,
    ),
    Row(
        "find a cgroup",
        (ENODEV,),
        always,
        "no cgroup at or above the runner's is the runner's to divide: none is delegated to uid"
        " {euid}, or none hands on the controllers memory and pids",
        DELEGATE + "; without it rlimits have to do",
    ),
    Row(
        _CGROUP,
        (EROFS,),
        always,
        "the cgroup file system is read-only, as in a container",
        _CONTAINER + "; without it rlimits have to do",
    ),
    Row(
        _CGROUP,
        (EACCES, EPERM),
        always,
        "the runner's cgroup is not delegated to uid {euid}, or the process comes from a cgroup"
        " that is not",
        DELEGATE + "; without it rlimits have to do",
    ),
    Row(
        "write pid_max",
        (EINVAL,),
        always,
        "kernel.pid_max of a PID namespace cannot be below 301 on most machines"
        " (RESERVED_PIDS + 1, more with many processors)",
        "choose a larger number of processes, or use RLIMIT_NPROC or the pids cgroup",
    ),
    Row(
        "write pid_max",
        (ENOSYS, EACCES, EROFS),
        lambda case: case.host.kernel < (6, 14),
        "kernel.pid_max is one for the whole machine before Linux 6.14, and this is {kernel}",
        "boot Linux 6.14 or newer; without it RLIMIT_NPROC or the pids cgroup have to do",
    ),
    Row(
        "write pid_max",
        (EACCES, EROFS, EPERM),
        always,
        "/proc/sys of the container is read-only, or does not belong to the new PID namespace",
        UNCONFINE,
    ),
    Row(
        "setrlimit",
        (EPERM,),
        always,
        "a hard limit can only be raised with CAP_SYS_RESOURCE, which the runner does not hold",
        "lower limits only, or raise the hard limit outside (ulimit -H, LimitNPROC= of a unit)",
    ),
    Row(
        *("setrlimit", (EINVAL,), always),
        *("the soft limit is above the hard one", "this is " + REPORT),
    ),
)
