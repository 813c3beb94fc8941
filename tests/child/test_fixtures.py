# SPDX-License-Identifier: MIT
"""Which side of the clone a fixture lives on, and that each instance has one owner (law 3)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support import NEEDS_NAMESPACES, Result, run_source, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

FIXTURE = """
import pytest
from journal import note

def make(scope):
    @pytest.fixture(scope=scope, name=scope)
    def fixture():
        note(f"+{scope}")
        yield []
        note(f"-{scope}")
    return fixture

"""

SCOPES = f"""{FIXTURE}
module, klass, function = (make(s) for s in ("module", "class", "function"))
everything = pytest.mark.usefixtures("session", "module", "class", "function")
isolated = pytest.mark.isolated
"""

SESSION = """
import pytest
from journal import note

@pytest.fixture(scope="session")
def session():
    note("+session")
    yield []
    note("-session")
"""


def test_wider_scopes_are_set_up_once_in_the_runner_and_function_scope_in_each_child(
    tmp_path: Path,
) -> None:
    """One instance per session, package, module and class, whoever asks first."""
    body = f"""{SCOPES}
@everything
@pytest.mark.usefixtures("package")
class TestFirst:
    @isolated
    def test_isolated_is_first(self): note("test one")
    def test_plain(self): note("test two")
    @isolated
    def test_isolated_again(self): note("test three")

@everything
@pytest.mark.usefixtures("package")
class TestSecond:
    @isolated
    def test_isolated(self): note("test four")
"""
    write_files(
        tmp_path,
        {
            "conftest.py": SESSION,
            "one/__init__.py": "",
            "one/conftest.py": f'{FIXTURE}\npackage = make("package")\n',
            "one/test_a.py": body,
            "test_b.py": f"{SCOPES}\n@isolated\n@everything\ndef test_last(): note('test five')\n",
        },
    )
    result = run_suite(tmp_path)
    assert result.returncode == 0, result.text
    assert result.journal == [
        *("runner +session", "runner +package", "runner +module", "runner +class"),
        *("child +function", "child test one", "child -function"),
        *("runner +function", "runner test two", "runner -function"),
        *("child +function", "child test three", "child -function"),
        *("runner -class", "runner +class"),
        *("child +function", "child test four", "child -function"),
        *("runner -class", "runner -module", "runner -package"),
        # A class-scoped fixture of a function outside a class belongs to that function alone.
        "runner +module",
        *("child +class", "child +function", "child test five", "child -function", "child -class"),
        *("runner -module", "runner -session"),
    ]


def test_an_instance_is_inherited_and_what_a_test_does_to_it_ends_with_the_child(
    tmp_path: Path,
) -> None:
    """Plain tests share a module's object; an isolated one has the copy of its moment."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.fixture(scope="module")
        def shared(): return ["set up"]
        def test_plain(shared): shared.append("plain")
        @pytest.mark.isolated
        def test_isolated(shared):
            assert shared == ["set up", "plain"]
            shared.append("isolated")
        def test_after(shared): assert shared == ["set up", "plain"]
        """,
    )
    assert len(result.passed()) == 3, result.text


def test_xunit_setup_runs_where_its_scope_says(tmp_path: Path) -> None:
    """setup_module and setup_class once in the runner; setup_method in each child."""
    result = run_source(
        tmp_path,
        """
        import pytest, unittest
        from journal import note
        pytestmark = pytest.mark.isolated
        def setup_module(): note("+module")
        def teardown_module(): note("-module")
        def setup_function(): note("+function")
        def teardown_function(): note("-function")
        class TestClass:
            def setup_class(cls): note("+class"); cls.value = 1
            def teardown_class(cls): note("-class")
            def setup_method(self): note("+method"); self.own = 2
            def teardown_method(self): note("-method")
            def test_one(self): assert (self.value, self.own) == (1, 2)
            def test_two(self): assert (self.value, self.own) == (1, 2)
        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                note("+Class")
                cls.addClassCleanup(note, "class cleanup")
            @classmethod
            def tearDownClass(cls): note("-Class")
            def setUp(self): note("+setUp"); self.addCleanup(note, "cleanup")
            def tearDown(self): note("-tearDown")
            def test_it(self): note("test")
        def test_function(): note("test")
        """,
    )
    assert result.returncode == 0, result.text
    assert result.journal == [
        *("runner +module", "runner +class"),
        *("child +method", "child -method") * 2,
        *("runner -class", "runner +Class"),
        *("child +setUp", "child test", "child -tearDown", "child cleanup"),
        *("runner -Class", "runner class cleanup"),
        *("child +function", "child test", "child -function"),
        "runner -module",
    ]


def test_a_wider_scope_asked_for_inside_belongs_to_that_child(tmp_path: Path) -> None:
    """Set up in the child, torn down in it within the teardown phase, narrow before wide."""
    result = run_source(
        tmp_path,
        f"""
        {SCOPES.replace(chr(10), chr(10) + " " * 8)}
        {SESSION.replace(chr(10), chr(10) + " " * 8)}
        @isolated
        def test_inside(request, function):
            for name in ("module", "session", "class"):
                request.getfixturevalue(name)
            request.node.addfinalizer(lambda: note("item's finalizer"))
            request.session.addfinalizer(lambda: note("session's finalizer"))
            request.node.getparent(pytest.Module).addfinalizer(lambda: note("module's finalizer"))
            note("test")
        def test_plain(session, module): note("plain")
        @isolated
        def test_inherits(request):
            request.getfixturevalue("module")
            note("inherited")
        """,
    )
    assert result.returncode == 0, result.text
    assert result.journal == [
        *("child +function", "child +module", "child +session", "child +class", "child test"),
        # The item's own in the reverse order of their registration; then outwards.
        *("child item's finalizer", "child -class", "child -function"),
        *("child module's finalizer", "child -module"),
        *("child session's finalizer", "child -session"),
        *("runner +session", "runner +module", "runner plain"),
        "child inherited",
        *("runner -module", "runner -session"),
    ]


def test_an_error_of_a_fixture_asked_for_inside_is_in_the_teardown_phase(tmp_path: Path) -> None:
    """Its tear-down is over before the child ends, and its error is the test's own."""
    result = run_source(
        tmp_path,
        """
        import pytest
        @pytest.fixture(scope="session")
        def noisy():
            yield
            print("tearing down")
            raise RuntimeError("too late")
        @pytest.mark.isolated
        def test_it(request): request.getfixturevalue("noisy")
        def test_next(): pass
        """,
    )
    assert result.phases("test_it") == ["setup passed", "call passed", "teardown failed"]
    report = result.of("test_it")[-1]
    assert "RuntimeError: too late" in report["text"]
    assert report["sections"] == [["Captured stdout teardown", "tearing down\n"]]
    assert "test_next" in result.passed()


INSIDE = """
import pytest
from journal import note
isolated = pytest.mark.isolated

def make(name, scope, *needs):
    @pytest.fixture(scope=scope, name=name)
    def fixture(request):
        for need in needs:
            request.getfixturevalue(need)
        note(f"+{name}")
        yield
        note(f"-{name}")
    return fixture

other = make("other", "module")

@pytest.fixture(scope="session")
def base():
    note("+base")
    yield
    note("-base")

@pytest.fixture(scope="module")
def server(base):
    note("+server")
    yield
    note("-server")

@pytest.fixture(scope="class")
def client(server):
    note("+client")
    yield
    note("-client")
"""


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        pytest.param(
            '["server"]',
            [
                *("runner +other", "child +base", "child +server", "child test"),
                *("child -server", "child -base", "runner -other"),
            ],
            id="names",
        ),
        pytest.param(
            '["base"]',
            [
                *("runner +other", "child +base", "child +server", "child test"),
                *("child -server", "child -base", "runner -other"),
            ],
            id="what depends on them",
        ),
        pytest.param(
            "True",
            [
                *("child +base", "child +server", "child +other", "child test"),
                *("child -other", "child -server", "child -base"),
            ],
            id="everything",
        ),
        pytest.param(
            '["other"]',
            [
                *("runner +base", "runner +server", "child +other", "child test"),
                *("child -other", "runner -server", "runner -base"),
            ],
            id="unrelated ones stay",
        ),
    ],
)
def test_inside_moves_fixtures_and_their_closure(
    tmp_path: Path, inside: str, expected: list[str]
) -> None:
    """`inside` sets up the named fixtures, what they need and what needs them, in the child."""
    test = f"@isolated(inside={inside})\ndef test_it(server, other): note('test')\n"
    result = run_suite(write_files(tmp_path, {"test_it.py": INSIDE + test}))
    assert result.returncode == 0, result.text
    assert result.journal == expected


def test_an_instance_inside_stands_beside_that_of_the_runner(tmp_path: Path) -> None:
    """A plain test before and after sees the runner's; the child made its own."""
    tests = """
def test_before(server): note("before")
@isolated(inside=["server"])
class TestInside:
    def test_inside(self, client): note("inside")
def test_after(server): note("after")
"""
    result = run_suite(write_files(tmp_path, {"test_it.py": INSIDE + tests}))
    assert result.returncode == 0, result.text
    assert result.journal == [
        *("runner +base", "runner +server", "runner before"),
        *("child +base", "child +server", "child +client", "child inside"),
        *("child -client", "child -server", "child -base"),
        *("runner after", "runner -server", "runner -base"),
    ]


def test_parametrized_wider_fixtures_change_with_the_runner_s_tests(tmp_path: Path) -> None:
    """Each parameter's instance is set up once, in the runner, and finished before the next."""
    result = run_source(
        tmp_path,
        """
        import pytest
        from journal import note
        @pytest.fixture(scope="module", params=["red", "green"])
        def colour(request):
            note(f"+{request.param}")
            yield request.param
            note(f"-{request.param}")
        @pytest.mark.isolated
        def test_isolated(colour): note(colour)
        def test_plain(colour): note(colour)
        @pytest.fixture(scope="module")
        def shade(request):
            note(f"+{request.param}")
            yield request.param
            note(f"-{request.param}")
        @pytest.mark.isolated
        @pytest.mark.parametrize("shade", ["blue"], indirect=True)
        def test_indirect(shade): note(shade)
        """,
    )
    assert result.returncode == 0, result.text
    assert result.journal == [
        *("runner +red", "child red", "runner red", "runner -red"),
        *("runner +green", "child green", "runner green"),
        *("runner +blue", "child blue", "runner -blue", "runner -green"),
    ]


def test_a_failed_wider_fixture_fails_every_user_with_one_set_up(tmp_path: Path) -> None:
    """The error is found once and remembered, for isolated and plain tests alike."""
    result = run_source(
        tmp_path,
        """
        import pytest
        from journal import note
        @pytest.fixture(scope="module")
        def broken():
            note("+broken")
            raise RuntimeError("broken")
        @pytest.mark.isolated
        def test_isolated(broken): note("never")
        def test_plain(broken): note("never")
        @pytest.mark.isolated
        def test_again(broken): note("never")
        @pytest.mark.isolated
        def test_unaffected(): note("fine")
        """,
    )
    assert result.journal == ["runner +broken", "child fine"]
    for name in ("test_isolated", "test_plain", "test_again"):
        assert result.phases(name) == ["setup failed", "teardown passed"]
        assert "RuntimeError: broken" in result.failure(name)


def test_a_pytest_exit_in_the_child_tears_down_what_each_side_owns(tmp_path: Path) -> None:
    """The child's finalizers run in the child, the runner's in the runner, each once."""
    result = run_source(
        tmp_path,
        f"""
        {SCOPES.replace(chr(10), chr(10) + " " * 8)}
        @isolated
        def test_exit(module, function): pytest.exit("enough", returncode=7)
        def test_never(): note("never")
        """,
    )
    assert result.returncode == 7, result.text
    assert result.journal == [
        *("runner +module", "child +function", "child -function", "runner -module"),
    ]


# tmp_path ----------------------------------------------------------------------------------------

TMP_PATH = """
import os, pytest
from pathlib import Path

@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "from the runner").touch()
    return folder

@pytest.fixture
def checked(tmp_path_factory, shared):
    yield
    assert (shared / "from the child").exists()

def write(tmp_path):
    (tmp_path / "file").write_text(tmp_path.name)

@pytest.mark.isolated
def test_isolated(tmp_path, shared, checked):
    write(tmp_path)
    assert (shared / "from the runner").exists()
    (shared / "from the child").touch()

def test_plain(tmp_path, shared):
    write(tmp_path)
    assert (shared / "from the child").exists()

@pytest.mark.isolated
@pytest.mark.parametrize("n", [1, 2])
def test_parameters(tmp_path, tmp_path_factory, n):
    write(tmp_path)
    assert tmp_path.parent == tmp_path_factory.getbasetemp()

@pytest.mark.isolated
def test_failing(tmp_path):
    write(tmp_path)
    assert 0
"""


@pytest.mark.parametrize("explicit", [True, False], ids=["--basetemp", "default"])
@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_children_share_the_base_temp_and_its_retention(
    tmp_path: Path, policy: str, explicit: bool
) -> None:
    """One base directory for both sides; what remains of it is what plain pytest leaves."""

    def run(side: str, *arguments: str) -> tuple[Result, list[str]]:
        root = tmp_path / side
        root.mkdir()
        write_files(root, {"test_it.py": TMP_PATH})
        options = ["-o", f"tmp_path_retention_policy={policy}", *arguments]
        (root / "temp").mkdir()
        environment = {"PYTEST_DEBUG_TEMPROOT": str(root / "temp")}
        result = run_suite(root, *options, env=environment, basetemp=explicit)
        top = root / ".temp" if explicit else root / "temp"
        return result, sorted(str(path.relative_to(top)) for path in top.rglob("*"))

    plain, left_plain = run("plain", "--nsisolate=none", "--nsisolate-unsafe")
    isolated, left = run("isolated")
    assert len(isolated.passed()) == 4, isolated.text
    assert isolated.summary == plain.summary == "1 failed, 4 passed"
    assert left == left_plain
    kept = any(name.endswith("test_failing0/file") for name in left)
    assert kept == (policy != "none" or explicit), left


def test_the_base_temp_in_dev_shm_stays_in_use(tmp_path: Path) -> None:
    """A base temp below a directory that the child covers is the runner's all the same."""
    folder = Path("/dev/shm") / f"nsisolate-test-{os.getpid()}"
    source = """
        import pytest
        @pytest.mark.isolated
        def test_write(tmp_path): (tmp_path / "file").write_text("x")
        def test_read(tmp_path):
            assert (tmp_path.parent / "test_write0" / "file").read_text() == "x"
    """
    try:
        result = run_source(tmp_path, source, f"--basetemp={folder}", basetemp=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert len(result.passed()) == 2, result.text


# --setup-show ------------------------------------------------------------------------------------

SHOWN = """
import pytest
@pytest.fixture(scope="module")
def wide(): yield
@pytest.fixture
def narrow(wide): yield
@pytest.mark.isolated
def test_it(narrow): assert {}
"""


def test_setup_show_shows_every_fixture_once(tmp_path: Path) -> None:
    """Set-up, the test and tear-down in order, each fixture with the side that it is on."""
    result = run_suite(write_files(tmp_path, {"test_it.py": SHOWN.format(1)}), "--setup-show")
    assert result.returncode == 0, result.text
    words = ("SETUP", "TEARDOWN", "test_it.py::test_it")
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip().startswith(words)]
    assert [re.sub(r" \(.*?\)", "", line).rstrip(" .") for line in lines] == [
        "SETUP    M wide [runner]",
        "SETUP    F narrow [child]",
        "test_it.py::test_it",
        "TEARDOWN F narrow [child]",
        "TEARDOWN M wide [runner]",
    ], result.text


def test_setup_only_runs_no_test(tmp_path: Path) -> None:
    """--setup-only sets up on both sides, and never calls."""
    result = run_suite(write_files(tmp_path, {"test_it.py": SHOWN.format(0)}), "--setup-only")
    assert result.returncode == 0, result.text
    assert result.phases("test_it") == ["setup passed", "teardown passed"]
    assert "SETUP    F narrow" in result.stdout
