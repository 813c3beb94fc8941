# SPDX-License-Identifier: MIT
"""The packets of one link, by a socket of packets with a ring in memory (packet(7)).

Fact: the kernel copies each packet into the ring by itself, with or without a reader, until the
ring is full; it counts what it could not place (PACKET_STATISTICS).
What we do: version 2 of the ring, whose slots have a size. One packet is one slot, so an unread
ring keeps as many packets as it has slots. In version 3 a block goes to its reader after some time,
however little is in it.

Fact: the kernel takes a VLAN tag out of the packet and reports it beside the packet.
What we do: it is put back.
"""

from __future__ import annotations

import errno
from _socket import socket as c_socket
from struct import Struct, pack, unpack
from typing import Final, NamedTuple

from pytest_nsisolate.kernel.links import inside
from pytest_nsisolate.kernel.originals import mmap, socket

_SOL_PACKET: Final = 263
_RX_RING: Final = 5
_STATISTICS: Final = 6
_VERSION: Final = 10
_IGNORE_OUTGOING: Final = 23
_EVERY_PROTOCOL: Final = 3
_OUTGOING: Final = 4
_TPACKET_V2: Final = 1

_SLOT: Final = 2048
_BLOCK: Final = 1 << 16

#: status, length, kept, where it begins, seconds, nanoseconds, tag and its type; at 42 the way.
_HEADER: Final = Struct("=IIIHHIIHH")
_BEGINNING: Final = Struct("=IIIH")
_WAY: Final = 42
_READY: Final = 1
_TAGGED: Final = 0x10
_FREE: Final = bytes(4)


#: What sending may meet: the other side is down or gone, or has no room.
UNDELIVERABLE: Final = (
    *(errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.EMSGSIZE),
    *(errno.ENOBUFS, errno.EAGAIN),
)


class Seen(NamedTuple):
    """One packet of a link.

    :param time: seconds since the epoch.
    :param outgoing: this link has sent it, seen from its own side.
    :param length: bytes that it had; ``data`` is shorter where it did not fit.
    """

    time: float
    outgoing: bool
    length: int
    data: bytes


class PacketRing:
    """The packets that pass one link from now on, and a way to send some there.

    :param netns: a descriptor of the link's network namespace.
    :param name: the link.
    :param slots: packets that it holds; a multiple of 32.
    :param outgoing: include what the link sends.
    :raises OSError: EPERM without CAP_NET_RAW, ENOMEM, EAFNOSUPPORT in a kernel without packet(7).
    """

    def __init__(self, netns: int, name: str, *, slots: int, outgoing: bool) -> None:
        with inside(netns):
            self.socket = c_socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
            )
        try:
            self.socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
            size = slots * _SLOT
            ring = pack("=IIII", _BLOCK, size // _BLOCK, _SLOT, slots)
            self.socket.setsockopt(_SOL_PACKET, _RX_RING, ring)
            if not outgoing:
                self.socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            self.socket.bind((name, _EVERY_PROTOCOL))
        except OSError:
            self.socket.close()
            raise
        self._size = size
        self._memory: mmap.mmap | None = None
        #: Where the next packet will be; of a reader in another process, which tells it.
        self.position = 0

    def read(self, most: int = 1 << 16) -> list[Seen]:
        """What has come since the last time, the oldest first; does not wait."""
        memory = self._memory
        if memory is None:
            memory = self._memory = mmap.mmap(self.socket.fileno(), self._size)
            self._view = memoryview(memory)
        found: list[Seen] = []
        at, size = self.position, self._size
        while len(found) < most:
            status, length, kept, start, _, seconds, nano, tag, kind = _HEADER.unpack_from(
                memory, at
            )
            if not status & _READY:
                break
            begin = at + start
            data = memory[begin : begin + kept]
            if status & _TAGGED:
                data = data[:12] + pack("!HH", kind or 0x8100, tag) + data[12:]
                length += 4
            outgoing = memory[at + _WAY] == _OUTGOING
            found.append(Seen(seconds + nano * 1e-9, outgoing, length, data))
            memory[at : at + 4] = _FREE
            at += _SLOT
            if at == size:
                at = 0
        self.position = at
        return found

    def pass_on(self, target: PacketRing, most: int) -> tuple[int, int]:
        """Send what has come to another link, as it is and straight out of the ring.

        :param most: packets.
        :returns: how many have come, and how many of them could not be sent.
        """
        self.read(0)
        memory, view, send = self._memory, self._view, target.socket.send
        assert memory is not None
        at, size, come, failed = self.position, self._size, 0, 0
        begins = _BEGINNING.unpack_from
        while come < most:
            status, length, kept, start = begins(memory, at)
            if not status & _READY:
                break
            if status & _TAGGED:
                self.position = at
                data: bytes | memoryview = self.read(1)[0].data
            else:
                data = view[at + start : at + start + kept]
            come += 1
            try:
                if length > kept:
                    raise OSError(errno.EMSGSIZE, "")
                send(data)
            except OSError as error:
                if error.errno not in UNDELIVERABLE:
                    raise
                failed += 1
            memory[at : at + 4] = _FREE
            at += _SLOT
            if at == size:
                at = 0
        self.position = at
        return come, failed

    def lost(self) -> int:
        """Packets for which there was no slot, since the last call."""
        _, dropped = unpack("=II", self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        return int(dropped)

    def close(self) -> None:
        """Give everything back."""
        if self._memory is not None:
            self._view.release()
            self._memory.close()
            self._memory = None
        self.socket.close()
