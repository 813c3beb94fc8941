# SPDX-License-Identifier: MIT
"""Values of any kind: what a test says with them arrives, and never ends the run.

Where un-isolated pytest copes with a value, the reports are the same. Where it does not
(INTERNALERROR), the isolated test fails alone, and the rest of the run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import source
from tests.support import (
    NEEDS_NAMESPACES,
    Result,
    differences,
    run_parity,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: The recipe of pytest-html, and the one that keeps reports on the item.
CONFTEST: Final = """
import pytest

class Odd:
    def __repr__(self): raise RuntimeError("no repr")

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.extra = [{"name": "url", "content": "http://x", "format": "url"}]
    report.extras = report.extra * 2
    report.foo = object()
    report.odd = Odd()
    report.call = lambda: 3
    if hasattr(item, "wanted"): report.wanted = item.wanted
    setattr(item, f"rep_{report.when}", report)
    return report

def pytest_runtest_logreport(report):
    # As pytest-html and others read them, in the runner.
    assert [extra["name"] for extra in report.extras] == ["url", "url"], report.extras
    assert report.extra[0]["format"] == "url"
    repr(report.foo)
"""


def test_values_that_pytest_copes_with_arrive_alike(tmp_path: Path) -> None:
    """As properties, reasons, notes, sections, attributes of reports, arguments and warnings."""
    write_files(tmp_path, {**source("values"), "conftest.py": CONFTEST})
    plain, isolated = run_parity(tmp_path, "-rA", "--tb=short")
    assert len(plain.reports) > 1300, plain.text[-3000:]
    assert differences(plain, isolated) == []
    assert isolated.returncode == plain.returncode == 1


def test_exceptions_of_every_shape_arrive_alike(tmp_path: Path) -> None:
    """Raised in the test, in fixtures, in threads and destructors; chained, grouped, expected."""
    plain, isolated = run_parity(write_files(tmp_path, source("exceptions")), "-q")
    assert len(plain.reports) > 600, plain.text[-3000:]
    assert differences(plain, isolated) == []
    assert isolated.returncode == plain.returncode == 1


@pytest.mark.parametrize("module", ["values", "exceptions"])
def test_what_ends_a_plain_run_fails_one_isolated_test(tmp_path: Path, module: str) -> None:
    """Every test has its reports, and none of those that raise passes."""
    files = {**source(module), "conftest.py": CONFTEST}
    write_files(tmp_path, files)
    options = ("--nsisolate=all", "-rA", "-vv", "--junitxml=.junit.xml")
    result = run_suite(tmp_path, *options, env={"VALUES": "killers"})
    assert_complete(result)
    raising = ("test_argument", "test_notes", "test_fail[", "test_assertion", "test_call")
    for report in result.reports:
        name = report["nodeid"].partition("::")[2]
        if report["when"] == "call" and name.startswith(raising) and "[skips]" not in name:
            assert report["outcome"] == "failed", report


def assert_complete(result: Result) -> None:
    """No internal error, and set-up and tear-down reports for each test that was started."""
    assert result.returncode == 1, result.text[-3000:]
    assert "INTERNALERROR" not in result.text
    started = [record["nodeid"] for record in result.records if record["record"] == "start"]
    for when in ("setup", "teardown"):
        reported = [r["nodeid"] for r in result.reports if r["when"] == when]
        assert reported == started, when
    assert len(started) > 30


def test_large_texts_arrive_whole(tmp_path: Path) -> None:
    """Ten megabytes in a message, a property and an output; more lines than values may be."""
    result = run_source(
        tmp_path,
        """
        def test_message(): raise ValueError("x" * 10_000_000)
        def test_lines(): raise ValueError("a\\n" * 400_000 + "end")
        def test_output(): print("y" * 10_000_000)
        def test_property(record_property): record_property("large", "z" * 10_000_000)
        """,
        "--nsisolate=all",
        "--tb=no",
    )
    assert len(result.failure("test_message")) > 10_000_000
    assert result.failure("test_lines").count("\n    a") == 400_000 - 1
    assert result.failure("test_lines").endswith("\n    end")
    assert result.of("test_output")[1]["sections"][0][1].startswith("10000001 characters")
    assert result.of("test_property")[1]["properties"][0][1].startswith("10000002 characters")


def test_odd_wishes_to_end_the_session_are_heard(tmp_path: Path) -> None:
    """session.shouldstop and pytest.exit() with values that are no plain text or number."""
    source = """
        import pytest
        class Text(str): pass
        def test_one(request): request.session.shouldstop = Text("enough")
        def test_two(): pass
    """
    stopped = run_source(tmp_path, source, "--nsisolate=all")
    assert stopped.returncode == 2
    assert "enough" in stopped.stdout
    assert not stopped.of("test_two")

    source = """
        import pytest
        class Odd(str):
            def __str__(self): raise RuntimeError("no text")
        def test_one(): pytest.exit(Odd("x"), returncode=True)
        def test_two(): pass
    """
    ended = run_source(tmp_path, source, "--nsisolate=all")
    assert not ended.of("test_two")
    assert "INTERNALERROR" not in ended.text
