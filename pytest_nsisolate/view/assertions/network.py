# SPDX-License-Identifier: MIT
"""Assertions on interfaces and routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from pytest_nsisolate.view.assertions import waiting
from pytest_nsisolate.view.assertions.failures import bound, failure, listed, no_own, number_of
from pytest_nsisolate.view.network import Interface, Route, as_network, route_to
from pytest_nsisolate.view.readings import Readings


class NetworkAssertions(Readings):
    """Assertions on interfaces and routes."""

    __slots__ = ()

    # Interfaces ----------------------------------------------------------------------------------

    def assert_interfaces(self, names: Iterable[str]) -> None:
        """There are these interfaces and no others.

        :param names: ``{"lo"}`` in a fresh network.
        """
        __tracebackhide__ = True
        wanted = {names} if isinstance(names, str) else set(names)
        interfaces = self.interfaces
        found = {interface.name for interface in interfaces}
        if found == wanted:
            return
        parts = [("missing", wanted - found), ("too much", found - wanted)]
        raise failure(
            "; ".join(f"{word}: {listed(those)}" for word, those in parts if those),
            expected=f"the interfaces {listed(wanted)}" if wanted else "no interface",
            seen=number_of(interfaces, "interface"),
            rows=interfaces,
            hint=None if "net" in self.isolated else no_own("net"),
        )

    def assert_interface(
        self,
        name: str,
        *,
        up: bool | None = None,
        address: str | None = None,
        mtu: int | None = None,
        kind: str | None = None,
        within: float = 0,
    ) -> Interface:
        """There is an interface like that; what is left out does not matter.

        :param up: whether it has been set up.
        :param address: one of its addresses, with or without its prefix: ``10.0.0.1/24``.
        :param mtu: in bytes.
        :param kind: ``loopback``, ``veth``...
        :param within: seconds to wait for it.
        :returns: the interface.
        """
        __tracebackhide__ = True
        wanted = {"up": up, "address": address, "mtu": mtu, "kind": kind}
        interfaces: tuple[Interface, ...] = ()
        there: list[Interface] = []

        def look() -> bool:
            nonlocal interfaces
            interfaces = self.interfaces
            there[:] = [interface for interface in interfaces if interface.name == name]
            return bool(there) and not _otherwise(there[0], wanted)

        if waiting.until(look, within):
            return there[0]
        wishes = [f"{key} {value}" for key, value in wanted.items() if value is not None]
        raise failure(
            f"interface {name} is not as expected" if there else f"there is no interface {name}",
            expected=f"interface {name}"
            + (f" with {', '.join(wishes)}" if wishes else "")
            + bound(within),
            seen=", ".join(_otherwise(there[0], wanted))
            if there
            else number_of(interfaces, "interface"),
            rows=there or interfaces,
            hint=None if "net" in self.isolated else no_own("net"),
        )

    # Routes --------------------------------------------------------------------------------------

    def assert_route(
        self,
        destination: str,
        *,
        via: str | None = None,
        interface: str | None = None,
        table: str | None = "main",
        kind: str | None = None,
        within: float = 0,
    ) -> Route:
        """There is an entry in the routing tables; what is left out does not matter.

        :param destination: ``10.0.0.0/8``, an address, or ``default``; ``0.0.0.0/0`` and ``::/0``
            are the default of one version.
        :param via: the gateway.
        :param interface: its name.
        :param table: ``main``, ``local``, a number as text; None: any.
        :param kind: ``unicast``, ``blackhole``...
        :param within: seconds to wait for it.
        :returns: the route.
        """
        __tracebackhide__ = True
        network = as_network(destination)
        version = None if destination == "default" else ip_network(destination, False).version
        routes: list[Route] = []

        def fits(route: Route) -> bool:
            return (
                route.destination in (network, destination)
                and version in (None, route.version)
                and via in (None, route.gateway)
                and interface in (None, route.interface)
                and kind in (None, route.kind)
            )

        def look() -> list[Route]:
            routes[:] = [route for route in self.routes if table in (None, route.table)]
            return [route for route in routes if fits(route)]

        found = waiting.until(look, within)
        if found:
            return found[0]
        wanted = destination if network == "default" else network
        options = {"via": via, "interface": interface, "kind": kind}
        wishes = [f"{key} {value}" for key, value in options.items() if value is not None]
        raise failure(
            f"no such route to {destination}",
            expected=" ".join([f"a route to {wanted}", *wishes])
            + (f" in table {table}" if table else "")
            + bound(within),
            seen=number_of(routes, "route"),
            rows=routes,
        )

    def assert_no_route_to(self, address: str) -> None:
        """No packet to this address can leave: the kernel knows no way.

        :param address: of version 4 or 6.
        """
        __tracebackhide__ = True
        route = route_to(address)
        if route is not None:
            raise failure(
                f"there is a route to {address}",
                expected="none",
                seen=f"this one, out of {route.interface}",
                rows=[route],
                hint=None if "net" in self.isolated else no_own("net"),
            )


def _otherwise(interface: Interface, wanted: Mapping[str, object]) -> list[str]:
    """The fields in which it differs."""
    found = []
    if wanted["up"] not in (None, interface.up):
        found.append("it is up" if interface.up else "it is down")
    for name in ("mtu", "kind"):
        if wanted[name] not in (None, getattr(interface, name)):
            found.append(f"its {name} is {getattr(interface, name)}")
    address = wanted["address"]
    if address is not None and not any(_same(found_, address) for found_ in interface.addresses):
        found.append(f"it does not have {address}")
    return found


def _same(address: object, wanted: object) -> bool:
    text = str(wanted)
    return text == str(address) or ("/" not in text and text == str(address).partition("/")[0])
