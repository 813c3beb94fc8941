# SPDX-License-Identifier: MIT
"""The tables of a network as files of ``/proc/PID/net`` (proc_pid_net(5)).

They can be read from outside: they show the network of process PID to every reader.

Fact: the name of a Unix socket may have any byte in it, a newline too, and that file has them as
they are. Consequence: a line begins where a line's columns begin; the rest belongs to the name
before it.

What still fails: a name that holds a newline and the columns of a whole line behind it looks like
two sockets.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from pytest_nsisolate.kernel.originals import open, os, re, socket

_LISTEN: Final = "0A"  # TCP_LISTEN, net/tcp_states.h

_RTF_GATEWAY: Final = 0x2
_RTF_REJECT: Final = 0x200
_RTF_LOCAL: Final = 0x80000000  # linux/ipv6_route.h
_MULTICAST: Final = IPv6Network("ff00::/8")
_ALL_HOSTS: Final = "010000E0"  # 224.0.0.1, the group that every device is in that is up

_LOCALHOST: Final = "127.0.0.1"

#: An address of this host's in the tables of IPv4.
_OWN: Final = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON, linux/net.h
_CONNECTED: Final = 3  # SS_CONNECTED, linux/net.h

#: Num RefCount Protocol Flags Type St Inode, of ``unix_seq_show`` in net/unix/af_unix.c. A blank
#: and the name follow where there is one.
_UNIX_COLUMNS: Final = re.compile(
    rb"^\S+: [0-9A-F]{8} [0-9A-F]{8} ([0-9A-F]{8}) ([0-9A-F]{4}) ([0-9A-F]{2}) +(\d+)(?=[ \n])",
    re.MULTILINE,
)


class Entry(NamedTuple):
    """An internet socket."""

    host: str
    port: int
    peer_port: int
    state: str
    inode: int

    @property
    def listens(self) -> bool:
        """Whether it is a TCP socket that waits for connections."""
        return self.state == _LISTEN


class UnixEntry(NamedTuple):
    """A Unix socket (unix(7)).

    :param kind: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
    :param inode: None until the connection has been accepted.
    :param path: empty where it has none; of an abstract one it begins with ``@``.
    """

    kind: int
    listens: bool
    connected: bool
    inode: int | None
    path: str


class Way(NamedTuple):
    """A route of the main table.

    :param rejects: it leads nowhere, whatever the interface is.
    """

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: str | None
    interface: str
    metric: int
    rejects: bool


def internet(folder: str, name: str) -> Iterator[Entry]:
    """
    :param folder: ``/proc/PID/net``.
    :param name: ``tcp``, ``tcp6``, ``udp``, ``udp6``; one that is not there has no entries.
    :raises OSError: as the kernel answers.
    """
    try:
        file = open(f"{folder}/{name}", encoding="utf-8")
    except FileNotFoundError:  # no IPv6
        return
    with file:
        next(file, "")
        for line in file:
            row = line.split()
            if len(row) > 9:
                host, _, port = row[1].partition(":")
                peer_port = row[2].rpartition(":")[2]
                yield Entry(_host(host), int(port, 16), int(peer_port, 16), row[3], int(row[9]))


def unix(folder: str) -> Iterator[UnixEntry]:
    """Every Unix socket of a network.

    :raises OSError: as the kernel answers.
    """
    with open(f"{folder}/unix", "rb") as file:
        text = file.read()
    lines = list(_UNIX_COLUMNS.finditer(text))
    ends = [*(line.start() for line in lines[1:]), len(text)]
    for line, end in zip(lines, ends, strict=False):
        flags, kind, state = (int(column, 16) for column in line.groups()[:3])
        # Behind the blank, without the line's end; a name may begin or end with either.
        path = os.fsdecode(text[line.end() + 1 : end - 1])
        listens, connected = bool(flags & _ACCEPTS), state == _CONNECTED
        yield UnixEntry(kind, listens, connected, int(line[4]) or None, path)


def interfaces(folder: str) -> dict[str, bool | None]:
    """Names to whether they are up, in the kernel's order; None where that cannot be known.

    :raises OSError: as the kernel answers.
    """
    groups = lines(folder, "igmp")
    names = [line.partition(":")[0].strip() for line in lines(folder, "dev")[2:]]
    up = set()
    device = ""
    for line in groups[1:]:
        if not line.startswith("\t"):
            device = line.split()[1].rstrip(":")
        elif line.split()[0] == _ALL_HOSTS:
            up.add(device)
    return {name: name in up if groups else None for name in names}


def routes(folder: str) -> list[Way]:
    """IPv4 first; without those that the kernel makes for its own addresses.

    :raises OSError: as the kernel answers.
    """
    found = []
    for row in map(str.split, lines(folder, "route")[1:]):
        network = IPv4Network(f"{_host(row[1])}/{_host(row[7])}")
        flags = int(row[3], 16)
        gateway = _host(row[2]) if flags & _RTF_GATEWAY else None
        rejects = bool(flags & _RTF_REJECT) or row[0] == "*"
        found.append(Way(network, gateway, row[0], int(row[6]), rejects))
    return found + list(_routes_6(folder))


def _routes_6(folder: str) -> Iterator[Way]:
    for row in map(str.split, lines(folder, "ipv6_route")):
        network = IPv6Network((bytes.fromhex(row[0]), int(row[1], 16)))
        flags, metric = int(row[8], 16), int(row[5], 16)
        if flags & _RTF_LOCAL or network == _MULTICAST or metric == 0xFFFFFFFF:
            continue
        gateway = str(IPv6Address(bytes.fromhex(row[4])))
        rejects = bool(flags & _RTF_REJECT)
        yield Way(network, gateway if flags & _RTF_GATEWAY else None, row[9], metric, rejects)


def addresses(folder: str, ways: list[Way]) -> dict[str, list[str]]:
    """By interface, with the lengths of their networks; under ``""`` those of which only the
    address is known: no file says whose those of IPv4 are.

    :param ways: by which those that a route leads to directly are given to its interface.
    :raises OSError: as the kernel answers.
    """
    found: dict[str, list[str]] = {}
    direct = [way for way in ways if way.gateway is None and way.network.prefixlen]
    direct.sort(key=lambda way: way.network.prefixlen, reverse=True)
    for text in own_version_4(folder):
        address = ip_address(text)
        if text == _LOCALHOST:
            found.setdefault("lo", []).append(f"{text}/8")
            continue
        way = next((way for way in direct if address in way.network and not way.rejects), None)
        name, length = ("", "") if way is None else (way.interface, f"/{way.network.prefixlen}")
        found.setdefault(name, []).append(f"{text}{length}")
    for row in map(str.split, lines(folder, "if_inet6")):
        version_6 = IPv6Address(bytes.fromhex(row[0]))
        found.setdefault(row[5], []).append(f"{version_6}/{int(row[2], 16)}")
    return found


def own_version_4(folder: str) -> list[str]:
    """The addresses that IPv4 takes for this network's own.

    :raises OSError: as the kernel answers.
    """
    # Each twice, as long as the main table and the local one are one.
    return list(dict.fromkeys(_OWN.findall("\n".join(lines(folder, "fib_trie")))))


def lines(folder: str, name: str) -> list[str]:
    """Of one of the files; none of one that is not there, on a kernel without it.

    :raises OSError: as the kernel answers otherwise.
    """
    try:
        with open(f"{folder}/{name}", encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _host(text: str) -> str:
    """Words of 32 bits in the order of this machine's bytes."""
    words = (int(text[at : at + 8], 16) for at in range(0, len(text), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
