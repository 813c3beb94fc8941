# SPDX-License-Identifier: MIT
"""Isolation changes where a test runs and nothing else: one varied suite, plain and isolated.

What is compared is all that a plugin in the runner can hear, in order: log starts and ends, every
report with its text and sections, every warning with its place; and what the terminal says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9,
    differences,
    run_parity,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

OUTCOMES: Final = r"""
import enum, logging, sys, unittest, warnings
import pytest

log = logging.getLogger("varied")

def deep(value):
    __tracebackhide__ = False
    return shallow(value)

def shallow(value):
    assert value == {"a": [1, 2, 3], "b": "text"}, "they differ"

def hidden(value):
    __tracebackhide__ = True
    raise ValueError(value)

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one, two)
        self.one = one

class BadRepr:
    def __repr__(self):
        raise RuntimeError("no repr")

class Level(enum.IntEnum):
    HIGH = 3

def test_pass(): pass
def test_assert(): deep({"a": [1, 2], "b": "text"})
def test_hidden_frame(): hidden("x")
def test_diff(): assert "one\ntwo\nthree" == "one\n2\nthree"
def test_long_diff(): assert list(range(60)) == list(range(1, 61))
def test_chained():
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise Odd(1, 2) from error
def test_context():
    try:
        {}["key"]
    except KeyError:
        int("x")
def test_group(): raise ExceptionGroup("several", [ValueError(1), TypeError("two")])
def test_local_class():
    class Local(Exception): pass
    raise Local("inside")
def test_bad_repr():
    value = BadRepr()
    assert value is None
def test_surrogate(): raise ValueError("\udcff and \0 and \x1b[31m")
def test_skip_inside(): pytest.skip("not today")
def test_skip_unicode(): pytest.skip("nein, \u00fcberhaupt nicht")
@pytest.mark.skip(reason="by mark")
def test_skip_mark(): assert 0
@pytest.mark.skipif("sys.platform == 'linux'", reason="by condition")
def test_skip_condition(): assert 0
def test_importorskip(): pytest.importorskip("no_such_module_at_all")
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail(reason="known", strict=True)
def test_xfail_strict_pass(): pass
@pytest.mark.xfail(reason="known")
def test_xpass(): pass
@pytest.mark.xfail(raises=KeyError, reason="wrong kind")
def test_xfail_raises_other(): raise ValueError
@pytest.mark.xfail(raises=ValueError, reason="right kind")
def test_xfail_raises(): raise ValueError
@pytest.mark.xfail(False, reason="not in force")
def test_xfail_off(): assert 0
@pytest.mark.xfail(run=False, reason="never run")
def test_xfail_norun(): assert 0
def test_xfail_inside(): pytest.xfail("found out")
def test_fail_notrace(): pytest.fail("plain words", pytrace=False)
def test_system_exit(): sys.exit(3)
@pytest.mark.parametrize("value", [1, 2, "x y", None])
def test_parameters(value): assert value != 2
@pytest.mark.parametrize("text", ["\u00fc", "\x1b", "a/b[c]::d"])
def test_odd_ids(text): pass

def test_output(capsys):
    print("swallowed")
    assert capsys.readouterr().out == "swallowed\n"
    print("left")
def test_streams():
    print("to out")
    print("to err", file=sys.stderr)
    log.warning("to log %d", 3)
    assert 0
def test_descriptor(capfd):
    import os
    os.write(1, b"raw\n")
    assert capfd.readouterr().out == "raw\n"
def test_caplog(caplog):
    log.error("seen")
    assert [r.getMessage() for r in caplog.records] == ["seen"]
def test_big_output():
    print("x" * 200_000)
    assert 0
def test_properties(record_property, request):
    record_property("level", Level.HIGH)
    record_property("float", 1.5)
    record_property("bytes", b"\xff")
    record_property("nested", {"a": (1, 2), "b": {3}})
    request.node.user_properties.append(("later", None))
def test_properties_and_failure(record_property):
    record_property("k", "v")
    assert 0
def test_no_raises():
    with pytest.raises(KeyError):
        pass
def test_warns_not():
    with pytest.warns(UserWarning):
        pass
def test_warning(): warnings.warn("careful")
def test_warning_other(): warnings.warn("careful, old", DeprecationWarning)
def test_warning_repeated():
    for _ in range(3):
        warnings.warn("again")
def test_unraisable():
    class Dying:
        def __del__(self):
            raise ValueError("in del")
    Dying()
def test_thread_exception():
    import threading
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()
def test_returns(): return None
"""

FIXTURES: Final = r"""
import warnings, logging
import pytest

@pytest.fixture(scope="session")
def session_one():
    print("session set-up")
    warnings.warn("from a session fixture")
    yield 1
    print("session tear-down")

@pytest.fixture(scope="module")
def module_one(session_one):
    print("module set-up")
    logging.getLogger("m").warning("module log")
    yield 2
    print("module tear-down")

@pytest.fixture(scope="module")
def module_broken():
    print("before the break")
    raise RuntimeError("module set-up fails")

@pytest.fixture(scope="module", params=["red", "green"])
def colour(request):
    print("colour", request.param)
    yield request.param
    print("no more", request.param)

@pytest.fixture(scope="class")
def class_one(): return []

@pytest.fixture
def function_one(module_one):
    print("function set-up")
    warnings.warn("from a function fixture")
    yield module_one
    print("function tear-down")

@pytest.fixture
def broken_setup():
    print("about to break")
    raise ValueError("set-up fails")

@pytest.fixture
def broken_teardown():
    yield
    print("about to break")
    raise ValueError("tear-down fails")

@pytest.fixture
def skipping(): pytest.skip("by fixture")

@pytest.fixture(autouse=True)
def around(request):
    yield

def test_values(function_one, session_one):
    print("call")
    assert (function_one, session_one) == (2, 2)
def test_broken_module(module_broken): pass
def test_broken_module_again(module_broken): pass
def test_broken_setup(broken_setup): pass
def test_broken_teardown(broken_teardown): pass
def test_both_broken(broken_teardown): assert 0, "call fails too"
def test_both_teardowns(broken_teardown, request):
    def also():
        raise TypeError("so does this")
    request.addfinalizer(also)
def test_skipping(skipping): pass
def test_missing(no_such_fixture): pass
def test_colour(colour): assert colour != "green"
def test_colour_again(colour): pass
@pytest.mark.xfail(reason="set-up")
def test_xfail_setup(broken_setup): pass
@pytest.mark.usefixtures("function_one")
class TestClass:
    def test_one(self, class_one): class_one.append(1)
    def test_two(self, class_one): assert class_one is not None
    @pytest.mark.parametrize("n", [1, 2])
    def test_three(self, n): assert n == 1
class TestXunit:
    @classmethod
    def setup_class(cls): print("setup_class"); cls.where = "here"
    @classmethod
    def teardown_class(cls): print("teardown_class")
    def setup_method(self, method): print("setup", method.__name__)
    def teardown_method(self, method): print("teardown", method.__name__)
    def test_it(self): assert self.where == "there"
    def test_again(self): pass
class TestBrokenClass:
    @classmethod
    def setup_class(cls): raise OSError("no class")
    def test_it(self): pass
    def test_again(self): pass
def setup_module(module): print("setup_module")
def teardown_module(module): print("teardown_module")
"""

UNITTESTS: Final = """
import unittest

class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(print, "class cleanup")
        cls.shared = 5
    def setUp(self):
        self.addCleanup(print, "cleanup")
        print("setUp")
    def tearDown(self): print("tearDown")
    def test_pass(self): self.assertEqual(self.shared, 5)
    def test_fail(self): self.assertEqual([1, 2], [1, 3])
    def test_error(self): raise OSError("broken")
    def test_skip(self): self.skipTest("not now")
    @unittest.skip("never")
    def test_skip_decorator(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail("as expected")
    @unittest.expectedFailure
    def test_unexpected(self): pass
    def test_subtests(self):
        for n in range(3):
            with self.subTest("number", n=n):
                pass

class Async(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self): self.ready = True
    async def test_async(self): self.assertTrue(self.ready)
    async def test_async_fail(self): self.assertFalse(self.ready)

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise RuntimeError("no class")
    def test_one(self): pass
    def test_two(self): pass
"""

DOCTESTS: Final = '''
def double(value):
    """
    >>> double(2)
    4
    >>> double("a")
    'bb'
    """
    return 2 * value

def right():
    """
    >>> right()
    1
    """
    return 1

def raising():
    """
    >>> raising()
    1
    """
    raise KeyError("k")
'''

CONFTEST: Final = """
import pytest

class Line(pytest.Item):
    def __init__(self, *, text, **kwargs):
        super().__init__(**kwargs)
        self.text = text
    def setup(self): print("line set-up")
    def runtest(self):
        if "fail" in self.text:
            raise ValueError(self.text)
    def repr_failure(self, excinfo): return f"bad line: {excinfo.value}"
    def reportinfo(self): return self.path, 0, f"line {self.name}"

class Lines(pytest.File):
    def collect(self):
        for number, text in enumerate(self.path.read_text().splitlines()):
            yield Line.from_parent(self, name=f"l{number}", text=text)

@pytest.fixture(scope="session")
def broken_session(): raise RuntimeError("in a conftest")

@pytest.fixture
def broken_function(): raise RuntimeError("in a conftest, too")

def asked(item, phase):
    what = item.get_closest_marker(f"hook_{phase}")
    if what is not None:
        {"raise": ValueError, "skip": pytest.skip, "xfail": pytest.xfail, "fail": pytest.fail}[
            what.args[0]
        ](phase) if what.args[0] != "raise" else broken(phase)

def broken(phase): raise ValueError(phase)

def pytest_configure(config):
    for phase in ("setup", "call", "teardown"):
        config.addinivalue_line("markers", f"hook_{phase}: a hook of that phase fails")

def pytest_runtest_setup(item): asked(item, "setup")
def pytest_runtest_call(item): asked(item, "call")
# Last: un-isolated, an error before pytest's own tear-down breaks the next test.
@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item): asked(item, "teardown")

def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".lines":
        return Lines.from_parent(parent, path=file_path)
"""

HOOKS: Final = """
import pytest

@pytest.fixture(scope="module")
def broken_after():
    yield
    raise RuntimeError("at the end")

def test_broken_session(broken_session): pass
def test_broken_session_again(broken_session): pass
def test_broken_function(broken_function): pass
@pytest.mark.hook_setup("raise")
def test_setup_raises(): pass
@pytest.mark.hook_setup("skip")
def test_setup_skips(): pass
@pytest.mark.hook_setup("xfail")
def test_setup_xfails(): pass
@pytest.mark.hook_setup("fail")
def test_setup_fails(): pass
@pytest.mark.hook_call("raise")
def test_call_raises(): pass
@pytest.mark.hook_call("skip")
def test_call_skips(): pass
@pytest.mark.hook_call("xfail")
def test_call_xfails(): pass
@pytest.mark.hook_teardown("raise")
def test_teardown_raises(): pass
@pytest.mark.hook_teardown("skip")
def test_teardown_skips(): pass
def test_broken_after(broken_after): pass
"""

SUBTESTS: Final = """
def test_subtests_pass(subtests):
    for n in range(2):
        with subtests.test(msg="number", n=n):
            print("inside", n)
def test_subtests_fail(subtests):
    for n in range(3):
        with subtests.test(n=n):
            print("inside", n)
            assert n != 1
def test_subtests_and_failure(subtests):
    with subtests.test("first"):
        assert 0, "sub"
    assert 0, "parent"
def test_subtests_skip(subtests):
    import pytest
    with subtests.test("skipped"):
        pytest.skip("not this one")
    with subtests.test("expected"):
        pytest.xfail("known")
"""

VARIED: Final = {
    "conftest.py": CONFTEST,
    "test_outcomes.py": OUTCOMES,
    "test_fixtures.py": FIXTURES,
    "test_hooks.py": HOOKS,
    "test_unit.py": UNITTESTS,
    "module_docs.py": DOCTESTS,
    "data.lines": "good\nfail here\ngood\n",
    "text.txt": ">>> 1 + 1\n3\n",
} | ({"test_subtests.py": SUBTESTS} if PYTEST_9 else {})

#: One shows pytest's own locals, times among them; of the other, pytest captures its own letters.
NOT_STABLE: Final = (
    "--deselect=test_outcomes.py::test_xfail_norun",
    "--deselect=test_unit.py::Case::test_subtests",
)

ARGUMENTS: Final = ("--doctest-modules", "--doctest-glob=*.txt", "-rA")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(ARGUMENTS, id="plain"),
        pytest.param((*ARGUMENTS, "--nsisolate-root=overlay"), id="files-of-its-own"),
        pytest.param((*ARGUMENTS, "-vv", "--showlocals", "--tb=long", *NOT_STABLE), id="verbose"),
    ],
)
def test_a_varied_suite_gives_the_same_results_isolated(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Reports, warnings and the terminal's text do not tell whether a suite ran isolated."""
    write_files(tmp_path, VARIED)
    plain, isolated = run_parity(tmp_path, *arguments)
    assert len(plain.reports) > 240, plain.text
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)
    assert isolated.returncode == plain.returncode == 1


def test_the_comparison_finds_what_isolation_changes(tmp_path: Path) -> None:
    """Negative control: tests that look at where they run differ, and each difference is told."""
    source = """
        import os
        HERE = os.getpid()
        def test_result(): assert os.getpid() == HERE
        def test_output(): print(os.getpid() == HERE)
        def test_property(record_property): record_property("here", os.getpid() == HERE)
        def test_same(): assert HERE
    """
    plain, isolated = run_parity(write_files(tmp_path, {"test_it.py": source}))
    found = {line.partition(" ")[0] for line in differences(plain, isolated)}
    assert found == {f"test_it.py::test_{name}" for name in ("result", "output", "property")}
    assert terminal(plain) != terminal(isolated)
