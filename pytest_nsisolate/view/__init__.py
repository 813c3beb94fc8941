# SPDX-License-Identifier: MIT
"""What PID 1 sees: plain data, read when asked, and assertions on it.

The ``pid1`` fixture gives an isolated test a :class:`Pid1View` of its world. Only a test that asks
for it pays for it: this package is imported in the runner, once, if an isolated test uses the
fixture, and with it psutil and pyroute2 (:func:`preload`).
"""

from __future__ import annotations

from pytest_nsisolate.request.marker import TimeOffsets
from pytest_nsisolate.view.identity import Capabilities, IdExtent, Limit
from pytest_nsisolate.view.assertions.identity import IdentityAssertions
from pytest_nsisolate.view.ipc import IpcObject
from pytest_nsisolate.view.mapping import ReadOnlyMapping
from pytest_nsisolate.view.mounts import Mount
from pytest_nsisolate.view.network import (
    Address,
    Interface,
    Route,
    read_interfaces,
    route_to,
)
from pytest_nsisolate.view.assertions.network import NetworkAssertions
from pytest_nsisolate.view.processes import Process, ProcessTree
from pytest_nsisolate.view.readings import Origin
from pytest_nsisolate.view.assertions.signal import SignalAssertions
from pytest_nsisolate.view.snapshot import Change, Difference, Snapshot
from pytest_nsisolate.view.assertions.socket import SocketAssertions
from pytest_nsisolate.view.sockets import Socket
from pytest_nsisolate.view.assertions.world import WorldAssertions

__all__ = [
    "Address",
    "Capabilities",
    "Change",
    "Difference",
    "IdExtent",
    "Interface",
    "IpcObject",
    "Limit",
    "Mount",
    "Origin",
    "Pid1View",
    "Process",
    "ProcessTree",
    "ReadOnlyMapping",
    "Route",
    "Snapshot",
    "Socket",
    "TimeOffsets",
    "preload",
]


class Pid1View(
    SignalAssertions, SocketAssertions, NetworkAssertions, WorldAssertions, IdentityAssertions
):
    """The world of an isolated test, as its own process sees it.

    Data are attributes that ask the kernel each time; assertions are methods whose failure says
    what was expected, what was seen, and what may help. Those that take ``within`` look again until
    it holds or so many seconds are over.
    """

    __slots__ = ()


def preload() -> None:
    """Import, in the runner, what reading the world needs, so that no child has to.

    The first message of each kind has pyroute2 build tables of its own, 250 page faults' worth, so
    one of each is asked for.
    """
    import psutil  # noqa: F401
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # noqa: F401

    from pytest_nsisolate.view import compare  # noqa: F401

    try:
        read_interfaces()
        route_to("127.0.0.1")
    except OSError:  # no netlink here: the test that asks for it will say so
        pass
