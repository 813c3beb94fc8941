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
THREADS = (
    "nsisolate: threads of the runner do not run in isolated tests: metrics "
    "(1 test: test_it.py::test_thread)"
)


def said(stdout: str) -> list[str]:
    """The plugin's lines below the tests."""
    return [line for line in stdout.splitlines() if line.startswith("nsisolate: ")][1:]


def test_each_kind_is_said_once(tmp_path: Path) -> None:
    """With the number of tests, the first of them, and what the threads are called."""
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
    heads = [line.partition("(")[0] for line in said(result.stdout)]
    assert len(heads) == 3
    assert heads[0] == "nsisolate: threads of the runner do not run in isolated tests: metrics "
    assert "(4 tests, first: test_" in said(result.stdout)[2]


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
