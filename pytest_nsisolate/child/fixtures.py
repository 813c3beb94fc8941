# SPDX-License-Identifier: MIT
"""Which fixtures and finalizers live on which side of the clone (law 3).

Fact: pytest keeps finalizers per node in ``SetupState``, and a fork copies all of them. A child
that tears its nodes down runs the finalizers of module and session fixtures that the runner set up
and still uses: the peers stop the session's server after the first isolated test.

Consequence: what is registered before the clone belongs to the runner, and the child forgets it.
What is registered after it belongs to the child, whatever its scope, and runs in the teardown
phase of the test. The runner's stack keeps the item with no finalizer of its own, so that
``teardown_exact(nextitem)`` there does what it would have done anyway.

Scopes above function are set up in the runner just before the clone, in the order in which pytest
would have done it: ``fixturenames`` is sorted by scope, and a fixture cannot depend on a narrower
scope than its own.

What still fails: a finalizer that the runner registered and that relies on what the test changed
in memory sees the runner's memory, which the test never touched.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Literal

import pytest

from pytest_nsisolate.child import strays
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import gc
from pytest_nsisolate.request.model import OF_WORLDS, SCOPES, IsolationRequest


def set_up_higher_scopes(
    item: pytest.Item, inside: frozenset[str], *, before: Callable[[], None]
) -> None:
    """Set up, in the runner, every fixture of the item whose scope is wider than function.

    :param inside: names that are left to the child (see :func:`left_to_child`).
    :param before: called if one of them is not there yet.
    :raises BaseException: whatever a fixture raises, as un-isolated pytest would see it.
    """
    names = [name for name in internals.higher_scope_names(item) if name not in inside]
    if names:
        if not all(internals.is_set_up(item, name) for name in names):
            before()
        with strays.caught(item):
            internals.set_up_fixtures(item, names)


def ends_wider_fixtures(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Whether tear-down in the runner is going to finalize a wider fixture."""
    chain = [] if nextitem is None else nextitem.listchain()
    # Each node has a finalizer of its own: its ``teardown``.
    return any(
        len(finalizers) > 1
        for node, (finalizers, _) in internals.setup_stack(item).items()
        if node not in chain
    )


def left_to_child(item: pytest.Item, inside: frozenset[str] | Literal[True]) -> frozenset[str]:
    """The higher-scope fixtures that ``inside`` moves into the child.

    The named ones, what they depend on, and what depends on them (it could not be set up in the
    runner without them).
    """
    if not inside:
        return frozenset()
    higher = frozenset(internals.higher_scope_names(item))
    if inside is True:
        return higher
    needs = {name: _closure(item, name) & higher for name in higher}
    wanted: frozenset[str] = frozenset().union(*(needs[name] for name in inside & higher))
    return wanted | {name for name in higher if needs[name] & inside}


def of_world(item: pytest.Item, request: IsolationRequest) -> frozenset[str]:
    """The higher-scope fixtures that are set up in the world that the item shares.

    As :func:`left_to_child`, those that are of a world by nature, those of a narrower scope than
    the world, which have their turn when it has begun, and the one of a ``unittest`` class that
    does nothing.
    """
    inside = request.inside if request.inside is True else request.inside | OF_WORLDS
    left = left_to_child(item, inside) | internals.idle_class_fixtures(item)
    scopes = internals.higher_scopes(item, internals.higher_scope_names(item))
    reach = SCOPES.index(request.share) if request.share in SCOPES else len(SCOPES) - 1
    return left | {name for name, (scope, _) in scopes.items() if SCOPES.index(scope) < reach}


def of_runner(item: pytest.Item, request: IsolationRequest) -> list[str]:
    """The others, which the runner sets up, in that order."""
    left = of_world(item, request)
    return [name for name in internals.higher_scope_names(item) if name not in left]


def _closure(item: pytest.Item, name: str) -> frozenset[str]:
    """The fixture and everything that it depends on."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(internals.fixture_arguments(item, current))
    return frozenset(seen)


class OwnFinalizers:
    """Makes the child forget the runner's finalizers and own every one that comes.

    Made in the runner, where building it costs no page; it changes nothing before :meth:`apply`.

    :param inside: higher-scope fixtures that this child sets up anew, even if the runner has an
        instance for other tests.
    """

    def __init__(self, item: pytest.Item, inside: Iterable[str]) -> None:
        self._item = item
        self._inside = tuple(inside)
        # The runner's stays alive in the child: to free it would write to each finalizer in it.
        self._runners = stack = internals.setup_stack(item)
        self._order = list(stack)
        # The collection runs after every other finalizer: garbage with a __del__ that raises is
        # found while pytest can still say so. Un-isolated, a later collection would find it.
        self._own: list[Callable[[], object]] = [_collect_garbage] if gc.isenabled() else []
        self._own.append(item.teardown)
        self._first_wider = len(self._own) - 1
        self._depths: list[int] = []
        self._stack: dict[Any, tuple[list[Callable[[], object]], Any]] = {
            node: ([], stack[node][1]) for node in self._order
        }
        self._stack[item] = (self._own, None)
        self._cleanups = internals.ClassCleanups(item)

    def apply(self, guarded: Callable[[Callable[..., object]], Callable[..., None]]) -> None:
        """In the child: from here on every finalizer that is registered is the item's.

        :param guarded: wraps what runs them.
        """
        for name in self._inside:
            internals.forget_fixture(self._item, name)
        internals.replace_stack(self._item, self._stack, self._adopt, guarded)
        if self._cleanups.node is not None:
            self._cleanups.forget()
            self._adopt(self._cleanups.run, self._cleanups.node)

    def set_traps(self, come_back: Callable[[FrameType], object]) -> None:
        """In a copy of the child: each finalizer that pytest would run next is a trap."""
        fixtures = internals.definitions_of(self._item)
        internals.set_traps(self._item, [self._own], fixtures, come_back)

    def _adopt(self, finalizer: Callable[[], object], node: object) -> None:
        """Finalizers of wider nodes go below those of the item: they run after, widest last."""
        assert node in self._stack, (node, self._order)
        if node is self._item:
            self._own.append(finalizer)
            return
        depth = self._order.index(node)
        at = bisect_right(self._depths, depth)
        self._depths.insert(at, depth)
        self._own.insert(self._first_wider + at, finalizer)


def _collect_garbage() -> None:
    """Everything that was made in this child; what it inherited is frozen.

    While nothing has been moved to the oldest generation it need not be looked at, and its
    collection clears every free list.
    """
    gc.collect(2 if gc.get_count()[2] else 1)
