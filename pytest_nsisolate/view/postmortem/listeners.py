# SPDX-License-Identifier: MIT
"""In the runner: a connection that was refused inside, to an address with a listener out here.

The child names the addresses that it may have tried, and the runner looks at its own
``/proc/self/net`` (proc_pid_net(5)): only what really listens is named. Nothing here asks a name
server, connects to anything, or waits.
"""

from __future__ import annotations

import _socket  # pytest-socket forbids the classes of the module above it
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import proc, proc_net
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import socket

_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104
_LOOPBACK: Final = "127.0.0.1"

#: Seconds for finding the holder of a socket, on a machine with many processes.
_SECONDS: Final = 0.3

_MOST_TRIED: Final = 32
_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket of the runner's network."""

    host: str
    port: int
    inode: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def hint(item: pytest.Item, tried: object) -> str:
    """The line for a test in a network of its own; empty where nothing listens out here.

    :param tried: what the child has sent: pairs of a host, or None, and a port.
    """
    pairs = list(_sound(tried))
    if not pairs:
        return ""
    found: dict[int, Listener] = {}
    for listener in _listeners():
        if any(port == listener.port and _reaches(host, listener) for host, port in pairs):
            found.setdefault(listener.port, listener)
    if not found:
        return ""
    # The order in which they were tried: the surest first.
    first = list(dict.fromkeys(port for _, port in pairs if port in found))[:_MOST_NAMED]
    names = ", ".join(f"{found[port]}{_held_by(found[port])}" for port in first)
    return (
        f"hint: the runner's host listens on {names}, but this test has a network of its own: "
        f"isolated(net=False) leaves it in the host's, {_inside(item)}, "
        f"reach={first[0]} leads out to it alone"
    )


def _inside(item: pytest.Item) -> str:
    names = internals.wider_fixtures_of_suite(item)
    if len(names) == 1:
        return f'inside="{names[0]}" sets that fixture up in the test\'s own'
    return "inside=... sets the fixture of a server up in the test's own"


def _sound(tried: object) -> Iterator[tuple[str | None, int]]:
    """Only pairs of the right shape: what a child has sent is not trusted."""
    for pair in tried[:_MOST_TRIED] if isinstance(tried, list) else ():
        if isinstance(pair, tuple) and len(pair) == 2:
            host, port = pair
            if type(port) is int and (host is None or isinstance(host, str)):
                yield host, port


def _reaches(host: str | None, listener: Listener) -> bool:
    """Whether a connection to that host would arrive at this socket, out here."""
    if host is None:
        return True
    host = host.removeprefix("::ffff:").partition("%")[0].lower()
    if host in _ANY:
        host = _LOOPBACK if host != "::" else "::1"
    family = _family(host)
    if family is None:
        # A name; what it stands for has refused, so it is this host's or a fixture's.
        return True
    if family == socket.AF_INET6 and ":" not in listener.host:
        return False
    if listener.host in _ANY:
        return _is_local(host, family)
    return host == listener.host


def _family(host: str) -> int | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    return None


def _is_local(host: str, family: int) -> bool:
    """Only an address of one's own can be bound to (bind(2), EADDRNOTAVAIL)."""
    try:
        probe = _socket.socket(family, socket.SOCK_DGRAM)
        try:
            probe.bind((host, 0))
        finally:
            probe.close()
    except OSError:
        return False
    return True


# Who listens -------------------------------------------------------------------------------------


def _listeners() -> list[Listener]:
    found = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):  # no /proc
            found += [
                Listener(entry.host.removeprefix("::ffff:"), entry.port, entry.inode)
                for entry in proc_net.internet("/proc/self/net", name)
                if entry.listens
            ]
    # 127.0.0.1 is what most people mean.
    return sorted(found, key=lambda listener: listener.host != _LOOPBACK)


def _held_by(listener: Listener) -> str:
    """`` (this pytest)``, `` (nginx, pid 42)``; empty where it cannot be seen."""
    target = f"socket:[{listener.inode}]"
    if _holds("self", target):
        return " (this pytest)"
    until = monotonic() + _SECONDS
    for pid in proc.pids():
        if monotonic() > until:
            break
        if _holds(pid, target):
            try:
                return f" ({proc.name_of(pid)}, pid {pid})"
            except OSError:
                break
    return ""


def _holds(pid: int | str, target: str) -> bool:
    try:
        return any(found == target for _, found in proc.descriptors(pid))
    except OSError:  # gone, or another user's
        return False
