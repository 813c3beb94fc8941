# SPDX-License-Identifier: MIT
"""Sockets of the internet and the Unix kind, and who holds them.

Fact: psutil names one holder of an internet socket, and a server that forks its workers has
several. Of Unix sockets it does not tell which ones listen, drops a path with a blank in it, and
makes one of all that have neither path nor holder.

Consequence: addresses and states of internet sockets are psutil's; the holders are looked up in
``/proc/PID/fd``, and Unix sockets are read from ``/proc/net/unix`` (unix(7), proc(5)).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pytest_nsisolate.kernel import proc, proc_net
from pytest_nsisolate.kernel.originals import package

_TYPES: Final = {1: "stream", 2: "dgram", 5: "seqpacket"}


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket.

    :param proto: ``tcp``, ``udp`` or ``unix``.
    :param version: 4 or 6; None for Unix.
    :param type: ``stream``, ``dgram`` or ``seqpacket``.
    :param state: ``listen``, ``established``, ``time_wait``...; ``unconn`` for one that neither
        listens nor has a peer, which for UDP is one that receives from any sender.
    :param host: local address; None for Unix.
    :param port: local port; None for Unix.
    :param peer_host: the other side's address, if it is connected.
    :param peer_port: the other side's port.
    :param path: of a Unix socket; ``@`` stands for the abstract ones' NUL; None if it has none.
    :param pids: the processes that hold it, by number.
    :param program: the name of the first of them.
    :param inode: its number, the same as long as it exists; None if no process here holds it. Two
        sockets may be equal that are not the same one.
    """

    proto: Literal["tcp", "udp", "unix"]
    version: int | None
    type: str
    state: str
    host: str | None
    port: int | None
    peer_host: str | None
    peer_port: int | None
    path: str | None
    pids: tuple[int, ...]
    program: str | None
    inode: int | None = field(default=None, compare=False)

    @property
    def pid(self) -> int | None:
        """The first process that holds it."""
        return self.pids[0] if self.pids else None

    @property
    def is_listening(self) -> bool:
        """Whether it waits for connections (TCP and Unix in ``listen``, UDP without a peer)."""
        return self.state == ("unconn" if self.proto == "udp" else "listen")

    @property
    def local(self) -> str:
        """``127.0.0.1:80``, ``[::1]:80``, or the path."""
        return self.path or "" if self.proto == "unix" else _joined(self.host, self.port)

    @property
    def peer(self) -> str:
        """As :attr:`local`; empty if there is none, or if it is not known (Unix)."""
        return "" if self.peer_host is None else _joined(self.peer_host, self.peer_port)

    def __str__(self) -> str:
        return f"{self.proto} socket {self.local or '(unnamed)'} in state {self.state}"


def _joined(host: str | None, port: int | None) -> str:
    return f"[{host}]:{port}" if host and ":" in host else f"{host}:{port}"


#: Of /proc/net, each with a headline (proc_pid_net(5)).
_TABLES: Final = ("tcp", "tcp6", "udp", "udp6")


def read_sockets() -> tuple[Socket, ...]:
    """Every socket of this network namespace: TCP, UDP, then Unix.

    :raises OSError: if ``/proc`` is not that of this PID namespace.
    """
    proc.check_own()
    pids = proc.pids()
    holders = Holders(zip(pids, pids, strict=True))
    return (*_internet(holders), *read_unix(holders, "/proc/net"))


class Holders:
    """Who holds which socket, by what the descriptors of processes point to.

    :param processes: of each the number that it is known by, and the one that it has in ``/proc``.
    """

    def __init__(self, processes: Iterable[tuple[int, int]]) -> None:
        self._by_inode: dict[int, set[int]] = {}
        self.inodes: dict[tuple[int, int], int] = {}
        self._numbers: dict[int, int] = {}
        self._names: dict[int, str | None] = {}
        for pid, number in processes:
            self._numbers[pid] = number
            with suppress(OSError):  # gone, or another user's
                self._look_at(pid, number)

    def _look_at(self, pid: int, number: int) -> None:
        for descriptor, target in proc.descriptors(number):
            if target.startswith("socket:["):
                inode = int(target[8:-1])
                self._by_inode.setdefault(inode, set()).add(pid)
                self.inodes[pid, int(descriptor)] = inode

    def pids(self, inode: int | None) -> tuple[int, ...]:
        """By number, lowest first."""
        return () if inode is None else tuple(sorted(self._by_inode.get(inode, ())))

    def name(self, pids: tuple[int, ...]) -> str | None:
        """What the first of them is called."""
        if not pids:
            return None
        if pids[0] not in self._names:
            self._names[pids[0]] = _command(self._numbers.get(pids[0], pids[0]))
        return self._names[pids[0]]


def _command(pid: int) -> str | None:
    try:
        return proc.name_of(pid)
    except OSError:
        return None


def _internet(holders: Holders) -> list[Socket]:
    # A test that has failed loads psutil in its child, and most tests have no such socket.
    if not any(proc_net.lines("/proc/net", name)[1:] for name in _TABLES):
        return []
    seen = package("psutil").net_connections("inet")
    found = [_as_socket(one, holders) for one in seen]
    return sorted(found, key=lambda s: (s.proto, s.port or 0, s.host or "", s.peer, s.pids))


def _as_socket(seen: Any, holders: Holders) -> Socket:
    tcp = seen.type == 1
    inode = None if seen.pid is None else holders.inodes.get((seen.pid, seen.fd))
    # If its descriptor was closed meanwhile, the holder that psutil saw stands.
    pids = holders.pids(inode) or (() if seen.pid is None else (seen.pid,))
    any_host = "0.0.0.0" if seen.family == 2 else "::"  # noqa: S104
    host, port = seen.laddr or (any_host, 0)
    peer_host, peer_port = seen.raddr or (None, None)
    return Socket(
        proto="tcp" if tcp else "udp",
        version=4 if seen.family == 2 else 6,
        type="stream" if tcp else "dgram",
        state=seen.status.lower() if tcp else ("established" if seen.raddr else "unconn"),
        host=host,
        port=port,
        peer_host=peer_host,
        peer_port=peer_port,
        path=None,
        pids=pids,
        program=holders.name(pids),
        inode=inode,
    )


def read_unix(holders: Holders, folder: str) -> list[Socket]:
    """
    :param folder: ``/proc/PID/net``.
    :raises OSError: as the kernel answers.
    """
    found = []
    for entry in proc_net.unix(folder):
        pids = holders.pids(entry.inode)
        found.append(
            Socket(
                proto="unix",
                version=None,
                type=_TYPES.get(entry.kind, str(entry.kind)),
                state="listen"
                if entry.listens
                else ("established" if entry.connected else "unconn"),
                host=None,
                port=None,
                peer_host=None,
                peer_port=None,
                path=entry.path or None,
                pids=pids,
                program=holders.name(pids),
                inode=entry.inode,
            )
        )
    return sorted(found, key=lambda s: (s.path or "", s.type, s.state, s.pids))
