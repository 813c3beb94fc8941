# SPDX-License-Identifier: MIT
"""The relay: a process that hands packets on, later, or not at all.

It has a ring of packets and a way to send at both sides of each wire that it serves (:mod:`.relay`
says how they get there), and one connection to the test. It is a copy of the test, so that the
functions which choose packets are there; it runs none of the test's other code.

Fact: what is random has to take the same packets each time, but hosts say things by themselves, at
moments of their own: neighbour discovery, reports of groups.
What we do: these draw from a generator of their own, so that the packets of your programs meet the
same numbers.
"""

from __future__ import annotations

import sys
from heapq import heappop, heappush
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import gc, pickle, random, select, socket, time
from pytest_nsisolate.kernel.packet_sockets import UNDELIVERABLE
from pytest_nsisolate.testbed.impairment import Counts, Impairment
from pytest_nsisolate.testbed.packets import Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_nsisolate.kernel.packet_sockets import PacketRing, PacketSender

#: Packets that wait for a rate, as in netem.
_LONGEST_QUEUE: Final = 1000

#: Seconds by which a packet is late that others are to overtake.
_LATE: Final = 0.01

#: Packets of one ring before the others have their turn.
_TURN: Final = 256

#: Sooner than this, it is not worth to go to sleep.
_SOON: Final = 0.00005

_LENGTH: Final = Struct("=I")


class Chance(random.Random):
    """Pickled by this name: a suite may have put something else in the place of the other one."""


class Way:
    """One way of one wire; what there is of it goes from one relay to the next.

    :ivar wire: its name.
    :ivar sent: from the host; else to it.
    :ivar blocked: hardware and IP addresses from which nothing passes.
    :ivar drops: numbers of functions, with how many packets they may still take.
    """

    def __init__(self, wire: str, *, sent: bool) -> None:
        self.wire = wire
        self.sent = sent
        self.impairment = Impairment()
        self.blocked: frozenset[bytes] = frozenset()
        self.drops: dict[int, float] = {}
        self.taken: dict[int, int] = {}
        self.held = False
        self.counts = Counts()
        self.waiting: list[bytes] = []
        self.queue: list[tuple[float, int, bytes]] = []
        self.failures: list[str] = []
        self._number = 0
        self._free = 0.0
        self._last = 0.0
        self._seed()

    def _seed(self) -> None:
        seed = f"{self.impairment.seed} {self.wire} {self.sent}"
        self._chance = Chance(seed)
        self._chatter = Chance(f"{seed} chatter")

    def set(self, impairment: Impairment, *, reseed: bool) -> None:
        """Another impairment from the next packet on; what is on its way arrives as it was to."""
        self.impairment = impairment
        if reseed:
            self._seed()

    @property
    def is_plain(self) -> bool:
        """Packets are handed on as they are, and at once."""
        return not (
            self.blocked or self.drops or self.held or self.queue or self.impairment.is_something
        )

    def take(self, data: bytes, now: float, functions: Mapping[int, Match]) -> None:
        """One packet has come: put it where it leaves from, or nowhere."""
        blocked = self.blocked and _sources(data) & self.blocked
        if blocked or (self.drops and self._is_chosen(data, functions)):
            self.counts.dropped += 1
        elif self.held:
            self.waiting.append(data)
        else:
            self._impair(data, now)

    def release(self, now: float) -> None:
        """What was held leaves in its order."""
        self.held = False
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self._impair(data, now)

    def _is_chosen(self, data: bytes, functions: Mapping[int, Match]) -> bool:
        packet = Packet(time.time(), self.wire, self.sent, data, len(data))
        for number in [*self.drops]:
            try:
                chosen = functions[number](packet)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                del self.drops[number]
                continue
            if chosen:
                self.taken[number] = self.taken.get(number, 0) + 1
                self.drops[number] -= 1
                if self.drops[number] <= 0:
                    del self.drops[number]
                return True
        return False

    def _impair(self, data: bytes, now: float) -> None:
        wanted, counts = self.impairment, self.counts
        if len(data) > wanted.largest:
            counts.lost += 1
            return
        copies, late, spread = 1, False, 0.0
        if wanted.is_random:
            chance = self._chatter if _is_chatter(data) else self._chance
            # As many numbers for each packet, whatever becomes of it.
            loss, twice, swapped, wrong, where, by = (chance.random() for _ in range(6))
            if loss < wanted.loss:
                counts.lost += 1
                return
            copies += twice < wanted.duplicate
            late = swapped < wanted.reorder
            spread = (2 * by - 1) * wanted.jitter
            if wrong < wanted.corrupt:
                counts.corrupted += 1
                data = _with_wrong_bit(data, where)
        counts.duplicated += copies - 1
        for _ in range(copies):
            self._schedule(data, now, spread, late=late)

    def _schedule(self, data: bytes, now: float, spread: float, *, late: bool) -> None:
        wanted = self.impairment
        leaves = now
        if wanted.rate:
            if len(self.queue) >= _LONGEST_QUEUE and self._free > now:
                self.counts.lost += 1
                return
            self._free = leaves = max(now, self._free) + len(data) * 8 / wanted.rate
        arrives = leaves + max(0.0, wanted.delay + spread)
        if late:
            self.counts.reordered += 1
            arrives += _LATE
        else:
            arrives = self._last = max(arrives, self._last)
        self._number += 1
        heappush(self.queue, (arrives, self._number, data))


if TYPE_CHECKING:
    Match = Callable[[Packet], object]
    Target = PacketRing | PacketSender
    Lane = tuple[Way, PacketRing, Target]


class Ends:
    """The sockets of one wire.

    :param host: at the port of the host's cable.
    :param network: at the switch.
    """

    def __init__(self, host: PacketRing, network: PacketRing) -> None:
        self._rings = host, network

    def lanes(self, ways: tuple[Way, Way]) -> Iterator[Lane]:
        """Where the packets of each way come from, and go."""
        host, network = self._rings
        out, back = ways
        yield out, host, network
        yield back, network, host

    @property
    def positions(self) -> tuple[int, int]:
        """How far both rings have been read."""
        host, network = self._rings
        return host.position, network.position

    @positions.setter
    def positions(self, found: tuple[int, int]) -> None:
        for ring, position in zip(self._rings, found, strict=True):
            ring.position = position

    def close(self) -> None:
        """Give them back."""
        for ring in self._rings:
            ring.close()


class Loop:
    """All wires of one testbed, in the relay's process.

    :param ways: by wire, from the host and to it.
    :param ends: by wire.
    :param functions: what chooses packets.
    :param connection: to the test.
    """

    def __init__(
        self,
        ways: Mapping[str, tuple[Way, Way]],
        ends: Mapping[str, Ends],
        functions: Mapping[int, Match],
        connection: socket.socket,
    ) -> None:
        self._ways = ways
        self._ends = ends
        self._functions = functions
        self._connection = connection
        self._lanes = [lane for name, end in ends.items() for lane in end.lanes(ways[name])]

    def run(self) -> None:
        """Until the test says that it is over, or is gone."""
        _be_quick()
        readers = [self._connection, *(source.socket for _, source, _ in self._lanes)]
        while True:
            busy = False
            for lane in self._lanes:
                busy = self._relay(*lane) or busy
            timeout = 0.0 if busy else self._send_what_is_due()
            ready, _, _ = select.select(readers, (), (), timeout)
            if self._connection in ready and not self._answer():
                return

    # Packets -------------------------------------------------------------------------------------

    def _relay(self, way: Way, source: PacketRing, target: Target) -> bool:
        """Take what has come; whether there may be more."""
        if way.is_plain:
            come, failed = source.pass_on(target, _TURN)
            way.counts.passed += come - failed
            way.counts.lost += failed
            return come == _TURN
        found = source.read(_TURN)
        if found:
            now = monotonic()
            for seen in found:
                if seen.length > len(seen.data):
                    way.counts.lost += 1
                else:
                    way.take(seen.data, now, self._functions)
            self._send_due(way, target, now)
        return len(found) == _TURN

    def _send_what_is_due(self) -> float | None:
        """Seconds until the next packet is."""
        now = monotonic()
        next_due = None
        for way, _, target in self._lanes:
            if way.queue:
                self._send_due(way, target, now)
            if way.queue and (next_due is None or way.queue[0][0] < next_due):
                next_due = way.queue[0][0]
        if next_due is None:
            return None
        left = next_due - monotonic()
        return left if left > _SOON else 0.0

    def _send_due(self, way: Way, target: Target, now: float) -> None:
        queue = way.queue
        while queue and queue[0][0] <= now:
            self._send(way, target, heappop(queue)[2])

    def _send(self, way: Way, target: Target, data: bytes) -> None:
        try:
            target.socket.send(data)
        except OSError as error:
            if error.errno not in UNDELIVERABLE:
                raise
            way.counts.lost += 1
        else:
            way.counts.passed += 1

    # The test ------------------------------------------------------------------------------------

    def _answer(self) -> bool:
        """One word of the test's; whether this goes on."""
        asked = receive(self._connection)
        if asked is None:
            return False
        for change in asked["changes"]:
            self.change(*change)
        for way, source, _ in self._lanes:
            way.counts.overrun += source.lost()
        positions = {wire: ends.positions for wire, ends in self._ends.items()}
        send(self._connection, (self._ways, positions))
        return not asked["stop"]

    def change(self, wire: str, sent: bool, name: str, value: Any) -> None:
        """Set something of one way."""
        way = self._ways[wire][0 if sent else 1]
        now = monotonic()
        if name == "impairment":
            way.set(*value[:1], reseed=value[1])
        elif name == "held" and not value:
            way.release(now)
        elif name == "undrop":
            way.drops.pop(value, None)
        else:
            setattr(way, name, value)


def _be_quick() -> None:
    """Nothing looks over this process's shoulder: no tracer, no collector."""
    sys.settrace(None)
    sys.setprofile(None)
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is not None:
        for tool in range(6):
            if monitoring.get_tool(tool) is not None:
                monitoring.set_events(tool, 0)
    gc.disable()


def send(connection: socket.socket, value: object) -> None:
    """One object, to the other process."""
    data = pickle.dumps(value)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """The next object; None where the other process is gone."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    data = _exactly(connection, _LENGTH.unpack(head)[0])
    return None if data is None else pickle.loads(data)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        try:
            part = connection.recv(min(size, 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _sources(data: bytes) -> frozenset[bytes]:
    """Who has sent it: its hardware address, and that of IP."""
    found = [data[6:12]]
    kind = data[12:14]
    if kind == b"\x08\x00":
        found.append(data[26:30])
    elif kind == b"\x86\xdd":
        found.append(data[22:38])
    return frozenset(found)


def _is_chatter(data: bytes) -> bool:
    """As :attr:`Packet.is_chatter`; most packets are told by three bytes."""
    kind = data[12:14]
    if kind == b"\x08\x00":
        return data[23:24] == b"\x02"
    if kind == b"\x86\xdd" and data[20:21] not in (b"\x00", b":"):
        return False
    return Packet(0.0, "", sent=False, data=data, length=len(data)).is_chatter


def _with_wrong_bit(data: bytes, where: float) -> bytes:
    """One bit of what Ethernet carries."""
    bit = 14 * 8 + int(where * (len(data) - 14) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
