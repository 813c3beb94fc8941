# SPDX-License-Identifier: MIT
"""pytest's hooks, and nothing else: each reads what it needs and makes one call."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_nsisolate.fixtures import isolate, pid1  # a fixture of this plugin by being here
from pytest_nsisolate.request.marker import MARKER_LINE
from pytest_nsisolate.request.options import add_options, read_settings
from pytest_nsisolate.runner import hookspecs, summary
from pytest_nsisolate.runner.run import RUN, SHOWN, Run
from pytest_nsisolate.runner.surroundings import make_launcher

__all__ = ["isolate", "pid1"]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    summary.refuse_namesake(config)
    config.addinivalue_line("markers", MARKER_LINE)
    config.stash[RUN] = Run(config, read_settings(config), make_launcher(config))


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        run.close()


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    return summary.run_doctor() if config.getoption("--nsisolate-doctor") else None


def pytest_report_header(config: pytest.Config) -> str:
    return summary.header(config.stash[RUN])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # First, so that a bad marker is named also where -k or -m deselects its test.
    summary.check_markers(config, config.stash[RUN], items)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Again, because conftests add markers and items in pytest_collection_modifyitems.
    summary.take_requests(session.config, session.config.stash[RUN], session.items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    summary.gather(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[RUN].notes.take_over(node)
    summary.raise_for_worker(node)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    run = session.config.stash[RUN]
    summary.arrange_reports(session.config, run)
    if not run.requests:
        try:
            return (yield)
        finally:
            run.close()
    from pytest_nsisolate.runner import hooks

    with hooks.registered(session, run):
        return (yield)


def pytest_runtest_makereport(item: pytest.Item) -> pytest.TestReport | None:
    return item.stash.get(SHOWN, None)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    return summary.explain_comparison(op, left, right)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    summary.summarize(terminalreporter, config.stash[RUN])


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    # pytest-timeout's own timers would fire in the runner, or start a thread in it.
    run = item.config.stash[RUN]
    if item not in run.requests:
        return None
    run.budgets[item] = float(settings.timeout)
    return True
