# SPDX-License-Identifier: MIT
"""What a well-made plugin does today: ways to load it, and the traps of plugins that fork.

The numbers are those of the rows of the project's list of pytest facts.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import pytest_nsisolate
from tests.support import (
    INNER_MODULES,
    NEEDS_NAMESPACES,
    PYTEST_9,
    PYTEST_9_1,
    PYTEST_9_2,
    Result,
    inner_environment,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

# Loading -----------------------------------------------------------------------------------------

MARKED = """
import pytest
@pytest.mark.isolated
def test_it():
    import os
    from pytest_nsisolate import view
    assert type(view.__spec__.loader).__name__ == "AssertionRewritingHook"
    assert os.getpid() == 1
"""

AUTOLOAD = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}
RECORDING = ("-p", "parity_recording")
#: All other plugins that are installed here: they take seconds, and some ask for settings.
OTHERS_OFF = [
    option
    for entry in entry_points(group="pytest11")
    if entry.name != "nsisolate"
    for option in ("-p", f"no:{entry.name}")
]
HEADER = f"nsisolate-{pytest_nsisolate.__version__}"


def load(folder: Path, *options: str, env: dict[str, str] | None = None) -> Result:
    return run_source(
        folder, MARKED, "--strict-markers", *OTHERS_OFF, env=env, plugins=(*RECORDING, *options)
    )


def test_autoload_finds_the_plugin(tmp_path: Path) -> None:
    """Installed is enough; the header names it."""
    result = load(tmp_path, env=AUTOLOAD)
    assert result.passed() == {"test_it"}, result.text
    assert HEADER in result.stdout


def test_p_nsisolate_loads_it_with_autoload_off(tmp_path: Path) -> None:
    """The entry point's name; the marker is registered, asserts of the view are rewritten."""
    result = load(tmp_path, "-p", "nsisolate")
    assert result.passed() == {"test_it"}, result.text
    assert HEADER in result.stdout


def test_the_variable_loads_it_with_autoload_off(tmp_path: Path) -> None:
    """PYTEST_PLUGINS takes the entry point's name since pytest 9.2, before that the module's."""
    name = "nsisolate" if PYTEST_9_2 else "pytest_nsisolate.plugin"
    result = load(tmp_path, env={"PYTEST_PLUGINS": name})
    assert result.passed() == {"test_it"}, result.text


def test_without_the_plugin_the_marker_is_unknown(tmp_path: Path) -> None:
    """Autoload off and no -p: nothing runs un-isolated under --strict-markers."""
    result = load(tmp_path)
    assert "'isolated' not found in `markers` configuration option" in result.text
    assert result.reports == []


def test_p_nsisolate_beside_autoload_registers_once(tmp_path: Path) -> None:
    """Harmless: one marker line, one plugin."""
    result = load(tmp_path, "-p", "nsisolate", env=AUTOLOAD)
    assert result.passed() == {"test_it"}, result.text
    assert result.stdout.count(HEADER) == 1
    markers = load(tmp_path, "-p", "nsisolate", "--markers", env=AUTOLOAD)
    assert markers.stdout.count("@pytest.mark.isolated") == 1


def test_the_module_s_name_beside_autoload_is_refused_by_pytest(tmp_path: Path) -> None:
    """`-p pytest_nsisolate.plugin` registers it under a second name: documented, never advised."""
    result = load(tmp_path, "-p", "pytest_nsisolate.plugin", env=AUTOLOAD)
    assert result.returncode != 0
    assert "already registered under a different name" in result.text
    assert result.reports == []


def test_the_package_s_name_loads_no_hooks(tmp_path: Path) -> None:
    """`-p pytest_nsisolate` with autoload off: the marker is unknown, as without the plugin."""
    result = load(tmp_path, "-p", "pytest_nsisolate")
    assert "'isolated' not found in `markers` configuration option" in result.text
    assert result.reports == []


def test_no_nsisolate_disables_it(tmp_path: Path) -> None:
    """-p no:nsisolate does, -p no:pytest_nsisolate is none of its names."""
    off = load(tmp_path, "-p", "no:nsisolate", env=AUTOLOAD)
    assert "'isolated' not found in `markers` configuration option" in off.text
    on = load(tmp_path, "-p", "no:pytest_nsisolate", env=AUTOLOAD)
    assert on.passed() == {"test_it"}, on.text


# Facts that break or help a plugin that forks ----------------------------------------------------


@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_fact_1_a_failing_subtest_fails_the_run(tmp_path: Path) -> None:
    """The first false green of the peers: "1 passed", exit 0."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.mark.isolated
        def test_it(subtests):
            with subtests.test("one"): assert 0
        """,
    )
    assert result.returncode == 1
    assert result.summary == "2 failed", result.text


@pytest.mark.skipif(not PYTEST_9, reason="pytest 8.4 has no subtests of its own")
def test_fact_2_the_child_s_reporters_are_silent(tmp_path: Path) -> None:
    """A sub-report is printed once, reaches junit once, and conftests hear it once."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                from journal import note
                def pytest_runtest_logreport(report):
                    note(f"{type(report).__name__} {report.when}")
            """,
            "test_it.py": """
                import pytest
                @pytest.mark.isolated
                def test_it(subtests):
                    with subtests.test("one"): assert 0
            """,
        },
    )
    result = run_suite(tmp_path, "--junitxml=junit.xml")
    assert result.journal == [
        "runner TestReport setup",
        "runner SubtestReport call",
        "runner TestReport call",
        "runner TestReport teardown",
    ]
    assert result.stdout.count("SUBFAILED") == 1
    assert (tmp_path / "junit.xml").read_text(encoding="utf-8").count("<failure") == 2


def test_facts_3_and_4_the_runner_s_set_up_state_goes_on(tmp_path: Path) -> None:
    """The next module is clean, and a module's server outlives the first isolated test."""
    module = """
        import pytest
        from journal import note
        @pytest.fixture(scope="module")
        def server():
            note("start")
            yield
            note("STOP")
        @pytest.mark.isolated
        def test_one(server): note("one")
        @pytest.mark.isolated
        def test_two(server): note("two")
    """
    write_files(tmp_path, {"test_a.py": module, "test_b.py": module})
    result = run_suite(tmp_path)
    assert result.summary == "4 passed", result.text
    assert result.journal == ["runner start", "child one", "child two", "runner STOP"] * 2


def test_fact_5_an_exception_never_continues_the_session_in_the_child(tmp_path: Path) -> None:
    """Not a BaseException of a fixture, of a hook, or of a finalizer."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                import pytest
                from journal import note
                class Out(BaseException): pass
                def pytest_sessionfinish(): note("end")
                def pytest_runtest_call(item):
                    if item.name == "test_hook": raise Out
                @pytest.fixture
                def setup(): raise Out
                @pytest.fixture
                def teardown():
                    yield
                    raise Out
            """,
            "test_it.py": """
                import pytest
                pytestmark = pytest.mark.isolated
                def test_hook(): pass
                def test_setup(setup): pass
                def test_teardown(teardown): pass
                def test_call(): raise SystemExit
                def test_fine(): pass
            """,
        },
    )
    result = run_suite(tmp_path)
    assert result.journal == ["runner end"], result.text
    assert "INTERNALERROR" not in result.text
    assert result.summary == "2 failed, 2 passed, 2 errors"


def test_fact_6_skip_reasons_are_tuples(tmp_path: Path) -> None:
    """-rs folds the skips of one place, as it does un-isolated."""
    result = run_source(
        tmp_path,
        """
        import pytest
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("n", range(3))
        def test_it(n): pytest.skip("no reason at all")
        """,
        "-rs",
    )
    assert result.returncode == 0, result.text
    assert "SKIPPED [3] test_it.py:5: no reason at all" in result.stdout
    assert all(r["longrepr"] == "tuple" for r in result.reports if r["outcome"] == "skipped")


def test_fact_7_reports_cross_by_pytest_s_own_hooks(tmp_path: Path) -> None:
    """A plugin that adds to serialized reports finds its part on the other side."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                import pytest
                from journal import note
                @pytest.hookimpl(wrapper=True)
                def pytest_report_to_serializable(report):
                    data = yield
                    data["extra"] = {"of": report.when, "list": (1, "two")}
                    return data
                @pytest.hookimpl(wrapper=True)
                def pytest_report_from_serializable(data):
                    extra = data.pop("extra")
                    report = yield
                    report.extra = extra
                    return report
                def pytest_runtest_logreport(report): note(report.extra)
            """,
            "test_it.py": "import pytest\n@pytest.mark.isolated\ndef test_it(): pass\n",
        },
    )
    result = run_suite(tmp_path)
    assert result.returncode == 0, result.text
    assert result.journal == [
        f"runner {{'of': '{when}', 'list': (1, 'two')}}" for when in ("setup", "call", "teardown")
    ]


def test_fact_8_warnings_are_counted(tmp_path: Path) -> None:
    """Those of the test, of an object that could not be collected, and of a thread."""
    result = run_source(
        tmp_path,
        """
        import pytest, threading, warnings
        pytestmark = pytest.mark.isolated
        def test_warns(): warnings.warn("careful")
        def test_unraisable():
            class Dying:
                def __del__(self): raise ValueError
            Dying()
        def test_thread():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        """,
        *(["--max-warnings=2"] if PYTEST_9_1 else []),
    )
    assert result.summary == "3 passed, 3 warnings", result.text
    assert [w["category"] for w in result.warnings] == [
        "UserWarning",
        "PytestUnraisableExceptionWarning",
        "PytestUnhandledThreadExceptionWarning",
    ]
    assert result.returncode == (int(pytest.ExitCode.MAX_WARNINGS_ERROR) if PYTEST_9_1 else 0)


BLOCKED = """
import pytest, time, os
@pytest.mark.isolated
def test_blocks():
    blocked_here()
def blocked_here():
    time.sleep(2)
@pytest.mark.isolated
def test_next(): pass
"""


def test_fact_9_faulthandler_timeout_dumps_the_child(tmp_path: Path) -> None:
    """The dump shows where the test stands, and the run goes on."""
    result = run_source(tmp_path, BLOCKED, "-o", "faulthandler_timeout=0.5")
    assert result.summary == "2 passed", result.text
    assert "Timeout (0:00:00.5" in result.stderr
    assert "in blocked_here" in result.stderr
    assert result.stderr.count("Timeout (") == 1


@pytest.mark.skipif(not PYTEST_9, reason="pytest 9.0 has brought faulthandler_exit_on_timeout")
def test_fact_9_exit_on_timeout_ends_the_child_and_not_the_runner(tmp_path: Path) -> None:
    """faulthandler_exit_on_timeout: that test fails, the next one runs."""
    options = ("-o", "faulthandler_timeout=0.5", "-o", "faulthandler_exit_on_timeout=true")
    result = run_source(tmp_path, BLOCKED, *options)
    assert result.summary == "1 failed, 1 passed", result.text
    assert "exit status 1 before it was finished" in result.failure("test_blocks")
    assert "in blocked_here" in result.text


@pytest.mark.parametrize(
    ("call", "code"), [("pytest.exit('x', 5)", 5), ("raise KeyboardInterrupt", 2)]
)
def test_fact_11_exit_and_interrupt_cross(tmp_path: Path, call: str, code: int) -> None:
    """No INTERNALERROR; the exit code is the one that was asked for."""
    source = f"import pytest\n@pytest.mark.isolated\ndef test_it(): {call}\ndef test_b(): pass\n"
    result = run_source(tmp_path, source)
    assert result.returncode == code, result.text
    assert "INTERNALERROR" not in result.text
    assert result.of("test_b") == []


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_fact_12_pdb_works_in_the_child(tmp_path: Path, terminal: bool) -> None:
    """--pdb reads from the runner's stdin, a terminal too; the budget stops meanwhile."""
    commands = b"p 'seen', os.getpid(), marker\nc\n"
    reading, writing = pty.openpty()[::-1] if terminal else os.pipe()
    # A pseudo-terminal is one file with two ends: what is written to the master is read here.
    os.write(writing, commands)
    try:
        result = run_source(
            tmp_path,
            """
            import os, pytest
            @pytest.mark.isolated(timeout=30)
            def test_it():
                marker = 6 * 7
                assert marker == 0
            def test_next(): pass
            """,
            "--pdb",
            stdin=reading,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert "('seen', 1, 42)" in result.stdout, result.text
    assert result.summary == "1 failed, 1 passed"


def test_fact_13_there_is_one_base_temp_and_no_stale_lock(tmp_path: Path) -> None:
    """tmp_path first used in a child does not make a directory of its own."""
    (tmp_path / "root").mkdir()
    result = run_source(
        tmp_path,
        """
        import pytest
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("n", range(4))
        def test_it(tmp_path, n): (tmp_path / "file").touch()
        """,
        *("-o", "tmp_path_retention_policy=all"),
        basetemp=False,
        env={"PYTEST_DEBUG_TEMPROOT": str(tmp_path / "root")},
    )
    assert len(result.passed()) == 4, result.text
    (user,) = (tmp_path / "root").iterdir()
    found = sorted(path.name for path in user.iterdir() if not path.is_symlink())
    assert found == ["pytest-0"]
    files = [path for path in (user / "pytest-0").glob("*/file") if not path.parent.is_symlink()]
    assert len(files) == 4
    assert list(user.rglob("*.lock")) == []


def test_fact_14_forking_beside_threads_warns_nobody(tmp_path: Path) -> None:
    """The DeprecationWarning of Python 3.12 about it is the plugin's, not the test's."""
    write_files(
        tmp_path,
        {
            "conftest.py": """
                import threading
                import _thread
                stop = threading.Event()
                threading.Thread(target=stop.wait, daemon=True).start()
                lock = _thread.allocate_lock()
                lock.acquire()
                _thread.start_new_thread(lock.acquire, ())  # as execnet's are: not to be listed
            """,
            "test_it.py": """
                import os, pytest, warnings
                @pytest.mark.isolated
                def test_it(): assert os.getpid() == 1
                @pytest.mark.isolated(init=True)
                def test_init(): pass
            """,
        },
    )
    for options in (("-W", "error"), ("-W", "always")):
        result = run_suite(tmp_path, *options)
        assert result.returncode == 0, result.text
        assert result.warnings == []


def test_fact_15_what_was_not_flushed_is_not_written_twice(tmp_path: Path) -> None:
    """Buffered text of the runner is flushed before the fork."""
    result = run_source(
        tmp_path,
        """
        import pytest, sys
        @pytest.fixture(scope="module", autouse=True)
        def wide():
            sys.stdout.write("no newline ONE ")
            sys.__stdout__.write("no newline TWO ")
        @pytest.mark.isolated
        def test_it(): sys.stdout.write("THREE ")
        """,
        "-s",
    )
    for word in ("ONE", "TWO", "THREE"):
        assert result.stdout.count(word) == 1, result.text


@pytest.mark.skipif(not PYTEST_9, reason="pytest 9.0 has brought the progress of terminals")
def test_fact_16_a_child_sends_no_terminal_progress(tmp_path: Path) -> None:
    """As many progress sequences as without isolation."""

    def sequences(*arguments: str) -> list[bytes]:
        source = (
            "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): assert n\n"
        )
        write_files(tmp_path, {"test_it.py": source})
        master, slave = pty.openpty()
        runner = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-p", "nsisolate", "-p", "terminalprogress"),
                *("-p", "no:cacheprovider", *arguments),
            ],
            cwd=tmp_path,
            env={**inner_environment(tmp_path), "TERM": "xterm-256color"},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.STDOUT,
        )
        os.close(slave)
        seen = b""
        try:
            while chunk := os.read(master, 65536):
                seen += chunk
        except OSError:
            pass  # EIO: the last process that had the terminal is gone
        finally:
            os.close(master)
            runner.kill()
            runner.wait()
        assert b"1 failed" in seen
        return re.findall(rb"\x1b]9;4;[0-9;]*\x1b\\", seen)

    plain = sequences()
    assert plain
    assert sequences("--nsisolate=all") == plain


def test_fact_17_garbage_that_fails_is_noticed_in_the_child(tmp_path: Path) -> None:
    """A cycle with a __del__ that raises is collected before the child ends."""
    source = """
        import gc, pytest
        class Dying:
            def __init__(self): self.cycle = self
            def __del__(self): raise ValueError("too late?")
        @pytest.fixture(autouse=True)
        def no_chance():
            gc.disable()
            gc.enable()
        @pytest.mark.isolated
        def test_it(): Dying()
        @pytest.mark.isolated
        def test_clean(): pass
    """
    result = run_source(tmp_path, source)
    assert [(w["category"], w["nodeid"]) for w in result.warnings] == [
        ("PytestUnraisableExceptionWarning", "test_it.py::test_it")
    ], result.text


def test_fact_18_pytester_runs_isolated_tests_in_a_subprocess(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plugins that build on this one can test themselves with pytester."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(INNER_MODULES), prepend=os.pathsep)
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.isolated
        def test_it(): assert os.getpid() == 1
        @pytest.mark.isolated
        def test_fails(): assert os.getpid() == 2
        """
    )
    result = pytester.runpytest_subprocess("-p", "nsisolate", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
