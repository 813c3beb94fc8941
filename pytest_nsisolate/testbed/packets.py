# SPDX-License-Identifier: MIT
"""Packets as a test asks about them: the headers of Ethernet, IP, TCP, UDP and ICMP, typed.

Sources: RFC 791 and 8200 (IP), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 826 (ARP). What is cut
off or makes no sense has no header: ``packet.tcp`` is None then, and nothing raises.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from struct import unpack_from
from typing import Final, TypeAlias

ARP: Final = 0x0806
IPV4: Final = 0x0800
IPV6: Final = 0x86DD

_ETHERNET: Final = 14
_ICMP: Final = 1
_TCP: Final = 6
_UDP: Final = 17
_ICMP6: Final = 58
_IGMP: Final = 2
_FRAGMENT: Final = 44
#: Hop-by-hop options, routing, destination options: each with a length of its own (RFC 8200).
_EXTENSIONS: Final = frozenset({0, 43, 60})

#: Router and neighbour discovery, listener reports (RFC 4861, 3810): what hosts say by themselves.
_DISCOVERY: Final = frozenset({130, 131, 132, 133, 134, 135, 136, 137, 143})

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Ip:
    """The header of IPv4 or IPv6.

    :param version: 4 or 6.
    :param protocol: the number of what is inside: 6 is TCP, 17 is UDP (RFC 5237).
    :param ttl: hops that are left.
    :param dscp: the class of service (RFC 2474).
    :param fragment: this is a part of a packet, and not its first one.
    """

    version: int
    source: Address
    destination: Address
    protocol: int
    ttl: int
    dscp: int
    fragment: bool


@dataclass(frozen=True, slots=True)
class Tcp:
    """The header of TCP, with its flags."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    window: int
    flags: int
    payload: bytes

    @property
    def fin(self) -> bool:
        """The sender has no more to send."""
        return bool(self.flags & 1)

    @property
    def syn(self) -> bool:
        """Of the first packet of each side."""
        return bool(self.flags & 2)

    @property
    def rst(self) -> bool:
        """The connection is refused or broken."""
        return bool(self.flags & 4)

    @property
    def psh(self) -> bool:
        """The receiver is to hand the data over at once."""
        return bool(self.flags & 8)

    @property
    def ack(self) -> bool:
        """The acknowledgement counts, as in every packet but the first."""
        return bool(self.flags & 16)


@dataclass(frozen=True, slots=True)
class Udp:
    """The header of UDP."""

    source_port: int
    destination_port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Icmp:
    """The header of ICMP or of ICMPv6."""

    type: int
    code: int
    payload: bytes


@dataclass(frozen=True)
class Packet:
    """One packet as it passed a host's end of a wire.

    :param time: seconds since the epoch.
    :param wire: the wire: ``"a.eth0"``.
    :param sent: the host has sent it; else it has come in.
    :param data: the frame, from the Ethernet header on.
    :param length: bytes of the frame; ``data`` may be its beginning.
    """

    time: float
    wire: str
    sent: bool
    data: bytes
    length: int

    @cached_property
    def ethertype(self) -> int:
        """The number of what Ethernet carries, 0x0800 for IPv4, 0x86DD for IPv6; 0 for nothing."""
        return int.from_bytes(self.data[12:14], "big") if len(self.data) >= _ETHERNET else 0

    @property
    def arp(self) -> bool:
        """It asks for a hardware address, or tells one."""
        return self.ethertype == ARP

    @cached_property
    def _network(self) -> tuple[Ip, bytes] | None:
        try:
            if self.ethertype == IPV4:
                return _ipv4(self.data[_ETHERNET:])
            if self.ethertype == IPV6:
                return _ipv6(self.data[_ETHERNET:])
        except (struct.error, IndexError, ValueError):
            pass
        return None

    @property
    def ip(self) -> Ip | None:
        """Its header of IPv4 or IPv6."""
        return None if self._network is None else self._network[0]

    def _carried(self, protocol: int) -> bytes | None:
        found = self._network
        if found is None or found[0].protocol != protocol or found[0].fragment:
            return None
        return found[1]

    @cached_property
    def tcp(self) -> Tcp | None:
        """Its header of TCP."""
        body = self._carried(_TCP)
        if body is None or len(body) < 20:
            return None
        source, target, sequence, acknowledgement, offset, flags, window = unpack_from(
            "!HHIIBBH", body
        )
        payload = body[(offset >> 4) * 4 :]
        return Tcp(source, target, sequence, acknowledgement, window, flags, payload)

    @cached_property
    def udp(self) -> Udp | None:
        """Its header of UDP."""
        body = self._carried(_UDP)
        if body is None or len(body) < 8:
            return None
        source, target, length, _ = unpack_from("!HHHH", body)
        return Udp(source, target, body[8 : max(length, 8)])

    @cached_property
    def icmp(self) -> Icmp | None:
        """Its header of ICMP or ICMPv6."""
        body = self._carried(_ICMP) or self._carried(_ICMP6)
        if body is None or len(body) < 4:
            return None
        return Icmp(body[0], body[1], body[4:])

    @property
    def ports(self) -> frozenset[int]:
        """Both ports of TCP or UDP; of neither, nothing."""
        header = self.tcp or self.udp
        return frozenset() if header is None else frozenset({*_both(header)})

    @property
    def is_chatter(self) -> bool:
        """Hosts say such things by themselves (ARP, neighbour discovery, reports of groups)."""
        if self.ip is None or self.ip.protocol == _IGMP:
            return True
        icmp = self.icmp
        return icmp is not None and self.ip.version == 6 and icmp.type in _DISCOVERY

    def __str__(self) -> str:
        way = ">" if self.sent else "<"
        return f"{self.wire} {way} {_told(self)}"


def _both(header: Tcp | Udp) -> tuple[int, int]:
    return header.source_port, header.destination_port


def _told(packet: Packet) -> str:
    ip = packet.ip
    if ip is None:
        kind = "ARP" if packet.arp else f"type 0x{packet.ethertype:04x}"
        return f"{kind}, {packet.length} bytes"
    ends = str(ip.source), str(ip.destination)
    if tcp := packet.tcp:
        flags = [name for name in ("syn", "fin", "rst", "psh", "ack") if getattr(tcp, name)]
        kind = f"TCP {' '.join(flags)} {len(tcp.payload)}"
        ends = f"{ends[0]}:{tcp.source_port}", f"{ends[1]}:{tcp.destination_port}"
    elif udp := packet.udp:
        kind = f"UDP {len(udp.payload)}"
        ends = f"{ends[0]}:{udp.source_port}", f"{ends[1]}:{udp.destination_port}"
    elif icmp := packet.icmp:
        kind = f"ICMP type {icmp.type} code {icmp.code}"
    else:
        kind = f"protocol {ip.protocol}"
    return f"{ends[0]} to {ends[1]}, {kind}"


def _ipv4(data: bytes) -> tuple[Ip, bytes]:
    first, service, length, _, fragment, ttl, protocol = unpack_from("!BBHHHBB", data)
    if first >> 4 != 4 or len(data) < 20:
        raise ValueError("not IPv4")
    header = (first & 15) * 4
    # Where the card is to cut it into pieces, the length may be that of none of them, or 0.
    body = data[header : length or None]
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    later = bool(fragment & 0x1FFF)
    return Ip(4, source, destination, protocol, ttl, service >> 2, later), body


def _ipv6(data: bytes) -> tuple[Ip, bytes]:
    first, length, protocol, hops = unpack_from("!IHBB", data)
    if first >> 28 != 6 or len(data) < 40:
        raise ValueError("not IPv6")
    body = data[40 : 40 + length] if length else data[40:]
    later = False
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        if protocol == _FRAGMENT:
            later = bool(int.from_bytes(body[2:4], "big") & 0xFFF8)
            size = 8
        else:
            size = (body[1] + 1) * 8
        protocol, body = body[0], body[size:]
    source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    return Ip(6, source, destination, protocol, hops, first >> 22 & 0x3F, later), body
