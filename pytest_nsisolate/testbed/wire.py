# SPDX-License-Identifier: MIT
"""The wire between one host and one switch.

An undisturbed wire is a cable: a veth pair from the host into the switch, at the speed of the
kernel. A ring of memory at its port keeps what passes, without a process (:mod:`.capture`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel import links
from pytest_nsisolate.kernel.packet_sockets import PacketRing

if TYPE_CHECKING:
    from pytest_nsisolate.kernel.links import IpAddress
    from pytest_nsisolate.testbed.fabric import Fabric
    from pytest_nsisolate.testbed.network import Network

#: The number of a host's first interface; those before it are the kernel's own.
FIRST_INTERFACE: Final = 100

#: Packets that are kept of each wire until the test's process has time to look: 1 MB.
SLOTS: Final = 512


class Wire:
    """One cable. Made by ``testbed.host(...)``; ``host.wire`` and ``host.wires[network]``.

    :ivar name: the host and its interface: ``"a.eth0"``.
    :ivar network: the segment that it leads to.
    :ivar addresses: those of the host on it.
    """

    def __init__(
        self,
        fabric: Fabric,
        host: str,
        at: int,
        network: Network,
        addresses: tuple[tuple[IpAddress, int], ...],
    ) -> None:
        self.name = f"{host}.eth{at}"
        self.interface = f"eth{at}"
        self.network = network
        self.addresses = tuple(address for address, _ in addresses)
        self._fabric = fabric
        self._lengths = addresses
        self._index = FIRST_INTERFACE + at
        self._port = fabric.number()
        self.mac = bytes((2, 0, 0, 0, *self._port.to_bytes(2, "big")))
        self._plugged = False
        self._cut = False
        self.ring: PacketRing | None = None

    @property
    def is_cut(self) -> bool:
        """By :meth:`cut`, or because its host has crashed."""
        return self._cut or not self._plugged

    @property
    def port(self) -> str:
        """The name of its end at the switch."""
        return f"port{self._port}"

    # The cable -----------------------------------------------------------------------------------

    def plug_in(self, netns: int, host: links.Links) -> None:
        """Lay the cable, and give the host its addresses there.

        :param netns: the host's network namespace.
        :param host: the conversation with the kernel about it.
        :raises StepError: ``add a veth pair``, ``add the address …``, ``open a packet socket``.
        """
        end = links.cable_end(self.interface, index=self._index, mac=self.mac, netns=netns)
        self._fabric.add_cable(self.port, self._port, end, self.network.bridge)
        self._plugged = True
        with failing(f"set {self.interface} up", "net"):
            host.set_up(self._index, up=True)
        for address, length in self._lengths:
            with failing(f"add the address {address}", "net"):
                host.add_address(self._index, address, length)
        with failing("open a packet socket", "net"):
            self.ring = PacketRing(self._fabric.netns, self.port, slots=SLOTS, outgoing=True)
        if self._cut:
            self._fabric.links.set_up(self._port, up=False)

    def pull_out(self) -> None:
        """The cable is gone, with both of its ends."""
        if self._plugged:
            self._plugged = False
            self.close()
            with failing("delete a veth pair", "net"):
                self._fabric.links.delete(self._port)

    def close(self) -> None:
        """Let go of what keeps packets."""
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    # What a test does with it --------------------------------------------------------------------

    def cut(self) -> None:
        """Cut it: the host's interface has no carrier, as if the cable were pulled."""
        self._cut = True
        self._set_up(up=False)

    def mend(self) -> None:
        """The opposite of :meth:`cut`."""
        self._cut = False
        self._set_up(up=True)

    def _set_up(self, *, up: bool) -> None:
        if self._plugged:
            with failing("set a wire up or down", "net"):
                self._fabric.links.set_up(self._port, up=up)

    @property
    def counters(self) -> tuple[int, int]:
        """Packets that the host has sent and received on it; zeros where it has crashed."""
        if not self._plugged:
            return 0, 0
        received, _, sent, _ = self._fabric.links.counters(self._port)
        return received, sent

    @property
    def state(self) -> str:
        """What is different from an undisturbed wire, in a few words; empty for nothing."""
        return "no host" if not self._plugged else "cut" if self._cut else ""

    def __repr__(self) -> str:
        state = f" {self.state}" if self.state else ""
        return f"<wire {self.name} to {self.network}{state}>"
