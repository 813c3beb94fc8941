# SPDX-License-Identifier: MIT
"""Fixtures, finalizers and ``SetupState``: who is set up, and who tears down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, cast

import pytest

from pytest_nsisolate.integrations.pytest.private import Finalizer, Scope, TestCaseFunction


def higher_scope_names(item: pytest.Item) -> Iterator[str]:
    """Names of the item's fixtures that live longer than the item, in set-up order.

    Public neighbour: ``item.fixturenames`` does not tell the scope. A class-scoped fixture of a
    function outside a class is bound to the item, and so is the child's.
    """
    request: Any = getattr(item, "_request", None)
    if not request:
        return
    definitions: dict[str, Any] = request._arg2fixturedefs
    callspec: Any = getattr(item, "callspec", None)
    for name in getattr(item, "fixturenames", ()):
        if name == "request" or name not in definitions or not definitions[name]:
            continue
        if callspec is not None and name in callspec.params:
            scope = callspec._arg2scope[name]
        else:
            scope = definitions[name][-1]._scope
        if scope is Scope.Class and item.getparent(pytest.Class) is None:
            continue
        if scope > Scope.Function:
            yield name


def wider_fixtures_of_suite(item: pytest.Item) -> list[str]:
    """Of :func:`higher_scope_names`, those of the test's own module or of a conftest.

    Public neighbour: none; a fixture does not tell where it is from.
    """
    request: Any = getattr(item, "_request", None)
    found = []
    for name in higher_scope_names(item):
        code = getattr(request._arg2fixturedefs[name][-1].func, "__code__", None)
        path = getattr(code, "co_filename", "")
        if path == str(item.path) or path.endswith("/conftest.py"):
            found.append(name)
    return found


def own_functions(item: pytest.Item) -> list[object]:
    """The test's function, and those of the fixtures that it is known to use.

    Without those that pytest makes of the set-up methods of classes and modules.
    Public neighbour: ``item.function``, which only some items have; none for fixtures.
    """
    request: Any = getattr(item, "_request", None)
    definitions: dict[str, Any] = getattr(request, "_arg2fixturedefs", None) or {}
    fixtures = [definition.func for found in definitions.values() for definition in found]
    made = ("_pytest.python", "_pytest.unittest")
    own = [found for found in fixtures if getattr(found, "__module__", None) not in made]
    return [getattr(item, "obj", None), *own]


def is_set_up(item: pytest.Item, name: str) -> bool:
    """Whether a fixture has its value, or its error, for this item's parameter already."""
    definitions = item._request._arg2fixturedefs.get(name)  # type: ignore[attr-defined]
    cached = definitions[-1].cached_result if definitions else None
    callspec: Any = getattr(item, "callspec", None)
    parameter = None if callspec is None else callspec.params.get(name)
    return cached is not None and cached[1] is parameter


def stands_for(item: pytest.Item, name: str) -> bool:
    """Whether a wider fixture has a value that is going to be there when this item's turn comes."""
    if not is_set_up(item, name):
        return False
    definition = item._request._arg2fixturedefs[name][-1]  # type: ignore[attr-defined]
    if definition.cached_result[2] is not None:
        return False
    # One of a wider folder than the item's own may be of another class or module.
    kinds: dict[Any, type[pytest.Collector]]
    kinds = {Scope.Class: pytest.Class, Scope.Module: pytest.Module}
    kind = kinds.get(definition._scope)
    return kind is None or item.getparent(kind) in setup_stack(item)


def idle_class_fixtures(item: pytest.Item) -> frozenset[str]:
    """The fixture round a ``unittest`` class whose ``setUpClass`` and ``tearDownClass`` are those
    of ``TestCase``, which do nothing.

    Public neighbour: none; every such class has it.
    """
    node = item.getparent(pytest.Class) if isinstance(item, TestCaseFunction) else None
    if node is None or getattr(node.obj, "__unittest_skip__", False):
        return frozenset()
    for name in ("setUpClass", "tearDownClass"):
        found = getattr(getattr(node.obj, name, None), "__func__", None)
        if found is not vars(sys.modules["unittest"].TestCase)[name].__func__:
            return frozenset()
    return frozenset(
        name
        for name in getattr(item, "fixturenames", ())
        if name.startswith("_unittest_setUpClass_fixture_")
    )


def can_begin_in_copy(item: pytest.Item) -> bool:
    """Whether a copy of this process, as it is now, may set this item up by itself.

    Nothing stands here that would be torn down before the item's turn, nothing that it shares has
    failed, and what is missing are mere folders, modules and classes.
    """
    chain, stack = item.listchain(), setup_stack(item)
    for node, (finalizers, failure) in stack.items():
        # Each node has a finalizer of its own: its ``teardown``.
        if failure is not None or (node not in chain and len(finalizers) > 1):
            return False
    plain = pytest.Collector.setup
    return all(type(node).setup is plain for node in chain[:-1] if node not in stack)


def begin_stack_anew(item: pytest.Item) -> None:
    """In such a copy: what stands is left to the original, and what is not the item's is gone."""
    chain, state = item.listchain(), item.session._setupstate
    state.stack = {node: ([], None) for node in state.stack if node in chain}


def set_up_fixtures(item: pytest.Item, names: Iterable[str]) -> None:
    """Set some of the item's fixtures up, as its ``setup`` sets up all of them.

    Public neighbour: ``FixtureRequest.getfixturevalue``, which leaves ``item.funcargs`` alone.
    Through pytest's own functions, because ``--full-trace`` shows their frames.
    """
    request: Any = item._request  # type: ignore[attr-defined]
    filling = _StandIn(
        request,
        _pyfuncitem=_StandIn(item, fixturenames=[*names], funcargs=item.funcargs),  # type: ignore[attr-defined]
        getfixturevalue=request.getfixturevalue,
    )
    fill = MethodType(type(request)._fillfixtures, filling)
    pytest.Function.setup(
        cast("Any", _StandIn(item, _request=_StandIn(request, _fillfixtures=fill)))
    )


class _StandIn:
    """Some attributes of an object, under the name of the whole."""

    def __init__(self, whole: object, **attributes: object) -> None:
        self._whole = whole
        vars(self).update(attributes)

    def __repr__(self) -> str:
        return repr(self._whole)


def fixture_arguments(item: pytest.Item, name: str) -> tuple[str, ...]:
    """The fixtures that a fixture asks for by name."""
    definitions = item._request._arg2fixturedefs.get(name)  # type: ignore[attr-defined]
    return tuple(definitions[-1].argnames) if definitions else ()


def known_fixtures(item: pytest.Item) -> frozenset[str]:
    """Every fixture that the item uses statically."""
    request: Any = getattr(item, "_request", None)
    return frozenset(request._arg2fixturedefs) if request else frozenset()


def forget_fixture(item: pytest.Item, name: str) -> None:
    """Make a fixture look as if it had never been set up; its finalizers are the runner's."""
    request: Any = item._request  # type: ignore[attr-defined]
    for definition in request._arg2fixturedefs.get(name, ()):
        definition.cached_result = None
        definition._finalizers.clear()
    request._fixture_defs.pop(name, None)
    item.funcargs.pop(name, None)  # type: ignore[attr-defined]


def setup_stack(item: pytest.Item) -> dict[Any, tuple[list[Finalizer], Any]]:
    """``SetupState.stack``: node to (finalizers, set-up error); no public neighbour."""
    stack: dict[Any, tuple[list[Finalizer], Any]] = item.session._setupstate.stack
    return stack


def replace_stack(
    item: pytest.Item,
    stack: dict[Any, tuple[list[Finalizer], Any]],
    adopt: Callable[[Finalizer, object], None],
) -> None:
    """Give the child a stack of its own, and every finalizer that is registered to ``adopt``."""
    state: Any = item.session._setupstate
    state.stack = stack
    state.addfinalizer = adopt


def tear_everything_down(session: pytest.Session) -> None:
    """``teardown_exact(None)``, as pytest does at the end of a session."""
    session._setupstate.teardown_exact(None)


def disown(item: pytest.Item) -> None:
    """The item stays on the runner's stack with nothing to finalize: its set-up is the child's."""
    setup_stack(item)[item] = ([], None)


class ClassCleanups:
    """What a ``unittest`` test registers by ``addClassCleanup``.

    Public neighbour: pytest's fixture round ``setUpClass``, which runs in the runner and sees the
    class as it was before the test.

    :param item: any test; of one that is not ``unittest``'s there is nothing to clean up.
    """

    def __init__(self, item: pytest.Item) -> None:
        self.node = item.getparent(pytest.Class) if isinstance(item, TestCaseFunction) else None
        self._class: Any = None if self.node is None else self.node.obj

    def forget(self) -> None:
        """In the child: those of ``setUpClass`` are the runner's."""
        self._class._class_cleanups = []

    def run(self) -> None:
        """Those registered since. What they raise is raised as pytest would have it."""
        self._class.doClassCleanups()
        errors = [error for _, error, _ in self._class.tearDown_exceptions]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("Unittest class cleanup errors", errors)
