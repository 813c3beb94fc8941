# SPDX-License-Identifier: MIT
"""Which tests live in one world (``share=``), and whether they can.

A world lives as long as a fixture of its scope would: until its node has no further test. All its
tests are copies of the one process in it, the keeper, so what they inherit of the runner is what
stood when the world began. A wider fixture that the runner makes anew meanwhile cannot be theirs:
that is a usage error here, before any test has run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import pytest

from pytest_nsisolate.request.model import SCOPES, IsolationRequest
from pytest_nsisolate.request.resolve import refuse_unknown
from pytest_nsisolate.request.wording import MarkerProblem, spelled

_NODES: Final[dict[str, type[pytest.Collector]]] = {
    "class": pytest.Class,
    "module": pytest.Module,
    "package": pytest.Package,
}

#: What tests of one world may have of their own.
_OWN: Final = {
    "timeout": None,
    "leftovers": "ignore",
    "exclusive": frozenset[str](),
    "missing": "fail",
    "named": frozenset[str](),
}


class WorldFixtures(NamedTuple):
    """What there is to know of the fixtures of a test that shares a world.

    :param in_runner: those that the runner sets up: name to scope, and whether it has a parameter.
    :param visible: of some names, those that it could use.
    """

    in_runner: Callable[[pytest.Item, IsolationRequest], Mapping[str, tuple[str, bool]]]
    visible: Callable[[pytest.Item, frozenset[str]], frozenset[str]]


class Place(NamedTuple):
    """Where a world stands in the tree of a session.

    :param name: what the marker says.
    :param node: its end is that of the world.
    """

    name: str
    node: pytest.Item | pytest.Collector

    def __str__(self) -> str:
        where = self.node.nodeid or "the session"
        if self.name in SCOPES:
            return where if self.name == "session" else f"{self.name} {where}"
        return repr(self.name)


def place_of(item: pytest.Item, request: IsolationRequest) -> Place | None:
    """The world of a test that shares one; None if it is in no class, module or package."""
    assert request.share is not None
    kind = _NODES.get(request.share)
    node = item.session if kind is None else item.getparent(kind)
    return None if node is None else Place(request.share, node)


def agrees(one: IsolationRequest, other: IsolationRequest) -> bool:
    """Whether tests with these requests may live in one world."""
    return replace(one, **_OWN) == replace(other, **_OWN)  # type: ignore[arg-type]


def check(
    items: Sequence[pytest.Item],
    requests: Sequence[IsolationRequest | None],
    asked: WorldFixtures | None,
    problems: dict[str, list[pytest.Item]],
) -> None:
    """Note what keeps tests from sharing a world.

    :param asked: tells of fixtures; None checks none.
    :param problems: gets a sentence, and the tests that it is about.
    """
    first: dict[Place, tuple[pytest.Item, IsolationRequest]] = {}
    for item, request in zip(items, requests, strict=True):
        if request is None or request.share is None:
            continue
        said = spelled({"share": request.share})
        place = place_of(item, request)
        if place is None:
            problems.setdefault(f"{said}: this test is in no {request.share}", []).append(item)
            continue
        opener, agreed = first.setdefault(place, (item, request))
        if not agrees(request, agreed):
            text = f"{said}: in one world all tests ask for the same, and these differ in "
            text += f"{', '.join(_differences(request, agreed))} from {opener.nodeid}"
            problems.setdefault(text, []).append(item)
        if asked is not None:
            found = _made_anew(asked.in_runner(item, request), said)
            try:
                if request.inside is not True:
                    refuse_unknown(request.inside, asked.visible(item, request.inside))
            except MarkerProblem as error:
                found += error.problems
            for problem in found:
                problems.setdefault(problem, []).append(item)


def _differences(one: IsolationRequest, other: IsolationRequest) -> list[str]:
    names = (name for name in IsolationRequest.__slots__ if name not in _OWN)
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _made_anew(found: Mapping[str, tuple[str, bool]], said: str) -> list[str]:
    return [
        f"{said}: the fixture {name!r} has a parameter, and the runner may set it up anew when the "
        f"world has begun; inside=[{name!r}] sets it up in the world"
        for name, (_, has_parameter) in found.items()
        if has_parameter
    ]
