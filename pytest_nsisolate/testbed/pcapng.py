# SPDX-License-Identifier: MIT
"""Packets as a file that Wireshark and tcpdump open: pcapng, one interface for each wire.

Source: draft-ietf-opsawg-pcapng. Blocks used: section header, interface description with its name
(``if_name``) and a resolution of nanoseconds, enhanced packets with their direction
(``epb_flags``), name resolution with the hosts' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import pack
from typing import Final

from pytest_nsisolate.testbed.packets import Packet

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_NAMES: Final = 4
_PACKET: Final = 6

_ETHERNET: Final = 1
_IF_NAME: Final = 2
_IF_RESOLUTION: Final = 9
_PACKET_FLAGS: Final = 2
_APPLICATION: Final = 4
_INBOUND: Final = 1
_OUTBOUND: Final = 2
_NANOSECONDS: Final = 10**9


def encoded(
    packets: Iterable[Packet], wires: Iterable[str], names: Mapping[str, str] | None = None
) -> bytes:
    """A whole file.

    :param wires: the interfaces, in their order; each packet's wire is one of them.
    :param names: addresses and what Wireshark shows for them.
    """
    numbers = {name: at for at, name in enumerate(wires)}
    parts = [_section()]
    parts += [_interface(name) for name in numbers]
    if names:
        parts.append(_resolution(names))
    parts += [_packet(packet, numbers[packet.wire]) for packet in packets]
    return b"".join(parts)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return pack("=II", kind, size) + body + pack("=I", size)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return pack("=HH", code, len(value)) + _padded(value)


def _section() -> bytes:
    head = pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    return _block(_SECTION, head + _option(_APPLICATION, b"pytest-nsisolate") + _option(0, b""))


def _interface(name: str) -> bytes:
    head = pack("=HHI", _ETHERNET, 0, 0)
    options = _option(_IF_NAME, name.encode()) + _option(_IF_RESOLUTION, bytes([9]))
    return _block(_INTERFACE, head + options + _option(0, b""))


def _resolution(names: Mapping[str, str]) -> bytes:
    from ipaddress import ip_address

    body = b""
    for address, name in names.items():
        packed = ip_address(address).packed
        body += _option(1 if len(packed) == 4 else 2, packed + name.encode() + b"\0")
    return _block(_NAMES, body + _option(0, b""))


def _packet(packet: Packet, interface: int) -> bytes:
    high, low = divmod(round(packet.time * _NANOSECONDS), 1 << 32)
    head = pack("=IIIII", interface, high, low, len(packet.data), packet.length)
    # As the host sees it: what it has sent goes out.
    way = _OUTBOUND if packet.sent else _INBOUND
    flags = _option(_PACKET_FLAGS, pack("=I", way)) + _option(0, b"")
    return _block(_PACKET, head + _padded(packet.data) + flags)
