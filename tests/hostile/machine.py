# SPDX-License-Identifier: MIT
"""What a machine looks like from outside: read before and after, it must be the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

#: Written by the kernel, or by whoever forks.
_RESTLESS: Final = ("kernel/ns_last_pid", "kernel/random/", "kernel/sched_domain/")

#: Of what a nasty test leaves in System V IPC.
_KEY: Final = 0x4E5349

#: What other runs make and take away meanwhile.
_OTHERS: Final = {
    "interfaces": r"^-(veth|dummy|nsi)",
    "networks": r"^-",
    "cgroups": r"^-|/nsisolate-",
    "shared memory": r"^-|^\+(?!nsisolate-nasty)",
    "SysV IPC": rf"^-|^\+(?!\w+ {_KEY} )",
    "sysctls": r"/(conf|neigh)/(?!all/|default/|lo/)",
}

State = Mapping[str, frozenset[str]]


def look() -> State:
    """Everything of this machine that a test could leave something in, but its files."""
    return {
        "mounts": frozenset(_lines("/proc/self/mountinfo")),
        "interfaces": frozenset(os.listdir("/sys/class/net")),
        "networks": frozenset(_names("/run/netns")),
        "cgroups": frozenset(_folders("/sys/fs/cgroup")),
        "shared memory": frozenset(_names("/dev/shm")),
        "SysV IPC": frozenset(_sysv()),
        "sysctls": frozenset(_sysctls()),
        "host name": frozenset([os.uname().nodename]),
    }


def changes(before: State, after: State) -> dict[str, list[str]]:
    """What has come (+) and gone (-), by subject; empty when nothing has."""
    found = {}
    for subject, entries in before.items():
        gone, come = entries - after[subject], after[subject] - entries
        if gone or come:
            found[subject] = [*(f"-{entry}" for entry in gone), *(f"+{entry}" for entry in come)]
    return found


def traces(before: State, after: State) -> dict[str, list[str]]:
    """Those of :func:`changes` that nasty tests can have made.

    Others are at work on a machine, above all other tests of this suite: what has a name that is
    made up for one run is theirs if it is not one of ``cases.py``.
    """
    found = {}
    for subject, entries in changes(before, after).items():
        kept = [entry for entry in entries if not re.search(_OTHERS.get(subject, r"(?!)"), entry)]
        if kept:
            found[subject] = kept
    return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def _names(path: str) -> list[str]:
    return os.listdir(path) if os.path.isdir(path) else []


def _folders(path: str) -> Iterator[str]:
    for folder, _, _ in os.walk(path):
        yield folder


def _sysv() -> Iterator[str]:
    for kind in ("shm", "msg", "sem"):
        for line in _lines(f"/proc/sysvipc/{kind}")[1:]:
            yield f"{kind} {' '.join(line.split()[:3])}"


def _sysctls() -> Iterator[str]:
    """Of those that anybody may set, name and value."""
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = Path(folder, name)
            short = str(path).removeprefix("/proc/sys/")
            try:
                if path.stat().st_mode & 0o200 and not short.startswith(_RESTLESS):
                    yield f"{short} = {path.read_text(errors='replace').strip()}"
            except OSError:
                continue
