# SPDX-License-Identifier: MIT
"""Refusals on the way in: processes and ``unshare`` (unshare(2), fork(2), pidfd_open(2), prctl(2),
namespaces(7)); and those that any step may meet.
"""

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
    ENOSPC,
    ENOSYS,
    EPERM,
    EPIPE,
    EPROTO,
    ESRCH,
    ETIMEDOUT,
)
from typing import Final

from pytest_nsisolate.host import SECCOMP_FILTER, facts
from pytest_nsisolate.host.remedies.table import (
    APPARMOR_CAUSE,
    APPARMOR_REMEDY,
    FILTER,
    REPORT,
    UNCONFINE,
    Case,
    Row,
    always,
    apparmor,
    lacks_admin,
    without_user,
)
from pytest_nsisolate.kernel.originals import os

_NEW_USER_STEP: Final = r"unshare\(CLONE_NEWUSER\)|clone$"
_UNSHARE_STEP: Final = r"unshare\(|clone$"
_NEW_NET: Final = r"unshare\(CLONE_NEWNET\)"
_NESTING: Final = r"unshare\(CLONE_NEW(USER|PID)\)|clone$"


def _kernel_lacks(case: Case) -> bool:
    return case.namespace is not None and not facts.has_namespace(case.namespace)


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


def _limit(case: Case) -> int:
    limit = facts.namespace_limit(case.namespace) if case.namespace else None
    return -1 if limit is None else limit


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

NEW_USER: Final = (
    Row(
        _NEW_USER_STEP,
        (EPERM,),
        lambda case: lacks_admin(case) and facts.userns_clone_off(),
        "user namespaces are switched off for ordinary users"
        " (kernel.unprivileged_userns_clone = 0)",
        "sudo sysctl -w kernel.unprivileged_userns_clone=1, or run pytest as root",
    ),
    Row(
        _NEW_USER_STEP,
        (EPERM,),
        lambda case: not facts.ids_mapped(case.host.euid, case.host.egid),
        "the runner's own ids are not mapped in the user namespace that it lives in",
        "map them where that namespace is made: unshare --map-current-user, bwrap --uid and --gid",
    ),
    Row(
        _NEW_USER_STEP,
        (EPERM,),
        lambda case: not case.filtered and facts.in_chroot(),
        "the runner is in a chroot, where the kernel makes no user namespace, not even for root",
        "enter that directory by pivot_root instead of chroot (systemd-nspawn, bwrap, a container)",
    ),
    Row(_NEW_USER_STEP, (EPERM,), Case.blames_seccomp, FILTER, UNCONFINE),
    Row(_NEW_USER_STEP, (EPERM, EACCES), apparmor, APPARMOR_CAUSE, APPARMOR_REMEDY),
    Row(
        _NEW_USER_STEP,
        (EPERM, EACCES),
        always,
        "neither a sysctl nor a filter that can be seen: the runner is in a chroot, or a security"
        " module forbids user namespaces (its label here: {label})",
        "run pytest outside the chroot, or look for the denial in dmesg or the audit log",
    ),
    Row(
        _NEW_USER_STEP,
        (EINVAL,),
        lambda _: not facts.has_namespace("user"),
        "the kernel has no user namespaces (CONFIG_USER_NS)",
        "run pytest as root, or boot a kernel that has them (RHEL 7: user_namespace.enable=1)",
    ),
    Row(
        _NEW_USER_STEP,
        (EINVAL,),
        always,
        "the process in the middle has more than one thread",
        "look for an os.register_at_fork hook that starts a thread; without one this is " + REPORT,
    ),
)

UNSHARE: Final = (
    Row(_UNSHARE_STEP, (EPERM,), lambda case: case.filtered is True, FILTER, UNCONFINE),
    Row(
        _UNSHARE_STEP,
        (EPERM,),
        lambda case: without_user(case) and lacks_admin(case),
        "without a user namespace this needs CAP_SYS_ADMIN, which the runner (uid {euid}) does not"
        " hold",
        "let the test have a user namespace (no user=False), or run pytest as root",
    ),
    Row(_UNSHARE_STEP, (EPERM, EACCES), apparmor, APPARMOR_CAUSE, APPARMOR_REMEDY),
    Row(
        _UNSHARE_STEP,
        (EPERM,),
        lambda case: case.host.seccomp == SECCOMP_FILTER,
        "a seccomp filter refuses this namespace (a container's profile, or RestrictNamespaces= of"
        " a systemd unit)",
        "systemd: RestrictNamespaces=no; " + UNCONFINE,
    ),
    Row(
        _UNSHARE_STEP,
        (EINVAL,),
        _kernel_lacks,
        "this kernel ({kernel}) has no {namespace} namespaces",
        "boot a newer or fuller kernel (time needs 5.6, cgroup 4.6), or leave {namespace} out",
    ),
    Row(
        r"unshare\(CLONE_NEWPID\)",
        (EINVAL,),
        always,
        "the process had already unshared its PID namespace",
        "look for what calls unshare or setns in the runner; if nothing does, this is " + REPORT,
    ),
    Row(
        _UNSHARE_STEP,
        (ENOSPC,),
        lambda case: _limit(case) == 0,
        "{namespace} namespaces are switched off ({sysctl} = 0)",
        "sudo sysctl -w {sysctl}=16384",
    ),
    Row(
        _NEW_NET,
        (ENOSPC,),
        lambda case: 0 < _limit(case) < 1000,
        "the limit of network namespaces is reached ({sysctl} = {limit}); dead ones count until"
        " the kernel has taken them apart, and waiting 250 ms did not help",
        "sudo sysctl -w {sysctl}=16384, or run fewer workers",
    ),
    Row(
        _UNSHARE_STEP,
        (ENOSPC,),
        lambda case: 0 < _limit(case) < 1000,
        "the limit of {namespace} namespaces is reached ({sysctl} = {limit})",
        "sudo sysctl -w {sysctl}=16384, or end what holds the others",
    ),
    Row(
        _NESTING,
        (ENOSPC,),
        always,
        "the runner is nested 32 namespaces deep, or a namespace around it allows no more"
        " (bwrap --disable-userns, {sysctl} of the outer one)",
        "run pytest in fewer layers of sandboxes, or raise {sysctl} in the outer one",
    ),
    Row(
        _UNSHARE_STEP,
        (ENOSPC,),
        always,
        "a limit of a namespace around the runner is reached ({sysctl} is {limit} in here)",
        "raise {sysctl} in the outer namespace",
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
        r"start the thread of faulthandler_timeout",
        (EAGAIN,),
        always,
        "a thread counts as a process, and there is no room for it in the test's own limit"
        " (limits=) or in the host's: {processes}",
        "raise that limit by one, or run with -o faulthandler_timeout=0",
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
        "pidfd",
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
