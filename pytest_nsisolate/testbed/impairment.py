# SPDX-License-Identifier: MIT
"""What a wire does to packets, as numbers; and what it has done to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from pytest_nsisolate.errors import TestbedError
from pytest_nsisolate.kernel.originals import re

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:/s)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

#: Bytes of Ethernet before what an MTU counts.
_ETHERNET: Final = 14

_PROBABILITIES: Final = ("loss", "duplicate", "reorder", "corrupt")


@dataclass(frozen=True, slots=True)
class Impairment:
    """What one way of a wire does to packets.

    :param delay: seconds that each packet takes.
    :param jitter: seconds that it takes more or less, evenly spread; packets keep their order.
    :param loss: the part of the packets that is lost, 0 to 1.
    :param duplicate: the part that arrives twice.
    :param reorder: the part that arrives late, so that those behind it overtake it.
    :param corrupt: the part of which one bit is wrong.
    :param rate: bits in a second; 0 for no bound. A packet has to wait for those before it.
    :param mtu: bytes of the largest packet, without Ethernet's header, that passes; 0 for no bound.
    :param seed: of what is random in it. The same seed takes the same packets.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    mtu: int = 0
    seed: int = 0

    @property
    def is_random(self) -> bool:
        """A packet's fate depends on chance."""
        return bool(self.jitter or any(getattr(self, name) for name in _PROBABILITIES))

    @property
    def is_something(self) -> bool:
        """It does not leave every packet as it is."""
        return bool(self.delay or self.rate or self.mtu or self.is_random)

    @property
    def largest(self) -> float:
        """Bytes of the largest frame that passes."""
        return self.mtu + _ETHERNET if self.mtu else math.inf

    def __str__(self) -> str:
        return ", ".join(self._told()) or "nothing"

    def _told(self) -> Iterator[str]:
        if self.delay or self.jitter:
            spread = f" ± {self.jitter * 1000:g}" if self.jitter else ""
            yield f"delay {self.delay * 1000:g}{spread} ms"
        for name in _PROBABILITIES:
            if part := getattr(self, name):
                yield f"{name} {part * 100:g} %"
        if self.rate:
            yield f"rate {self.rate / 10**6:g} Mbit/s"
        if self.mtu:
            yield f"mtu {self.mtu}"


@dataclass(slots=True)
class Counts:
    """What one way of a wire has done to packets since it was first impaired.

    :param passed: packets that were handed on; duplicates count.
    :param lost: by ``loss``, ``mtu``, a full queue of ``rate``, or because the other end was down.
    :param dropped: by ``drop`` and ``partition``.
    :param duplicated: sent twice.
    :param reordered: sent late.
    :param corrupted: sent with a wrong bit.
    :param overrun: lost because the relay did not keep up.
    """

    passed: int = 0
    lost: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    overrun: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )

    def __str__(self) -> str:
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name} {number}" for name, number in found if number)


def changed(impairment: Impairment, values: Mapping[str, object]) -> Impairment:
    """With these values; what is None stays.

    :raises TestbedError: for a value that makes no sense.
    """
    __tracebackhide__ = True
    said = {name: value for name, value in values.items() if value is not None}
    if "rate" in said:
        said["rate"] = _rate(said["rate"])
    for name, value in said.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TestbedError(f"impair({name}={value!r}): not a number")
        if not 0 <= value < math.inf and name != "seed":
            raise TestbedError(f"impair({name}={value!r}): not a number from 0 on")
        if name in _PROBABILITIES and value > 1:
            raise TestbedError(f"impair({name}={value!r}): a part of the packets is 0 to 1")
    known = {field.name: getattr(impairment, field.name) for field in fields(impairment)}
    return Impairment(**{**known, **said})


def _rate(value: object) -> object:
    __tracebackhide__ = True
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise TestbedError(f'impair(rate={value!r}): bits in a second, as 5e6 or "5mbit"')
    return float(found[1]) * _UNITS[found[2].lower()]
