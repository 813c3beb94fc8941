# SPDX-License-Identifier: MIT
"""Interfaces, their addresses, and routes, over netlink.

Fact: psutil has the addresses from getifaddrs(3), which gives no scope, and makes an interface
``eth0:1`` of an address with that label. Consequence: addresses come over netlink like the rest.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from pytest_nsisolate.kernel.originals import socket
from pytest_nsisolate.view import netlink

_IFF_UP: Final = 1
_RTM_F_CLONED: Final = 0x200
_RTM_F_LOOKUP_TABLE: Final = 0x1000

#: Types of devices that have no kind of their own (linux/if_arp.h), by the words of ip(8).
_LINK_TYPES: Final = {
    1: "ether",
    512: "ppp",
    768: "ipip",
    769: "tunnel6",
    772: "loopback",
    776: "sit",
    778: "gre",
    65534: "none",
}
_SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_TABLES: Final = {253: "default", 254: "main", 255: "local"}
_ROUTE_TYPES: Final = (
    "unspec",
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
    "throw",
    "nat",
    "xresolve",
)
_PROTOCOLS: Final = {0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra"}


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface; ``str()`` is ``127.0.0.1/8``.

    :param address: in the usual notation.
    :param prefix: length of the network part, in bits.
    :param scope: ``global``, ``site``, ``link``, ``host``.
    """

    address: str
    prefix: int
    scope: str

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Interface:
    """A network device (rtnetlink(7), ``ip link``).

    :param index: its number in this network namespace.
    :param up: whether it has been set up (``IFF_UP``).
    :param state: what the driver says: ``up``, ``down``, ``unknown``, ``lowerlayerdown``...
    :param kind: ``loopback``, ``ether``, or that of a virtual one: ``veth``, ``bridge``...
    :param mtu: largest packet, in bytes.
    :param mac: its hardware address, if it has one.
    :param addresses: IPv4 first, each in the kernel's order.
    """

    index: int
    name: str
    up: bool
    state: str
    kind: str
    mtu: int
    mac: str | None
    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        return f"interface {self.name}"


@dataclass(frozen=True, slots=True)
class Route:
    """An entry of a routing table (``ip route``); of one with several next hops, one for each.

    :param version: 4 or 6.
    :param table: ``main``, ``local``, ``default`` or the number as text.
    :param destination: a network, ``10.0.0.0/8``, or ``default``.
    :param kind: ``unicast``, ``local``, ``broadcast``, ``blackhole``, ``unreachable``...
    :param gateway: where it leads, if not directly to the destination; its version may be the other
        one (``via inet6``).
    :param interface: its name.
    :param source: the address that it prefers.
    :param metric: its priority; None if it has none.
    :param scope: as in :class:`Address`.
    :param protocol: who made it: ``kernel``, ``boot``, ``static``, ``ra``, or the number as text.
    """

    version: int
    table: str
    destination: str
    kind: str
    gateway: str | None
    interface: str | None
    source: str | None
    metric: int | None
    scope: str
    protocol: str

    def __str__(self) -> str:
        return f"route to {self.destination} in table {self.table}"


def read_interfaces() -> tuple[Interface, ...]:
    """Every interface of this network namespace, by index.

    :raises OSError: as the kernel answers.
    """
    addresses: dict[int, list[Address]] = {}
    for found in netlink.dump(netlink.RTM_GETADDR):
        # With a peer, IFA_ADDRESS is the peer's and IFA_LOCAL is ours (linux/if_addr.h).
        text = found.get("local") or found.get("address")
        scope = _SCOPES.get(found["scope"], str(found["scope"]))
        addresses.setdefault(found["index"], []).append(Address(text, found["prefixlen"], scope))
    links = netlink.dump(netlink.RTM_GETLINK)
    return tuple(
        _interface(link, addresses.get(link["index"], []))
        for link in sorted(links, key=lambda link: int(link["index"]))
    )


def _interface(link: netlink.Message, addresses: list[Address]) -> Interface:
    number = link["ifi_type"]
    return Interface(
        index=link["index"],
        name=link.get("ifname"),
        up=bool(link["flags"] & _IFF_UP),
        state=str(link.get("operstate") or "unknown").lower(),
        kind=link.get(("linkinfo", "kind")) or _LINK_TYPES.get(number, str(number)),
        mtu=link.get("mtu"),
        mac=link.get("address"),
        addresses=tuple(sorted(addresses, key=lambda address: address.version)),
    )


def read_routes() -> tuple[Route, ...]:
    """Every route of every table, IPv4 first.

    :raises OSError: as the kernel answers.
    """
    names = {link["index"]: str(link.get("ifname")) for link in netlink.dump(netlink.RTM_GETLINK)}
    return tuple(
        _route(found, hop, names)
        for family in (socket.AF_INET, socket.AF_INET6)
        for found in netlink.dump(netlink.RTM_GETROUTE, family=family)
        if found["family"] == family and not found["flags"] & _RTM_F_CLONED
        for hop in found.get("multipath") or [found]
    )


def _route(found: netlink.Message, hop: netlink.Message, names: dict[int, str]) -> Route:
    """
    :param hop: whose gateway and interface these are: one of the next hops, or the route itself.
    """
    version = 4 if found["family"] == socket.AF_INET else 6
    table = found.get("table", found["table"])
    target = found.get("dst")
    out = hop.get("oif")
    via = hop.get("via")
    return Route(
        version=version,
        table=_TABLES.get(table, str(table)),
        destination=f"{target}/{found['dst_len']}" if target else _everything(found, version),
        kind=_ROUTE_TYPES[found["type"]] if found["type"] < len(_ROUTE_TYPES) else "unknown",
        gateway=hop.get("gateway") or (via and via["addr"]),
        interface=names.get(out, str(out)) if out else None,
        source=found.get("prefsrc"),
        metric=found.get("priority"),
        scope=_SCOPES.get(found["scope"], str(found["scope"])),
        protocol=_PROTOCOLS.get(found["proto"], str(found["proto"])),
    )


def _everything(found: netlink.Message, version: int) -> str:
    if found["dst_len"] == 0:
        return "default"
    return f"{'0.0.0.0' if version == 4 else '::'}/{found['dst_len']}"  # noqa: S104


def route_to(address: str) -> Route | None:
    """The route that a packet to this address would take now, as ``ip route get`` says.

    :returns: None if there is none, or if it says that the address cannot be reached.
    :raises ValueError: for something that is no address.
    :raises OSError: for any other answer of the kernel.
    """
    parsed = ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    request = {"family": family, "dst_len": parsed.max_prefixlen, "flags": _RTM_F_LOOKUP_TABLE}
    try:
        found = netlink.ask(netlink.RTM_GETROUTE, request, {"RTA_DST": str(parsed)})
    except OSError as error:
        # Of a prohibit, a blackhole and an unreachable route, and of none at all.
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return None
        raise
    if found is None:
        return None
    names = {link["index"]: str(link.get("ifname")) for link in netlink.dump(netlink.RTM_GETLINK)}
    return _route(found, found, names)


def as_network(destination: str) -> str:
    """A destination as :class:`Route` writes it: ``10.0.0.1`` is ``10.0.0.1/32``.

    :raises ValueError: for something that is no network.
    """
    if destination == "default":
        return destination
    network = ip_network(destination, strict=False)
    return "default" if network.prefixlen == 0 else str(network)
