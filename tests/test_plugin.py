# SPDX-License-Identifier: MIT
"""Options, markers and kinds of items, from the command line to the result."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support import (
    INNER_MODULES,
    NEEDS_NAMESPACES,
    ONE_JOB,
    TOOLS,
    Result,
    differences,
    run_parity,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

SIDES = """
import os, pytest
from journal import note

def here():
    name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split()[0]
    note(f"{name} {os.getpid() == 1}")

def test_plain(): here()
@pytest.mark.isolated
def test_marked(): here()
@pytest.mark.isolated(init=True)
def test_init(): here()
@pytest.mark.isolated(uts=True)
def test_uts(): here()
@pytest.mark.isolated
class TestClass:
    def test_in_class(self): here()
    @pytest.mark.isolated(False)
    def test_out(self): here()
@pytest.mark.parametrize("n", [0, pytest.param(1, marks=pytest.mark.isolated)])
def test_parameter(n): here()
"""

MARKED = ["test_marked", "test_init", "test_uts", "TestClass", "test_parameter[1]"]


def sides(result: Result) -> dict[str, str]:
    """What the suite noted: test -> side and whether it was PID 1."""
    notes = [line.split(" ") for line in result.journal]
    return {f"{name}": f"{side} {pid1}" for side, name, pid1 in notes}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            (),
            {
                "test_plain": "runner False",
                "test_marked": "child True",
                "test_init": "child False",
                "test_uts": "child False",
                "TestClass": "runner False",
                "test_parameter[0]": "runner False",
                "test_parameter[1]": "child True",
            },
            id="marked",
        ),
        pytest.param(
            ("--nsisolate=all",),
            {
                "test_plain": "child False",
                "test_marked": "child True",
                "test_init": "child False",
                "test_uts": "child False",
                "TestClass": "runner False",
                "test_parameter[0]": "child False",
                "test_parameter[1]": "child True",
            },
            id="all",
        ),
        pytest.param(
            ("--nsisolate-init",),
            {
                "test_plain": "runner False",
                "test_marked": "child False",
                "test_init": "child False",
                "test_uts": "child False",
                "TestClass": "runner False",
                "test_parameter[0]": "runner False",
                "test_parameter[1]": "child False",
            },
            id="init",
        ),
        pytest.param(
            ("--nsisolate=none",),
            {
                "test_plain": "runner False",
                "TestClass": "runner False",
                "test_parameter[0]": "runner False",
            },
            id="none",
        ),
        pytest.param(
            ("--nsisolate=none", "--nsisolate-unsafe"),
            dict.fromkeys(("test_plain", "test_parameter[0]", *MARKED), "runner False"),
            id="unsafe",
        ),
        pytest.param(
            ("--nsisolate-namespaces=uts",),
            {
                "test_plain": "runner False",
                "test_marked": "child False",
                "test_init": "child False",
                "test_uts": "child False",
                "TestClass": "runner False",
                "test_parameter[0]": "runner False",
                "test_parameter[1]": "child False",
            },
            id="namespaces",
        ),
    ],
)
def test_options_say_which_tests_are_isolated_and_how(
    tmp_path: Path, arguments: tuple[str, ...], expected: dict[str, str]
) -> None:
    """--nsisolate, --nsisolate-unsafe, -init and -namespaces, against every way to mark."""
    result = run_source(tmp_path, SIDES, *arguments)
    assert result.returncode == 0, result.text
    assert sides(result) == expected
    skipped = sum(report["outcome"] == "skipped" for report in result.reports)
    assert skipped == (5 if arguments == ("--nsisolate=none",) else 0)


def test_ini_keys_say_the_same_and_an_option_wins(tmp_path: Path) -> None:
    """Each option has its ini key; the command line has the last word."""
    write_files(
        tmp_path,
        {
            "pytest.ini": """
                [pytest]
                nsisolate = all
                nsisolate_namespaces = pid uts
                nsisolate_init = true
                nsisolate_timeout = 0.5
            """,
            "test_it.py": """
                import os, time
                from journal import note
                def test_a():
                    same = os.readlink("/proc/self/ns/net") == NET
                    note(f"{os.getpid() == 1} {same}")
                NET = os.readlink("/proc/self/ns/net")
                def test_slow():
                    if note("slow") or os.environ.get("SLOW"): time.sleep(60)
            """,
        },
    )
    by_ini = run_suite(tmp_path, ONE_JOB, env={"SLOW": "1"})
    assert by_ini.journal == ["child False True", "child slow"]
    assert "timed out after 0.5 s in call" in by_ini.failure("test_slow")
    by_option = run_suite(tmp_path, "--nsisolate=marked")
    assert by_option.journal == ["runner False True", "runner slow"]


def test_bad_markers_are_one_usage_error_that_names_every_test(tmp_path: Path) -> None:
    """Nothing runs; the exit code is pytest's for usage errors; deselected tests count too."""
    result = run_source(
        tmp_path,
        """
        import pytest
        from journal import note
        @pytest.mark.isolated(pidd=True)
        def test_typo(): note("ran")
        @pytest.mark.isolated(timeout=-1)
        @pytest.mark.parametrize("n", [1, 2])
        def test_budget(n): note("ran")
        def test_fine(): note("ran")
        """,
        "-k",
        "fine",
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert result.journal == []
    assert "INTERNALERROR" not in result.text
    for name in ("test_typo", "test_budget[1]", "test_budget[2]"):
        assert f"test_it.py::{name}" in result.text


MISSPELT = """
    import pytest
    from journal import note
    @pytest.mark.isolate
    @pytest.mark.filterwarnings("ignore")
    def test_function(): note("ran")
    class TestIt:
        pytestmark = [pytest.mark.isolatd(net=True)]
        def test_method(self): note("ran")
    @pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.Isolated)])
    def test_parameter(n): note("ran")
    def test_fine(): note("ran")
"""


@pytest.mark.parametrize(
    "options",
    [(), ("-k", "fine"), ("--nsisolate=all", "-p", "xdist", "-n", "2"), ("--nsisolate=none",)],
    ids=" ".join,
)
def test_a_misspelt_marker_is_a_usage_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    """pytest would only warn, and the test would run on the host."""
    result = run_source(tmp_path, MISSPELT, *options)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert (result.journal, result.reports) == ([], [])
    assert "INTERNALERROR" not in result.text
    (error,) = re.findall(r"^ERROR: (.*?)\n\n\n?$", f"{result.stderr}\n", re.DOTALL | re.MULTILINE)
    head, *found = error.split("\n\n")
    assert head == "3 tests cannot be isolated as marked, nothing was run"
    guess = "nothing has registered this marker, did you mean 'isolated'? "
    own = "If it is a marker of your own, register it by the ini key markers"
    assert found == [
        f"@pytest.mark.{name}: {guess}{own} (1 test)\n  test_it.py::{test}"
        for name, test in (
            ("isolate", "test_function"),
            ("isolatd", "TestIt::test_method"),
            ("Isolated", "test_parameter[2]"),
        )
    ]


def test_a_marker_of_that_name_that_is_registered_is_left_alone(tmp_path: Path) -> None:
    """That of pytest-isolate, by its plugin; one's own, by the ini key or in a conftest."""
    files = {
        "pytest.ini": "[pytest]\nmarkers =\n    isolatd(n): mine\n",
        "conftest.py": """
            def pytest_configure(config):
                config.addinivalue_line("markers", "isolate: as pytest-isolate does")
        """,
        "below/conftest.py": """
            def pytest_configure(config):
                config.addinivalue_line("markers", "Isolated: mine")
        """,
        "below/test_it.py": MISSPELT,
    }
    result = run_suite(write_files(tmp_path, files), "--strict-markers")
    assert (result.returncode, result.journal) == (0, ["runner ran"] * 5), result.text


@pytest.mark.parametrize("option", ["--nsisolate=some", "--nsisolate-timeout=-3"])
def test_bad_options_are_usage_errors(tmp_path: Path, option: str) -> None:
    """A wrong value ends the run before it begins, and names the option."""
    result = run_source(tmp_path, "def test_it(): pass", option)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert option.partition("=")[0] in result.stderr
    assert "Traceback" not in result.text


def test_unsafe_alone_is_a_usage_error(tmp_path: Path) -> None:
    """--nsisolate-unsafe has no meaning of its own."""
    result = run_source(tmp_path, "def test_it(): pass", "--nsisolate-unsafe")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--nsisolate=none" in result.stderr


def test_an_installed_pytest_isolated_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """The namesake would run marked tests without namespaces; `-p no:isolated` helps."""
    write_files(
        tmp_path,
        {
            "pytest_isolated-0.6.0.dist-info/METADATA": "Name: pytest-isolated\nVersion: 0.6.0\n",
            "pytest_isolated-0.6.0.dist-info/entry_points.txt": (
                "[pytest11]\nisolated = namesake\n"
            ),
            "namesake.py": "",
            "test_it.py": "import pytest\n@pytest.mark.isolated\ndef test_it(): pass\n",
        },
    )
    path = {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, INNER_MODULES, TOOLS)))}
    refused = run_suite(tmp_path, "-p", "isolated", env=path)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert refused.reports == []
    (line,) = [line for line in refused.stderr.splitlines() if "pytest-isolated" in line]
    assert "pytest-nsisolate" in line
    assert "-p no:isolated" in line
    off = run_suite(tmp_path, "-p", "isolated", "-p", "no:isolated", env=path)
    assert off.passed() == {"test_it"}


# Kinds of items ----------------------------------------------------------------------------------

ITEMS = {
    "conftest.py": """
        import os, pytest
        from journal import note
        class Line(pytest.Item):
            def setup(self): note(f"setup {self.name}")
            def teardown(self): note(f"teardown {self.name}")
            def runtest(self): note(f"run {self.name} {os.getpid()}")
            def reportinfo(self): return self.path, 0, self.name
        class Lines(pytest.File):
            def setup(self): note("setup file")
            def teardown(self): note("teardown file")
            def collect(self):
                for name in self.path.read_text().split():
                    item = Line.from_parent(self, name=name)
                    if name != "plain":
                        item.add_marker(pytest.mark.isolated)
                    yield item
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".lines":
                return Lines.from_parent(parent, path=file_path)
        def pytest_collection_modifyitems(items):
            for item in items:
                if isinstance(item, pytest.DoctestItem) and "isolated" in item.name:
                    item.add_marker("isolated")
    """,
    "a.lines": "one plain two",
    "module_docs.py": """
        def isolated():
            '''
            >>> import os; os.getpid()
            1
            >>> from journal import note; note("doctest")
            '''
        def plain():
            '''
            >>> import os; os.getpid() == 1
            False
            >>> from journal import note; note("doctest")
            '''
    """,
    "test_unit.py": """
        import os, unittest, pytest
        from journal import note
        class Case(unittest.TestCase):
            @pytest.mark.isolated
            def test_marked(self):
                self.assertEqual(os.getpid(), 1)
                note("unittest")
            def test_plain(self): note("unittest")
        @pytest.mark.isolated
        class Async(unittest.IsolatedAsyncioTestCase):
            async def test_async(self):
                self.assertEqual(os.getpid(), 1)
                note("async")
    """,
}


def test_every_kind_of_item_can_be_isolated(tmp_path: Path) -> None:
    """unittest methods, async ones, doctests and the items of a conftest, beside plain ones."""
    write_files(tmp_path, ITEMS)
    result = run_suite(tmp_path, "--doctest-modules")
    assert result.returncode == 0, result.text
    assert len(result.passed()) == 8
    runs = [line for line in result.journal if " run plain" not in line]
    assert runs == [
        "runner setup file",
        *("child setup one", "child run one 1", "child teardown one"),
        *("runner setup plain", "runner teardown plain"),
        *("child setup two", "child run two 1", "child teardown two"),
        "runner teardown file",
        *("child doctest", "runner doctest"),
        *("child unittest", "runner unittest", "child async"),
    ]


# Selection and flow ------------------------------------------------------------------------------

ORDERED = """
import pytest
def test_a(): pass
def test_b(): assert 0
def test_c(): pass
@pytest.mark.parametrize("n", range(3))
def test_d(n): assert n == 1
def test_e(): pass
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("-x",),
        ("--maxfail=2",),
        ("-k", "d or a"),
        ("--deselect=test_it.py::test_b", "-x"),
        ("--collect-only",),
        ("--durations=0", "-vv"),
        ("-q", "--no-summary"),
        ("--tb=line",),
        ("--tb=native",),
        ("--color=yes", "-rA"),
        ("-p", "no:terminal"),
    ],
    ids=" ".join,
)
def test_selection_and_flow_are_those_of_a_plain_run(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The same tests run, in the same order, to the same end."""
    write_files(tmp_path, {"test_it.py": ORDERED})
    plain, isolated = run_parity(tmp_path, *arguments)
    assert differences(plain, isolated) == []
    assert isolated.returncode == plain.returncode


def test_last_failed_and_stepwise_remember_isolated_failures(tmp_path: Path) -> None:
    """--lf runs what failed isolated, and --sw goes on there."""
    source = "import pytest\npytestmark = pytest.mark.isolated\n" + ORDERED
    write_files(tmp_path, {"test_it.py": source})
    first = run_suite(tmp_path, cache=True)
    assert first.summary == "3 failed, 4 passed", first.text
    again = run_suite(tmp_path, "--lf", cache=True)
    assert again.summary in {"3 failed, 1 deselected", "3 failed"}, again.text
    stepwise = run_suite(tmp_path, "--sw", cache=True)
    assert stepwise.summary.startswith("1 failed, 1 passed"), stepwise.text
    source = source.replace("def test_b(): assert 0", "def test_b(): pass")
    write_files(tmp_path, {"test_it.py": source})
    stepwise = run_suite(tmp_path, "--sw", cache=True)
    assert stepwise.phases("test_a") == []
    assert "test_b" in stepwise.passed()


def test_a_test_that_crashes_is_remembered_as_failed(tmp_path: Path) -> None:
    """--lf runs it again; the cache is written by the runner alone."""
    source = """
        import os, pytest
        pytestmark = pytest.mark.isolated
        def test_crash(): os.kill(os.getpid(), 11)
        def test_exit(): os._exit(0)
        def test_fine(): pass
    """
    first = run_source(tmp_path, source, cache=True)
    assert first.summary in ("2 failed, 1 passed", "1 failed, 2 passed"), first.text
    again = run_suite(tmp_path, "--lf", cache=True)
    assert again.phases("test_fine") == []
    assert again.phases("test_exit") != []


@pytest.mark.parametrize("setting", ["shouldstop", "shouldfail"])
def test_a_wish_to_stop_crosses(tmp_path: Path, setting: str) -> None:
    """`session.shouldstop` and `shouldfail` set inside the test end the run."""
    result = run_source(
        tmp_path,
        f"""
        import pytest
        @pytest.mark.isolated
        def test_it(request): request.session.{setting} = "enough of it"
        def test_never(): pass
        """,
    )
    assert "enough of it" in result.stdout
    assert "test_it" in result.passed()
    assert result.phases("test_never") == []


# junit -------------------------------------------------------------------------------------------


def junit(result: Result, folder: Path) -> list[tuple[str, dict[str, str], str]]:
    """Every element of the report: tag, attributes without times, text."""
    assert result.returncode in (0, 1), result.text
    tree = ET.parse(folder / "junit.xml")
    return [
        (
            element.tag,
            {k: v for k, v in element.attrib.items() if k not in ("time", "timestamp")},
            (element.text or "").strip(),
        )
        for element in tree.iter()
    ]


def test_the_junit_report_is_that_of_a_plain_run(tmp_path: Path) -> None:
    """Properties of tests and of the suite, attributes, output, failures and skips."""
    write_files(
        tmp_path,
        {
            "test_it.py": """
                import pytest, sys
                @pytest.fixture(scope="session", autouse=True)
                def suite(record_testsuite_property): record_testsuite_property("host", "one")
                def test_properties(record_property, record_testsuite_property):
                    record_property("key", "value")
                    record_property("number", 3)
                    record_testsuite_property("from", "a test")
                def test_attribute(record_xml_attribute): record_xml_attribute("assertions", 7)
                def test_output():
                    print("out")
                    print("err", file=sys.stderr)
                    assert 0
                def test_skip(): pytest.skip("reason")
                @pytest.mark.xfail(reason="known")
                def test_xfail(): assert 0
                @pytest.fixture
                def broken(): raise ValueError
                def test_error(broken): pass
                def test_escape(): raise ValueError("\\x1b[0m & <x> \\x00")
            """
        },
    )
    options = ("--junitxml=junit.xml", "-o", "junit_logging=all", "-p", "no:warnings")
    plain = junit(run_suite(tmp_path, *options), tmp_path)
    isolated = junit(run_suite(tmp_path, *options, "--nsisolate=all"), tmp_path)
    assert isolated == plain
    assert ("property", {"name": "from", "value": "a test"}, "") in isolated


def test_a_crash_is_a_failure_in_the_junit_report(tmp_path: Path) -> None:
    """The message says how it ended, and the captured output is there."""
    result = run_source(
        tmp_path,
        """
        import os, pytest
        @pytest.mark.isolated
        def test_it():
            print("last words", flush=True)
            os._exit(4)
        """,
        "--junitxml=junit.xml",
        "-o",
        "junit_logging=all",
    )
    found = {tag: (attributes, text) for tag, attributes, text in junit(result, tmp_path)}
    assert "exit status 4" in found["failure"][0]["message"]
    assert "last words" in found["system-out"][1]


@pytest.mark.parametrize("style", ["--full-trace", "--tb=native", "--showlocals"])
def test_no_traceback_shows_how_the_test_was_called(tmp_path: Path, style: str) -> None:
    """The plugin's own frames are in none, whichever the style and the side."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide(): raise ValueError("wide")
        @pytest.fixture
        def narrow(): raise ValueError("narrow")
        @pytest.fixture
        def late():
            yield
            raise ValueError("late")
        def test_wide(wide): pass
        def test_narrow(narrow): pass
        def test_late(late): pass
        def test_call(): raise ValueError("call")
        """,
        style,
        "--nsisolate=all",
    )
    assert result.summary == "1 failed, 1 passed, 3 errors", result.text
    texts = [report["text"] for report in result.reports if report["outcome"] == "failed"]
    assert len(texts) == 4
    assert not any("pytest_nsisolate/" in text for text in texts)


#: pytest's own plugins, whose options and stash keys are gone when they are.
OFF = (
    ("setuponly",),
    ("debugging",),
    ("capture",),
    *(("skipping", "logging", "warnings", "faulthandler", "unraisableexception"),),
    *(("threadexception", "doctest", "junitxml", "stepwise", "pastebin", "setupplan"),),
)


@pytest.mark.parametrize("names", OFF, ids=lambda names: names[0])
def test_plugins_of_pytest_can_be_switched_off(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_files(tmp_path, {"test_it.py": "def test_it(tmp_path): print('said')\n"})
    off = [option for name in names for option in ("-p", f"no:{name}")]
    result = run_suite(tmp_path, *off, "--nsisolate=all", "-W", "error")
    assert result.returncode == 0, result.text
