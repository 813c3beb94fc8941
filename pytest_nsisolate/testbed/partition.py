# SPDX-License-Identifier: MIT
"""Groups of hosts between which nothing passes, and what the relay drops for that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nsisolate.errors import TestbedError

if TYPE_CHECKING:
    from pytest_nsisolate.testbed.host import Host


def parse_groups(
    groups: Iterable[Iterable[Host]], check: Callable[[Host], object]
) -> list[frozenset[Host]]:
    """What ``testbed.partition(...)`` was given.

    :param check: raises for what is no host of the testbed.
    :raises TestbedError: for a host in two groups, or fewer than two groups.
    """
    __tracebackhide__ = True
    parts = [frozenset(group) for group in groups]
    if len(parts) < 2:
        raise TestbedError("testbed.partition(...): name two groups or more, {a}, {b, c}")
    for at, part in enumerate(parts):
        for host in part:
            check(host)
            if any(host in other for other in parts[at + 1 :]):
                raise TestbedError(f"testbed.partition(...): {host} is in two groups")
    return parts


def blocked(parts: Sequence[frozenset[Host]]) -> dict[str, frozenset[bytes]]:
    """From which addresses each wire of these hosts gets nothing; they are relayed from now on."""
    found: dict[str, frozenset[bytes]] = {}
    for part in parts:
        others = [host for other in parts if other is not part for host in other]
        sources = frozenset(_sources_of(others))
        for host in part:
            for wire in host.wires.values():
                wire.ensure_relayed()
                found[wire.name] = sources
    return found


def _sources_of(hosts: Iterable[Host]) -> Iterator[bytes]:
    """The hardware and IP addresses that they send from."""
    for host in hosts:
        for wire in host.wires.values():
            yield wire.mac
            yield from (address.packed for address in wire.addresses)
