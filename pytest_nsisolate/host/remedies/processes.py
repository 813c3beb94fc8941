# SPDX-License-Identifier: MIT
"""Refusals that any step may meet, and those of processes (fork(2), pidfd_open(2), prctl(2))."""

from __future__ import annotations

from errno import (
    EACCES,
    EAGAIN,
    EINVAL,
    EMFILE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSYS,
    EPERM,
    EPIPE,
    EPROTO,
    ESRCH,
    ETIMEDOUT,
)
from typing import Final

from pytest_nsisolate.host import SECCOMP_FILTER, facts
from pytest_nsisolate.host.remedies.table import REPORT, UNCONFINE, Row, always
from pytest_nsisolate.kernel.originals import os


def _pretends_ids(name: str) -> Row:
    return Row(
        _LOOK,
        (),
        lambda _: facts.pretender() == name,
        f"the runner runs under {name}, which makes up ids that nobody has for the kernel, and"
        " cannot do so in namespaces of the test's own",
        f"start pytest without {name}: an isolated test is root in its namespaces anyway",
    )


_LOOK: Final = "look at the runner"

ANYWHERE: Final = (
    Row(
        "",
        (),
        lambda case: not case.host.linux,
        "namespaces are a part of Linux, and this is {platform}",
        "run these tests on Linux, in a virtual machine or a container; --nsisolate=none skips"
        " them elsewhere",
    ),
    Row(
        "import ",
        (),
        always,
        "the package python-prctl cannot be imported",
        "pip install python-prctl (it is compiled: on Debian first apt install gcc libcap-dev"
        " python3-dev)",
    ),
    Row(
        "",
        (ENOENT,),
        lambda _: not os.path.exists("/proc/self/status"),
        "/proc is not mounted",
        "mount -t proc proc /proc",
    ),
    *map(_pretends_ids, ("fakeroot", "pseudo")),
    Row(
        _LOOK,
        (),
        lambda _: facts.pretender() == "proot",
        "the runner runs under proot, which changes its system calls on the way to the kernel: a"
        " mount is then not what it seems",
        "start pytest outside of proot; unshare --map-root-user and bwrap do the same without it",
    ),
    Row(
        _LOOK,
        (),
        always,
        "something answers for the kernel: os.geteuid() is {euid}, and /proc/self/status names"
        " another uid (LD_PRELOAD is {preload!r})",
        "start pytest without it",
    ),
    Row(
        "",
        (ENOSYS, EINVAL, EPERM, EACCES, ENODEV),
        lambda _: facts.emulation() is not None,
        "this is no Linux kernel but {emulation}, which emulates one and not all of it",
        "WSL: wsl --set-version DISTRIBUTION 2; gVisor: another runtime for the tests (docker run"
        " --runtime=runc, in Kubernetes another runtimeClassName)",
    ),
    Row(
        "",
        (EMFILE, ENFILE),
        always,
        "no file descriptor is left",
        "raise the limit (ulimit -n), or find what leaves files open",
    ),
    Row(
        "",
        (ETIMEDOUT,),
        always,
        "the step did not end in time, and the child was killed",
        "look for an overloaded machine or a file system that hangs (NFS, FUSE), then run the"
        " doctor again",
    ),
)

PROCESSES: Final = (
    Row("start the ", (0,), always, "the child failed by itself", "this is " + REPORT),
    Row(
        r"start the ",
        (EPIPE,),
        lambda case: case.host.seccomp == SECCOMP_FILTER,
        "the child was killed, as by a seccomp filter that kills instead of refusing",
        UNCONFINE,
    ),
    Row(
        r"start the ",
        (EPIPE,),
        always,
        "the child was killed before it could say how far it came",
        "look for the out-of-memory killer or a security module in dmesg",
    ),
    Row(
        "fork",
        (EPROTO,),
        always,
        "fork returned 0, but this is still the runner: something stands in for it",
        "take away what replaced posix.fork before the plugin was loaded",
    ),
    Row(
        "fork|clone",
        (EAGAIN,),
        always,
        "no other process may be started: {processes}",
        "raise that limit, or run fewer workers",
    ),
    Row(
        "fork|clone",
        (ENOMEM,),
        lambda case: case.namespace == "pid",
        "PID 1 of the new namespace was gone before the test could start, or memory ran out",
        "look for an out-of-memory kill in dmesg; without one this is " + REPORT,
    ),
    Row(
        "fork|clone|memfd_create",
        (ENOMEM,),
        always,
        "no memory is left for another process (overcommit, or the cgroup's memory limit)",
        "raise the memory limit, or run fewer workers",
    ),
    Row(
        "pidfd|poll",
        (ENOSYS, EPERM),
        always,
        "the kernel ({kernel}) or what emulates it (gVisor) has no pidfd_open, or a filter hides"
        " it; without it the end of a child cannot be waited for safely",
        "use Linux 5.3 or newer, and a container runtime that lets pidfd_open through",
    ),
    Row(
        "parent-death check",
        (ESRCH,),
        always,
        "the parent process was gone before its child had started",
        "look for what killed it (the out-of-memory killer tells dmesg)",
    ),
)

ANYTHING_ELSE: Final = (
    Row(
        "",
        (),
        lambda case: case.errno == EPERM and case.host.seccomp == SECCOMP_FILTER,
        "probably the seccomp filter of a container, which is on and may refuse {step}",
        UNCONFINE,
    ),
    Row(
        "",
        (ENOSYS,),
        always,
        "the kernel ({kernel}) has no such call, or a seccomp filter hides it",
        "use Linux 5.12 or newer; in a container: " + UNCONFINE,
    ),
    Row(
        "",
        (),
        always,
        "the kernel refused {step} with {errno}, and no known cause fits (security label: {label})",
        "look into dmesg and the audit log, and please report it with the output of the doctor",
    ),
)
