# SPDX-License-Identifier: MIT
"""What has passed the wires since the test began.

Fact: the kernel fills a ring of memory with what passes the ports of all wires, whether anybody
looks or not.
What we do: the test's process empties it whenever it does something with the testbed, and while it
waits for something on a host. No process has to run for that.

What still fails: where more passes between two looks than the ring holds, packets are lost for the
capture (never for the hosts). They are counted, and :attr:`Capture.missed` has the number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, overload

from pytest_nsisolate.testbed.packets import Packet

if TYPE_CHECKING:
    from pytest_nsisolate.kernel.packet_sockets import PacketRing

#: Bytes of packets that one testbed keeps; later ones are counted.
MOST_BYTES: Final = 64 << 20


class Capture(Sequence[Packet]):
    """Packets in the order in which they passed. Made by ``testbed.capture(...)``.

    :ivar missed: packets of the whole testbed that passed, but were not kept.
    """

    def __init__(self, packets: Iterable[Packet], missed: int) -> None:
        self._packets = tuple(packets)
        self.missed = missed

    @overload
    def __getitem__(self, at: int) -> Packet: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Packet, ...]: ...
    def __getitem__(self, at: int | slice) -> Packet | tuple[Packet, ...]:
        return self._packets[at]

    def __len__(self) -> int:
        return len(self._packets)

    def where(
        self,
        match: Callable[[Packet], object] | None = None,
        *,
        tcp_port: int | None = None,
        udp_port: int | None = None,
        sent: bool | None = None,
    ) -> Capture:
        """Those of which all of this is true.

        :param match: a function of the packet.
        :param tcp_port: one of its ports.
        :param udp_port: likewise.
        :param sent: the host of the wire has sent it, or has not.
        """

        def fits(packet: Packet) -> bool:
            return (
                (tcp_port is None or (packet.tcp is not None and tcp_port in packet.ports))
                and (udp_port is None or (packet.udp is not None and udp_port in packet.ports))
                and (sent is None or packet.sent == sent)
                and (match is None or bool(match(packet)))
            )

        return Capture(filter(fits, self._packets), self.missed)

    def count(
        self,
        match: object = None,
        *,
        tcp_port: int | None = None,
        udp_port: int | None = None,
        sent: bool | None = None,
    ) -> int:
        """How many there are of :meth:`where`."""
        if match is not None and not callable(match):
            return self._packets.count(match)
        return len(self.where(match, tcp_port=tcp_port, udp_port=udp_port, sent=sent))

    def __repr__(self) -> str:
        missed = f", {self.missed} more were not kept" if self.missed else ""
        return f"<capture of {len(self)} packets{missed}>"

    def __str__(self) -> str:
        return "\n".join(map(str, self._packets))


class Recorder:
    """What was taken out of the ring of one testbed.

    :ivar missed: packets that passed, but were not kept.
    """

    def __init__(self) -> None:
        self._packets: list[Packet] = []
        self._bytes = 0
        self.missed = 0

    def take(self, ring: PacketRing, names: Mapping[int, str]) -> None:
        """Empty the ring.

        :param names: of the wires, by the numbers of their ports.
        """
        found = ring.read()
        self.missed += ring.lost()
        for seen in found:
            if seen.link not in names:
                continue  # of a host that has not come to be
            if self._bytes > MOST_BYTES:
                self.missed += 1
                continue
            self._bytes += len(seen.data)
            # The port sends to the host what the host receives.
            sent = not seen.outgoing
            self._packets.append(Packet(seen.time, names[seen.link], sent, seen.data, seen.length))

    def clear(self) -> None:
        """Forget everything so far."""
        self._packets, self._bytes, self.missed = [], 0, 0

    def of(self, wires: Iterable[str], *, sent: bool | None = None) -> Capture:
        """What passed these wires.

        :param sent: only what the hosts have sent, or what they have received.
        """
        names = frozenset(wires)
        found = (p for p in self._packets if p.wire in names and sent in (None, p.sent))
        return Capture(sorted(found, key=_time), self.missed)

    def __iter__(self) -> Iterator[Packet]:
        return iter(sorted(self._packets, key=_time))

    def __len__(self) -> int:
        return len(self._packets)


def _time(packet: Packet) -> float:
    return packet.time
