# SPDX-License-Identifier: MIT
"""Items of ``unittest``: each report is the same isolated as plain, subtests and cleanups too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import pytest

from tests.support import (
    NEEDS_NAMESPACES,
    ONE_JOB,
    PYTEST_9,
    differences,
    run_parity,
    run_source,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: Subtests are pytest's own from 9.0 on, before that they are pytest-subtests'.
SUBTESTS: Final = () if PYTEST_9 else ("-p", "subtests")
HAS_SUBTESTS: Final = PYTEST_9 or importlib.util.find_spec("pytest_subtests") is not None

CLASSES: Final = """
import unittest

class Whole(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(print, "class cleanup of setUpClass")
        cls.shared = 5
    @classmethod
    def tearDownClass(cls): print("tearDownClass")
    def setUp(self): self.addCleanup(print, "cleanup")
    def test_first(self): self.assertEqual(self.shared, 5)
    def test_last(self): self.assertEqual(self.shared, 6)

class CleanupOfTheOnlyTest(unittest.TestCase):
    def setUp(self): self.addClassCleanup(print, "from setUp")
    def test_only(self): self.addClassCleanup(print, "from the test")

class CleanupFails(unittest.TestCase):
    def test_only(self):
        def fail(): raise OSError("class cleanup")
        self.addClassCleanup(fail)

class CleanupOfSetUpClassFails(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.addClassCleanup(int, "z")
    def test_only(self): pass

class BrokenSetUpClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(print, "cleaned all the same")
        raise RuntimeError("no class")
    def test_one(self): pass
    def test_two(self): pass

class SkippingSetUpClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("no class today")
    def test_one(self): pass
    def test_two(self): pass

class BrokenTearDownClass(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): raise RuntimeError("tearDownClass")
    def test_one(self): pass
    def test_two(self): pass

@unittest.skip("the whole class")
class Skipped(unittest.TestCase):
    def test_one(self): pass

@unittest.expectedFailure
class Expected(unittest.TestCase):
    def test_one(self): assert 0
"""

CASES: Final = """
import logging, os, sys, unittest, warnings
import pytest

class Skips(unittest.TestCase):
    def test_method(self): self.skipTest("self.skipTest")
    def test_raised(self): raise unittest.SkipTest("raised")
    @unittest.skip("decorated")
    def test_decorated(self): pass
    @unittest.skipUnless(False, "unless")
    def test_unless(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail("as expected")
    @unittest.expectedFailure
    def test_expected_skip(self): self.skipTest("within")
    @unittest.expectedFailure
    def test_unexpected(self): pass
    def test_pytest_skip(self): pytest.skip("pytest.skip")
    def test_pytest_xfail(self): pytest.xfail("pytest.xfail")

class SkippingSetUp(unittest.TestCase):
    def setUp(self): raise unittest.SkipTest("setUp skips")
    def test_one(self): pass

class AllFails(unittest.TestCase):
    def setUp(self): self.addCleanup(print, "cleanup"); self.addCleanup(int, "x")
    def tearDown(self): print("tearDown"); raise ValueError("tearDown fails")
    def test_one(self): assert 0, "call fails"
    def test_two(self): pass

class BrokenSetUp(unittest.TestCase):
    def setUp(self): self.addCleanup(print, "all the same"); raise ValueError("setUp")
    def tearDown(self): print("never")
    def test_one(self): pass

class Assertions(unittest.TestCase):
    def test_logs(self):
        with self.assertLogs("x", "INFO") as caught: logging.getLogger("x").info("hello")
        self.assertEqual(caught.output, ["INFO:x:other"])
    def test_warns(self):
        with self.assertWarns(DeprecationWarning): warnings.warn("w", DeprecationWarning)
        self.assertRaisesRegex(ValueError, "x", int, "y")
    def test_lines(self): self.assertMultiLineEqual("a\\nb\\n", "a\\nc\\n")
    def test_dict(self): self.assertDictEqual({"a": 1}, {"a": 2}, "message")
    def test_contexts(self):
        self.enterContext(open(os.devnull))
        self.enterClassContext(open(os.devnull))
    def test_described(self):
        '''The short description.'''
        self.fail(self.shortDescription())
    def test_exit(self): sys.exit(4)
    def test_base(self):
        class Base(BaseException): pass
        raise Base("local")

class WithFixtures(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def around(self, tmp_path, request):
        self.folder = tmp_path
        request.cls.x = 4
        yield
        print("around, down")
    def test_it(self): self.assertEqual(self.x, 5)
    def test_again(self): self.assertTrue(self.folder.is_dir())

# Its loop complains of a step that takes a tenth of a second: of a busy machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)

class Async(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.ready = True
        self.addAsyncCleanup(self.clean)
    async def clean(self): print("async cleanup")
    async def asyncTearDown(self): print("async tear-down")
    async def test_pass(self): self.assertTrue(self.ready)
    async def test_fail(self): self.assertFalse(self.ready)
    async def test_skip(self): self.skipTest("async skip")
    @unittest.expectedFailure
    async def test_expected(self): self.fail("e")
    def test_sync(self): pass

class BrokenAsync(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self): raise OSError("asyncSetUp")
    async def test_async(self): pass
"""

MODULE: Final = """
import unittest

def setUpModule():
    unittest.addModuleCleanup(print, "module cleanup")
    print("setUpModule")
def tearDownModule(): print("tearDownModule")

class A(unittest.TestCase):
    def test_one(self): unittest.addModuleCleanup(print, "module cleanup of a test")
    def test_two(self): pass
class B(unittest.TestCase):
    def test_one(self): self.fail("x")
"""

SKIPPED_MODULE: Final = """
import unittest

def setUpModule(): raise unittest.SkipTest("no module")
class A(unittest.TestCase):
    def test_one(self): pass
    def test_two(self): pass
"""

SUBTEST_CASES: Final = """
import logging, unittest

class Subtests(unittest.TestCase):
    def test_all(self):
        for n in range(4):
            with self.subTest("number", n=n):
                print("inside", n)
                if n == 1: self.fail("one")
                if n == 2: self.skipTest("two")
                if n == 3: raise KeyError("three")
    def test_pass(self):
        for n in range(2):
            with self.subTest(n=n, text="a b"): print("inside", n)
    def test_nested(self):
        with self.subTest(a=1):
            with self.subTest(b=2):
                self.assertEqual(1, 2)
    def test_and_failure(self):
        with self.subTest("first"): self.fail("sub")
        self.fail("parent")
    @unittest.expectedFailure
    def test_expected(self):
        with self.subTest("s"): self.fail("sub")
    def test_after(self): pass

# Its loop complains of a step that takes a tenth of a second: of a busy machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)

class Async(unittest.IsolatedAsyncioTestCase):
    async def test_sub(self):
        with self.subTest(i=1): self.assertEqual(1, 2)
"""


def test_unittest_reports_are_the_same(tmp_path: Path) -> None:
    """Set-up and cleanup of classes and modules, skips, expected failures, async cases."""
    files = {
        "test_classes.py": CLASSES,
        "test_cases.py": CASES,
        "test_module.py": MODULE,
        "test_skipped_module.py": SKIPPED_MODULE,
    }
    plain, isolated = run_parity(write_files(tmp_path, files), "-rA", "-vv")
    assert len(plain.reports) > 130, plain.text
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)


@pytest.mark.skipif(not HAS_SUBTESTS, reason="pytest-subtests is not installed")
@pytest.mark.parametrize("options", [("-rA",), ("-vv", "-rA"), ("-s",), ("-x",)], ids=" ".join)
def test_subtests_of_unittest_are_the_same(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Each report, and the letters of subtests, which pytest writes into what it captures."""
    folder = write_files(tmp_path, {"test_it.py": SUBTEST_CASES})
    # One job: that text has the progress that the reporter had when the test began.
    plain, isolated = run_parity(folder, *SUBTESTS, *options, ONE_JOB)
    assert any(r["type"].lower() == "subtestreport" for r in plain.reports), plain.text
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)


def test_class_cleanups_of_a_test_run_when_it_ends(tmp_path: Path) -> None:
    """Those of setUpClass run once, in the runner; what a test adds is its own, and runs in it."""
    source = """
        import unittest
        from journal import note
        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.addClassCleanup(note, "setUpClass")
            @classmethod
            def tearDownClass(cls): note("tearDownClass")
            def tearDown(self): note("tearDown")
            def test_one(self): self.addClassCleanup(note, "one")
            def test_two(self): self.addClassCleanup(int, "x")
            def test_two_more(self):
                self.addClassCleanup(int, "x")
                self.addClassCleanup(int, "y")
            def test_zero(self): pass
    """
    result = run_source(tmp_path, source, "--nsisolate=all")
    assert result.journal == [
        "child tearDown",
        "child one",
        "child tearDown",
        "child tearDown",
        "child tearDown",
        "runner tearDownClass",
        "runner setUpClass",
    ]
    assert result.phases("test_two") == ["setup passed", "call passed", "teardown failed"]
    assert "invalid literal" in result.failure("test_two")
    assert "pytest_nsisolate" not in result.failure("test_two")
    assert "Unittest class cleanup errors (2 sub-exceptions)" in result.failure("test_two_more")


def test_inside_moves_class_cleanups_into_the_child(tmp_path: Path) -> None:
    """With the class fixture in the child its cleanups run there, after tearDownClass, once."""
    source = """
        import unittest
        import pytest
        from journal import note
        @pytest.mark.isolated(inside=True)
        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.addClassCleanup(note, "setUpClass")
            @classmethod
            def tearDownClass(cls): note("tearDownClass")
            def test_one(self): self.addClassCleanup(note, "one")
    """
    result = run_source(tmp_path, source)
    assert result.journal == [
        "child tearDownClass",
        "child one",
        "child setUpClass",
    ], result.text
