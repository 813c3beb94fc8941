# SPDX-License-Identifier: MIT
"""Errors that come from isolation, though their number does not say so, and what to do.

Fact: under an unprivileged runner one user and one group exist inside; root in there is no root to
the host's files; ``/proc/sys`` and ``/sys`` are read-only. A test sees EINVAL, EACCES and EROFS.

Consequence: an error counts where number, call and path leave no other cause that would be there
un-isolated: the map of ids has one row, the file belongs to none of them and its mode keeps others
out, the mount is read-only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.view.postmortem.denials import EXECUTES, Denial, denials

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import IsolationRequest

_MOST_HINTS: Final = 4
_MOST_PATH: Final = 50

_SETS_GROUPS: Final = frozenset({"setgroups", "initgroups"})
_NAMES_AN_ID: Final = _SETS_GROUPS | {
    *("chown", "lchown", "fchown", "setuid", "seteuid", "setreuid", "setresuid"),
    *("setgid", "setegid", "setregid", "setresgid"),
}

#: What stays writable below /proc/sys, by the namespace that it belongs to.
_OWN_SETTINGS: Final = {
    "net": "net.*",
    "user": "user.*",
    "uts": "kernel.hostname",
    "ipc": "kernel.{shm,sem,msg}*, fs.mqueue.*",
}

#: Of these, what root in here may not write either, where pytest does not run as root.
_OWN_FILES: Final = tuple(
    f"/proc/sys/{name}"
    for name in (
        "net/",
        "user/",
        "kernel/hostname",
        "kernel/shm",
        "kernel/sem",
        "kernel/msg",
        "fs/mqueue/",
    )
)


def told(errors: Iterable[BaseException], request: IsolationRequest) -> list[str]:
    """Lines for a failure; none where its errors may have another cause.

    :param errors: the exception and all that it wraps.
    :param request: what the test asked for.
    :raises OSError: when something cannot be looked at.
    """
    found: dict[str, None] = {}
    for denial in (denial for error in errors for denial in denials(error)):
        hint = _read_only(denial, request) or _one_id(denial, request) or _foreign(denial, request)
        if hint:
            found[f"hint: {hint}"] = None
    return list(found)[:_MOST_HINTS]


def _read_only(denial: Denial, request: IsolationRequest) -> str:
    path = denial.path or ""
    # As root in here you expect to be let in; another user is not, isolated or not.
    expected = denial.number == errno.EACCES and not _is_root(request)
    if "mount" not in request.namespaces or expected or not path.startswith(("/proc/", "/sys/")):
        return ""
    if denial.number not in (errno.EROFS, errno.EACCES) or not _is_read_only(path):
        return ""
    what, rest = "/sys", ""
    if path.startswith("/proc/"):
        what = f"/proc/{path.split('/')[2]}"
    if what == "/proc/self" or what[6:].isdigit():
        return ""
    own = [words for kind, words in _OWN_SETTINGS.items() if kind in request.namespaces]
    if what == "/proc/sys" and own:
        rest = f", but for the test's own {', '.join(own)}"
    return (
        f"{what} is the machine's and read-only in here{rest}; "
        "isolated(False) leaves a test on the host"
    )


def _is_read_only(path: str) -> bool:
    there, _ = _nearest(path)
    return bool(os.statvfs(there).f_flag & os.ST_RDONLY)


def _one_id(denial: Denial, request: IsolationRequest) -> str:
    only = denial.number == errno.EINVAL and denial.calls & _NAMES_AN_ID
    # For a user who is not root that is EPERM un-isolated too.
    groups = denial.number == errno.EPERM and denial.calls & _SETS_GROUPS and _is_root(request)
    ids = _single_id() if (only or groups) and "user" in request.namespaces else None
    if ids is None:
        return ""
    inside, outside = ids
    own, rest = str(outside), ""
    if inside != outside:
        own = f"{inside}, {outside} outside"
        rest = ', user="range" more; user="same" keeps yours'
    return (
        f"an unprivileged runner gives a test one user and one group, its own ({own}): "
        f"no other can be set or own a file. As root it gives all{rest}"
    )


def _foreign(denial: Denial, request: IsolationRequest) -> str:
    if denial.number not in (errno.EACCES, errno.EPERM) or denial.path is None:
        return ""
    ids = _single_id() if _is_root(request) else None
    if ids is None:
        return ""
    there, whole = _nearest(denial.path)
    status = os.stat(there)
    executes = whole and denial.calls & EXECUTES and S_ISREG(status.st_mode)
    if executes and (denial.number == errno.EPERM or not status.st_mode & 0o111):
        return ""  # its capabilities, or no program: for root as well
    rights = os.R_OK | os.W_OK | (os.X_OK if S_ISDIR(status.st_mode) or executes else 0)
    if status.st_uid == ids[0] or (denial.number == errno.EACCES and os.access(there, rights)):
        return ""
    # As root it would be read-only.
    machine = there.startswith(("/proc/sys/", "/sys/")) and not there.startswith(_OWN_FILES)
    return (
        f"{_cut(there)} is not yours outside, and root in here has no more rights to the host's "
        f"files than user {ids[1]} has. "
        + (
            "It is the machine's: as root, isolated(False) can change it"
            if machine
            else "Mount a file of yours over it, or run pytest as root"
        )
    )


def _nearest(path: str) -> tuple[str, bool]:
    """The path itself, or the folder above it that can be looked at; whether it is the path."""
    there = path
    while there != "/":
        try:
            os.stat(there)
        except OSError:
            there = os.path.dirname(there)
        else:
            break
    return there, there == path


def _is_root(request: IsolationRequest) -> bool:
    """By the map of its user namespace, and not by a runner that is root."""
    return "user" in request.namespaces and request.user in ("map", "range") and os.geteuid() == 0


def _single_id() -> tuple[int, int] | None:
    """The only id that exists in here, and what it is outside; None where there are more.

    None too where the runner is root and has no other: what it cannot, it cannot un-isolated.
    """
    with open("/proc/self/uid_map", "rb") as file:
        match proc.id_map(file.read()):
            case [(inside, outside, 1)] if outside != 0:
                return inside, outside
    return None


def _cut(path: str) -> str:
    return path if len(path) <= _MOST_PATH else f"...{path[-_MOST_PATH:]}"
