# SPDX-License-Identifier: MIT
"""Reporters: what they write of an isolated run is what they write of a plain one."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    Result,
    differences,
    run_parity,
    run_suite,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

SUITE = {
    "conftest.py": """
        import pytest
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_makereport(item, call):
            report = (yield).get_result()
            if report.when == "call" and "extras" not in item.fixturenames:
                from pytest_html import extras
                report.extras = [extras.text("from the hook", name="hooked")]
        @pytest.hookimpl(optionalhook=True)
        def pytest_html_results_table_header(cells): cells.insert(1, "<th>When</th>")
        @pytest.hookimpl(optionalhook=True)
        def pytest_html_results_table_row(report, cells): cells.insert(1, f"<td>{report.when}</td>")
        @pytest.hookimpl(optionalhook=True)
        def pytest_json_modifyreport(json_report): json_report["own"] = True
        @pytest.hookimpl(optionalhook=True)
        def pytest_json_runtest_metadata(item, call): return {call.when: item.name}
        @pytest.hookimpl(optionalhook=True)
        def pytest_metadata(metadata): metadata["Own"] = "entry"
    """,
    "test_it.py": """
        import logging, os, pytest, warnings
        @pytest.fixture
        def noisy():
            print("output of set-up")
            yield
            print("output of tear-down")
        def test_extras(extras, noisy, metadata, record_property):
            from pytest_html import extras as kinds
            print("output of the test")
            logging.getLogger("own").warning("logged by the test")
            extras.append(kinds.url("http://example.org/link"))
            extras.append(kinds.html("<b id='own'>html</b>"))
            extras.append(kinds.png("iVBORw0KGgo="))
            extras.append(kinds.json({"a": [1, 2]}))
            record_property("own", metadata["Own"])
        def test_fails(noisy): assert {"a": 1} == {"a": 2}, "the reason"
        def test_late(extras):
            from pytest_html import extras as kinds
            extras.append(kinds.text("late text"))
            assert 0
        @pytest.mark.skip(reason="why")
        def test_skip(): pass
        def test_skips(): pytest.skip("inside")
        @pytest.mark.xfail(reason="known")
        def test_xfail(): assert 0
        @pytest.mark.xfail
        def test_xpass(): pass
        @pytest.fixture
        def broken(noisy):
            yield
            raise ValueError("in tear-down")
        def test_teardown(broken): warnings.warn("careful")
        def test_metadata(json_metadata): json_metadata["from the test"] = [1, 2]
    """,
}

REPORTERS = (
    *("-p", "pytest_html.fixtures", "-p", "pytest_html.plugin", "-p", "pytest_metadata.plugin"),
    *("-p", "pytest_jsonreport.plugin", "-p", "pytest_reportlog.plugin"),
    *("-p", "pytest_instafail", "--instafail"),
    *("--html=report.html", "--self-contained-html", "--metadata", "Given", "too"),
    *("--json-report", "--json-report-file=report.json", "--report-log=log.json"),
)

#: What two runs never have in common: times, places in memory.
TIMES = {"created", "duration", "start", "stop"}

#: Of a log record: what two runs, or two processes, never have in common.
TIMES |= {"msecs", "process", "relativeCreated", "taskName", "thread"}


def timeless(value: Any) -> Any:
    """The same without what no two runs have in common."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [timeless(part) for part in value]
    if isinstance(value, str):
        return re.sub(r"0x[0-9a-f]+|[\d.]+(?= ?m?s\b)|\d\d:\d\d:\d\d", "#", value)
    return value


def html_report(folder: Path) -> dict[str, Any]:
    """The data of the page, which its script shows."""
    found = re.search(r'data-jsonblob="([^"]*)"', (folder / "report.html").read_text("utf-8"))
    assert found
    report: dict[str, Any] = json.loads(html.unescape(found[1]))
    return report


def json_report(folder: Path) -> dict[str, Any]:
    """What pytest-json-report has written."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return found


@needs("pytest-html", "pytest-metadata", "pytest-json-report", "pytest-reportlog")
@needs("pytest-instafail")
def test_reports_have_everything_that_the_children_said(tmp_path: Path) -> None:
    """Output, logs, extras and links, failure texts, rows, metadata, properties; in each format."""
    write_files(tmp_path, SUITE)
    plain = run_suite(tmp_path, *REPORTERS)
    page, report = html_report(tmp_path), json_report(tmp_path)
    log = (tmp_path / "log.json").read_text("utf-8").splitlines()

    isolated = run_suite(tmp_path, *REPORTERS, "--nsisolate=all")

    assert differences(plain, isolated) == []
    assert (
        isolated.summary
        == "2 failed, 3 passed, 2 skipped, 1 xfailed, 1 xpassed, 1 warning, 1 error"
    ), isolated.text
    assert shown(isolated) == shown(plain)
    assert timeless(html_report(tmp_path)) == timeless(page)
    assert timeless(json_report(tmp_path)) == timeless(report)
    again = (tmp_path / "log.json").read_text("utf-8").splitlines()
    assert [timeless(json.loads(line)) for line in again] == [
        timeless(json.loads(line)) for line in log
    ]
    # And not because both are empty.
    (entry,) = html_report(tmp_path)["tests"]["test_it.py::test_extras"]
    assert "output of the test" in entry["log"]
    assert "logged by the test" in entry["log"]
    assert [extra["format_type"] for extra in entry["extras"]] == ["url", "html", "image", "json"]
    tests = {test["nodeid"].partition("::")[2]: test for test in report["tests"]}
    assert tests["test_extras"]["call"]["stdout"] == "output of the test\n"
    assert tests["test_extras"]["call"]["log"][0]["msg"] == "logged by the test"
    assert tests["test_metadata"]["metadata"]["from the test"] == [1, 2]


def shown(result: Result) -> list[str]:
    """The terminal, without the summary's note on where a report was written."""
    return [timeless(line) for line in terminal(result) if "report" not in line]


@needs("pytest-html", "pytest-metadata", "pytest-json-report", "pytest-xdist")
def test_reports_of_crashes_in_workers(tmp_path: Path) -> None:
    """A test that dies has its row, with its last words and the way it ended."""
    source = """
        import os, pytest
        pytestmark = pytest.mark.isolated
        def test_dies():
            print("last words")
            os._exit(3)
        def test_lives(extras):
            from pytest_html import extras as kinds
            extras.append(kinds.text("text"))
    """
    write_files(tmp_path, {"test_it.py": source})
    result = run_suite(tmp_path, *REPORTERS, "-p", "xdist", "-n", "2")
    assert result.summary == "1 failed, 1 passed", result.text
    tests = html_report(tmp_path)["tests"]
    (dead,) = tests["test_it.py::test_dies"]
    assert dead["result"] == "Failed"
    assert "exit status 3" in dead["log"]
    assert "last words" in dead["log"]
    (alive,) = tests["test_it.py::test_lives"]
    assert [extra["format_type"] for extra in alive["extras"]] == ["text"]
    found = {test["nodeid"]: test for test in json_report(tmp_path)["tests"]}
    assert "exit status 3" in found["test_it.py::test_dies"]["call"]["longrepr"]


#: Its report hook needs what its call hook has done, and that was in the test's process.
STUMBLING = """
    import pytest
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(item):
        item.done = True
        return (yield)
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if call.when == "call": report.done = item.done
        return report
"""


def test_a_report_hook_that_stumbles_in_the_runner_ends_no_run(tmp_path: Path) -> None:
    """The child's report stands, and a warning tells of the hook; under -W error too."""
    source = """
        import pytest
        @pytest.mark.isolated
        def test_passes(): pass
        @pytest.mark.isolated
        def test_fails(): assert 0
        def test_plain(): pass
    """
    write_files(tmp_path, {"conftest.py": STUMBLING, "test_it.py": source})
    result = run_suite(tmp_path)
    assert result.summary == "1 failed, 2 passed, 2 warnings", result.text
    assert "pytest_runtest_makereport of another plugin failed for test_it.py" in result.stdout
    strict = run_suite(tmp_path, "-W", "error")
    assert strict.summary == "1 failed, 2 passed", strict.text


@needs("pytest-sugar")
def test_sugar_shows_the_same(tmp_path: Path) -> None:
    """The bar, the failures as they come, the summary."""
    source = """
        import pytest
        @pytest.mark.parametrize("n", range(6))
        def test_it(n):
            print("output", n)
            assert n % 3
        @pytest.mark.skip
        def test_skip(): pass
    """
    write_files(tmp_path, {"test_it.py": source})
    options = ("-p", "pytest_sugar", "--force-sugar")
    plain, isolated = run_parity(tmp_path, *options)
    assert differences(plain, isolated) == []
    assert [timeless(line) for line in terminal(isolated)] == [
        timeless(line) for line in terminal(plain)
    ]
    assert "4 passed" in isolated.stdout
