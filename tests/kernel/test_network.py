# SPDX-License-Identifier: MIT
"""``lo`` of a new network namespace."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import namespaces, network, process

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World


def test_lo_is_up_and_has_its_addresses(world: World) -> None:
    def body() -> Any:
        reached = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and not os.path.exists("/proc/net/if_inet6"):
                continue
            with (
                socket.create_server((address, 0), family=family) as server,
                socket.socket(family) as client,
            ):
                client.settimeout(5)
                client.connect(server.getsockname()[:2])
            reached.append(address)
        flags = int(Path("/sys/class/net/lo/flags").read_text(), 16)
        return reached, bool(flags & 1), bool(flags & 8), socket.if_nameindex()

    reached, up, loopback, interfaces = world.run(body)

    assert reached[0] == "127.0.0.1"
    assert len(reached) == 1 + os.path.exists("/proc/net/if_inet6")
    assert (up, loopback, interfaces) == (True, True, [(1, "lo")])


def test_without_the_capability_it_is_refused(world: World) -> None:
    def body() -> None:
        namespaces.enter("net")
        process.limit_capabilities(0)
        network.bring_loopback_up()

    with pytest.raises(StepError) as refusal:
        world.run(body)

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == ("set lo up", "net", errno.EPERM)


def test_no_descriptor_is_left_open(world: World) -> None:
    def body() -> bool:
        before = os.listdir("/proc/self/fd")
        network.bring_loopback_up()
        return before == os.listdir("/proc/self/fd")

    assert world.run(body) is True


def test_without_descriptors_it_is_that_error(in_child: InChild) -> None:
    def body() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        network.bring_loopback_up()

    with pytest.raises(StepError) as refusal:
        in_child(body)

    assert (refusal.value.step, refusal.value.errno) == ("set lo up", errno.EMFILE)
