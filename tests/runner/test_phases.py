# SPDX-License-Identifier: MIT
"""The phases of an isolated item: where each hook runs, how often, and what it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import (
    NEEDS_NAMESPACES,
    ONE_JOB,
    Result,
    differences,
    run_parity,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

EVERY_HOOK = """
import pytest
from journal import note

def add(name, wrapper, *arguments):
    parameters = ", ".join(arguments)
    shown = "".join(
        f" {{{a}.when}}" for a in arguments if a in ("call", "report")
    )
    if wrapper:
        source = (
            f"def {name}({parameters}):\\n note(f'>{name}{shown}')\\n"
            f" try:\\n  return (yield)\\n finally:\\n  note(f'<{name}{shown}')"
        )
    else:
        source = f"def {name}({parameters}): note(f'{name}{shown}')"
    scope = {"note": note}
    exec(source, scope)
    globals()[name] = pytest.hookimpl(wrapper=wrapper)(scope[name])

add("pytest_runtest_protocol", True, "item", "nextitem")
add("pytest_runtest_logstart", False, "nodeid")
add("pytest_runtest_logfinish", False, "nodeid")
add("pytest_runtest_setup", True, "item")
add("pytest_runtest_call", True, "item")
add("pytest_pyfunc_call", True, "pyfuncitem")
add("pytest_runtest_teardown", True, "item", "nextitem")
add("pytest_runtest_makereport", True, "item", "call")
add("pytest_runtest_logreport", False, "report")
add("pytest_exception_interact", False, "call", "report")
add("pytest_nsisolate_configure", False, "item")
add("pytest_nsisolate_ready", False, "item")

def pytest_fixture_setup(fixturedef): note(f"pytest_fixture_setup {fixturedef.argname}")
def pytest_fixture_post_finalizer(fixturedef):
    # pytest calls it as often as it asks; once is what counts.
    if fixturedef.cached_result is not None:
        note(f"pytest_fixture_post_finalizer {fixturedef.argname}")
def pytest_warning_recorded(warning_message): note(f"pytest_warning_recorded")
"""

HOOKED_TEST = """
import pytest, warnings
@pytest.fixture(scope="module")
def module(): return 1
@pytest.fixture
def function(module): return 2
@pytest.mark.isolated
def test_it(function):
    warnings.warn("here")
    assert function == 3
"""


def test_each_hook_runs_once_and_on_its_side(tmp_path: Path) -> None:
    """Set-up hooks in the runner up to the clone, the phases in the child, reports in the runner.

    ``pytest_runtest_makereport`` runs on both sides, because exceptions live in the child and the
    memory of the session in the runner.
    """
    write_files(tmp_path, {"conftest.py": EVERY_HOOK, "test_it.py": HOOKED_TEST})
    result = run_suite(tmp_path)
    assert result.summary == "1 failed, 1 warning", result.text
    runner = [line.removeprefix("runner ") for line in result.journal if line[0] == "r"]
    child = [line.removeprefix("child ") for line in result.journal if line[0] == "c"]
    assert [line for line in child if "makereport" not in line] == [
        "pytest_nsisolate_ready",
        "pytest_fixture_setup function",
        "<pytest_runtest_setup",
        *(">pytest_runtest_call", ">pytest_pyfunc_call"),
        *("<pytest_pyfunc_call", "<pytest_runtest_call", "pytest_exception_interact call call"),
        *(">pytest_runtest_teardown", "pytest_fixture_post_finalizer function"),
        "<pytest_runtest_teardown",
    ]
    assert [line for line in runner if "makereport" not in line] == [
        *(">pytest_runtest_protocol", "pytest_runtest_logstart", ">pytest_runtest_setup"),
        *("pytest_nsisolate_configure", "pytest_fixture_setup module", "<pytest_runtest_setup"),
        *("pytest_runtest_logreport setup", "pytest_runtest_logreport call"),
        "pytest_fixture_post_finalizer module",
        *("pytest_runtest_logreport teardown", "pytest_runtest_logfinish"),
        *("<pytest_runtest_protocol", "pytest_warning_recorded"),
    ]
    reports = [
        f"{mark}pytest_runtest_makereport {when}"
        for when in ("setup", "call", "teardown")
        for mark in "><"
    ]
    assert [line for line in child if "makereport" in line] == reports
    assert [line for line in runner if "makereport" in line] == reports


def test_a_plain_test_in_the_same_run_keeps_its_hooks_in_the_runner(tmp_path: Path) -> None:
    """Negative control: without the marker no hook leaves the runner."""
    source = HOOKED_TEST.replace("@pytest.mark.isolated\n", "")
    write_files(tmp_path, {"conftest.py": EVERY_HOOK, "test_it.py": source})
    result = run_suite(tmp_path)
    assert result.summary == "1 failed, 1 warning", result.text
    assert {line.partition(" ")[0] for line in result.journal} == {"runner"}
    assert not any("nsisolate" in line for line in result.journal)


# Recipes of pytest's documentation ---------------------------------------------------------------

INCREMENTAL = """
from typing import Dict, Tuple
import pytest

_test_failed_incremental: Dict[str, Dict[Tuple[int, ...], str]] = {}

def pytest_configure(config):
    config.addinivalue_line("markers", "incremental: steps")

def pytest_runtest_makereport(item, call):
    if "incremental" in item.keywords:
        if call.excinfo is not None:
            cls_name = str(item.cls)
            parametrize_index = (
                tuple(item.callspec.indices.values()) if hasattr(item, "callspec") else ()
            )
            test_name = item.originalname or item.name
            _test_failed_incremental.setdefault(cls_name, {}).setdefault(
                parametrize_index, test_name
            )

def pytest_runtest_setup(item):
    if "incremental" in item.keywords:
        cls_name = str(item.cls)
        if cls_name in _test_failed_incremental:
            parametrize_index = (
                tuple(item.callspec.indices.values()) if hasattr(item, "callspec") else ()
            )
            test_name = _test_failed_incremental[cls_name].get(parametrize_index, None)
            if test_name is not None:
                pytest.xfail(f"previous test failed ({test_name})")
"""

STEPS = """
import os, pytest
@pytest.mark.incremental
class TestSteps:
    def test_login(self): pass
    def test_modification(self): assert 0
    def test_deletion(self): pass
@pytest.mark.incremental
class TestOther:
    def test_fine(self): pass
    def test_fine_too(self): pass
"""


def test_the_incremental_recipe_works(tmp_path: Path) -> None:
    """A step after a failed one is expected to fail, as pytest's documentation has it."""
    write_files(tmp_path, {"conftest.py": INCREMENTAL, "test_it.py": STEPS})
    plain, isolated = run_parity(tmp_path, "-rx")
    assert differences(plain, isolated) == []
    assert isolated.summary == "1 failed, 3 passed, 1 xfailed"
    assert "previous test failed (test_modification)" in isolated.stdout


def test_the_incremental_recipe_sees_a_crash(tmp_path: Path) -> None:
    """A child that dies counts as a failed step."""
    source = STEPS.replace("assert 0", "os._exit(3)")
    write_files(tmp_path, {"conftest.py": INCREMENTAL, "test_it.py": source})
    result = run_suite(tmp_path, "--nsisolate=all", "-rx")
    assert result.summary == "1 failed, 3 passed, 1 xfailed", result.text
    assert "previous test failed (test_modification)" in result.stdout


PHASE_REPORT = """
from typing import Dict
import pytest
from pytest import StashKey, CollectReport
from journal import note

phase_report_key = StashKey[Dict[str, CollectReport]]()

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    rep = yield
    item.stash.setdefault(phase_report_key, {})[rep.when] = rep
    setattr(item, "rep_" + rep.when, rep)
    return rep

@pytest.fixture
def something(request):
    yield
    report = request.node.stash[phase_report_key]
    assert request.node.rep_setup is report["setup"]
    if report["setup"].failed:
        note(f"setting up {request.node.name} failed or skipped")
    elif ("call" not in report) or report["call"].failed:
        note(f"executing {request.node.name} failed")
    else:
        note(f"executing {request.node.name} passed")

@pytest.fixture
def broken(something): raise ValueError
"""


def test_the_rep_call_recipe_works(tmp_path: Path) -> None:
    """A fixture of the child sees the result of the call in its tear-down."""
    write_files(
        tmp_path,
        {
            "conftest.py": PHASE_REPORT,
            "test_it.py": """
                import pytest
                pytestmark = pytest.mark.isolated
                def test_setup_fails(something, broken): pass
                def test_call_fails(something): assert 0
                def test_passes(something): pass
            """,
        },
    )
    result = run_suite(tmp_path, ONE_JOB)
    assert result.summary == "1 failed, 1 passed, 1 error", result.text
    assert result.journal == [
        "child setting up test_setup_fails failed or skipped",
        "child executing test_call_fails failed",
        "child executing test_passes passed",
    ]


# What a makereport hook of the runner sees -------------------------------------------------------

LOOKING = """
import pytest
from journal import note, side

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if side() == "runner" and call.excinfo is not None:
        error = call.excinfo.value
        note(f"{item.name} {call.when} {call.excinfo.typename}: {error} "
             f"{isinstance(error, ValueError)} {len(call.excinfo.traceback) > 0}")
        report.sections.append(("only here", "x"))
        report.outcome = "passed"
    return report
"""


def test_hooks_in_the_runner_see_the_child_s_exception_and_cannot_change_its_report(
    tmp_path: Path,
) -> None:
    """The stand-in has the type and text of the child's exception; the child's report stands."""
    write_files(
        tmp_path,
        {
            "conftest.py": LOOKING,
            "test_it.py": """
                import os, pytest
                pytestmark = pytest.mark.isolated
                class Special(ValueError):
                    def __init__(self, one, two): super().__init__(one, two)
                def test_plain_error(): raise ValueError("text")
                def test_special(): raise Special(1, 2)
                def test_local():
                    class Local(Exception): pass
                    raise Local("here")
                def test_skip(): pytest.skip("no")
                def test_xfail(): pytest.xfail("known")
                def test_fail(): pytest.fail("plainly")
                def test_exit(): os._exit(2)
                def test_group(): raise ExceptionGroup("g", [KeyError("k")])
                def test_unicode(): b"\\xff".decode()
            """,
        },
    )
    result = run_suite(tmp_path)
    assert result.summary == "7 failed, 1 skipped, 1 xfailed", result.text
    assert result.journal == [
        "runner test_plain_error call ValueError: text True True",
        "runner test_special call Special: (1, 2) True True",
        "runner test_local call Local: here False True",
        "runner test_skip call Skipped: no False True",
        "runner test_xfail call XFailed: known False True",
        "runner test_fail call Failed: plainly False True",
        (
            "runner test_exit call IsolatedCrash: isolated test ended in call:"
            " exit status 2 before it was finished False True"
        ),
        "runner test_group call ExceptionGroup: g (1 sub-exception) False True",
        (
            "runner test_unicode call UnicodeDecodeError:"
            " 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte True True"
        ),
    ]
    assert not any(["only here", "x"] in report["sections"] for report in result.reports)


def test_a_report_changed_in_the_child_is_the_report(tmp_path: Path) -> None:
    """makereport hooks change reports where they are made, wrappers and replacements alike."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                import pytest
                @pytest.hookimpl(wrapper=True)
                def pytest_runtest_makereport(item, call):
                    report = yield
                    report.sections.append(("extra", f"{call.when}"))
                    report.user_properties.append(("when", call.when))
                    if report.when == "call" and item.name == "test_turned":
                        report.outcome, report.longrepr = "failed", "turned round"
                    return report
            """,
            "test_it.py": "def test_it(): print('x')\ndef test_turned(): pass\n",
        },
    )
    plain, isolated = run_parity(tmp_path, "-rA")
    assert differences(plain, isolated) == []
    assert isolated.summary == "1 failed, 1 passed"
    assert isolated.failure("test_turned") == "turned round"


# The session goes on -----------------------------------------------------------------------------

FLOW = """
import os, sys, pytest
isolated = pytest.mark.isolated
@isolated
def test_return(): return None
@isolated
def test_sys_exit(): sys.exit(0)
@isolated
def test_os_exit(): os._exit(0)
@isolated
def test_base_exception():
    class Strange(BaseException): pass
    raise Strange("out")
@isolated
def test_forks():
    if os.fork() == 0:
        return
    os.wait()
@isolated
def test_generator_exit(): raise GeneratorExit
def test_plain(): pass
"""


def test_nothing_that_leaves_a_test_goes_on_as_a_second_session(tmp_path: Path) -> None:
    """Whatever escapes the body, one session runs each test once and ends once."""
    write_files(
        tmp_path,
        {
            "test_it.py": FLOW,
            "conftest.py": """
                from journal import note
                def pytest_sessionfinish(): note("end")
                def pytest_runtest_logstart(nodeid): note(nodeid.partition("::")[2])
                import atexit
                atexit.register(note, "atexit")
            """,
        },
    )
    result = run_suite(tmp_path)
    names = ["return", "sys_exit", "os_exit", "base_exception", "forks", "generator_exit", "plain"]
    starts = [f"runner test_{name}" for name in names]
    assert result.journal == [*starts, "runner end", "runner atexit"], result.text
    assert result.passed() == {"test_return", "test_forks", "test_plain"}
    assert "exit status 0 before it was finished" in result.failure("test_os_exit")
    assert "SystemExit: 0" in result.failure("test_sys_exit")
    assert "Strange: out" in result.failure("test_base_exception")


def test_the_next_module_is_clean_whatever_happened_before(tmp_path: Path) -> None:
    """A crash, an error or a refusal leaves no set-up state that the next module trips over."""
    write_files(
        tmp_path,
        {
            f"test_{number}.py": f"""
                import os, pytest
                @pytest.fixture(scope="module", autouse=True)
                def module(): yield {number}
                class TestIt:
                    @pytest.mark.isolated
                    def test_it(self, module):
                        {body}
            """
            for number, body in enumerate(
                ("assert module == 0", "os._exit(1)", "assert 0", "pytest.skip('x')", "pass")
            )
        },
    )
    result = run_suite(tmp_path)
    assert result.summary == "2 failed, 2 passed, 1 skipped", result.text
    assert {r["outcome"] for r in result.reports if r["when"] != "call"} == {"passed"}


def test_pytest_exit_in_the_child_ends_the_session_with_its_code(tmp_path: Path) -> None:
    """The reason is shown, the code is the session's, and no later test starts."""
    source = """
        import pytest
        @pytest.mark.isolated
        def test_exit(): {}
        def test_never(): pass
    """
    for call, code, text in (
        ("pytest.exit('that is all', returncode=9)", 9, "_pytest.outcomes.Exit: that is all"),
        ("pytest.exit('that is all')", 2, "_pytest.outcomes.Exit: that is all"),
        ("raise KeyboardInterrupt", 2, "KeyboardInterrupt"),
    ):
        result = run_suite(write_files(tmp_path, {"test_it.py": source.format(call)}))
        assert result.returncode == code, result.text
        assert text in result.stdout
        assert "INTERNALERROR" not in result.text
        assert not any("never" in record["nodeid"] for record in result.records)


@pytest.mark.parametrize("mode", ["plain", "isolated"])
def test_an_exception_of_a_hook_is_the_session_s_internal_error(tmp_path: Path, mode: str) -> None:
    """A broken makereport hook: plain pytest ends with exit code 3; isolated, the test fails."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                def pytest_runtest_makereport(item, call):
                    if call.when == "call" and item.name == "test_first":
                        raise RuntimeError("broken hook")
            """,
            "test_it.py": "def test_first(): pass\ndef test_second(): pass\n",
        },
    )
    result = run_suite(tmp_path, *(["--nsisolate=all"] if mode == "isolated" else []))
    assert "broken hook" in result.text
    assert result.returncode != 0
    assert not any(
        r["outcome"] == "passed" and r["when"] == "call" for r in result.of("test_first")
    )


def hook_counts(result: Result) -> dict[str, int]:
    return {line: result.journal.count(line) for line in result.journal}


def test_the_request_can_be_changed_by_a_hook_and_the_child_is_announced(tmp_path: Path) -> None:
    """pytest_nsisolate_configure may replace the request; pytest_nsisolate_ready sees PID 1."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                import os
                from journal import note
                def pytest_nsisolate_configure(item, request):
                    if item.name == "test_renamed":
                        return request.replace(hostname="other")
                def pytest_nsisolate_ready(item, pid1):
                    note(f"{item.name} {os.getpid()} {os.uname().nodename}")
            """,
            "test_it.py": """
                import os, pytest
                @pytest.mark.isolated(pid=True)
                def test_renamed(): assert os.uname().nodename == "other"
                @pytest.mark.isolated(pid=True)
                def test_control(): assert os.uname().nodename != "other"
            """,
        },
    )
    result = run_suite(tmp_path)
    assert len(result.passed()) == 2, result.text
    assert result.journal[0] == "child test_renamed 1 other"
    assert not result.journal[1].endswith(" other")
    assert hook_counts(result)[result.journal[1]] == 1
