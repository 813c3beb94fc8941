# SPDX-License-Identifier: MIT
"""What the report of a failed test says of its testbed: each host, each wire; bounded.

Fact: ``/proc`` of the test's PID namespace shows the processes of all hosts, and
``/proc/PID/net`` the network of each.
What we do: nothing is run on a host for a report, which may have stopped to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import IsolatedLoss
from pytest_nsisolate.kernel import proc_net
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.view.processes import Process, read_processes
from pytest_nsisolate.view.tables import aligned

if TYPE_CHECKING:
    from pytest_nsisolate.testbed.bed import Testbed
    from pytest_nsisolate.testbed.host import Host
    from pytest_nsisolate.view.postmortem.layout import Part, Told

#: Lines of each kind, of each host; the rest is counted.
_MOST: Final = 5

#: Hosts and wires that are told of; those that are not as usual come first.
_MOST_HOSTS: Final = 16
_MOST_WIRES: Final = 32

#: Columns of a line of a log.
_WIDE: Final = 160

#: Bound UDP sockets (TCP_CLOSE, net/tcp_states.h).
_UNCONNECTED: Final = "07"


class State:
    """What :data:`~pytest_nsisolate.view.postmortem.layout.ADDITIONS` has of a testbed."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed

    def processes(self) -> frozenset[int]:
        """Those that it consists of."""
        testbed = self._testbed
        hosts = (host.processes for host in testbed.hosts.values())
        helpers = testbed.fabric.helpers() if testbed.networks else ()
        return testbed.relay.pids.union(helpers, *hosts)

    def parts(self) -> list[Part]:
        """A part for each host, and one for all wires."""
        hosts = sorted(self._testbed.hosts.values(), key=_is_usual)
        if not hosts:
            return []
        told = hosts[:_MOST_HOSTS]
        everybody = cache(read_processes)
        found: list[Part] = [
            (f"host {host.name}", partial(_host, host, everybody)) for host in told
        ]
        if rest := len(hosts) - len(told):
            found.append(("more hosts", lambda: [f"... and {rest} more hosts"]))
        return [*found, ("wires", lambda: _wires(self._testbed))]


def _is_usual(host: Host) -> bool:
    """Nothing has happened to it, and nothing runs there."""
    return not host.crashed and not host.programs


def _host(host: Host, everybody: Callable[[], tuple[Process, ...]]) -> Told:
    head = f"host {host.name} ({', '.join(host.addresses)})"
    if host.crashed:
        return [f"{head}: crashed"]
    folder = f"/proc/{host.up().pid}/net"
    lines = [
        *_bounded("runs", _running(host, everybody())),
        *_bounded("listens", _listening(folder)),
        *_bounded("routes", _routes(folder)),
        *_logs(host),
    ]
    return [f"{head}:", *lines] if lines else [f"{head}: nothing runs"]


def _bounded(title: str, found: list[str]) -> list[str]:
    if not found:
        return []
    more = len(found) - _MOST
    rest = [f"... and {more} more"] if more > 0 else []
    return [f"  {title}: {'; '.join([*found[:_MOST], *rest])}"]


def _running(host: Host, everybody: tuple[Process, ...]) -> list[str]:
    own = os.readlink(f"/proc/{host.up().pid}/ns/pid")
    ours = _command_lines(everybody, {host.up().pid, os.getpid()})
    return [
        f"{_number_there(process.pid)} {process.command[:60]}{_remark(process)}"
        for process in everybody
        if _pid_namespace(process.pid) == own and process.argv not in ours
    ]


def _remark(process: Process) -> str:
    return f" ({process.state})" if process.state in ("zombie", "stopped", "disk-sleep") else ""


def _command_lines(everybody: tuple[Process, ...], pids: Iterable[int]) -> set[tuple[str, ...]]:
    """Of copies of the test: a host's PID 1, functions that wait for programs."""
    return {process.argv for process in everybody if process.pid in pids}


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it has just ended
        return ""


def _number_there(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return line.split()[-1]
    except OSError:
        pass
    return "?"


def _listening(folder: str) -> list[str]:
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        kind = name.removesuffix("6")
        for entry in proc_net.internet(folder, name):
            if entry.listens or (kind == "udp" and entry.state == _UNCONNECTED):
                host = f"[{entry.host}]" if ":" in entry.host else entry.host
                found.append(f"{kind} {host}:{entry.port}")
    return found


def _routes(folder: str) -> list[str]:
    return [
        f"{way.network} via {way.gateway} {way.interface}"
        for way in proc_net.routes(folder)
        if way.gateway is not None
    ]


def _logs(host: Host) -> list[str]:
    lines = []
    for program in host.programs[-_MOST:]:
        state = "running" if program.running() else f"ended with {program.status}"
        text = program.log.rstrip()
        lines.append(f"  {program.command} ({state}){':' if text else ' has written nothing'}")
        last = text.split("\n")[-_MOST:] if text else []
        lines += [f"    {line[:_WIDE]}" for line in last]
    return lines


def _wires(testbed: Testbed) -> Told:
    try:
        testbed.relay.refresh()
    except IsolatedLoss:
        pass  # the test has been told
    rows: list[tuple[str, ...]] = [("WIRE", "NETWORK", "SET", "SENT", "RECEIVED")]
    states = ["STATE"]
    wires = sorted(testbed.wires, key=lambda wire: not wire.state)
    for wire in wires[:_MOST_WIRES]:
        sent, received = map(str, wire.counters)
        up = "up" if testbed.connected and not wire.is_cut else "down"
        rows.append((wire.name, wire.network.name, up, sent, received))
        states.append(wire.state)
    kept, missed = testbed.packets
    lost = f", {missed} more were not" if missed else ""
    lines = zip(aligned(rows).splitlines(), states, strict=True)
    width = max(map(len, aligned(rows).splitlines()))
    told = [f"  {line.ljust(width)}  {state}".rstrip() for line, state in lines]
    more = [f"  ... and {len(wires) - _MOST_WIRES} more"] if len(wires) > _MOST_WIRES else []
    return [f"wires ({kept} packets were kept{lost}):", *told, *more]
