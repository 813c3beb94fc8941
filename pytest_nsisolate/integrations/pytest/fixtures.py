# SPDX-License-Identifier: MIT
"""Fixtures, finalizers and ``SetupState``: who is set up, and who tears down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import FrameType, MethodType
from typing import Any, cast

import pytest

from pytest_nsisolate.integrations.pytest.private import (
    Finalizer,
    Scope,
    TestCaseFunction,
    is_builtin,
)
from pytest_nsisolate.kernel.originals import of_the_suite


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


def higher_scopes(item: pytest.Item, names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """Of some of these names: the scope as a word, and whether it has a parameter."""
    definitions = _definitions(item)
    callspec: Any = getattr(item, "callspec", None)
    parameters: dict[str, Any] = {} if callspec is None else callspec.params
    return {
        name: (
            (
                callspec._arg2scope[name] if name in parameters else definitions[name][-1]._scope
            ).value,
            name in parameters,
        )
        for name in names
    }


def instances(item: pytest.Item, names: Iterable[str]) -> dict[Any, Any]:
    """The definitions behind some of its fixtures, each with what it has made, or its error."""
    definitions = _definitions(item)
    found = (definitions[name][-1] for name in names)
    return {definition: definition.cached_result for definition in found}


def _definitions(item: pytest.Item) -> dict[str, Any]:
    """Empty for an item that no fixture can be for."""
    request: Any = getattr(item, "_request", None)
    return {} if not request else request._arg2fixturedefs


def begin_request_anew(item: pytest.Item) -> None:
    """As pytest does before a test is run once more."""
    if hasattr(item, "_initrequest"):
        item._initrequest()


def forget_failed(item: pytest.Item) -> None:
    """Fixtures that have failed are set up again, as pytest-rerunfailures has it."""
    for definitions in _definitions(item).values():
        for definition in definitions:
            if definition.cached_result is not None and definition.cached_result[2] is not None:
                with suppress(Exception):  # its error has been reported
                    definition.finish(item._request)  # type: ignore[attr-defined]


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
    if not getattr(item, "_request", True):
        item._initrequest()  # type: ignore[attr-defined]  # as runtestprotocol: it runs again
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


def visible_fixtures(item: pytest.Item, names: frozenset[str]) -> frozenset[str]:
    """Of some names, those of fixtures that the item could use."""
    manager: Any = item.session._fixturemanager
    known = known_fixtures(item)  # a parameter given to the test itself, too
    return frozenset(name for name in names if name in known or manager.getfixturedefs(name, item))


def forget_fixture(item: pytest.Item, name: str) -> None:
    """Make a fixture look as if it had never been set up; its finalizers are the runner's."""
    request: Any = item._request  # type: ignore[attr-defined]
    for definition in request._arg2fixturedefs.get(name, ()):
        definition.cached_result = None
        definition._finalizers.clear()
    request._fixture_defs.pop(name, None)
    item.funcargs.pop(name, None)  # type: ignore[attr-defined]


def forget_inherited(item: pytest.Item, name: str, known: set[Any]) -> None:
    """:func:`forget_fixture`, once for each definition.

    :param known: those that have been forgotten already.
    """
    request: Any = item._request  # type: ignore[attr-defined]
    definitions = {*request._arg2fixturedefs.get(name, ())}
    if not definitions <= known:
        for definition in definitions - known:
            definition.cached_result = None
            definition._finalizers.clear()
        request._fixture_defs.pop(name, None)
        item.funcargs.pop(name, None)  # type: ignore[attr-defined]
        known |= definitions


def setup_stack(item: pytest.Item) -> dict[Any, tuple[list[Finalizer], Any]]:
    """``SetupState.stack``: node to (finalizers, set-up error); no public neighbour."""
    stack: dict[Any, tuple[list[Finalizer], Any]] = item.session._setupstate.stack
    return stack


def replace_stack(
    item: pytest.Item,
    stack: dict[Any, tuple[list[Finalizer], Any]],
    adopt: Callable[[Finalizer, object], None],
    guarded: Callable[[Callable[..., object]], Callable[..., None]],
) -> None:
    """Give the child a stack of its own, and every finalizer that is registered to ``adopt``.

    :param guarded: wraps what tears the stack down.
    """
    state: Any = item.session._setupstate
    state.stack = stack
    state.addfinalizer = adopt
    state.teardown_exact = guarded(state.teardown_exact)


def definitions_of(item: pytest.Item) -> list[Any]:
    """The definitions of the item's fixtures."""
    request: Any = getattr(item, "_request", None)
    known: dict[str, Any] = {} if request is None else request._arg2fixturedefs
    return [definition for definitions in known.values() for definition in definitions]


def definitions_behind(finalizers: Iterable[Finalizer]) -> list[Any]:
    """The definitions of the fixtures that are torn down by some of these."""
    owners = (getattr(getattr(found, "func", None), "__self__", None) for found in finalizers)
    return [owner for owner in owners if hasattr(owner, "cached_result")]


#: In a copy: the finalizers that it does not run. To let go of a fixture's generator would close it
#: here, and run its ``finally``.
_let_be: list[list[Finalizer]] = []


def set_traps(
    item: pytest.Item,
    finalizers: Iterable[list[Finalizer]],
    fixtures: Iterable[Any],
    come_back: Callable[[FrameType], object],
) -> None:
    """In a copy of this process: set a trap at all that pytest would do next with a fixture.

    That is to note the finalizer of one that has been set up, to run the next one of a node or a
    fixture that is torn down, and what ``unittest`` does behind a test method.

    :param finalizers: the lists of the nodes, which pytest takes from its stack to run them.
    :param fixtures: the definitions of those that may be torn down.
    :param come_back: called with the frame that has met a trap. The copy may have a right to it: it
        may ask for fixtures itself.
    """

    def trap(*_: object) -> None:
        come_back(sys._getframe(1))

    def note(finalizer: Finalizer, node: object) -> None:
        come_back(sys._getframe(2))  # of Node.addfinalizer's caller
        original(finalizer, node)

    state: Any = item.session._setupstate
    original = state.addfinalizer
    state.addfinalizer = note
    lists = [*finalizers]
    # pytest asserts that the others have none.
    lists += [found._finalizers for found in fixtures if found.cached_result is not None]
    for listed in lists:
        _let_be.append([*listed])
        listed[:] = [trap]
    testcase: Any = vars(item).get("_instance") if isinstance(item, TestCaseFunction) else None
    if testcase is not None:
        testcase._callTearDown = testcase.doCleanups = trap


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


def tear_down_runner(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The tear-down phase in the runner, where the test's own part has run in the child.

    It runs pytest's own hooks and those of plugins that steer ``SetupState`` itself; all others
    have run in the child. pytest-rerunfailures keeps the wider scopes for the next attempt there.
    Where every wider node stays for the next item there is nothing that a hook could see.
    """
    manager = item.config.pluginmanager
    steered = any(manager.hasplugin(name) for name in _STEERING)
    stack = setup_stack(item)
    stays = nextitem is not None and list(stack)[:-1] == nextitem.listchain()[: len(stack) - 1]
    if stays and not steered and item in stack:
        del stack[item]
        # Not the original: a fixture may have put another one in its place.
        of_the_suite("os").environ.pop("PYTEST_CURRENT_TEST", None)
        return
    others = [
        plugin
        for plugin in manager.get_plugins()
        if not is_builtin(plugin) and manager.get_name(plugin) not in _STEERING
    ]
    hook = manager.subset_hook_caller("pytest_runtest_teardown", others)
    hook(item=item, nextitem=nextitem)


def log_once_more(item: pytest.Item) -> None:
    """pytest's logging ends with an item's tear-down; here is another one of the same item.

    Public neighbour: the set-up hook of all plugins.
    """
    manager = item.config.pluginmanager
    plugin = manager.get_plugin("logging-plugin")
    if plugin is not None:
        others = [other for other in manager.get_plugins() if other is not plugin]
        manager.subset_hook_caller("pytest_runtest_setup", others)(item=item)


#: Names under which plugins register whose tear-down hook works on the runner's SetupState, or
#: undoes there what their set-up hook has done (pytest-socket's guard).
_STEERING = frozenset({"rerunfailures", "pytest_rerunfailures", "socket", "pytest_socket"})
