# SPDX-License-Identifier: MIT
"""Which static routes each host has, from who is plugged in where; no system call is made here.

A host with one router beside it has a default route. With several, and for routers themselves,
there is a route to each network that can be reached, by the shortest way. A router with
``nat=True`` is a way out of its other networks only, as at home: who is outside does not know them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeAlias

from pytest_nsisolate.kernel.links import IpAddress, IpNetwork
from pytest_nsisolate.testbed.network import Network

#: Target to gateway.
Routes: TypeAlias = "dict[IpNetwork, IpAddress]"

DEFAULTS: tuple[IpNetwork, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class Node:
    """A host or router, as far as routes are concerned.

    :param addresses: by network, those that it has there.
    :param forwards: it is a router.
    :param outside: the network from which it lets nothing in; None for none.
    """

    addresses: Mapping[Network, tuple[IpAddress, ...]]
    forwards: bool = False
    outside: Network | None = None

    def leads_from(self, network: Network) -> bool:
        """Hosts of that network may send through it."""
        return self.forwards and network in self.addresses and network is not self.outside


def routes_of(node: Node, nodes: Iterable[Node]) -> Routes:
    """The routes of one host, but those to its own networks."""
    others = [other for other in nodes if other is not node]
    beside = [
        other for other in others if any(other.leads_from(network) for network in node.addresses)
    ]
    if len(beside) == 1 and not node.forwards:
        return _default(node, beside[0])
    return _shortest(node, others)


def _default(node: Node, router: Node) -> Routes:
    found: Routes = {}
    for network in node.addresses:
        if router.leads_from(network):
            for target in DEFAULTS:
                gateway = _gateway(router, network, target.version)
                if gateway is not None:
                    found.setdefault(target, gateway)
    return found


def _shortest(node: Node, others: list[Node]) -> Routes:
    found: Routes = {}
    reached: set[Network] = set(node.addresses)
    #: A network that is reached, and how: a router, in which of the node's own networks.
    ahead: deque[tuple[Network, tuple[Node, Network] | None]] = deque(
        (network, None) for network in node.addresses
    )
    while ahead:
        network, way = ahead.popleft()
        for router in others:
            if not router.leads_from(network):
                continue
            first = way or (router, network)
            for target in router.addresses:
                if target in reached:
                    continue
                reached.add(target)
                ahead.append((target, first))
                for subnet in target.subnets:
                    gateway = _gateway(*first, subnet.version)
                    if gateway is not None:
                        found[subnet] = gateway
    return found


def _gateway(router: Node, network: Network, version: int) -> IpAddress | None:
    for address in router.addresses[network]:
        if address.version == version:
            return address
    return None
