# SPDX-License-Identifier: MIT
"""The object that a test looks through: every reading and every assertion in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_nsisolate.errors import TestbedError
from pytest_nsisolate.kernel.originals import package
from pytest_nsisolate.view.assertions.files import FileAssertions
from pytest_nsisolate.view.assertions.identity import IdentityAssertions
from pytest_nsisolate.view.assertions.network import NetworkAssertions
from pytest_nsisolate.view.assertions.signal import SignalAssertions
from pytest_nsisolate.view.assertions.socket import SocketAssertions
from pytest_nsisolate.view.assertions.world import WorldAssertions
from pytest_nsisolate.view.faults import FaultInjection
from pytest_nsisolate.view.network import read_interfaces, route_to

if TYPE_CHECKING:
    from pytest_nsisolate.testbed.loopback import Loopback


class Pid1View(
    SignalAssertions,
    SocketAssertions,
    NetworkAssertions,
    WorldAssertions,
    FileAssertions,
    IdentityAssertions,
    FaultInjection,
):
    """The world of an isolated test, as its own process sees it.

    Data are attributes that ask the kernel each time. Assertions are methods whose failure says
    what was expected, what was seen, and what may help. Those that take ``within`` look again until
    they hold or so many seconds are over.
    """

    __slots__ = ()

    @property
    def loopback(self) -> Loopback:
        """What disturbs the packets that the test sends to itself, over ``lo``.

        :raises TestbedError: where that is not the test's own, or the rights for it are missing.
        """
        __tracebackhide__ = True
        if self._origin.loopback is None:
            raise TestbedError("loopback is that of a test: disturb the wire of a host")
        return self._origin.loopback()


def preload() -> None:
    """Import, in the runner, what reading the world needs, so that no child has to.

    The first message of each kind has pyroute2 build tables of its own, 250 page faults' worth, so
    one of each is asked for.
    """
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # noqa: F401

    from pytest_nsisolate.view import compare  # noqa: F401

    package("psutil")
    try:
        read_interfaces()
        route_to("127.0.0.1")
    except OSError:  # no netlink here: the test that asks for it will say so
        pass
