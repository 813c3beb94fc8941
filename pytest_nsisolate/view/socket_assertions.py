# SPDX-License-Identifier: MIT
"""Assertions on who listens where, and who does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from pytest_nsisolate.view import waiting
from pytest_nsisolate.view.failures import bound, failure, no_own, number_of
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.view.sockets import Socket

_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104


class SocketAssertions(Readings):
    """What may be asserted of sockets."""

    __slots__ = ()

    def assert_listening(
        self,
        where: int | str,
        *,
        host: str | None = None,
        proto: str = "tcp",
        within: float = 0,
    ) -> Socket:
        """Somebody listens there.

        :param where: a port, or the path of a Unix socket (``@name`` for an abstract one).
        :param host: the address that it is bound to, exactly; any if left out.
        :param proto: ``tcp``, or ``udp``, where to listen is to have no peer.
        :param within: seconds to wait for it.
        :returns: the socket.
        """
        __tracebackhide__ = True
        found = waiting.until(lambda: self._listening(where, host, proto), within)
        if found:
            return found[0]
        sockets = self.listening
        raise failure(
            f"nobody listens on {_place(where, host, proto)}",
            expected=f"a listening socket{bound(within)}",
            seen=number_of(sockets, "listening socket"),
            rows=sockets,
            hint=self._why_silent(where, host, proto, sockets),
        )

    def assert_not_listening(
        self, where: int | str, *, host: str | None = None, proto: str = "tcp", within: float = 0
    ) -> None:
        """Nobody listens there.

        :param where: as for :meth:`assert_listening`, and so are the others.
        :param within: seconds to wait for the end of who does.
        """
        __tracebackhide__ = True
        last: list[Socket] = []

        def silent() -> bool:
            last[:] = self._listening(where, host, proto)
            return not last

        if waiting.until(silent, within):
            return
        raise failure(
            f"somebody listens on {_place(where, host, proto)}",
            expected=f"nobody{bound(within)}",
            seen=number_of(last, "socket"),
            rows=last,
            hint=None if "net" in self.isolated else no_own("net"),
        )

    def assert_stays_closed(
        self, where: int | str, *, host: str | None = None, proto: str = "tcp", for_: float = 0.5
    ) -> None:
        """Nobody listens there, for some time.

        :param where: as for :meth:`assert_listening`, and so are the others.
        :param for_: seconds to watch it; a socket that comes up fails at once.
        """
        __tracebackhide__ = True
        found = waiting.until(lambda: self._listening(where, host, proto), for_)
        if found:
            raise failure(
                f"{_place(where, host, proto)} did not stay closed",
                expected=f"nobody listening for {for_:g} s",
                seen=number_of(found, "socket"),
                rows=found,
            )

    def _listening(self, where: int | str, host: str | None, proto: str) -> list[Socket]:
        if isinstance(where, str):
            return [s for s in self.listening if s.proto == "unix" and s.path == where]
        if proto not in ("tcp", "udp"):
            raise ValueError(f"proto is 'tcp' or 'udp', not {proto!r}")
        address = None if host is None else str(ipaddress.ip_address(host))
        return [
            socket
            for socket in self.listening
            if (socket.proto, socket.port) == (proto, where) and address in (None, socket.host)
        ]

    def _why_silent(
        self, where: int | str, host: str | None, proto: str, sockets: Iterable[Socket]
    ) -> str | None:
        if "net" not in self.isolated:
            return no_own("net")
        if isinstance(where, str):
            return None
        there = [socket for socket in sockets if socket.port == where]
        for socket in there:
            if socket.proto == proto and socket.host in _WILDCARDS:
                return f"{socket.local} takes what comes to {host} too; leave host out to allow it"
            if socket.proto == proto:
                return f"somebody listens on {socket.host}, not on {host}"
        if there:
            return f"somebody listens on that port, with proto={there[0].proto!r}"
        return None


def _place(where: int | str, host: str | None, proto: str) -> str:
    if isinstance(where, str):
        return f"unix socket {where}"
    return f"{proto} port {where}" + (f" of {host}" if host is not None else "")
