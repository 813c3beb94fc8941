# SPDX-License-Identifier: MIT
"""The packets of one link, or of many, by a socket with a ring in memory (packet(7)).

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
from pytest_nsisolate.kernel.originals import ctypes, mmap, socket

_SOL_PACKET: Final = 263
_RX_RING: Final = 5
_STATISTICS: Final = 6
_VERSION: Final = 10
_IGNORE_OUTGOING: Final = 23
_EVERY_PROTOCOL: Final = 3
_OUTGOING: Final = 4
_TPACKET_V2: Final = 1

_ATTACH_FILTER: Final = 26
_LINK_NUMBER: Final = 0xFFFFF008  # SKF_AD_OFF + SKF_AD_IFINDEX

_SLOT: Final = 2048
_BLOCK: Final = 1 << 16

#: status, length, kept, where it begins, seconds, nanoseconds, tag and its type; the address of the
#: link follows, with its number at 36 and the way at 42.
_HEADER: Final = Struct("=IIIHHIIHH")
_BEGINNING: Final = Struct("=IIIH")
_LINK: Final = Struct("=I")
_WHICH: Final = 36
_WAY: Final = 42
_READY: Final = 1
_TAGGED: Final = 0x10
_FREE: Final = bytes(4)
_POSITION: Final = Struct("=Q")


#: What sending may meet: the other side is down or gone, or has no room.
UNDELIVERABLE: Final = (
    *(errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.EMSGSIZE),
    *(errno.ENOBUFS, errno.EAGAIN),
)


class Seen(NamedTuple):
    """One packet of a link.

    :param link: the link's number.
    :param time: seconds since the epoch.
    :param outgoing: this link has sent it, seen from its own side.
    :param length: bytes that it had; ``data`` is shorter where it did not fit.
    """

    link: int
    time: float
    outgoing: bool
    length: int
    data: bytes


class PacketRing:
    """What passes from now on, and a way to send something there.

    The kernel takes some ten milliseconds to make a ring, and twice that to free it: it waits until
    no processor can be using what was there before (synchronize_net()).

    :param netns: a descriptor of the link's network namespace.
    :param name: the link; None for every one whose number has a bit of ``only``.
    :param slots: packets that it holds; a multiple of 32.
    :param outgoing: include what the link sends.
    :param ready: keep what passes from now on; if not, call :meth:`make` and :meth:`listen`.
    :raises OSError: EPERM without CAP_NET_RAW, ENOMEM, EAFNOSUPPORT in a kernel without packet(7).
    """

    def __init__(
        self,
        netns: int,
        name: str | None,
        *,
        slots: int,
        outgoing: bool,
        only: int = 0,
        ready: bool = True,
    ) -> None:
        protocol = 0 if name else socket.htons(_EVERY_PROTOCOL)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with inside(netns):
            self.socket = c_socket(socket.AF_PACKET, kind, protocol)
        self._name = name
        self._size = slots * _SLOT
        try:
            if name is None:
                self._attach_filter(only)
            if not outgoing:
                self.socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            if ready:
                self.make()
                self.listen()
        except OSError:
            self.socket.close()
            raise
        self._memory: mmap.mmap | None = None
        #: Where the next packet will be; of a reader in another process, which tells it.
        self.position = 0
        self._shared: mmap.mmap | None = None

    def make(self) -> None:
        """Make the ring, if there is none. A copy of this process may do it.

        :raises OSError: ENOMEM, EPERM.
        """
        ring = pack("=IIII", _BLOCK, self._size // _BLOCK, _SLOT, self._size // _SLOT)
        try:
            self.socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
            self.socket.setsockopt(_SOL_PACKET, _RX_RING, ring)
        except OSError as error:
            if error.errno != errno.EBUSY:  # there is one
                raise

    def listen(self) -> None:
        """Keep what passes its link from now on. Without a link, :meth:`make` is enough.

        :raises OSError: ENODEV.
        """
        if self._name is not None:
            self.socket.bind((self._name, _EVERY_PROTOCOL))

    def share_position(self) -> None:
        """From now on forks of this process read on where the last of them has stopped."""
        self._shared = mmap.mmap(-1, _POSITION.size)

    def _attach_filter(self, only: int) -> None:
        """Take packets of links whose number has one of these bits (bpf(2), the classic one)."""
        program = b"".join(
            pack("=HBBI", *line)
            for line in (
                (0x20, 0, 0, _LINK_NUMBER),  # load the number of the link
                (0x45, 0, 1, only),  # has it one of these bits?
                (0x06, 0, 0, 1 << 18),  # take it whole
                (0x06, 0, 0, 0),  # leave it
            )
        )
        held = ctypes.create_string_buffer(program, len(program))
        described = pack("@HP", len(program) // 8, ctypes.addressof(held))
        self.socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)

    def read(self, most: int = 1 << 16) -> list[Seen]:
        """What has come since the last time, the oldest first; does not wait."""
        memory = self._memory
        if memory is None:
            memory = self._memory = mmap.mmap(self.socket.fileno(), self._size)
            self._view = memoryview(memory)
        found: list[Seen] = []
        shared, size = self._shared, self._size
        at = self.position if shared is None else _POSITION.unpack_from(shared)[0]
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
            (link,) = _LINK.unpack_from(memory, at + _WHICH)
            found.append(Seen(link, seconds + nano * 1e-9, outgoing, length, data))
            following = 0 if at + _SLOT == size else at + _SLOT
            if shared is not None:
                # First: a slot that is read twice does no harm, one that is waited for is the end.
                _POSITION.pack_into(shared, 0, following)
            memory[at : at + 4] = _FREE
            at = following
        self.position = at
        return found

    def pass_on(self, target: PacketRing | PacketSender, most: int) -> tuple[int, int]:
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
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self.socket.close()


class PacketSender:
    """A way to send something on a link of this network namespace, and no more.

    :param name: the link.
    :param mark: what its packets have, for rules (SO_MARK, socket(7)).
    :raises OSError: EPERM without CAP_NET_RAW and CAP_NET_ADMIN.
    """

    def __init__(self, name: str, mark: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self.socket = c_socket(socket.AF_PACKET, kind, 0)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            self.socket.bind((name, 0))
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        """Give it back."""
        self.socket.close()
