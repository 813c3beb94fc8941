# SPDX-License-Identifier: MIT
"""Stacks of crashes and timeouts end at the test, and their first line is that of a failure."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.inner_runs import SIDES, Side, run_batch
from tests.integrations.plugins.installed import needs
from tests.support import NEEDS_NAMESPACES, Result, run_source

pytestmark = NEEDS_NAMESPACES

HANGING = """
import asyncio, ctypes, faulthandler, functools, signal, threading, unittest
from unittest import mock
import pytest

pytestmark = pytest.mark.isolated(timeout=0.4)

def hang():
    while True: signal.pause()

def wrapping(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs): return function(*args, **kwargs)
    return wrapper

def test_plain(): hang()
@mock.patch("os.sync")
def test_patched(sync): hang()
@wrapping
def test_wrapped(): hang()
def test_crash(): ctypes.string_at(0)
def test_goes_on(): faulthandler._sigsegv()

@pytest.fixture
def setting_up(): hang()
def test_set_up(setting_up): pass
@pytest.fixture
def tearing_down():
    yield
    hang()
def test_tear_down(tearing_down): pass
@pytest.fixture
def finalizing(request): request.addfinalizer(hang)
def test_finalizer(finalizing): pass
@pytest.fixture
def asked_for(): hang()
def test_asks(request): request.getfixturevalue("asked_for")
class TestClass:
    def setup_method(self): hang()
    def test_method(self): pass

class TestUnit(unittest.TestCase):
    def test_unit(self): hang()
class TestSetUp(unittest.TestCase):
    def setUp(self): hang()
    def test_unit_set_up(self): pass
class TestCleanup(unittest.TestCase):
    def setUp(self): self.addCleanup(hang)
    def test_unit_cleanup(self): pass
class TestAsync(unittest.IsolatedAsyncioTestCase):
    async def test_unit_async(self): hang()

def test_asyncio():
    async def inner(): await asyncio.sleep(1000)
    asyncio.run(inner())
def test_threads():
    thread = threading.Thread(target=hang)
    thread.start()
    thread.join()
def test_recursion():
    def deeper(n): return deeper(n - 1) if n else hang()
    deeper(200)
def doctested():
    '''
    >>> from test_it import hang
    >>> hang()
    '''
"""

#: The functions of the stack, the innermost first, and what comes behind them.
ENDS = {
    "test_plain": ["hang", "test_plain"],
    "test_patched": ["hang", "test_patched"],
    "test_wrapped": ["hang", "test_wrapped"],
    "test_crash": ["string_at", "test_crash"],
    "test_goes_on": ["test_goes_on"],
    "test_set_up": ["hang", "setting_up"],
    "test_tear_down": ["hang", "tearing_down"],
    "test_finalizer": ["hang"],
    "TestClass::test_method": ["hang", "setup_method"],
    "TestUnit::test_unit": ["hang", "test_unit"],
    "TestSetUp::test_unit_set_up": ["hang", "setUp"],
    "TestCleanup::test_unit_cleanup": ["hang"],
    "TestAsync::test_unit_async": ["hang", "test_unit_async"],
}
DUMP = re.compile(r"^(?:Current thread|Thread) .*\n((?:  .*\n?)+)", re.MULTILINE)
FOLDED = re.compile(r"  … (\d+) frames of pytest\n?")


def stacks(result: Result, name: str) -> list[list[str]]:
    """The functions of each thread, and "…" for the frames that are not shown."""
    text = FOLDED.sub('  File "", line 0 in …\n', failure(result, name))
    return [re.findall(r" in (.*)", dump) for dump in DUMP.findall(text)]


def failure(result: Result, name: str) -> str:
    """With how many frames there are at most in a stack that is folded."""
    (text,) = {r["text"] for r in result.of(name) if r["outcome"] == "failed"}
    assert all(20 < int(count) < 80 for count in FOLDED.findall(text)), text
    return str(text)


@pytest.mark.parametrize("side", SIDES)
def test_a_stack_ends_at_the_test_or_at_its_fixture(side: Side) -> None:
    """Whoever hangs or crashes, in whichever phase; other threads have all their frames."""
    files = {"test_it.py": HANGING}
    result = run_batch(files, side, "--doctest-modules", "-p", "no:randomly", "--nsisolate=all")

    found = {name: stacks(result, name) for name in ENDS}
    assert found == {name: [[*functions, "…"]] for name, functions in ENDS.items()}
    (asks,) = stacks(result, "test_asks")
    assert (asks[:2], asks[-2:]) == (["hang", "asked_for"], ["test_asks", "…"])
    (loop,) = stacks(result, "test_asyncio")
    assert (loop[0], loop[-2:]) == ("select", ["test_asyncio", "…"])
    thread, main = stacks(result, "test_threads")
    assert (thread[0], thread[-1]) == ("hang", "_bootstrap")
    assert main[-2:] == ["test_threads", "…"]
    # The fault handler shows no more than 100 frames, so of this one there is nothing to fold.
    (deep,) = stacks(result, "test_recursion")
    assert deep == ["hang", *["deeper"] * 99]


def test_a_doctest_s_stack_ends_at_its_line(tmp_path: Path) -> None:
    """Which has a file of its own."""
    source = HANGING.partition("def test_plain")[0] + HANGING[HANGING.index("def doctested") :]
    result = run_source(
        tmp_path, source, "--doctest-modules", "--nsisolate=all", "--nsisolate-timeout=0.4"
    )
    assert stacks(result, "test_it.doctested") == [["hang", "<module>", "…"]]


@needs("pytest-asyncio")
def test_a_loop_of_a_plugin_is_folded_as_well(tmp_path: Path) -> None:
    """A coroutine that waits is not on the stack, so what is left is the loop's call."""
    source = """
        import asyncio, signal
        import pytest
        pytestmark = [pytest.mark.isolated(timeout=0.5), pytest.mark.asyncio]
        async def test_waits(): await asyncio.sleep(1000)
        async def test_runs():
            while True: signal.pause()
    """
    ini = ("-o", "asyncio_default_fixture_loop_scope=function")
    result = run_source(tmp_path, source, "-p", "pytest_asyncio.plugin", *ini)
    assert stacks(result, "test_waits") == [["select", "…"]]
    assert stacks(result, "test_runs") == [["test_runs", "…"]]


TWO = """
import ctypes, signal, pytest
@pytest.mark.isolated(timeout=0.4)
def test_hangs():
    while True: signal.pause()
@pytest.mark.isolated
def test_crashes(): ctypes.string_at(0)
"""


def test_full_trace_shows_every_frame(tmp_path: Path) -> None:
    """As it does for any other failure."""
    result = run_source(tmp_path, TWO, "--full-trace")
    for name in ("test_hangs", "test_crashes"):
        (stack,) = stacks(result, name)
        assert "…" not in stack
        assert {"pytest_pyfunc_call", "_multicall", "_run_rest"} <= {*stack}
        assert stack[-1] in ("_run_code", "_run_module_as_main"), stack


RED = "\x1b[31m\x1b[1m{}\x1b[0m\n"


@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("-p", "xdist", "-n", "1"), marks=needs("pytest-xdist"))],
    ids=["alone", "a worker's"],
)
def test_the_first_line_is_red_at_a_terminal(tmp_path: Path, options: tuple[str, ...]) -> None:
    """As the line of any other failure that says what is wrong; and nothing else of it."""
    source = TWO + "@pytest.mark.isolated(time=-1e8)\ndef test_refused(): pass\n"
    result = run_source(tmp_path, source, "--color=yes", "--junitxml=junit.xml", *options)
    for head in (
        "isolated test timed out after 0.4 s in call",
        "isolated test crashed in call: killed by SIGSEGV",
    ):
        assert RED.format(head) + "\n" in result.stdout, result.text
    assert re.search(r"\x1b\[31m\x1b\[1misolation refused: .*\x1b\[0m\n  cause: ", result.stdout)

    texts = [str(report["text"]) for report in result.reports]
    texts += (tmp_path / "junit.xml").read_text("utf-8").splitlines()
    assert not any("\x1b" in text or "#x1B" in text for text in texts)
    cases = ElementTree.parse(tmp_path / "junit.xml").iter("failure")
    heads = {(case.get("message"), (case.text or "").partition("\n")[0]) for case in cases}
    assert len(heads) == 2
    assert all(message == first for message, first in heads)


def test_the_text_of_a_native_traceback_is_not_red(tmp_path: Path) -> None:
    """Negative control: it begins with other words, and pytest leaves it as it is."""
    source = "import pytest\n@pytest.mark.isolated\ndef test_it(): assert 0\n"
    result = run_source(tmp_path, source, "--color=yes", "--tb=native")
    assert "\nTraceback (most recent call last):\n" in result.stdout
