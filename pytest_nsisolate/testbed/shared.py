# SPDX-License-Identifier: MIT
"""A testbed that the tests of a module share: made in the keeper of their world, used by its forks.

What a test has started on hosts, and the relay that disturbs wires for it, ends with the test, in
the test's own process. What it has left in the kernel the keeper makes good before the next test,
however the test has ended: links that it has added, wires that it has cut or taken out of their
switches, processes on hosts whose parents are gone.

What stays is what tests of one world leave to each other elsewhere too: files of a host, addresses
and routes that a program has set there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open
from pytest_nsisolate.testbed.bed import Testbed
from pytest_nsisolate.testbed.fixture import KeptPackets, shown
from pytest_nsisolate.testbed.tenure import Tenure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_nsisolate.child.keeper import Keeper
    from pytest_nsisolate.isolate.fixture import Isolate
    from pytest_nsisolate.testbed.wire import Wire


@contextmanager
def opened(
    config: pytest.Config,
    isolate: Isolate,
    home: Mapping[str, int],
    keeper: Keeper,
    keep: Literal["failed", "all", "none"],
) -> Iterator[Testbed]:
    """A testbed for all tests of a module, in the keeper of their world.

    :param home: the runner's namespaces.
    :param keep: of which tests the packets are kept as a file.
    """
    made = Testbed(isolate, home, Tenure(shared=True))
    guest = Shared(made)
    visit = Visit(made, KeptPackets(made, config, keep), keep)
    with shown(config, made, visit):
        keeper.guests.append(guest)
        try:
            yield made
        finally:
            keeper.guests.remove(guest)


class Visit:
    """The end of each test that shares a testbed, in that test: a hook that it inherits."""

    def __init__(self, testbed: Testbed, kept: KeptPackets, keep: str) -> None:
        self._testbed = testbed
        self._keep = keep
        self._kept = kept

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._kept.add_to(report, item.nodeid)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            if self._testbed.tenure.is_guest:
                if self._keep == "all":
                    self._kept.write(item.nodeid)
                self._end()

    def _end(self) -> None:
        testbed = self._testbed
        testbed.take_packets()
        with testbed.relay.closing(wire.name for wire in testbed.wires):
            for host in testbed.hosts.values():
                for program in host.programs:
                    if program.is_own:
                        program.kill()


class Shared:
    """What the keeper does with a testbed when a test has ended."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed

    def orphans(self) -> set[int]:
        """Processes on its hosts that PID 1 there has taken on, and that run."""
        found: set[int] = set()
        for host in self._testbed.hosts.values():
            if not host.crashed:
                with suppress(FileNotFoundError, ProcessLookupError):
                    found.update(filter(_runs, proc.children_of(host.pid)))
        return found

    def make_good(self) -> None:
        """
        :raises StepError: which ends the world.
        """
        testbed = self._testbed
        testbed.take_packets()
        testbed.recorder.clear()
        if not testbed.networks:
            return
        with failing("delete what a test has added to the testbed", "net"):
            testbed.fabric.forget_newer()
        for host in testbed.hosts.values():
            if not host.crashed:
                for wire in host.wires.values():
                    _restore(testbed, wire)


def _restore(testbed: Testbed, wire: Wire) -> None:
    with failing(f"restore the wire {wire.name}", "net"):
        testbed.fabric.links.plug(wire.number, wire.network.bridge)
        testbed.fabric.links.set_up(wire.number, up=not wire.is_cut)
    if not wire.is_cut:
        wire.await_carrier()


def _runs(pid: int) -> bool:
    """Not a zombie, which its PID 1 may never wait for if a test has stopped that."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return proc.stat(file.read()).state not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
