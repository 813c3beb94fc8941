# SPDX-License-Identifier: MIT
"""The test's side of the relay: which wires go through it, and what it does with them.

A wire that is impaired for the first time is cut in two: the host's cable leaves the switch,
another pair is plugged in there, and the relay (:mod:`.relay_loop`) stands between their ends. One
relay serves all such wires of a testbed, so that a partition is one message.

Fact: a function that chooses packets may be anything, a lambda that the test has just made.
What we do: the relay is a fork of the test. For another function, or another wire, the relay gives
what it has (settings, generators, packets on their way, counts) to the test and ends, and a new
fork goes on with it. What arrives meanwhile waits in the rings. Numbers alone are one message to
the relay that is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from pytest_nsisolate.errors import IsolatedLoss, NsisolateOverrunWarning, TestbedError, failing
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import links, process
from pytest_nsisolate.kernel.originals import os, posix, socket, traceback
from pytest_nsisolate.kernel.packet_sockets import PacketRing
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.testbed import relay_loop
from pytest_nsisolate.testbed.relay_loop import Ends, Loop, Way
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.process.channel import Output
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.testbed.fabric import Fabric
    from pytest_nsisolate.testbed.packets import Packet

#: Packets that wait at each end of a wire for the relay: 4 MB.
SLOTS: Final = 2048

#: Seconds in which the relay answers.
_PATIENCE: Final = 10.0

#: Wire, whether from its host, what is set, and to what.
Change: TypeAlias = "tuple[str, bool, str, Any]"


class Relay:
    """What a testbed has of its relay; the process starts with the first wire.

    :param launcher: gives the launcher of this process.
    :param of: whose it is, for messages.
    """

    def __init__(self, launcher: Callable[[], Launcher], of: str = "the testbed") -> None:
        self._launcher = launcher
        self._name = f"the relay of {of}"
        self._ways: dict[str, tuple[Way, Way]] = {}
        self._ends: dict[str, Ends] = {}
        self._functions: dict[int, Callable[[Packet], object]] = {}
        self._child: ChildProcess | None = None
        self._connection: socket.socket | None = None

    def serves(self, wire: str) -> bool:
        """Whether this wire goes through it."""
        return wire in self._ways

    def ways(self, wire: str) -> tuple[Way, Way]:
        """From the host and to it, as of the last answer."""
        return self._ways[wire]

    @property
    def pids(self) -> frozenset[int]:
        """The numbers of its processes, as the test sees them."""
        if self._child is None:
            return frozenset()
        end = self._child.end
        return frozenset(pid for pid in (end.forked, end.pid1) if pid is not None)

    # Wires ---------------------------------------------------------------------------------------

    def take_on(self, wire: str, ends: Ends) -> None:
        """A wire whose ends are open from now on: a new one, or one whose host is up again."""
        self._stop()
        self._ways.setdefault(wire, (Way(wire, sent=True), Way(wire, sent=False)))
        self._ends[wire] = ends
        self._start()

    def let_go(self, wire: str) -> None:
        """Its host has crashed: what was on its way is lost, what was set stays."""
        self._stop()
        self._ends.pop(wire).close()
        for way in self._ways[wire]:
            way.counts.lost += len(way.queue) + len(way.waiting)
            way.queue.clear()
            way.waiting.clear()
        if self._ends:
            self._start()

    # What it does --------------------------------------------------------------------------------

    def change(self, changes: Iterable[Change]) -> None:
        """Set all of this between two packets."""
        self._ask([*changes])

    def block(self, sources: Mapping[str, frozenset[bytes]]) -> None:
        """From now on nothing that one of these has sent reaches the host of a wire.

        :param sources: hardware and IP addresses, by wire; those that it does not serve are left
            out.
        """
        served = {wire: found for wire, found in sources.items() if self.serves(wire)}
        self.change((wire, False, "blocked", found) for wire, found in served.items())

    def add_function(self, match: Callable[[Packet], object], changes: Iterable[Change]) -> int:
        """Another function that chooses packets.

        :param changes: made before it is there.
        :returns: its number.
        """
        self._stop()
        number = len(self._functions) + 1
        self._functions[number] = match
        for wire, sent, _, times in changes:
            self._ways[wire][0 if sent else 1].drops[number] = times
        self._start()
        return number

    def refresh(self) -> None:
        """Ask it what it has done."""
        if self._child is not None:
            self._ask([])

    def failures(self) -> list[str]:
        """What the functions have raised that choose packets; once."""
        found = []
        for ways in self._ways.values():
            for way in ways:
                found += [f"{way.wire}: {text}" for text in way.failures]
                way.failures.clear()
        return found

    def overrun(self, wires: Iterable[str]) -> dict[str, int]:
        """How many packets were lost because it did not keep up, by wire; asked at the end."""
        try:
            self.refresh()
        except IsolatedLoss:
            pass  # what it was asked last has said so
        found = {}
        for wire in filter(self.serves, wires):
            if lost := sum(way.counts.overrun for way in self.ways(wire)):
                found[wire] = lost
        return found

    # The process ---------------------------------------------------------------------------------

    def _ask(self, changes: list[Change], *, stop: bool = False) -> None:
        connection = self._connection
        if connection is None:
            self._apply(changes)
            return
        answer = None
        try:
            relay_loop.send(connection, {"changes": changes, "stop": stop})
            answer = relay_loop.receive(connection)
        except OSError:
            pass
        if answer is None:
            said = self._last_words()
            self._abandon()
            raise IsolatedLoss(self._name, said)
        self._ways, positions = answer
        for wire, found in positions.items():
            self._ends[wire].positions = found

    def _apply(self, changes: Iterable[Change]) -> None:
        """Without a relay at work: all hosts that it serves have crashed."""
        idle = Loop(self._ways, {}, {}, socket.socket())
        for change in changes:
            idle.change(*change)

    def _start(self) -> None:
        with failing("socketpair", None):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def prepare(_: Output) -> Callable[[FrameWriter], NoReturn]:
            loop = Loop(self._ways, self._ends, self._functions, theirs)
            return partial(_run, loop, ours)

        launcher = self._launcher()
        request = IsolationRequest(frozenset({"pid"}), user="none")
        try:
            with failing("bound the waiting for the relay", None):
                ours.settimeout(_PATIENCE)
            with launcher.lock:
                self._child = launcher.start(request, prepare, budget=None)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._connection = ours
        self._child.get_ready()
        ended = self._child.outcome
        if ended is not None:
            self._abandon()
            reason = ended.headline() if isinstance(ended, Refusal) else str(ended)
            raise IsolatedLoss(self._name, reason)

    def _stop(self) -> None:
        if self._child is not None:
            self._ask([], stop=True)
            self._abandon()

    def _last_words(self) -> str:
        assert self._child is not None
        fd = self._child.end.output.fault
        text = os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace").strip()
        return text or "it does not answer"

    def _abandon(self) -> None:
        child, self._child = self._child, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if child is not None:
            child.end_and_reap()

    @contextmanager
    def closing(self, wires: Iterable[str]) -> Iterator[None]:
        """Close it, and when this block has ended tell of what did not go as it should have.

        :param wires: all wires of the testbed.
        :raises TestbedError: when a function that chooses packets has failed.
        """
        overrun = self.overrun(wires)
        self.close()
        yield
        if failures := self.failures():
            raise TestbedError(f"a function given to drop() has failed: {failures[0]}")
        if overrun:
            lost = ", ".join(f"{wire} {packets}" for wire, packets in overrun.items())
            text = f"{self._name} did not keep up, packets were lost: {lost}"
            warnings.warn(NsisolateOverrunWarning(text), stacklevel=4)

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._abandon()
        for ends in self._ends.values():
            ends.close()
        self._ends.clear()


def split(fabric: Fabric, port: int, name: str, bridge: int) -> tuple[Ends, int]:
    """Cut a wire in two, with room for a relay between the parts.

    :param port: the host's cable at the switch.
    :param name: its name.
    :param bridge: the switch.
    :returns: the ends, and the number of the link that is the other part.
    """
    near, far = fabric.number(), fabric.number()
    inner, outer = f"relay{near}", f"behind{far}"
    fabric.add_cable(inner, near, links.cable_end(outer, index=far), None)
    with failing("put a relay into a wire", "net"), ExitStack() as undoing:
        network, host = (
            undoing.enter_context(
                closing(PacketRing(fabric.netns, link, slots=SLOTS, outgoing=False, ready=False))
            )
            for link in (inner, name)
        )
        # Before the host is cut off, because the kernel needs some time for that.
        network.make()
        host.make()
        fabric.links.set_up(far, up=True)
        links.stop_offloading(fabric.netns, outer)
        fabric.links.plug(far, bridge)
        fabric.links.await_carrier(near)
        fabric.links.await_carrier(far)
        network.listen()
        fabric.links.plug(port, 0)
        host.listen()
        undoing.pop_all()
    return Ends(host, network), near


def _run(loop: Loop, theirs: socket.socket, writer: FrameWriter) -> NoReturn:
    """In the relay: nothing of the test's runs here but the functions that choose packets."""
    try:
        process.block_signals()
        theirs.close()
        writer.send_ready()
        loop.run()
    except BaseException as error:
        writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
    finally:
        posix._exit(0)
