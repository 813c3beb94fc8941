# SPDX-License-Identifier: MIT
"""pytest-xdist: workers isolate their own tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9,
    Result,
    run_parity,
    run_source,
    run_suite,
    write_files,
)

pytestmark = [NEEDS_NAMESPACES, needs("pytest-xdist")]

SPREAD = """
import os, pytest, sys, warnings
from journal import note
@pytest.mark.isolated
@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("n", range(6))
def test_many(n, record_property):
    record_property("n", n)
    print("output", n)
    assert os.getpid() == 1
    assert n != 3
@pytest.mark.isolated
def test_crash(): os._exit(7)
@pytest.mark.isolated
def test_segfault():
    import ctypes
    ctypes.string_at(0)
@pytest.mark.isolated
def test_warns(): warnings.warn("careful")
@pytest.mark.isolated
def test_writes_to_everything():
    # The plugin's own way back is among them; execnet's pipe to the controller must not be.
    for fd in range(3, 64):
        try: os.write(fd, b"x" * 1000)
        except OSError: pass
def test_plain(): assert os.getpid() != 1
"""


def spread(folder: Path, *arguments: str) -> Result:
    return run_source(folder, SPREAD, "-p", "xdist", *arguments)


#: Every way to spread tests, and how often each runs then.
MODES = {
    "one worker": (("-n", "1"), 1),
    "load": (("-n", "2", "--dist=load"), 1),
    "loadscope": (("-n", "2", "--dist=loadscope"), 1),
    "loadfile": (("-n", "2", "--dist=loadfile"), 1),
    "loadgroup": (("-n", "2", "--dist=loadgroup"), 1),
    "worksteal": (("-n", "2", "--dist=worksteal"), 1),
    "tx": (("--tx", "2*popen", "--dist=load"), 1),
    "each": (("--tx", "2*popen", "--dist=each"), 2),
    "no": (("--tx", "2*popen", "--dist=no"), 1),
}


@pytest.mark.parametrize("mode", MODES)
def test_isolated_tests_run_in_workers(tmp_path: Path, mode: str) -> None:
    """Every report once, a crash takes no worker along, the output is with its test."""
    arguments, times = MODES[mode]
    result = spread(tmp_path, *arguments)
    assert result.returncode == 1
    failed, passed, warned = (n * times for n in (4, 7, 1))
    warnings = f"{warned} warning{'s' if warned > 1 else ''}"
    assert result.summary == f"{failed} failed, {passed} passed, {warnings}", result.text
    for word in ("node down", "crashed while", "replacing", "INTERNALERROR"):
        assert word not in result.text
    reports = Counter((r["nodeid"], r["when"], r["type"]) for r in result.reports)
    assert set(reports.values()) == {times}
    assert len(reports) == 33
    # With loadgroup the group may follow the name.
    called = [r for r in result.reports if "::test_many[2]" in r["nodeid"] and r["when"] == "call"]
    assert [r["sections"] for r in called] == [[["Captured stdout call", "output 2\n"]]] * times
    assert all("2" in str(r["properties"]) for r in called)
    for name, reason in {
        "test_crash": "exit status 7",
        "test_segfault": "SIGSEGV",
        "test_writes_to_everything": "its stream is broken",
    }.items():
        texts = {r["text"] for r in result.of(name) if r["outcome"] == "failed"}
        assert all(reason in text for text in texts), texts
        assert texts


@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_subtests_under_xdist_are_reported_once(tmp_path: Path) -> None:
    """The child of a worker does not write to the controller itself."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated
        def test_it(subtests):
            for n in range(3):
                with subtests.test(n=n): assert n != 1
        """,
        *("-p", "xdist", "-n", "1"),
    )
    assert result.returncode == 1
    assert [r["type"] for r in result.reports].count("SubtestReport") == 3
    assert result.stdout.count("SUBFAILED") == 1, result.text


def test_a_usage_error_is_the_controller_s(tmp_path: Path) -> None:
    """A bad marker ends a distributed run with one clean message."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated(pidd=True)
        def test_it(): pass
        """,
        *("-p", "xdist", "-n", "2"),
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR, result.text
    assert result.reports == []
    assert result.stderr.count("test_it.py::test_it") == 1
    assert "unknown keyword 'pidd'" in result.stderr
    assert "INTERNALERROR" not in result.text


def test_refusals_and_left_out_tests_are_summed_over_workers(tmp_path: Path) -> None:
    """One summary line, by the controller."""
    result = spread(tmp_path, "-n", "2", "--nsisolate=none")
    assert result.stdout.count("nsisolate: 10 tests left out by --nsisolate=none") == 1, result.text


def test_the_whole_suite_isolated_under_xdist(tmp_path: Path) -> None:
    """--nsisolate=all reaches the workers; the results are those of plain workers."""
    parametrized = "@pytest.mark.parametrize('n', range(8))\ndef test_it(n): assert n % 3\n"
    write_files(tmp_path, {"test_it.py": f"import pytest\n{parametrized}"})
    plain, isolated = run_parity(tmp_path, "-p", "xdist", "-n", "2")

    def told(result: Result) -> set[tuple[str, ...]]:
        return {(r["nodeid"], r["when"], r["outcome"]) for r in result.reports}

    assert told(isolated) == told(plain)
    assert isolated.summary == plain.summary == "3 failed, 5 passed"


PROPERTIES = """
import enum, pathlib, warnings, pytest

class Text(str): pass
class Real(float): pass
class Number(enum.IntEnum): ONE = 1
class Thing:
    def __str__(self): return "a thing"
class Silent:
    def __str__(self): raise RuntimeError

VALUES = {
    "object": Thing(), "float": Real(1.5), "enum": Number.ONE, "path": pathlib.Path("/a/b"),
    "str": Text("text"), "silent": Silent(), "big": 2**70, "small": -2**70, "huge": 10**5000,
    "surrogate": "a\\udc80b", "bytes": b"b", "nested": {"key": [Thing(), {Number.ONE: (Real(2),)}]},
    "deep": __import__("functools").reduce(lambda inner, _: [inner], range(300), "x"),
    "endless": (loop := []), "set": {1, 2}, "none": None,
}
loop.append(loop)

@pytest.mark.isolated
@pytest.mark.parametrize("name", VALUES)
def test_property(record_property, name): record_property(name, VALUES[name])

@pytest.mark.isolated
def test_in_a_crash(request):
    import os
    os._exit(1)

@pytest.mark.isolated
def test_text():
    print("out a\\udc80b".encode("utf-8", "surrogateescape").decode("latin-1"))
    assert "a\\udc80b" == Thing()

@pytest.mark.isolated
def test_warns():
    warnings.warn("a\\udc80b")
    warnings.warn(UserWarning("careful", -2**40, Thing()))

@pytest.mark.isolated
def test_attribute(): pass
"""

HOOKS = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if item.name == "test_in_a_crash":
            item.user_properties.append(("runner", object))

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if item.name == "test_attribute":
        report.thing = [object, 1 - 2**40]
        report.sections.append(("more", "a\\udc80b"))
        report.keywords["a\\udc80b"] = object
    return report
"""


def test_what_execnet_does_not_take_arrives_as_its_text(tmp_path: Path) -> None:
    """Of properties, attributes that a hook adds, and warnings; the run goes on."""
    files = {"test_it.py": PROPERTIES, "conftest.py": HOOKS}
    result = run_suite(write_files(tmp_path, files), "-p", "xdist", "-n", "2")
    assert "INTERNALERROR" not in result.text
    assert result.summary.startswith("2 failed, 18 passed"), result.text
    found = {
        name.strip("'"): value  # by their repr
        for report in result.reports
        if "test_property" in report["nodeid"] and report["when"] == "call"
        for name, value in report["properties"]
    }
    expected = {
        "object": "'a thing'",
        "float": "'1.5'",
        "enum": "'1'",
        "path": "'/a/b'",
        "str": "'text'",
        "big": str(2**70),
        "small": repr(str(-(2**70))),
        "surrogate": r"'a\\udc80b'",
        "bytes": "b'b'",
        "nested": "{'key': ['a thing', {'1': ('2.0',)}]}",
        "none": "None",
    }
    assert {name: found[name] for name in expected} == expected
    assert "RuntimeError" in found["silent"]
    assert "contains itself" in found["endless"]
    (crashed,) = (r for r in result.of("test_in_a_crash") if r["when"] == "call")
    assert crashed["properties"] == [["'runner'", "\"<class 'object'>\""]]
    for report in result.of("test_attribute"):
        assert ["more", r"a\udc80b"] in report["sections"]
        assert r"a\udc80b" in report["keywords"]
    texts = [w["text"] for w in result.warnings]
    assert any(r"a\udc80b" in text for text in texts), texts
    assert any("careful" in text for text in texts), texts
