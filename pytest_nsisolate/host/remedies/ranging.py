# SPDX-License-Identifier: MIT
"""Refusals of a range of ids (subuid(5), newuidmap(1))."""

from __future__ import annotations

from errno import ENOENT
from typing import Final

from pytest_nsisolate.host import facts
from pytest_nsisolate.host.remedies.table import Case, Row, always

#: The map of one id is always there.
_ELSE: Final = "or take user=True, with one id, or run pytest as root, which has all"

_RANGE: Final = (
    "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user_name}"
    " (if /etc/subuid or /etc/subgid gives a part of these to another account, take higher ones);"
    f" {_ELSE}"
)
_PROGRAM: Final = r"new[ug]idmap"


def _no_account(case: Case) -> bool:
    return facts.user_name(case.host.euid).isdecimal()


def _no_new_privileges(_: Case) -> bool:
    return facts.status().get("NoNewPrivs") == "1"


RANGES: Final = (
    Row(
        f"find {_PROGRAM}",
        (ENOENT,),
        always,
        "newuidmap and newgidmap are not installed, and an unprivileged runner cannot map other"
        " ids than its own without them",
        "sudo apt install uidmap (Fedora: dnf install shadow-utils, Alpine: apk add shadow-uidmap);"
        f" {_ELSE}",
    ),
    Row(
        f"find a range|{_PROGRAM}",
        (),
        _no_account,
        "the runner's uid {euid} has no account, and ranges of ids are given to accounts",
        f"run pytest as a user of /etc/passwd that has a range; {_ELSE}",
    ),
    Row(
        "find a range",
        (ENOENT,),
        always,
        "neither file gives user {user_name} a range of ids",
        _RANGE,
    ),
    Row(
        _PROGRAM,
        (),
        _no_new_privileges,
        "the runner may not gain rights by a program (no_new_privs), and newuidmap is nothing"
        " without",
        f"start pytest without no_new_privs (Kubernetes: allowPrivilegeEscalation: true); {_ELSE}",
    ),
    Row(
        _PROGRAM,
        (),
        always,
        "the program has refused, in its own words above: it is not set-uid root or is on a mount"
        " with nosuid, the range in the file is not as it was, or the runner's group is not that of"
        " its account",
        "ls -l $(command -v newuidmap); sudo apt install --reinstall uidmap; grep {user_name}"
        f" /etc/subuid /etc/subgid; id; {_ELSE}",
    ),
)
