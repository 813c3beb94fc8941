# SPDX-License-Identifier: MIT
"""Calling hooks for a part of the plugins, and what ``runtestprotocol`` does between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_nsisolate.integrations.pytest.fixtures import setup_stack
from pytest_nsisolate.integrations.pytest.private import check_interactive_exception, show_test_item
from pytest_nsisolate.kernel.originals import of_the_suite


def is_builtin(plugin: object) -> bool:
    """Whether pytest itself ships this plugin (a module or an instance of a class of one)."""
    module = getattr(plugin, "__name__", None) if _is_module(plugin) else type(plugin).__module__
    return isinstance(module, str) and module.startswith("_pytest.")


def _is_module(plugin: object) -> bool:
    return type(plugin).__name__ == "module"


class Silence:
    """In the child nobody but a few hears ``pytest_runtest_logreport`` any more.

    Subtests send their reports through that hook from inside the call phase. Public neighbour:
    ``PluginManager.unregister`` would take a conftest's other hooks away too.

    :param keep: which plugins go on listening.
    """

    def __init__(self, config: pytest.Config, keep: Callable[[object], bool]) -> None:
        self._caller: Any = config.hook.pytest_runtest_logreport
        self._kept = [found for found in self._caller.get_hookimpls() if keep(found.plugin)]

    def fall(self) -> None:
        """In the child, before the test's first line."""
        self._caller._hookimpls[:] = self._kept


def show_item(item: pytest.Item) -> None:
    """The line of ``--setup-show`` that names the test (``runtestprotocol``)."""
    if pytest.version_tuple >= (9, 0):
        try:
            show_test_item(item, add_space=not item.config.getoption("setuponly", False))
            return
        except TypeError:  # before 9.1
            pass
    show_test_item(item)  # type: ignore[call-arg]


def tear_down_runner(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The tear-down phase in the runner, where the test's own part has run in the child.

    pytest's own hooks and those of plugins that steer ``SetupState`` itself; everybody else's have
    run in the child. pytest-rerunfailures holds the wider scopes back for the next attempt there.
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


def let_interact(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """``pytest_exception_interact`` for an exception that is a stand-in: for all but a debugger.

    Public neighbour: pytest calls it for all, while ``call`` has the exception.
    """
    if not item.config.getoption("usepdb", False):
        return  # it does
    if check_interactive_exception(call, report):
        debugger = item.config.pluginmanager.getplugin("pdbinvoke")
        hook = item.config.pluginmanager.subset_hook_caller("pytest_exception_interact", [debugger])
        hook(node=item, call=call, report=report)
    call.excinfo = None


#: Names under which plugins register whose tear-down hook works on the runner's SetupState, or
#: undoes there what their set-up hook has done (pytest-socket's guard).
_STEERING = frozenset({"rerunfailures", "pytest_rerunfailures", "socket", "pytest_socket"})
