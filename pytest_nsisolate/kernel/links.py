# SPDX-License-Identifier: MIT
"""Cables, bridges, addresses and routes, over one route netlink socket (rtnetlink(7)).

Fact: a netlink socket serves the network namespace in which it was opened, wherever its holder is
afterwards, and the rights are those of the user namespace that owns that network.
What we do: :func:`inside` moves the calling thread there for the moment in which a socket is
opened. No process has to live in a network to have it changed.

Fact: one message makes a whole cable: both ends with names and hardware addresses, each in its own
namespace, one of them up and in a bridge. The other one cannot be up yet (ENOTCONN).
What we do: the few messages are written here, as bytes. pyroute2's would take the time of a third
host for each, and its import 0.2 s in a run that does not need it otherwise.

Fact: a link that gets its carrier loses what it is given to send until a worker of the kernel has
seen that, which may take a second (linkwatch; netdevice(7) has the flag, RFC 2863 the state).
What we do: :meth:`Links.await_carrier` waits for it, so that the first packet of a test passes.

Fact: a kernel destroys the links of a namespace some time after its last holder is gone.
What we do: what has to be gone at once is deleted by its number.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from struct import Struct, pack, unpack_from
from typing import Final, TypeAlias

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel import process, syscalls
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import ctypes, fcntl, os, socket, time

IpAddress: TypeAlias = IPv4Address | IPv6Address
IpNetwork: TypeAlias = IPv4Network | IPv6Network

_NEWLINK: Final = 16
_DELLINK: Final = 17
_GETLINK: Final = 18
_NEWADDR: Final = 20
_NEWROUTE: Final = 24
_DELROUTE: Final = 25

_REQUEST: Final = 1
_ACK: Final = 4
_REPLACE: Final = 0x100
_EXCL: Final = 0x200
_CREATE: Final = 0x400
_ERROR: Final = 2

_HEADER: Final = Struct("=IHHII")
_LINK: Final = Struct("=BxHiII")
_ADDRESS: Final = Struct("=BBBBi")
_ROUTE: Final = Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = Struct("=HH")

#: The number of ``lo`` in every network namespace.
LOOPBACK: Final = 1
_UP: Final = 1
_HAS_CARRIER: Final = 0x10000  # IFF_LOWER_UP
_OPERATIONAL: Final = 6  # IF_OPER_UP
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_OPERSTATE: Final = 16
_IFLA_LINKINFO: Final = 18
_IFLA_STATS64: Final = 23
_IFLA_NET_NS_FD: Final = 28
_INFO_KIND: Final = 1
_INFO_DATA: Final = 2
_VETH_PEER: Final = 1
_NESTED: Final = 0x8000

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_NODAD: Final = 2
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_MAIN_TABLE: Final = 254
_STATIC: Final = 4
_UNICAST: Final = 1

_SIOCETHTOOL: Final = 0x8946
#: Set checksums on sending, scatter-gather's child features: segmentation, generic segmentation.
_OFFLOADS: Final = (0x17, 0x1F, 0x24)

_SECONDS: Final = 5.0
_PAUSE: Final = 0.001
_BUFFER: Final = 1 << 16


@contextmanager
def inside(netns: int) -> Iterator[None]:
    """The calling thread in another network namespace, with its signals blocked (setns(2)).

    :param netns: a descriptor of it.
    :raises OSError: EPERM without CAP_SYS_ADMIN over it and over the own user namespace.
    """
    with _away(lambda: syscalls.setns(netns, syscalls.CLONE_NEWNET)):
        yield


def new_network() -> int:
    """A descriptor of a new, empty network namespace, which lives as long as the descriptor.

    :raises OSError: as unshare(2) and setns(2).
    """
    netns = -1
    try:
        with _away(lambda: syscalls.unshare(syscalls.CLONE_NEWNET)):
            netns = _own_network()
    except BaseException:
        if netns >= 0:
            os.close(netns)
        raise
    return netns


@contextmanager
def _away(leave: Callable[[], None]) -> Iterator[None]:
    """The calling thread where ``leave`` takes it, and home again."""
    mask = process.block_signals()
    try:
        home = _own_network()
        try:
            leave()
            try:
                yield
            finally:
                _return_to(home)
        finally:
            os.close(home)
    finally:
        process.restore_signals(mask)


def _own_network() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _return_to(home: int) -> None:
    try:
        syscalls.setns(home, syscalls.CLONE_NEWNET)
    except OSError:
        # In a foreign network the rest of the test would be wrong without a word: once more.
        syscalls.setns(home, syscalls.CLONE_NEWNET)


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, pack("=I", value))


def _link(index: int, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _family(address: IpAddress | IpNetwork) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Links:
    """The links, addresses and routes of one network namespace.

    Every method is one question, and raises :class:`OSError` as the kernel answers.

    :param netns: a descriptor of the namespace, needed no longer than this takes; None for that of
        this process.
    """

    def __init__(self, netns: int | None) -> None:
        with nullcontext() if netns is None else inside(netns):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
        try:
            self._socket.settimeout(_SECONDS)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._asked = 0

    def close(self) -> None:
        """Give the socket back, which keeps the namespace."""
        self._socket.close()

    # Links ---------------------------------------------------------------------------------------

    def add_bridge(self, index: int, name: str) -> None:
        """A switch, up: a bridge without spanning tree."""
        kind = _attribute(_IFLA_LINKINFO | _NESTED, _text(_INFO_KIND, "bridge"))
        body = _link(index, _UP, _UP) + _text(_IFLA_IFNAME, name) + kind
        self._ask(_NEWLINK, body, _CREATE | _EXCL)

    def add_cable(
        self, index: int, name: str, *, bridge: int | None, peer: bytes, up: bool = True
    ) -> None:
        """A veth pair (veth(4)).

        :param index: the number of the end in this namespace.
        :param bridge: the one that this end is plugged into.
        :param peer: the other end, by :func:`cable_end`.
        :param up: this end; the other one has no carrier until it is.
        """
        data = _attribute(_INFO_DATA | _NESTED, _attribute(_VETH_PEER | _NESTED, peer))
        info = _attribute(_IFLA_LINKINFO | _NESTED, _text(_INFO_KIND, "veth") + data)
        master = b"" if bridge is None else _number(_IFLA_MASTER, bridge)
        body = _link(index, _UP if up else 0, _UP) + _text(_IFLA_IFNAME, name) + master + info
        self._ask(_NEWLINK, body, _CREATE | _EXCL)

    def set_up(self, index: int, *, up: bool) -> None:
        """Set a link up or down; the other end of a cable loses its carrier."""
        self._ask(_NEWLINK, _link(index, _UP if up else 0, _UP))

    def await_carrier(self, index: int) -> None:
        """Wait until a link whose carrier has come passes packets; at once, if it has none."""
        until = monotonic() + _SECONDS
        while True:
            answer = self._ask(_GETLINK, _link(index), acknowledged=False)
            flags = _LINK.unpack_from(answer)[3]
            states = [
                v[0] for kind, v in _attributes(answer[_LINK.size :]) if kind == _IFLA_OPERSTATE
            ]
            if not flags & _HAS_CARRIER or _OPERATIONAL in states or monotonic() > until:
                return
            time.sleep(_PAUSE)

    def plug(self, index: int, bridge: int) -> None:
        """Plug a link into a bridge; 0 pulls it out."""
        self._ask(_NEWLINK, _link(index) + _number(_IFLA_MASTER, bridge))

    def delete(self, index: int) -> None:
        """Delete a link, and the other end of a cable with it."""
        self._ask(_DELLINK, _link(index))

    def index(self, name: str) -> int:
        """The number of a link. The ``socket`` module's question loses the error number."""
        body = _link(0) + _text(_IFLA_IFNAME, name)
        return int(_LINK.unpack_from(self._ask(_GETLINK, body, acknowledged=False))[2])

    def mtu(self, index: int) -> int:
        """Bytes of the largest packet that it takes."""
        answer = self._ask(_GETLINK, _link(index), acknowledged=False)
        sizes = [v for kind, v in _attributes(answer[_LINK.size :]) if kind == _IFLA_MTU]
        return int.from_bytes(sizes[0], sys.byteorder)

    def set_mtu(self, index: int, size: int) -> None:
        """See :meth:`mtu`."""
        self._ask(_NEWLINK, _link(index) + _number(_IFLA_MTU, size))

    def counters(self, index: int) -> tuple[int, int, int, int]:
        """Packets and bytes that this end has received, and those that it has sent."""
        answer = self._ask(_GETLINK, _link(index), acknowledged=False)
        for kind, value in _attributes(answer[_LINK.size :]):
            if kind == _IFLA_STATS64:
                received, sent, received_bytes, sent_bytes = unpack_from("=4Q", value)
                return received, received_bytes, sent, sent_bytes
        return 0, 0, 0, 0

    # Addresses and routes ------------------------------------------------------------------------

    def add_address(self, index: int, address: IpAddress, length: int) -> None:
        """An address of a link, usable at once: there is no check for duplicates."""
        body = _ADDRESS.pack(_family(address), length, _IFA_F_NODAD, 0, index)
        body += _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
        self._ask(_NEWADDR, body, _CREATE | _REPLACE)

    def add_route(self, target: IpNetwork, gateway: IpAddress) -> None:
        """A static route; in the place of another one to the same target."""
        self._ask(_NEWROUTE, _route(target, gateway), _CREATE | _REPLACE)

    def delete_route(self, target: IpNetwork, gateway: IpAddress) -> None:
        """The opposite of :meth:`add_route`."""
        self._ask(_DELROUTE, _route(target, gateway))

    def change_routes(
        self, before: Mapping[IpNetwork, IpAddress], wanted: Mapping[IpNetwork, IpAddress]
    ) -> None:
        """Put static routes, target to gateway, in the place of others.

        :raises StepError: naming the route.
        """
        for target, gateway in before.items():
            if target not in wanted:
                with failing(f"delete the route to {target}", "net"):
                    self.delete_route(target, gateway)
        for target, gateway in wanted.items():
            if before.get(target) != gateway:
                with failing(f"add the route to {target}", "net"):
                    self.add_route(target, gateway)

    # The conversation ----------------------------------------------------------------------------

    def _ask(self, kind: int, body: bytes, flags: int = 0, *, acknowledged: bool = True) -> bytes:
        # Of this process alone: an answer that another holder of the socket has left is not ours.
        self._asked += 1
        sequence = (os.getpid() << 16 ^ self._asked) & 0xFFFFFFFF
        size = _HEADER.size + len(body)
        flags |= _REQUEST | (_ACK if acknowledged else 0)
        self._socket.send(_HEADER.pack(size, kind, flags, sequence, 0) + body)
        while True:
            answer = self._socket.recv(_BUFFER)
            _, answered, _, answers, _ = _HEADER.unpack_from(answer)
            if answers != sequence:
                continue  # to a question whose answer was not waited for
            if answered != _ERROR:
                return answer[_HEADER.size :]
            (code,) = unpack_from("=i", answer, _HEADER.size)
            if code:
                raise OSError(-code, os.strerror(-code))
            return b""


def parsed(addresses: tuple[str, ...]) -> tuple[tuple[IpAddress, int], ...]:
    """Addresses with the lengths of their networks, from ``"10.53.0.1/32"``."""
    found = (ip_interface(address) for address in addresses)
    return tuple((address.ip, address.network.prefixlen) for address in found)


def add_to_loopback(addresses: tuple[tuple[IpAddress, int], ...]) -> None:
    """Give these to ``lo`` of the network namespace that this process is in.

    :raises StepError: ``add the address …``.
    """
    try:
        own = Links(None)
    except OSError as error:
        raise step_error("open a netlink socket", "net", error) from error
    try:
        for address, length in addresses:
            try:
                own.add_address(LOOPBACK, address, length)
            except OSError as error:
                raise step_error(f"add the address {address}", "net", error) from error
    finally:
        own.close()


def cable_end(name: str, *, index: int, mac: bytes = b"", netns: int | None = None) -> bytes:
    """The other end of :meth:`Links.add_cable`.

    :param index: its number.
    :param mac: its hardware address; without, the kernel makes one up.
    :param netns: a descriptor of the namespace that it is in; None for that of the first end.
    """
    body = _link(index) + _text(_IFLA_IFNAME, name)
    if mac:
        body += _attribute(_IFLA_ADDRESS, mac)
    return body if netns is None else body + _number(_IFLA_NET_NS_FD, netns)


def _route(target: IpNetwork, gateway: IpAddress) -> bytes:
    family = _family(target)
    body = _ROUTE.pack(family, target.prefixlen, 0, 0, _MAIN_TABLE, _STATIC, 0, _UNICAST, 0)
    if target.prefixlen:
        body += _attribute(_RTA_DST, target.network_address.packed)
    return body + _attribute(_RTA_GATEWAY, gateway.packed)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def stop_offloading(netns: int, name: str) -> None:
    """From now on this link sends packets as they would be on a cable (ethtool's ioctl).

    Else one "packet" of TCP may have 64 KB, and a checksum that is not computed yet.

    :raises OSError: EPERM without CAP_NET_ADMIN over the namespace.
    """
    with inside(netns):
        device = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(pack("=II", command, 0))
            request = pack("16sQ16x", name.encode(), ctypes.addressof(value))
            try:
                fcntl.ioctl(device, _SIOCETHTOOL, request)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
    finally:
        device.close()
