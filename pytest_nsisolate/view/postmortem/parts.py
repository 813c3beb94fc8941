# SPDX-License-Identifier: MIT
"""The world of a failed test as text: what is there, in the order in which you would look.

Each part is a name and a function, so that the caller can guard each by itself.

Fact: psutil, and what asks the kernel over netlink, take a hundredth and a tenth of a second to
import, in each test that fails. Most of these are alone, and leave their network as it was.
Consequence: a world without other processes, without internet sockets, and with no network device
but the loopback, is told from files of ``/proc`` (proc_pid_net(5)). Any other is left to the view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pytest_nsisolate.kernel.originals import os, re
from pytest_nsisolate.kernel.proc_net import interfaces, lines, own_version_4
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.view.mounts import Mount, parse_mounts
from pytest_nsisolate.view.origin import make_readings
from pytest_nsisolate.view.postmortem.layout import ADDITIONS, Part, Told
from pytest_nsisolate.view.processes import Process
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.view.tables import aligned, counted, indented, table

#: Rows of each kind; the rest is counted.
_MOST_PROCESSES: Final = 20
MOST_SOCKETS: Final = 20
MOST_OTHERS: Final = 10

_TABLE: Final = re.compile(r"^(\S.*):$", re.MULTILINE)
_TABLES: Final = frozenset({"Main", "Local"})

_LOCALHOST6: Final = "00000000000000000000000000000001"


def parts(
    request: IsolationRequest, home: Mapping[str, int], mounts: str | None, uid: int
) -> list[Part]:
    """What there is to say about this test's world.

    :param home: the runner's namespaces.
    :param mounts: those that were there before the test began, if they are known.
    :param uid: the effective user id with which it has begun.
    """
    view = make_readings(request, home)
    own_net = "net" in request.namespaces
    found: list[Part] = [
        ("processes", lambda: _processes(view, uid)),
        ("listening sockets", lambda: _listening(view, own_net=own_net)),
    ]
    if own_net:
        found.append(("network", lambda: _network(view)))
    if mounts:
        found.append(("mounts added by the test", lambda: _mounts(view, mounts)))
    for addition in ADDITIONS:
        found += addition.parts()
    return found


def _processes(view: Readings, uid: int) -> Told:
    if view._is_alone and all(os.stat(f"/proc/{pid}").st_uid == uid for pid in view._own_pids):
        return "no other processes"
    rows = _without_additions(found for tree in view.process_tree for found in tree.walk())
    if all(row.pid in view._own_pids and row.uid == uid for _, row in rows):
        return "no other processes"
    labels = view._labels
    lines = [("PID", "PPID", "STATE", "UID", "AGE", "COMMAND")]
    for depth, process in rows[:_MOST_PROCESSES]:
        command = labels.get(process.pid, process.command)
        # Deeper than this the margin would leave no room for the command.
        lines.append((*_facts(process), f"{'  ' * min(depth, 12)}{command}"))
    found = headed(counted(len(rows), "process"), aligned(lines).splitlines())
    return found + _rest([process for _, process in rows[_MOST_PROCESSES:]])


def _without_additions(rows: Iterable[tuple[int, Process]]) -> list[tuple[int, Process]]:
    """
    :param rows: parents before children.
    """
    left_out = {pid for addition in ADDITIONS for pid in addition.processes()}
    found = []
    for depth, process in rows:
        if process.pid in left_out or process.ppid in left_out:
            left_out.add(process.pid)
        else:
            found.append((depth, process))
    return found


def _facts(process: Process) -> tuple[str, str, str, str, str]:
    age = f"{process.age:.0f} s"
    return str(process.pid), str(process.ppid), process.state, str(process.uid), age


def _rest(left: Sequence[Process]) -> list[str]:
    if not left:
        return []
    states = Counter(process.state for process in left).most_common(3)
    told = ", ".join(f"{count} {state}" for state, count in states)
    return [f"  ... and {len(left)} more ({told})"]


def _listening(view: Readings, *, own_net: bool) -> Told:
    rows = view.listening
    if not own_net:
        # The host's are many, and not what this test was about.
        own = {process.pid for process in view.processes}
        rows = tuple(row for row in rows if own.intersection(row.pids))
    return listed("listening socket", rows, MOST_SOCKETS) if rows else "no listening sockets"


def _network(view: Readings) -> Told:
    """The routes without those that the kernel makes for its own addresses."""
    if untouched := loopback_only("/proc/self/net"):
        return untouched
    routes = [row for row in view.routes if row.table != "local"]
    return [
        *listed("interface", view.interfaces, MOST_OTHERS),
        *listed("route", routes, MOST_OTHERS),
    ]


def loopback_only(folder: str) -> str:
    """The line; empty if there is more to tell, or if it cannot be known so.

    :param folder: ``/proc/PID/net``.
    """
    try:
        devices = interfaces(folder)
        if devices.keys() != {"lo"} or devices["lo"] is None or len(lines(folder, "route")) > 1:
            return ""
        addresses = _version_4(folder) + _version_6(folder)
    except (OSError, LookupError, ValueError):
        return ""
    state = "up" if devices["lo"] else "down"
    return f"network: lo only ({', '.join([state, *addresses])}), no routes"


def _version_4(folder: str) -> list[str]:
    """
    :raises LookupError: for other addresses than the kernel gives it, or another table.
    """
    own = own_version_4(folder)
    tables = _TABLE.findall("\n".join(lines(folder, "fib_trie")))
    if {*own} - {"127.0.0.1"} or {*tables} - _TABLES:
        raise LookupError
    return ["127.0.0.1/8"] if own else []


def _version_6(folder: str) -> list[str]:
    """
    :raises LookupError: for other addresses than the kernel gives it, or another route.
    """
    own = [line.split()[0] for line in lines(folder, "if_inet6")]
    routes = [line.split() for line in lines(folder, "ipv6_route")]
    known = {(_LOCALHOST6, "80"), ("0" * 32, "00")}  # the address's own, and "no route to it"
    if {*own} - {_LOCALHOST6} or {(row[0], row[1]) for row in routes} - known:
        raise LookupError
    return ["::1/128"] if own else []


def _mounts(view: Readings, before: str) -> Told:
    known = Counter(map(_identity, parse_mounts(before.encode("utf-8", "surrogateescape"))))
    added = []
    for mount in view.mounts:
        # In the order in which they were made, so of several alike the last ones are new.
        identity = _identity(mount)
        if known[identity] > 0:
            known[identity] -= 1
        else:
            added.append(mount)
    return listed("mount", added, MOST_OTHERS, " added by the test") if added else []


def _identity(mount: Mount) -> tuple[str, str, str]:
    """The same in another test's world, where ids and devices have other numbers.

    The root of a mount of cgroups is told from the reader's own group: a test with limits, which is
    in one of its own, sees another root than the test that has looked first (cgroup_namespaces(7)).
    """
    root = "" if mount.fstype in ("cgroup", "cgroup2") else mount.root
    return mount.target, mount.fstype, root


def listed(noun: str, rows: Sequence[object], most: int, rest: str = "") -> list[str]:
    """A table below its count.

    :param rest: what follows the count.
    """
    return headed(f"{counted(len(rows), noun)}{rest}", table(rows, most=most).splitlines())


def headed(title: str, lines: Iterable[str]) -> list[str]:
    """Lines with a margin below a title; of none the title alone."""
    below = indented("\n".join(lines))
    return [f"{title}:", *below] if below else [title]
