# SPDX-License-Identifier: MIT
"""What cannot be the same in another process is said in one sentence, and only then."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support import (
    INNER_MODULES,
    NEEDS_NAMESPACES,
    TOOLS,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

SUITE = """
import asyncio, threading
import pytest

KEY = pytest.StashKey[int]()

@pytest.fixture(scope="module")
def helper():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="metrics")
    thread.start()
    yield
    stop.set()
    thread.join()

@pytest.fixture(scope="module")
def loop():
    with asyncio.Runner() as runner:
        yield runner

@pytest.mark.isolated
def test_quiet(request): request.node.stash[KEY] = 1

@pytest.mark.isolated
def test_loop(loop): pass

@pytest.mark.isolated
@pytest.mark.parametrize("n", range(2))
def test_stash(n, request): request.config.stash[KEY] = n

@pytest.mark.isolated
def test_thread(helper, loop): assert threading.active_count() == 1
"""

LOOP = (
    "nsisolate: an event loop of a wider scope is copied into each isolated test (a loop of "
    "function scope, or inside=, gives the test its own) (2 tests, first: test_it.py::test_loop)"
)
STASH = (
    "nsisolate: what a test adds to session.stash or config.stash ends with its process "
    "(2 tests, first: test_it.py::test_stash[0])"
)
WAY_OUT = "(a fixture of function scope, or inside=, starts them in the test)"
THREADS = (
    f"nsisolate: threads of the runner do not run in isolated tests {WAY_OUT}: "
    "metrics from threading (1 test: test_it.py::test_thread)"
)


def said(stdout: str) -> list[str]:
    """The plugin's lines below the tests."""
    return [line for line in stdout.splitlines() if line.startswith("nsisolate: ")][1:]


def test_each_kind_is_said_once(tmp_path: Path) -> None:
    """With the number of tests, the first of them, and which threads these are."""
    result = run_source(tmp_path, SUITE, "-W", "error")
    assert result.returncode == 0, result.text
    assert said(result.stdout) == [THREADS, LOOP, STASH]


def test_nothing_is_said_where_nothing_differs(tmp_path: Path) -> None:
    """A loop of function scope, a thread of the test's own, the item's stash are no matter."""
    result = run_source(
        tmp_path,
        """
        import asyncio, threading
        import pytest

        KEY = pytest.StashKey[int]()

        @pytest.fixture
        def loop():
            with asyncio.Runner() as runner:
                yield runner

        @pytest.mark.isolated
        def test_it(loop, request):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            request.node.stash[KEY] = 1

        def test_plain(request): request.config.stash[KEY] = 1
        """,
    )
    assert result.returncode == 0, result.text
    assert said(result.stdout) == []


def test_workers_tell_the_controller(tmp_path: Path) -> None:
    """With pytest-xdist the sentences of all workers are one."""
    files = {"test_a.py": SUITE, "test_b.py": SUITE}
    options = ("-p", "xdist", "-n", "2", "--dist", "loadfile")
    result = run_suite(write_files(tmp_path, files), *options)
    assert result.returncode == 0, result.text
    told = said(result.stdout)
    assert len(told) == 3
    assert told[0].startswith(THREADS.partition("(1 test")[0])
    assert "(4 tests, first: test_" in told[2]


HELPERS = """
import functools, threading
import pytest
import helper

STOP = threading.Event()

class Poller(threading.Thread):
    def run(self): STOP.wait()

@pytest.fixture(scope="module", autouse=True)
def threads():
    found = [
        threading.Thread(target=helper.serve, args=(STOP,), name="a server"),
        threading.Thread(target=helper.Server().serve, args=(STOP,), name="a method"),
        threading.Thread(target=functools.partial(helper.serve, STOP), name="a partial"),
        threading.Thread(target=helper.Callable(STOP), name="an object"),
        Poller(name="a subclass"),
        threading.Timer(1000, helper.serve),
    ]
    found[-1].name = "a timer"
    for thread in found: thread.start()
    yield
    STOP.set()
    found[-1].cancel()
    for thread in found: thread.join()

@pytest.mark.isolated
def test_it(): assert threading.active_count() == 1
"""
HELPER = """
def serve(stop): stop.wait()
class Server:
    def serve(self, stop): stop.wait()
class Callable:
    def __init__(self, stop): self.stop = stop
    def __call__(self): self.stop.wait()
"""


def test_threads_are_named_with_the_modules_of_what_they_run(tmp_path: Path) -> None:
    """A function, a method, an object, a class that overrides ``run``, a timer."""
    files = {"test_it.py": HELPERS, "helper.py": HELPER}
    result = run_suite(write_files(tmp_path, files))
    assert result.returncode == 0, result.text
    told = said(result.stdout)[0]
    expected = ("a method", "a partial", "a server")
    assert f": {', '.join(f'{name} from helper' for name in expected)}, " in told
    assert "a subclass from test_it, a timer from helper, ... (1 test" in told


def test_helpers_of_known_plugins_and_debuggers_are_no_news(tmp_path: Path) -> None:
    """By the package of what they run; whatever else runs is still told."""
    files = {
        "test_it.py": HELPERS.replace("import helper", "from pydevd.comm import x as helper"),
        "pydevd/__init__.py": "",
        "pydevd/comm/__init__.py": "from pydevd.comm import x",
        "pydevd/comm/x.py": HELPER,
    }
    result = run_suite(write_files(tmp_path, files))
    assert result.returncode == 0, result.text
    (told,) = said(result.stdout)
    assert ": a subclass from test_it (1 test" in told


PROFILING = """
class Profiling: pass

def pytest_addoption(parser): parser.addoption("--profile", action="store_true")

def pytest_configure(config):
    if config.getoption("--profile"):
        config.pluginmanager.register(Profiling())
"""

CODSPEED = """
class CodSpeedPlugin:
    def __init__(self, enabled): self.is_codspeed_enabled = enabled

def pytest_addoption(parser): parser.addoption("--codspeed", action="store_true")

def pytest_configure(config):
    config.pluginmanager.register(CodSpeedPlugin(config.getoption("--codspeed")))
"""

GATHERED = (
    "nsisolate: reports of these plugins lack what they have gathered in isolated tests: "
    "pytest-codspeed, pytest-profiling (1 test: test_it.py::test_marked)"
)


def test_plugins_that_gather_in_vain_are_named_if_they_gather(tmp_path: Path) -> None:
    """Stand-ins, by the modules, the objects and the options of the real ones."""
    suite = {
        "pytest_profiling.py": PROFILING,
        "pytest_codspeed/__init__.py": "",
        "pytest_codspeed/plugin.py": CODSPEED,
        "test_it.py": """
            import pytest
            @pytest.mark.isolated
            def test_marked(): pass
            def test_plain(): pass
        """,
    }
    folder = write_files(tmp_path, suite)
    loaded = ("-p", "pytest_profiling", "-p", "pytest_codspeed.plugin")
    env = {"PYTHONPATH": os.pathsep.join([str(folder), str(INNER_MODULES), str(TOOLS)])}
    quiet = run_suite(folder, *loaded, env=env)
    loud = run_suite(folder, *loaded, "--profile", "--codspeed", env=env)
    assert (quiet.returncode, loud.returncode) == (0, 0), quiet.text + loud.text
    assert (said(quiet.stdout), said(loud.stdout)) == ([], [GATHERED])
