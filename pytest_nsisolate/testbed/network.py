# SPDX-License-Identifier: MIT
"""A switched segment, and the addresses of those that are plugged into it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from pytest_nsisolate.errors import TestbedError
from pytest_nsisolate.kernel.links import IpAddress, IpNetwork


@dataclass(frozen=True, slots=True)
class Place:
    """A network, and addresses of one's own choice in it: ``lan["10.0.0.7"]``."""

    network: Network
    addresses: tuple[IpAddress, ...] = ()


class Network:
    """A switch with its subnets. Made by ``testbed.network(...)``.

    :ivar name: for messages.
    :ivar subnets: each of IPv4 or IPv6.
    """

    def __init__(self, name: str, subnets: tuple[IpNetwork, ...], bridge: int) -> None:
        self.name = name
        self.subnets = subnets
        self.bridge = bridge
        self._taken: set[IpAddress] = set()

    def __getitem__(self, addresses: str | tuple[str, ...]) -> Place:
        """This network with addresses of one's own choice, for ``testbed.host(...)``.

        :raises TestbedError: for what is no address, or not of this network.
        """
        __tracebackhide__ = True
        named = (addresses,) if isinstance(addresses, str) else addresses
        return Place(self, tuple(self._own(address) for address in named))

    def _own(self, text: str) -> IpAddress:
        __tracebackhide__ = True
        try:
            address = ip_address(text)
        except ValueError as error:
            raise TestbedError(f"{self}[{text!r}]: {error}") from None
        for subnet in self.subnets:
            if address.version == subnet.version and address in subnet:
                return address
        raise TestbedError(f"{self}[{text!r}]: not an address of this network")

    def take(self, place: Place) -> tuple[tuple[IpAddress, int], ...]:
        """Addresses for one more host, with the lengths of their prefixes.

        :raises TestbedError: if one is taken, or none is left.
        """
        __tracebackhide__ = True
        found: list[tuple[IpAddress, int]] = []
        for subnet in self.subnets:
            chosen = [address for address in place.addresses if address in subnet]
            for address in chosen or [self._next(subnet)]:
                if address in self._taken:
                    raise TestbedError(f"{self}: {address} is taken already")
                found.append((address, subnet.prefixlen))
        self._taken.update(address for address, _ in found)
        return tuple(found)

    def give_back(self, addresses: Iterable[IpAddress]) -> None:
        """The host that has taken them has not come to be."""
        self._taken.difference_update(addresses)

    def _next(self, subnet: IpNetwork) -> IpAddress:
        __tracebackhide__ = True
        for address in subnet.hosts():
            if address not in self._taken:
                return address
        room = len([address for address in self._taken if address in subnet])
        raise TestbedError(f"{self}: {subnet} has no room for another host, there are {room}")

    def __repr__(self) -> str:
        return f"<network {self.name}: {' '.join(map(str, self.subnets))}>"

    def __str__(self) -> str:
        return f"network {self.name}"


def parse_subnets(texts: Iterable[str], others: Iterable[Network]) -> tuple[IpNetwork, ...]:
    """What ``testbed.network(...)`` was given.

    :raises TestbedError: for what is no subnet, and for one that overlaps with another.
    """
    __tracebackhide__ = True
    found: list[IpNetwork] = []
    for text in texts:
        try:
            subnet = ip_network(text)
        except ValueError as error:
            raise TestbedError(f"testbed.network({text!r}): {error}") from None
        known = [("another one of this network", other) for other in found]
        known += [(str(network), other) for network in others for other in network.subnets]
        for whose, other in known:
            if subnet.version == other.version and subnet.overlaps(other):
                raise TestbedError(f"testbed.network({text!r}): overlaps with {other} ({whose})")
        found.append(subnet)
    if not found:
        raise TestbedError('testbed.network() needs a subnet: testbed.network("10.0.0.0/24")')
    return tuple(found)


def parse_places(
    host: str, given: Iterable[Network | Place], known: Collection[Network]
) -> list[Place]:
    """What ``testbed.host(...)`` was given.

    :param known: the networks of the testbed.
    :raises TestbedError: for no network, a network twice, and one of another testbed.
    """
    __tracebackhide__ = True
    places = [place if isinstance(place, Place) else Place(place) for place in given]
    if not places:
        raise TestbedError(f"testbed.host({host!r}): a host is on a network, name one")
    networks = [place.network for place in places]
    for network in networks:
        if network not in known:
            raise TestbedError(f"testbed.host({host!r}): {network!r} is no network of this one")
        if networks.count(network) > 1:
            raise TestbedError(f"testbed.host({host!r}): {network} is named twice")
    return places
