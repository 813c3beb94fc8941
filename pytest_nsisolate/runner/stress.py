# SPDX-License-Identifier: MIT
"""``--nsisolate-stress``: the selected tests again and again, until one fails.

Fact: each isolated test starts with the runner's state of :mod:`random`, so that every round would
get the same numbers. What we do: each round has a seed of its own, and a failure names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import of_the_suite, random, re

_VALUE = re.compile(
    r"(?:(?P<rounds>\d+)|(?P<number>\d+(?:\.\d+)?)(?P<unit>[smh]))(?:@(?P<seed>\d+))?"
)
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Stress:
    """How often.

    :param rounds: so many, or None.
    :param seconds: no round begins after so long, or None.
    :param seed: of the first round; each has the next one.
    """

    rounds: int | None
    seconds: float | None
    seed: int

    @classmethod
    def parse(cls, text: str) -> Stress:
        """``100``, ``30s``, ``10m``, ``2h``; ``@SEED`` behind it.

        :raises ValueError: for anything else.
        """
        found = _VALUE.fullmatch(text)
        rounds = seconds = None
        if found is not None and found["rounds"] is not None:
            rounds = int(found["rounds"])
        elif found is not None:
            seconds = float(found["number"]) * _UNITS[found["unit"]]
        if found is None or not (rounds or seconds):
            raise ValueError(f"{text!r} is no number of rounds and no time (100, 30s, 10m, 2h)")
        seed = (
            random.SystemRandom().getrandbits(31) if found["seed"] is None else int(found["seed"])
        )
        return cls(rounds, seconds, seed)


class StressLoop:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self, stress: Stress) -> None:
        self._stress = stress
        self._round = 0
        self._began = 0.0
        self._properties: dict[pytest.Item, int] = {}
        self._failed = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Rounds, until a test fails or it has been often, or long, enough."""
        if session.testsfailed or session.config.option.collectonly or not session.items:
            return None
        self._properties = {item: len(item.user_properties) for item in session.items}
        self._began = monotonic()
        while not (self._failed or self._is_over()):
            of_the_suite("random").seed(self._stress.seed + self._round)
            self._round += 1
            self._run_once(session)
        return True

    def _is_over(self) -> bool:
        if self._stress.rounds is not None:
            return self._round >= self._stress.rounds
        return self._seconds() >= (self._stress.seconds or 0)

    def _run_once(self, session: pytest.Session) -> None:
        last = self._stress.rounds == self._round
        following = [*session.items[1:], None if last else session.items[0]]
        for item, nextitem in zip(session.items, following, strict=True):
            # What earlier rounds have left there would be in this one's report.
            internals.report_sections(item).clear()
            del item.user_properties[self._properties[item] :]
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            if session.testsfailed:
                self._failed = item.nodeid
                return
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)

    def _seconds(self) -> float:
        return monotonic() - self._began

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """How often, and how to have the failure again."""
        if not self._round:
            return
        rounds = f"{self._round} round{'s' if self._round > 1 else ''}"
        if self._failed:
            seed = self._stress.seed + self._round - 1
            again = f"--nsisolate-stress=1@{seed} {self._failed}"
            line = f"nsisolate: stress: failed in round {self._round}; the same seed: {again}"
            terminalreporter.write_line(line, red=True)
        else:
            line = f"nsisolate: stress: no failure in {rounds}, {self._seconds():.1f} s"
            terminalreporter.write_line(line)
