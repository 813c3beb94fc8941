# SPDX-License-Identifier: MIT
"""What a test may do to its own ``lo``: ``pid1.loopback``.

A rule of nftables takes each packet that arrives at ``lo`` to one end of a veth pair. The other end
is in a network namespace without a process, and there the relay (:mod:`.relay`) reads. What it lets
pass it sends on ``lo`` once more, with a mark by which the rule knows it.

Fact: a packet that is sent again has lost the route that the kernel gave it, and with one from
``127.0.0.1`` the kernel takes it for a forgery; and a slot of the relay is smaller than the largest
packet of ``lo``.
What we do: from the first disturbance on, until the test ends, ``route_localnet`` and
``accept_local`` of ``lo`` are 1 and its MTU is 1,500.

What still fails: in a world that tests share, a test that is killed leaves these three to the next
one. The rule ends with the socket that it was made by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pytest_nsisolate.errors import IsolatedLoss, StepError, TestbedError, failing
from pytest_nsisolate.isolate.fixture import Isolate, make
from pytest_nsisolate.kernel import links
from pytest_nsisolate.kernel.nftables import Diversion
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.kernel.packet_sockets import PacketRing, PacketSender
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.testbed.bed import Refusing
from pytest_nsisolate.testbed.disturbance import Disturbed, Dropping
from pytest_nsisolate.testbed.fabric import write_sysctl
from pytest_nsisolate.testbed.fixture import obstacle
from pytest_nsisolate.testbed.impairment import Impairment
from pytest_nsisolate.testbed.relay import SLOTS, Relay
from pytest_nsisolate.testbed.relay_loop import Ends
from pytest_nsisolate.view.postmortem.layout import ADDITIONS

if TYPE_CHECKING:
    import pytest

    from pytest_nsisolate.runner.run import Run
    from pytest_nsisolate.testbed.packets import Packet
    from pytest_nsisolate.testbed.relay_loop import Lane, Way
    from pytest_nsisolate.view.postmortem.layout import Part, Told

#: The end of the veth pair that stands beside ``lo``, and the other one.
NEAR: Final = "nsisolate-lo"
_FAR: Final = "relay"
_FAR_INDEX: Final = 2

#: That of packets that have been at the relay: "ns", "lo".
_MARK: Final = 0x6E736C6F

#: Bytes of the largest packet, from then on.
MTU: Final = 1500

#: Parameters of lo, below ``/proc/sys/net/ipv4/conf/lo``.
_SYSCTLS: Final = ("route_localnet", "accept_local")


class _Closable(Protocol):
    def close(self) -> None: ...


_T = TypeVar("_T", bound=_Closable)


class Offer:
    """``pid1.loopback`` of one test: made when the test asks, and then the same each time."""

    def __init__(self, config: pytest.Config, run: Run) -> None:
        self._config = config
        self._run = run
        self._made: Loopback | None = None
        self._process = here()

    def __call__(self) -> Loopback:
        """
        :raises TestbedError: where this test, or this process, cannot have one.
        """
        __tracebackhide__ = True
        if self._process is not here():
            raise TestbedError("pid1.loopback belongs to the test's own process, not to a fork")
        if self._made is None:
            run = self._run
            assert run.request is not None
            if why := obstacle(run.request):
                raise TestbedError(f"pid1.loopback: this test {why}")
            calls = run.calls
            isolate = (
                make(self._config, run) if calls is None else Isolate(calls, {}, trusted=False)
            )
            self._made = Loopback(isolate)
            ADDITIONS.append(self._made)
        return self._made

    def helpers(self) -> dict[int, str]:
        """Processes that are not the test's, by number, and what to call them."""
        relayed = frozenset() if self._made is None else self._made.processes()
        return {**self._run.helpers(), **dict.fromkeys(relayed, "(the relay of lo)")}

    def close(self) -> None:
        """At the end of the test; in a copy of its process, nothing."""
        made, self._made = self._made, None
        if made is not None and self._process is here():
            ADDITIONS.remove(made)
            made.close()


@contextmanager
def offered(config: pytest.Config, run: Run) -> Iterator[Offer]:
    """What makes the loopback of a test, and ends what it does."""
    offer = Offer(config, run)
    try:
        yield offer
    finally:
        offer.close()


class Loopback(Disturbed):
    """The ``lo`` of an isolated test, as ``pid1.loopback``. All its packets have one way.

    From the first disturbance until the test ends its MTU is 1,500, and beside it stands an
    interface ``nsisolate-lo`` without addresses.
    """

    name = "lo"

    def __init__(self, isolate: Isolate) -> None:
        self._isolate = isolate
        self._hub = Relay(isolate.launcher, "the loopback")
        self._path: ExitStack | None = None

    @property
    def _relay(self) -> Relay:
        return self._hub

    def _refusing(self) -> Refusing:
        return Refusing(self._isolate, "pid1.loopback")

    def impair(  # noqa: PLR0913 (a keyword for each thing that it can do)
        self,
        *,
        delay: float | None = None,
        jitter: float | None = None,
        loss: float | None = None,
        duplicate: float | None = None,
        reorder: float | None = None,
        corrupt: float | None = None,
        rate: float | str | None = None,
        mtu: int | None = None,
        seed: int | None = None,
    ) -> Impairment:
        """As :meth:`.Wire.impair`, for each packet that the test sends to itself.

        :param delay: seconds that each packet takes; an answer takes them once more.
        :raises TestbedError: for a value that makes no sense.
        :raises IsolatedRefusal: when this host refuses something.
        """
        __tracebackhide__ = True
        values: dict[str, object] = {
            "delay": delay,
            "jitter": jitter,
            "loss": loss,
            "duplicate": duplicate,
            "reorder": reorder,
            "corrupt": corrupt,
            "rate": rate,
            "mtu": mtu,
            "seed": seed,
        }
        return self._impair((True,), values)

    def drop(self, match: Callable[[Packet], object], *, times: int | None = None) -> Dropping:
        """As :meth:`.Wire.drop`.

        :param match: called with each packet, in the process of the relay: what it changes in
            memory stays there.
        :param times: how many packets it takes; without, every one.
        """
        __tracebackhide__ = True
        return self._drop((True,), match, times)

    @property
    def state(self) -> str:
        """What is different from an undisturbed ``lo``, in a few words; empty for nothing."""
        if self._path is None:
            return ""
        way, _ = self._hub.ways(self.name)
        told = [str(way.impairment)] if way.impairment.is_something else []
        told += ["held"] if way.held else []
        return "; ".join(filter(None, [*told, str(way.counts)]))

    # The way through the relay -------------------------------------------------------------------

    def ensure_relayed(self) -> None:
        """What arrives at ``lo`` goes to the relay first."""
        __tracebackhide__ = True
        if self._path is None:
            with self._refusing(), ExitStack() as path:
                path.callback(self._hub.close)
                ends, near = _laid(path)
                self._hub.take_on(self.name, ends)
                _divert(path, near)
                self._path = path.pop_all()

    def close(self) -> None:
        """``lo`` is as it was."""
        path, self._path = self._path, None
        if path is not None:
            with self._hub.closing([self.name]):
                path.close()

    # Of the report, see ADDITIONS -----------------------------------------------------------------

    def processes(self) -> frozenset[int]:
        """Those of the relay."""
        return self._hub.pids

    def parts(self) -> list[Part]:
        """What it does to packets."""
        return [("lo", self._told)] if self._path is not None else []

    def _told(self) -> Told:
        with suppress(IsolatedLoss):  # the test has been told
            self._hub.refresh()
        return [f"lo goes through a relay: {self.state or 'nothing has passed'}"]

    def __repr__(self) -> str:
        return f"<loopback{f' ({self.state})' if self.state else ''}>"


class _LoopbackEnds(Ends):
    """Where what arrives at ``lo`` is read, and where it is sent once more."""

    def __init__(self, ring: PacketRing, lo: PacketSender) -> None:
        self._ring = ring
        self._lo = lo

    def lanes(self, ways: tuple[Way, Way]) -> Iterator[Lane]:
        """The second way has no packets."""
        yield ways[0], self._ring, self._lo

    @property
    def positions(self) -> tuple[int, int]:
        return self._ring.position, 0

    @positions.setter
    def positions(self, found: tuple[int, int]) -> None:
        self._ring.position = found[0]

    def close(self) -> None:
        self._ring.close()
        self._lo.close()


def _laid(path: ExitStack) -> tuple[_LoopbackEnds, int]:
    """A veth pair from beside ``lo`` to the relay, and its sockets.

    :param path: gets what undoes it.
    :returns: where the relay reads and sends, and the number of the end beside ``lo``.
    :raises StepError: naming what this host has refused.
    """
    with failing("unshare(CLONE_NEWNET)", "net"):
        netns = links.new_network()
        path.callback(os.close, netns)
    with failing("open a netlink socket", "net"):
        with links.inside(netns):
            write_sysctl("net/ipv6/conf/default/disable_ipv6", "1", absent=True)
        far = _closed_with(path, links.Links(netns))
        own = _closed_with(path, links.Links(None))
    with failing("add a veth pair", "net"), _own_network() as home:
        _undo(lambda: own.delete(own.index(NEAR)))  # a killed test's, on its way out
        near_end = links.cable_end(NEAR, index=0, netns=home)
        far.add_cable(_FAR_INDEX, _FAR, bridge=None, peer=near_end)
        path.callback(_undo, far.delete, _FAR_INDEX)
        links.stop_offloading(home, NEAR)
    write_sysctl(f"net/ipv6/conf/{NEAR}/disable_ipv6", "1", absent=True)
    with failing("set a wire up or down", "net"):
        near = own.index(NEAR)
        own.set_up(near, up=True)
        own.await_carrier(near)
        far.await_carrier(_FAR_INDEX)
    with failing("open a packet socket", "net"):
        ring = _closed_with(path, PacketRing(netns, _FAR, slots=SLOTS, outgoing=False))
        lo = _closed_with(path, PacketSender("lo", _MARK))
    _change_lo(path, own)
    return _LoopbackEnds(ring, lo), near


def _change_lo(path: ExitStack, own: links.Links) -> None:
    for name in _SYSCTLS:
        parameter = f"net/ipv4/conf/lo/{name}"
        with (
            failing(f"read /proc/sys/{parameter}", "net"),
            open(f"/proc/sys/{parameter}", encoding="utf-8") as file,
        ):
            before = file.read().strip()
        path.callback(_undo, write_sysctl, parameter, before)
        # After that: the file's close() writes once more what write(2) has refused.
        write_sysctl(parameter, "1")
    with failing("set the MTU of lo", "net"):
        size = own.mtu(links.LOOPBACK)
        if size > MTU:
            path.callback(_undo, own.set_mtu, links.LOOPBACK, size)
            own.set_mtu(links.LOOPBACK, MTU)


def _divert(path: ExitStack, near: int) -> None:
    with failing("divert lo", "net"):
        diversion = Diversion("lo", near, _MARK)
    path.callback(_undo, diversion.close)


def _closed_with(path: ExitStack, thing: _T) -> _T:
    path.callback(thing.close)
    return thing


def _undo(step: Callable[..., None], *arguments: object) -> None:
    """The test may have undone it, or have given up the rights for it; its network ends with it."""
    with suppress(OSError, StepError):
        step(*arguments)


@contextmanager
def _own_network() -> Iterator[int]:
    netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield netns
    finally:
        os.close(netns)
