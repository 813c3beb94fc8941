# SPDX-License-Identifier: MIT
"""What a test may do to packets that go through a relay: on a wire, or on its own ``lo``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.isolate.fixture import note_moment
from pytest_nsisolate.testbed.impairment import Counts, Impairment, changed

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.fixture import Isolate
    from pytest_nsisolate.testbed.packets import Packet
    from pytest_nsisolate.testbed.relay import Change, Relay

#: From the host, and to it.
BOTH_WAYS: Final = (True, False)


class Disturbed(ABC):
    """What :class:`.Wire` and :class:`.Loopback` have in common.

    :ivar name: by which the relay knows it.
    """

    name: str
    _isolate: Isolate

    @property
    @abstractmethod
    def _relay(self) -> Relay:
        """What hands its packets on."""

    @abstractmethod
    def ensure_relayed(self) -> None:
        """There is a relay in it, or an :class:`IsolatedRefusal` says why not."""

    @abstractmethod
    def _refusing(self) -> AbstractContextManager[None]:
        """A block in which a step that this host denies is a refusal with its remedy."""

    def _note(self, what: str) -> None:
        """For the trace of the run: what has become of it."""
        note_moment(self._isolate, f"{self.name} {what}", "wire")

    def _impair(self, ways: tuple[bool, ...], values: Mapping[str, object]) -> Impairment:
        __tracebackhide__ = True
        changed(Impairment(), values)
        self.ensure_relayed()
        found = Impairment()
        changes: list[Change] = []
        for way in self._relay.ways(self.name):
            if way.sent in ways:
                found = changed(way.impairment, values)
                reseed = values.get("seed") is not None
                changes.append((self.name, way.sent, "impairment", (found, reseed)))
        self._relay.change(changes)
        self._note("impaired")
        return found

    def _drop(
        self, ways: tuple[bool, ...], match: Callable[[Packet], object], times: int | None
    ) -> Dropping:
        __tracebackhide__ = True
        self.ensure_relayed()
        most = math.inf if times is None else times
        changes: list[Change] = [(self.name, sent, "drops", most) for sent in ways]
        with self._refusing():
            number = self._relay.add_function(match, changes)
        self._note("drops packets")
        return Dropping(self, number)

    def clear(self) -> None:
        """Back to good: no impairment, no :meth:`drop`, nothing held. A cut of a wire stays."""
        if self._relay.serves(self.name):
            changes: list[Change] = []
            for sent in BOTH_WAYS:
                changes += [
                    (self.name, sent, "impairment", (Impairment(), True)),
                    (self.name, sent, "drops", {}),
                    (self.name, sent, "held", False),
                ]
            self._relay.change(changes)
            self._note("cleared")

    def hold(self) -> None:
        """Keep all packets until :meth:`release`; of a wire, both ways."""
        __tracebackhide__ = True
        self.ensure_relayed()
        self._relay.change((self.name, sent, "held", True) for sent in BOTH_WAYS)
        self._note("held")

    def release(self) -> None:
        """Let go what was held, in its order."""
        if self._relay.serves(self.name):
            self._relay.change((self.name, sent, "held", False) for sent in BOTH_WAYS)
            self._note("released")

    @property
    def counts(self) -> Counts:
        """What it has done to packets, all ways together, since it was first disturbed."""
        if not self._relay.serves(self.name):
            return Counts()
        self._relay.refresh()
        out, back = self._relay.ways(self.name)
        return out.counts + back.counts


class Dropping:
    """What ``drop(...)`` has begun."""

    def __init__(self, of: Disturbed, number: int) -> None:
        self._of = of
        self._number = number

    @property
    def count(self) -> int:
        """Packets that it has taken so far."""
        relay = self._of._relay
        relay.refresh()
        return sum(way.taken.get(self._number, 0) for way in relay.ways(self._of.name))

    def stop(self) -> None:
        """Take no more."""
        name = self._of.name
        self._of._relay.change((name, sent, "undrop", self._number) for sent in BOTH_WAYS)
        self._of._note("drops no more")
