# SPDX-License-Identifier: MIT
"""What the fixture ``testbed`` gives: networks, hosts, routers, and what happens between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pytest_nsisolate.errors import StepError, TestbedError
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.isolate.fixture import helpers_of, note_moment
from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.testbed import partition, pcapng
from pytest_nsisolate.testbed.capture import Capture, Recorder
from pytest_nsisolate.testbed.fabric import Fabric
from pytest_nsisolate.testbed.host import Host, Router, box_keywords
from pytest_nsisolate.testbed.network import Network, Place, parse_places, parse_subnets
from pytest_nsisolate.testbed.relay import Relay
from pytest_nsisolate.testbed.routing import routes_of
from pytest_nsisolate.testbed.tenure import Tenure
from pytest_nsisolate.testbed.wire import Wire

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.box import Box
    from pytest_nsisolate.isolate.fixture import Isolate

#: Letters, digits and hyphens (RFC 1123).
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

_LOCAL: Final = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


class Testbed:
    """Hosts and the networks between them, for as long as it is open.

    :param isolate: opens the boxes that hosts are.
    :param home: the runner's namespaces.
    :param tenure: whose it is; without, this process's.
    :ivar hosts: by name, routers too.
    :ivar networks: by name.
    """

    __test__ = False  # a module that imports it has no test of this name

    def __init__(
        self, isolate: Isolate, home: Mapping[str, int], tenure: Tenure | None = None
    ) -> None:
        self.home = home
        self.tenure = tenure or Tenure()
        self._isolate = isolate
        self._fabric: Fabric | None = None
        self._hosts: dict[str, Host] = {}
        self._networks: dict[str, Network] = {}
        #: Packets may pass.
        self.connected = False
        #: Packets that were taken out of the kernel's ring.
        self.recorder = Recorder()
        #: What disturbs wires; its process starts with the first one.
        self.relay = Relay(isolate.launcher)

    @property
    def fabric(self) -> Fabric:
        """Switches and cables."""
        assert self._fabric is not None, "there is no host without a network"
        return self._fabric

    @property
    def hosts(self) -> Mapping[str, Host]:
        """By name, in the order in which they were made; routers too."""
        return MappingProxyType(self._hosts)

    @property
    def networks(self) -> Mapping[str, Network]:
        """By name, in the order in which they were made."""
        return MappingProxyType(self._networks)

    @property
    def wires(self) -> tuple[Wire, ...]:
        """All of them, in the order of the hosts."""
        return tuple(wire for host in self._hosts.values() for wire in host.wires.values())

    # Building ------------------------------------------------------------------------------------

    def network(self, *subnets: str, name: str | None = None) -> Network:
        """A switched segment.

        :param subnets: of IPv4 and IPv6, ``"10.0.0.0/24", "fd00::/64"``. The first host gets the
            first address of each, the second the second.
        :param name: for messages; without, ``net1``, ``net2``.
        :raises TestbedError: for what is no subnet, or overlaps with another, or a name twice.
        :raises IsolatedRefusal: where the kernel has no bridges.
        """
        __tracebackhide__ = True
        self.tenure.check_building("a network")
        parsed = parse_subnets(subnets, self._networks.values())
        label = name or f"net{len(self._networks) + 1}"
        if label in self._networks:
            raise TestbedError(f"testbed.network(name={label!r}): there is one of that name")
        with self.refusing(f"network {label}"):
            network = Network(label, parsed, self._lay().add_switch())
        self._networks[label] = network
        return network

    def host(
        self, name: str, *networks: Network | Place, routes: bool = True, **keywords: Any
    ) -> Host:
        """A host, up and on its networks; the first one is connected when it is used.

        It has PID, mount, UTS, IPC and network namespaces of its own, and the test's users.

        :param name: its host name.
        :param networks: what it is plugged into, ``lan`` or ``lan["10.0.0.7"]``; ``eth0`` first.
        :param routes: it knows the way to all networks: by a default route where one router is
            beside it. Without, it knows its own networks only.
        :param keywords: those of ``isolate.using(...)``: ``root=``, ``files=``, ``hide=``...
        :raises TestbedError: for a name twice, an address that is taken, or a keyword that takes
            away what a host has.
        :raises IsolatedRefusal: when this host refuses something.
        """
        __tracebackhide__ = True
        wires = self._wires(name, networks)
        host = Host(self, name, wires, keywords, routes=routes)
        self._add(host)
        return host

    def router(
        self,
        name: str,
        *networks: Network | Place,
        nat: bool | Network = False,
        routes: bool = True,
        **keywords: Any,
    ) -> Router:
        """A host that forwards between its networks, and to which the others' routes lead.

        :param nat: hide the addresses of the other networks behind its own in this one; True: in
            the last of ``networks``.
        :param routes: it knows the way to networks beyond other routers.
        """
        __tracebackhide__ = True
        wires = self._wires(name, networks)
        try:
            outside = _outside(name, wires, nat)
        except TestbedError:
            _give_back(wires)
            raise
        router = Router(self, name, wires, keywords, routes=routes, outside=outside)
        self._add(router)
        return router

    def _wires(self, name: str, networks: tuple[Network | Place, ...]) -> dict[Network, Wire]:
        __tracebackhide__ = True
        self.tenure.check_building("a host")
        if not _NAME.fullmatch(name):
            raise TestbedError(f"{name!r} is no host name: letters, digits and hyphens, 63 at most")
        if name in self._hosts or name == "localhost":
            raise TestbedError(f"testbed.host({name!r}): there is a host of that name")
        places = parse_places(name, networks, self._networks.values())
        wires: dict[Network, Wire] = {}
        try:
            for at, place in enumerate(places):
                network, addresses = place.network, place.network.take(place)
                wires[network] = Wire(self, name, at, network, addresses)
        except TestbedError:
            _give_back(wires)
            raise
        return wires

    def _add(self, host: Host) -> None:
        __tracebackhide__ = True
        self._hosts[host.name] = host
        try:
            host.boot()
            self._introduce()
            if len(self._hosts) > 1:
                self.connect()
        except BaseException:
            del self._hosts[host.name]
            host.close()
            _give_back(host.wires)
            raise

    def _lay(self) -> Fabric:
        if self._fabric is None:
            self._fabric = Fabric(shared=self.tenure.shared)
            self.connected = self._fabric.listens
            helpers_of(self._isolate).append(self._fabric)
        return self._fabric

    def connect(self) -> None:
        """Set the wires up, as soon as what passes is kept. May be called again, by any thread.

        One host has nobody to talk to. So the kernel has until the second one is there, or until
        the first one is used, to make the ring.
        """
        __tracebackhide__ = True
        if self.connected or self._fabric is None or not self.tenure.is_maker:
            return
        with self._isolate.launcher().lock, self.refusing("testbed"):
            if not self.connected:
                self._fabric.listen()
                for wire in self.wires:
                    wire.connect()
                self.connected = True

    def _introduce(self) -> None:
        """Everybody knows everybody's name, and the way."""
        nodes = {name: host.node for name, host in self._hosts.items()}
        with self.refusing("testbed"):
            for name, host in self._hosts.items():
                host.set_routes(routes_of(nodes[name], nodes.values()))
                host.write_hosts(self.hosts_file(host))

    def hosts_file(self, reader: Host) -> str:
        """``/etc/hosts`` of one host: addresses that it shares a network with come first."""
        lines = [_LOCAL]
        for host in self._hosts.values():
            wires = sorted(host.wires.values(), key=lambda wire: wire.network not in reader.wires)
            lines += [f"{address}\t{host.name}\n" for wire in wires for address in wire.addresses]
        return "".join(lines)

    def open_box(self, host: Host) -> Box:
        """The namespaces of a host."""
        __tracebackhide__ = True
        made = self._isolate.using(**box_keywords(host.name, host.keywords))
        what, lent = f"host {host.name}", self.tenure.shared
        box = made.furnished(what, host.furnish, lent=lent)
        box.meanwhile = self.take_packets
        return box

    # Partitions ----------------------------------------------------------------------------------

    def partition(self, *groups: Iterable[Host]) -> None:
        """From now on no packet of one group reaches a host of another, in one step for all wires.

        Hosts that are in no group reach everybody, and an earlier partition is over.

        :param groups: of hosts, ``{a, b}, {c}``.
        :raises TestbedError: for a host in two groups, or fewer than two groups.
        """
        __tracebackhide__ = True
        parts = partition.parse_groups(groups, self._found)
        # A crashed host gets nothing; when it is booted it is where it was.
        self.relay.block(self._unblocked() | partition.blocked(parts))
        note_moment(self._isolate, "partition", "wire")

    def heal(self) -> None:
        """The opposite of :meth:`partition`, in one step."""
        self.relay.block(self._unblocked())
        note_moment(self._isolate, "healed", "wire")

    def _unblocked(self) -> dict[str, frozenset[bytes]]:
        return {wire.name: frozenset() for wire in self.wires}

    # What passes ---------------------------------------------------------------------------------

    def capture(self, where: Host | Network | str) -> Capture:
        """The packets since the test began.

        :param where: a host, for what it has sent and received; a network, for what the hosts have
            sent there, each packet once; or the name of one of them.
        :raises TestbedError: for an unknown name.
        """
        __tracebackhide__ = True
        found = self._found(where)
        self.take_packets()
        if isinstance(found, Network):
            wires = [wire.name for wire in self.wires if wire.network is found]
            return self.recorder.of(wires, sent=True)
        return self.recorder.of(wire.name for wire in found.wires.values())

    def take_packets(self) -> None:
        """Take out of the kernel's ring what has passed the wires."""
        if self._fabric is not None and self._fabric.tap is not None and self._fabric.listens:
            self.recorder.take(self._fabric.tap, {w.number: w.name for w in self.wires})

    def pcapng(self) -> bytes:
        """All packets, as a file that Wireshark and tcpdump open."""
        self.take_packets()
        wires = [wire.name for wire in self.wires]
        names = {text: host.name for host in self._hosts.values() for text in host.addresses}
        return pcapng.encoded(self.recorder, wires, names)

    @property
    def packets(self) -> tuple[int, int]:
        """How many are kept, and how many were not."""
        return len(self.recorder), self.recorder.missed

    def _found(self, where: Host | Network | str) -> Host | Network:
        __tracebackhide__ = True
        if isinstance(where, str):
            found = self._hosts.get(where) or self._networks.get(where)
        elif where in self._hosts.values() or where in self._networks.values():
            found = where
        else:
            found = None
        if found is None:
            there = ", ".join([*self._hosts, *self._networks]) or "nothing"
            raise TestbedError(f"{where!r} is no host and no network of this testbed: {there}")
        return found

    # The end -------------------------------------------------------------------------------------

    def refusing(self, what: str) -> Refusing:
        """A block in which a step that this host denies is a refusal with its remedy.

        :param what: the host or the network that it is for.
        """
        return Refusing(self._isolate, what)

    def close(self) -> None:
        """Everything ends: programs, hosts, wires, networks."""
        self.take_packets()
        with self.relay.closing(wire.name for wire in self.wires):
            for host in self._hosts.values():
                host.begin_to_close()
            for host in self._hosts.values():
                host.close()
            self._hosts.clear()
            self._networks.clear()
            if self._fabric is not None:
                beside = helpers_of(self._isolate)
                if self._fabric in beside:  # it is not, in a copy of its process
                    beside.remove(self._fabric)
                self._fabric.close()
                self._fabric = None
                self.connected = False

    def __repr__(self) -> str:
        return f"<testbed of {len(self._hosts)} hosts on {len(self._networks)} networks>"


class Refusing:
    """Makes of a step that was denied what ``isolate`` makes of one: a refusal, or a skip."""

    def __init__(self, isolate: Isolate, what: str) -> None:
        self._isolate = isolate
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        __tracebackhide__ = True
        if isinstance(error, StepError):
            raise self._isolate.refused(Refusal.of(error), self._what) from None
        if isinstance(error, RefusedError):  # of the launcher
            raise self._isolate.refused(error.refusal, self._what) from None


def _give_back(wires: Mapping[Network, Wire]) -> None:
    for network, wire in wires.items():
        network.give_back(wire.addresses)


def _outside(name: str, wires: Mapping[Network, Wire], nat: bool | Network) -> Network | None:
    __tracebackhide__ = True
    if nat is False:
        return None
    if len(wires) < 2:
        raise TestbedError(f"testbed.router({name!r}, nat=...): needs two networks")
    if nat is True:
        return [*wires][-1]
    if nat not in wires:
        raise TestbedError(f"testbed.router({name!r}, nat={nat}): it is not on that network")
    return nat
