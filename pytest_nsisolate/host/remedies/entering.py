# SPDX-License-Identifier: MIT
"""Refusals on the way in: processes and ``unshare`` (unshare(2), fork(2), namespaces(7))."""

from __future__ import annotations

from errno import (
    EACCES,
    EINVAL,
    ENOSPC,
    EPERM,
    EUSERS,
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

_NEW_USER_STEP: Final = r"unshare\(CLONE_NEWUSER\)|clone$"
_UNSHARE_STEP: Final = r"unshare\(|clone$|setns\(CLONE_NEWTIME"
_NEW_NET: Final = r"unshare\(CLONE_NEWNET\)"
_NESTING: Final = r"unshare\(CLONE_NEW(USER|PID)\)|clone$"


def _kernel_lacks(case: Case) -> bool:
    return case.namespace is not None and not facts.has_namespace(case.namespace)


def _limit(case: Case) -> int:
    limit = facts.namespace_limit(case.namespace) if case.namespace else None
    return -1 if limit is None else limit


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
    Row(
        r"setns\(CLONE_NEWTIME\)",
        (EUSERS,),
        always,
        "PID 1 has more than one thread already",
        "look for an os.register_at_fork hook that starts a thread; without one this is " + REPORT,
    ),
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
