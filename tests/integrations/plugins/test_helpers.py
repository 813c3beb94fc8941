# SPDX-License-Identifier: MIT
"""Plugins that give a test marks, fixtures or an order: it has them in its own process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9,
    differences,
    run_parity,
    run_suite,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: Tests of every outcome, as a suite without any other plugin has them.
GENERAL = """
import logging, unittest, warnings
import pytest
@pytest.fixture(scope="module")
def wide():
    print("wide up")
    yield 5
    print("wide down")
@pytest.fixture
def narrow(wide, record_property):
    record_property("a", 1)
    yield wide
    print("narrow down")
def test_pass(): pass
def test_fails(narrow):
    logging.warning("logged")
    assert [1, 2, 3] == [1, 2, 4]
@pytest.mark.skip(reason="why")
def test_skip(): pass
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
def test_warns(): warnings.warn("w")
@pytest.fixture
def broken():
    yield
    raise ValueError("broken")
def test_teardown(broken): pass
class TestUnit(unittest.TestCase):
    def test_one(self): self.assertEqual(1, 2)
"""

#: Loaded beside everything else, without an option that sets them to work.
IDLE = {
    "anyio": "anyio.pytest_plugin",
    "flaky": "flaky.flaky_pytest_plugin",
    "hypothesis": "_hypothesis_pytestplugin",
    "inline-snapshot": "inline_snapshot.pytest_plugin",
    "pyfakefs": "pyfakefs.pytest_plugin",
    "pytest-bdd": "pytest_bdd.plugin",
    "pytest-benchmark": "pytest_benchmark.plugin",
    "pytest-check": "pytest_check.plugin",
    "pytest-cov": "pytest_cov",
    "pytest-datadir": "pytest_datadir.plugin",
    "pytest-dependency": "pytest_dependency",
    "pytest-django": "pytest_django.plugin",
    "pytest-env": "pytest_env.plugin",
    "pytest-flask": "pytest_flask.plugin",
    "pytest-freezer": "pytest_freezer",
    "pytest-html": "pytest_html.plugin",
    "pytest-httpserver": "pytest_httpserver.pytest_plugin",
    "pytest-instafail": "pytest_instafail",
    "pytest-json-report": "pytest_jsonreport.plugin",
    "pytest-metadata": "pytest_metadata.plugin",
    "pytest-mock": "pytest_mock",
    "pytest-order": "pytest_order",
    "pytest-regressions": "pytest_regressions.plugin",
    "pytest-repeat": "pytest_repeat",
    "pytest-reportlog": "pytest_reportlog.plugin",
    "pytest-rerunfailures": "rerunfailures",
    "pytest-retry": "pytest_retry.retry_plugin",
    "pytest-socket": "pytest_socket",
    "pytest-split": "pytest_split.plugin",
    "pytest-timeout": "timeout",
    "pytest-xdist": "xdist",
    "requests-mock": "requests_mock.contrib._pytest_plugin",
    "syrupy": "syrupy",
}


@needs(*IDLE)
def test_all_of_them_together_and_idle_change_nothing(tmp_path: Path) -> None:
    """A plugin that is loaded and not used leaves an isolated run as it is."""
    options = [part for name in IDLE.values() for part in ("-p", name)]
    plain, isolated = run_parity(write_files(tmp_path, {"test_it.py": GENERAL}), *options)
    assert plain.summary.startswith("2 failed, 3 passed, 1 skipped, 1 xfailed, 1 xpassed"), (
        plain.text
    )
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)


HELPED = {
    "pytest.ini": "[pytest]\nenv =\n    OWN=value\n",
    "test_it.py": """
        import datetime, os, sqlite3, subprocess
        import anyio, pytest
        from journal import note

        def test_check(check):
            with check: assert 1 == 2
            with check: assert 3 == 4
            check.equal(5, 6)
        @pytest.mark.dependency
        def test_base(): assert 0
        @pytest.mark.dependency
        def test_good(): pass
        @pytest.mark.dependency(depends=["test_base"])
        def test_on_base(): pass
        @pytest.mark.dependency(depends=["test_good"])
        def test_on_good(): pass
        def test_frozen(freezer):
            freezer.move_to("2020-01-02")
            assert datetime.date.today() == datetime.date(2020, 1, 2)
        @pytest.mark.freeze_time("2021-05-06")
        def test_frozen_by_mark(): assert datetime.date.today() == datetime.date(2021, 5, 6)
        def test_environment(): assert os.environ["OWN"] == "value"
        @pytest.mark.repeat(2)
        def test_repeated(): note("repeated")
        @pytest.mark.order("last")
        def test_last(): note("last")
        @pytest.mark.order(1)
        def test_first(): note("first")
        @pytest.mark.order(before="test_first")
        def test_before_first(): note("before first")
        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_anyio(anyio_backend):
            await anyio.sleep(0)
            assert not "after it"
        def test_mock(mocker):
            mocker.patch("os.getpid", return_value=-1)
            assert os.getpid() == -1
    """,
    "test_files.py": """
        import os, pathlib
        def test_fake(fs):
            fs.create_file("/fake/file", contents="x")
            print("output")
            assert pathlib.Path("/fake/file").read_text() == "x" and not os.path.exists("/proc")
        def test_fake_fails(fs): assert os.listdir("/") == []
        def test_wider(fs_module):
            fs_module.create_file("/a")
            assert os.path.exists("/a")
        def test_wider_again(fs_module): assert os.path.exists("/b")
    """,
}

HELPERS = (
    "anyio",
    "pyfakefs",
    "pytest-check",
    "pytest-dependency",
    "pytest-env",
    "pytest-freezer",
    "pytest-mock",
    "pytest-order",
    "pytest-repeat",
)


@needs(*HELPERS)
def test_marks_and_fixtures_do_their_work(tmp_path: Path) -> None:
    """Soft checks, dependencies, frozen time, false files, order, repetition, mocks."""
    options = [part for name in HELPERS for part in ("-p", IDLE[name])]
    plain, isolated = run_parity(write_files(tmp_path, HELPED), *options)
    assert plain.summary == "5 failed, 13 passed, 1 skipped", plain.text
    # A module's false files are the runner's, and each test has a copy of them.
    assert differences(plain, isolated) == []
    assert isolated.summary == plain.summary
    told = ["before first", "first", "repeated", "repeated", "last"]
    assert plain.journal == [f"runner {what}" for what in told]
    assert isolated.journal == [f"child {what}" for what in told]


# pytest-bdd --------------------------------------------------------------------------------------

SCENARIOS = {
    "shop.feature": """
        Feature: Shop
            Scenario: Buying
                Given a shop
                When I buy 2 apples
                Then I have 2 apples
            Scenario Outline: Buying more
                Given a shop
                When I buy <n> apples
                Then I have 3 apples
                Examples:
                | n |
                | 3 |
                | 4 |
    """,
    "test_shop.py": """
        from pytest_bdd import given, parsers, scenarios, then, when
        scenarios("shop.feature")
        @given("a shop", target_fixture="shop")
        def shop(): return {}
        @when(parsers.parse("I buy {n:d} apples"))
        def buy(shop, n): shop["apples"] = n
        @then(parsers.parse("I have {n:d} apples"))
        def have(shop, n): assert shop["apples"] == n
    """,
}


@needs("pytest-bdd")
def test_scenarios_and_their_steps(tmp_path: Path) -> None:
    """The terminal shows the scenario, and cucumber's file has every step."""
    write_files(tmp_path, SCENARIOS)
    options = ("-p", "pytest_bdd.plugin", "--gherkin-terminal-reporter", "-vv")
    told = []
    for more in ((), ("--nsisolate=all",)):
        result = run_suite(tmp_path, *options, "--cucumber-json=steps.json", *more)
        assert result.summary == "1 failed, 2 passed", result.text
        (feature,) = json.loads((tmp_path / "steps.json").read_text("utf-8"))
        for element in feature["elements"]:
            for step in element["steps"]:
                step["result"].pop("duration")
                step["result"].pop("error_message", None)
        told.append((feature, [line for line in terminal(result) if "rootdir" not in line]))
    assert told[0] == told[1]
    assert len(told[0][0]["elements"]) == 3
    assert "When I buy 2 apples" in "".join(told[1][1])


# pytest-subtests ----------------------------------------------------------------------------------

if not PYTEST_9:

    @needs("pytest-subtests")
    def test_subtests_of_the_plugin(tmp_path: Path) -> None:
        """Before pytest 9 they are a plugin's; a failing one fails the run."""
        source = """
            import unittest
            def test_it(subtests):
                for n in range(3):
                    with subtests.test("message", n=n):
                        print("output", n)
                        assert n != 1
            class TestUnit(unittest.TestCase):
                def test_it(self):
                    for n in range(3):
                        with self.subTest(n=n): self.assertNotEqual(n, 1)
        """
        write_files(tmp_path, {"test_it.py": source})
        plain, isolated = run_parity(tmp_path, "-p", "pytest_subtests")
        assert differences(plain, isolated) == []
        assert (plain.returncode, isolated.returncode) == (1, 1)
        assert isolated.summary == plain.summary, isolated.text
