# SPDX-License-Identifier: MIT
"""The sockets and the network of a test that cannot answer, read from outside.

Fact: a test whose budget is over may block every signal or hang in C code, so nothing can be asked
of it; and the runner must not join a namespace.

Consequence: the tables of its network are read from ``/proc/PID/net``, holders of sockets from
``/proc/PID/fd``: the runner's user made the test's user namespace, and has the rights in there.
They are shown as the view of other failures shows them. Only a timeout imports this.

What still fails: the files tell less than netlink does. There are no kinds, hardware addresses and
source addresses, and an address of IPv4 is its interface's as far as a route says so. Of a test
that is not dumpable (PR_SET_DUMPABLE(2const)) an ordinary user learns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final, Literal

from pytest_nsisolate.kernel import proc_net
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.view.network import Route
from pytest_nsisolate.view.postmortem import layout
from pytest_nsisolate.view.postmortem.layout import Told
from pytest_nsisolate.view.postmortem.parts import (
    MOST_OTHERS,
    MOST_SOCKETS,
    headed,
    listed,
    loopback_only,
)
from pytest_nsisolate.view.sockets import Holders, Socket, read_unix
from pytest_nsisolate.view.tables import aligned, counted

#: Seconds after which no other process, file or socket is looked at.
SECONDS: Final = 0.5


def described(test: int, processes: Mapping[int, int]) -> str:
    """What listens, and the network where it is not this process's own.

    :param test: the number of the test's process, out here.
    :param processes: those of its world by their number in there, and the one out here.
    :raises OSError: as the kernel answers; TimeoutError when it takes too long.
    """
    until = monotonic() + SECONDS
    folder = f"/proc/{test}/net"
    own = os.stat(f"/proc/{test}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino
    told = [_listening(folder, processes, until, own=own)]
    if own:
        told.append(loopback_only(folder) or _network(folder))
    return layout.arranged(told)


def _listening(folder: str, processes: Mapping[int, int], until: float, *, own: bool) -> Told:
    """
    :param own: whether all sockets of that network are the test's.
    """
    pairs = ((pid, number) for pid, number in processes.items() if monotonic() < until)
    holders = Holders(pairs)
    found = [*_internet(folder, holders, until), *read_unix(holders, folder)]
    rows = [row for row in found if row.is_listening and (own or row.pids)]
    return listed("listening socket", rows, MOST_SOCKETS) if rows else "no listening sockets"


def _internet(folder: str, holders: Holders, until: float) -> list[Socket]:
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        proto: Literal["tcp", "udp"] = "tcp" if name.startswith("tcp") else "udp"
        for entry in proc_net.internet(folder, name):
            if monotonic() > until:
                raise TimeoutError(f"not within {SECONDS:g} s")
            if entry.listens if proto == "tcp" else not entry.peer_port:
                found.append(_as_socket(entry, proto, 6 if name.endswith("6") else 4, holders))
    return sorted(found, key=lambda s: (s.proto, s.port or 0, s.host or "", s.pids))


def _as_socket(
    entry: proc_net.Entry, proto: Literal["tcp", "udp"], version: int, holders: Holders
) -> Socket:
    pids = holders.pids(entry.inode)
    return Socket(
        proto=proto,
        version=version,
        type="stream" if proto == "tcp" else "dgram",
        state="listen" if proto == "tcp" else "unconn",
        host=entry.host,
        port=entry.port,
        peer_host=None,
        peer_port=None,
        path=None,
        pids=pids,
        program=holders.name(pids),
        inode=entry.inode,
    )


def _network(folder: str) -> Told:
    ways = proc_net.routes(folder)
    addresses = proc_net.addresses(folder, ways)
    devices = proc_net.interfaces(folder)
    rows = [("NAME", "SET", "ADDRESSES")]
    for name, up in islice(devices.items(), MOST_OTHERS):
        state = "-" if up is None else "up" if up else "down"
        rows.append((name, state, " ".join(addresses.get(name, ())) or "-"))
    if "" in addresses:
        rows.append(("?", "-", " ".join(addresses[""])))
    more = len(devices) - MOST_OTHERS
    rest = [f"... and {more} more"] if more > 0 else []
    interfaces = [*aligned(rows).splitlines(), *rest]
    return [
        *headed(counted(len(devices), "interface"), interfaces),
        *listed("route", [*map(_as_route, ways)], MOST_OTHERS),
    ]


def _as_route(way: proc_net.Way) -> Route:
    return Route(
        version=way.network.version,
        table="main",
        destination=str(way.network) if way.network.prefixlen else "default",
        kind="unreachable" if way.rejects else "unicast",
        gateway=way.gateway,
        interface=None if way.rejects else way.interface,
        source=None,
        metric=way.metric or None,
        scope="-",
        protocol="-",
    )
