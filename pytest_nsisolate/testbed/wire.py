# SPDX-License-Identifier: MIT
"""The wire between one host and one switch.

An undisturbed wire is a cable: a veth pair from the host into the switch, at the speed of the
kernel. What passes its port is kept by the kernel, without a process (:mod:`.capture`). What
disturbs it puts a relay into it (:mod:`.relay`), which then stays, and may do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import TestbedError, failing
from pytest_nsisolate.kernel import links
from pytest_nsisolate.testbed import relay
from pytest_nsisolate.testbed.disturbance import BOTH_WAYS, Disturbed, Dropping
from pytest_nsisolate.testbed.fabric import PORT
from pytest_nsisolate.testbed.impairment import Impairment

if TYPE_CHECKING:
    from pytest_nsisolate.kernel.links import IpAddress
    from pytest_nsisolate.testbed.bed import Refusing, Testbed
    from pytest_nsisolate.testbed.fabric import Fabric
    from pytest_nsisolate.testbed.host import Host
    from pytest_nsisolate.testbed.network import Network
    from pytest_nsisolate.testbed.packets import Packet
    from pytest_nsisolate.testbed.relay import Relay

#: The number of a host's first interface; those before it are the kernel's own.
FIRST_INTERFACE: Final = 100


class Wire(Disturbed):
    """One cable. Made by ``testbed.host(...)``; ``host.wire`` and ``host.wires[network]``.

    :ivar name: the host and its interface: ``"a.eth0"``.
    :ivar network: the segment that it leads to.
    :ivar addresses: those of the host on it.
    """

    def __init__(
        self,
        testbed: Testbed,
        host: str,
        at: int,
        network: Network,
        addresses: tuple[tuple[IpAddress, int], ...],
    ) -> None:
        self.name = f"{host}.eth{at}"
        self.interface = f"eth{at}"
        self.network = network
        self.addresses = tuple(address for address, _ in addresses)
        self._testbed = testbed
        self._isolate = testbed._isolate
        self._host = host
        self._lengths = addresses
        self._index = FIRST_INTERFACE + at
        number = self._fabric.number()
        self.number = number | PORT
        self.mac = bytes((2, 0, 0, 0, *number.to_bytes(2, "big")))
        self._plugged = False
        self._cut = False

    @property
    def _fabric(self) -> Fabric:
        return self._testbed.fabric

    @property
    def _relay(self) -> Relay:
        return self._testbed.relay

    def _refusing(self) -> Refusing:
        return self._testbed.refusing(f"wire {self.name}")

    @property
    def is_cut(self) -> bool:
        """By :meth:`cut`, or because its host has crashed."""
        return self._cut or not self._plugged

    @property
    def port(self) -> str:
        """The name of its end at the switch."""
        return f"port{self.number ^ PORT}"

    # The cable -----------------------------------------------------------------------------------

    def plug_in(self, netns: int, host: links.Links) -> None:
        """Lay the cable, and give the host its addresses there.

        :param netns: the host's network namespace.
        :param host: the conversation with the kernel about it.
        :raises StepError: ``add a veth pair``, ``add the address …``, ``open a packet socket``.
        """
        end = links.cable_end(self.interface, index=self._index, mac=self.mac, netns=netns)
        up = self._testbed.connected and not self._cut
        self._fabric.add_cable(self.port, self.number, end, self.network.bridge, up=up)
        self._plugged = True
        with failing(f"set {self.interface} up", "net"):
            host.set_up(self._index, up=True)
        for address, length in self._lengths:
            with failing(f"add the address {address}", "net"):
                host.add_address(self._index, address, length)
        if up:
            self.await_carrier()
        if self._relay.serves(self.name):
            self._put_relay_in()

    def connect(self) -> None:
        """Set it up for the first time, unless it was cut.

        :raises StepError: ``set a wire up or down``, ``wait for the carrier``.
        """
        if self._plugged and not self._cut:
            with failing("set a wire up or down", "net"):
                self._fabric.links.set_up(self.number, up=True)
            self.await_carrier()

    def pull_out(self) -> None:
        """The cable is gone, with both of its ends."""
        if self._plugged:
            self._plugged = False
            with failing("delete a veth pair", "net"):
                self._fabric.links.delete(self.number)
            if self._relay.serves(self.name):
                self._relay.let_go(self.name)
                with failing("delete a veth pair", "net"):
                    self._fabric.links.delete(self._relayed)

    def _put_relay_in(self) -> None:
        """From now on what passes here goes through the relay."""
        host = self._testbed.hosts[self._host]
        with failing("stop offloading", "net"), host.netns() as netns:
            links.stop_offloading(netns, self.interface)
        ends, self._relayed = relay.split(self._fabric, self.number, self.port, self.network.bridge)
        self._relay.take_on(self.name, ends)

    def ensure_relayed(self) -> None:
        """There is a relay in it, or an :class:`IsolatedRefusal` says why not."""
        __tracebackhide__ = True
        self._testbed.tenure.check_disturbing(self.name)
        if not self._relay.serves(self.name):
            if not self._plugged:
                raise TestbedError(f"{self.name}: its host has crashed, boot it first")
            self._testbed.connect()
            with self._refusing():
                self._put_relay_in()

    # What a test does with it --------------------------------------------------------------------

    def cut(self) -> None:
        """Cut it: the host's interface has no carrier, as if the cable were pulled."""
        __tracebackhide__ = True
        self._set_up(up=False)

    def mend(self) -> None:
        """The opposite of :meth:`cut`."""
        __tracebackhide__ = True
        self._set_up(up=True)

    def await_carrier(self) -> None:
        """The next packet passes, to the host and from it."""
        if self._plugged:
            with failing("wait for the carrier", "net"):
                self._fabric.links.await_carrier(self.number)
                self._testbed.hosts[self._host].await_carrier(self._index)

    def _set_up(self, *, up: bool) -> None:
        __tracebackhide__ = True
        self._testbed.connect()
        with self._refusing():
            if self._plugged:
                with failing("set a wire up or down", "net"):
                    self._fabric.links.set_up(self.number, up=up)
            self._cut = not up
            if up:
                self.await_carrier()
        self._note("mended" if up else "cut")

    def impair(  # noqa: PLR0913 (a keyword for each thing that a wire can do)
        self,
        *,
        delay: float | None = None,
        jitter: float | None = None,
        loss: float | None = None,
        duplicate: float | None = None,
        reorder: float | None = None,
        corrupt: float | None = None,
        rate: float | str | None = None,
        mtu: int | None = None,
        seed: int | None = None,
        towards: Host | Network | str | None = None,
    ) -> Impairment:
        """Make it a bad wire, from the next packet on; what is not named stays as it is.

        :param delay: seconds that each packet takes.
        :param jitter: seconds that it takes more or less; packets keep their order.
        :param loss: the part of the packets that is lost, 0 to 1.
        :param duplicate: the part that arrives twice.
        :param reorder: the part that arrives 10 ms late, so that others overtake it.
        :param corrupt: the part of which one bit is wrong.
        :param rate: bits in a second, ``5e6`` or ``"5mbit"``.
        :param mtu: bytes of the largest packet that passes; a larger one is lost in silence.
        :param seed: of what is random; it starts over. The same seed takes the same packets.
        :param towards: this way only: the host of this wire, or its network.
        :returns: how it is now, on its way to the host or, with ``towards``, on that way.
        :raises TestbedError: for a value that makes no sense.
        """
        __tracebackhide__ = True
        values: dict[str, object] = {
            "delay": delay,
            "jitter": jitter,
            "loss": loss,
            "duplicate": duplicate,
            "reorder": reorder,
            "corrupt": corrupt,
            "rate": rate,
            "mtu": mtu,
            "seed": seed,
        }
        return self._impair(self._towards(towards), values)

    def drop(
        self,
        match: Callable[[Packet], object],
        *,
        times: int | None = None,
        towards: Host | Network | str | None = None,
    ) -> Dropping:
        """Lose the packets that you choose.

        :param match: called with each packet, in the process of the relay: what it changes in
            memory stays there.
        :param times: how many packets it takes; without, every one.
        :param towards: this way only: the host of this wire, or its network.
        """
        __tracebackhide__ = True
        return self._drop(self._towards(towards), match, times)

    def _towards(self, towards: Host | Network | str | None) -> tuple[bool, ...]:
        """Whether the ways that are meant lead from the host."""
        __tracebackhide__ = True
        if towards is None:
            return BOTH_WAYS
        name = towards if isinstance(towards, str) else towards.name
        if name == self._host:
            return (False,)
        if name == self.network.name:
            return (True,)
        text = f"{self.name} leads to host {self._host} and to {self.network}, not to {name}"
        raise TestbedError(f"towards={name!r}: {text}")

    @property
    def counters(self) -> tuple[int, int]:
        """Packets that the host has sent and received on it; zeros where it has crashed."""
        if not self._plugged:
            return 0, 0
        with self._refusing(), failing("read the counters", "net"):
            received, _, sent, _ = self._fabric.links.counters(self.number)
        return received, sent

    @property
    def state(self) -> str:
        """What is different from an undisturbed wire, in a few words; empty for nothing."""
        found = ["no host"] if not self._plugged else ["cut"] if self._cut else []
        if self._relay.serves(self.name):
            out, back = self._relay.ways(self.name)
            if out.held:
                found.append("held")
            if out.blocked or back.blocked:
                found.append("partitioned")
            found += _impairments(str(out.impairment), str(back.impairment))
            if counts := str(out.counts + back.counts):
                found.append(counts)
        return "; ".join(found)

    def __repr__(self) -> str:
        state = f" ({self.state})" if self.state else ""
        return f"<wire {self.name} to {self.network}{state}>"


def _impairments(out: str, back: str) -> list[str]:
    if out != back:
        return [f"from the host {out}", f"to the host {back}"]
    return [] if out == str(Impairment()) else [out]
