# SPDX-License-Identifier: MIT
"""What single other plugins need, where being an ordinary plugin beside an ordinary test is not
enough.

Fact: some plugins gather what each test gives in the memory of the session, and use it when the
session ends. An isolated test gives it to a copy of that memory.

Consequence: one module here for each such plugin carries it over, by the two hooks that any plugin
can use for the same (``pytest_nsisolate_carry`` and ``pytest_nsisolate_receive``). Where that
cannot be done, and something would be lost in silence, the run does not start
(:func:`refuse_incompatible`).

Nothing here is imported unless the other plugin is active and a test is isolated.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Final

import pytest

#: The module that another plugin registers, and the adapter for it.
_ADAPTERS: Final = {
    "allure_pytest.plugin": "allure",
    "pyfakefs.pytest_plugin": "fake_files",
    "pytest_bdd.plugin": "bdd",
    "pytest_benchmark.plugin": "benchmark",
    "pytest_jsonreport.plugin": "json_report",
    "pytest_memray.plugin": "memray",
    "syrupy": "syrupy",
    "vscode_pytest": "vscode",
    "xdist.plugin": "xdist",
}

#: The module of the object that another plugin registers when it is to gather something, for which
#: there is no adapter, and the plugin's name.
_GATHERING: Final = {
    "pytest_codspeed.plugin": "pytest-codspeed",
    "pytest_profiling": "pytest-profiling",
}

#: Words of ``--inline-snapshot`` after which it writes into the tests' own sources.
_WRITING: Final = frozenset({"create", "fix", "review", "trim", "update"})


def is_active(config: pytest.Config, module: str) -> bool:
    """Whether a plugin is registered, under any name."""
    found = sys.modules.get(module)
    return found is not None and config.pluginmanager.is_registered(found)


def register(config: pytest.Config) -> None:
    """Register the adapters of all plugins that are active."""
    for module, adapter in _ADAPTERS.items():
        if is_active(config, module):
            made = importlib.import_module(f"{__name__}.{adapter}")
            config.pluginmanager.register(made.Adapter(), f"nsisolate-{adapter}")


def refuse_incompatible(config: pytest.Config, isolated: Iterable[pytest.Item]) -> None:
    """Stop where another plugin would lose something of the isolated tests.

    :param isolated: the tests that will be isolated.
    :raises pytest.UsageError: naming the plugin, and what to do.
    """
    if is_active(config, "pytest_retry.retry_plugin") and any(
        item.get_closest_marker("flaky") for item in isolated
    ):
        raise pytest.UsageError(
            "pytest-retry repeats a test from within the making of its report, where an isolated "
            "test is over: use pytest-rerunfailures, or switch it off with -p no:pytest-retry"
        )
    words = str(getattr(config.option, "inline_snapshot", None) or "").split(",")
    if is_active(config, "inline_snapshot.pytest_plugin") and not _WRITING.isdisjoint(words):
        raise pytest.UsageError(
            "inline-snapshot learns nothing of what isolated tests compare, and would not write "
            "it, or trim it away: give --inline-snapshot together with --nsisolate=none "
            "--nsisolate-unsafe, or leave these tests out with -m 'not isolated'"
        )


def keeps_calls(config: pytest.Config) -> bool:
    """Whether a plugin looks at a phase's exception after its report has been made.

    ``flaky`` decides by it whether a test has failed.
    """
    return is_active(config, "flaky.flaky_pytest_plugin")


def losing(config: pytest.Config) -> tuple[str, ...]:
    """Names of plugins whose reports will lack what they gather in isolated tests."""
    found = {
        _GATHERING[type(plugin).__module__]
        for plugin in config.pluginmanager.get_plugins()
        if type(plugin).__module__ in _GATHERING
        # pytest-codspeed's is always there.
        and getattr(plugin, "is_codspeed_enabled", True)
    }
    return tuple(sorted(found))
