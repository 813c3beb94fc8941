# SPDX-License-Identifier: MIT
"""Assertions on which sockets listen, and which do not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Final

from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.view.assertions import waiting
from pytest_nsisolate.view.assertions.failures import bound, failure, no_own, number_of
from pytest_nsisolate.view.netlink import takes_ipv4
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.view.sockets import Socket

_ALL_IPV4: Final = "0.0.0.0"  # noqa: S104
_ALL_IPV6: Final = "::"

#: What a port looks like in a text, with a host before it or not.
_PORT: Final = re.compile(r"(?:[^/@]*:)?(\d+)")


class SocketAssertions(Readings):
    """Assertions on sockets."""

    __slots__ = ()

    def assert_listening(
        self,
        where: int | str,
        *,
        host: str | None = None,
        proto: str = "tcp",
        within: float = 0,
    ) -> Socket:
        """A socket listens there.

        :param where: a port, or the path of a Unix socket (``@name`` for an abstract one).
        :param host: the address that it is bound to, exactly; any if left out.
        :param proto: ``tcp``, or ``udp``, where a socket without a peer counts as listening.
        :param within: seconds to wait for it.
        :returns: the socket.
        """
        __tracebackhide__ = True
        fits = _Place(where, host, proto)
        sockets: tuple[Socket, ...] = ()

        def look() -> list[Socket]:
            nonlocal sockets
            sockets = self.listening
            return [socket for socket in sockets if fits.is_bound(socket)]

        found = waiting.until(look, within)
        if found:
            return found[0]
        raise failure(
            f"nothing listens on {fits}",
            expected=f"a listening socket{bound(within)}",
            seen=number_of(sockets, "listening socket"),
            rows=sockets,
            hint=self._why_silent(fits, sockets),
        )

    def assert_not_listening(
        self, where: int | str, *, host: str | None = None, proto: str = "tcp", within: float = 0
    ) -> None:
        """No socket listens there.

        :param where: as for :meth:`assert_listening`, and so is the protocol.
        :param host: no socket takes what comes to this address, bound to it or to all.
        :param within: seconds to wait until those that do are gone.
        """
        __tracebackhide__ = True
        fits = _Place(where, host, proto)
        last: list[Socket] = []

        def silent() -> bool:
            last[:] = filter(fits.reaches, self.listening)
            return not last

        if waiting.until(silent, within):
            return
        raise failure(
            f"something listens on {fits}",
            expected=f"nothing{bound(within)}",
            seen=number_of(last, "socket"),
            rows=last,
            hint=None if "net" in self.isolated else no_own("net"),
        )

    def assert_stays_closed(
        self, where: int | str, *, host: str | None = None, proto: str = "tcp", for_: float = 0.5
    ) -> None:
        """No socket listens there, for some time.

        :param where: as for :meth:`assert_not_listening`, and so are the others.
        :param for_: seconds to watch it; a socket that comes up fails at once.
        """
        __tracebackhide__ = True
        fits = _Place(where, host, proto)
        found = waiting.until(lambda: list(filter(fits.reaches, self.listening)), for_)
        if found:
            raise failure(
                f"{fits} did not stay closed",
                expected=f"nothing listening for {for_:g} s",
                seen=number_of(found, "socket"),
                rows=found,
            )

    def _why_silent(self, place: _Place, sockets: Iterable[Socket]) -> str | None:
        if "net" not in self.isolated:
            return no_own("net")
        if place.port is None:
            return None
        there = [socket for socket in sockets if socket.port == place.port]
        same = [socket for socket in there if socket.proto == place.proto]
        for socket in same:
            if place.is_known_to_reach(socket):
                return (
                    f"{socket.local} takes what comes to {place.host} too; "
                    "leave host out to allow it"
                )
        if same:
            return f"something listens on {same[0].host}, not on {place.host}"
        if there:
            return f"something listens on that port, with proto={there[0].proto!r}"
        return None


class _Place:
    """A place to listen on.

    :raises ValueError: for what no socket can listen on, which would never be found.
    """

    def __init__(self, where: int | str, host: str | None, proto: str) -> None:
        if proto not in ("tcp", "udp"):
            raise ValueError(f"proto is 'tcp' or 'udp', not {proto!r}")
        self.proto = proto
        self.path: str | None = None
        self.port: int | None = None
        if isinstance(where, str):
            port = _PORT.fullmatch(where)
            if port is not None:
                raise ValueError(
                    f"{where!r} is the path of a Unix socket; a port is a number, {port[1]}"
                )
            self.path = where
        elif isinstance(where, int):
            if not 0 < where < 65536:
                raise ValueError(f"a port is 1 to 65535, not {where}")
            self.port = where
        else:
            raise TypeError(f"a port, or a Unix socket's path as text, not {where!r}")
        self.host = host
        self.address = None if host is None else _address(host)

    def is_bound(self, socket: Socket) -> bool:
        """Whether this is the socket's own address."""
        if self.port is None:
            return socket.proto == "unix" and socket.path == self.path
        if (socket.proto, socket.port) != (self.proto, self.port):
            return False
        return self.address is None or self.address == _address(str(socket.host))

    def reaches(self, socket: Socket) -> bool:
        """Whether the socket takes what comes here, as far as is known."""
        return self.is_bound(socket) or self._is_covered(socket) is not False

    def is_known_to_reach(self, socket: Socket) -> bool:
        """Whether it surely does."""
        return self.is_bound(socket) or self._is_covered(socket) is True

    def _is_covered(self, socket: Socket) -> bool | None:
        """Whether it is bound to all addresses, this one among them; None: that is not known."""
        if self.port is None or self.address is None:
            return False
        if (socket.proto, socket.port) != (self.proto, self.port):
            return False
        bound_to = str(_address(str(socket.host)))
        if bound_to == _ALL_IPV6 and self.address.version == 4:
            return takes_ipv4(self.proto, self.port)
        return bound_to == (_ALL_IPV4 if self.address.version == 4 else _ALL_IPV6)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix socket {self.path}"
        return f"{self.proto} port {self.port}" + (f" of {self.host}" if self.host else "")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """What a host stands for: an address without its zone, IPv4 inside IPv6 as IPv4."""
    address = ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        # /proc/net/tcp6 has no zones.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
