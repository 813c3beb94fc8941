# SPDX-License-Identifier: MIT
"""The hooks that the plugin adds: who calls them, where, when, and what comes of an error."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate.runner import hookspecs
from tests.support import NEEDS_NAMESPACES, Result, run_suite, write_files

FILES = {
    "conftest.py": """
        import os
        import pytest
        from journal import note
        from pytest_nsisolate import IsolationRequest, TimeOffsets

        class First:
            @pytest.hookimpl(tryfirst=True)
            def pytest_nsisolate_configure(self, item, request):
                if item.name == "test_first_result_wins":
                    return request.replace(hostname="first")

        def pytest_configure(config):
            config.pluginmanager.register(First())

        def pytest_nsisolate_configure(item, request):
            note(f"configure {item.name}")
            assert isinstance(request, IsolationRequest)
            if item.name in ("test_hostname", "test_first_result_wins"):
                return request.replace(hostname="by-hook")
            if item.name == "test_net_is_left_out":
                return request.replace(namespaces=request.namespaces - {"net"})
            if item.name == "test_user":
                return request.replace(user="same", init=True)
            if item.name == "test_time":
                return request.replace(time=TimeOffsets(monotonic=86400.0))
            if item.name == "test_configure_raises":
                raise RuntimeError("configure has failed")
            if item.name == "test_budget":
                return request.replace(timeout=0.3)

        def pytest_nsisolate_ready(item, pid1):
            note(f"ready {item.name}")
            seen = (pid1.pid, pid1.hostname, pid1.namespaces["pid"], pid1.uid_map[0][0])
            item.stash[SEEN] = seen
            if item.name == "test_ready_raises":
                raise RuntimeError("ready has failed")
            if item.name == "test_ready_skips":
                pytest.skip("ready has had enough")

        SEEN = pytest.StashKey()

        @pytest.fixture
        def seen(request):
            return request.node.stash[SEEN]

        @pytest.fixture(scope="module")
        def wide():
            note("wide fixture")

        @pytest.fixture
        def narrow(request):
            note(f"narrow fixture {request.node.name}")
            yield
            note(f"narrow finalizer {request.node.name}")
    """,
    "test_it.py": """
        import os, socket, time
        import pytest
        from journal import note

        IFS = socket.if_nameindex()
        CLOCK = time.monotonic()

        @pytest.mark.isolated
        def test_order(wide, narrow, seen):
            note("body")
            assert seen == (1, socket.gethostname(), os.stat("/proc/self/ns/pid").st_ino, 0)

        @pytest.mark.isolated
        def test_hostname(seen):
            assert socket.gethostname() == "by-hook" == seen[1]

        @pytest.mark.isolated
        def test_first_result_wins():
            assert socket.gethostname() == "first"

        @pytest.mark.isolated
        def test_unchanged():
            assert socket.gethostname() not in ("first", "by-hook")

        @pytest.mark.isolated
        def test_net_is_left_out():
            assert socket.if_nameindex() == IFS
            assert os.getpid() == 1

        @pytest.mark.isolated
        def test_user(seen):
            assert seen[0] == os.getpid() == 2

        @pytest.mark.isolated
        def test_time():
            assert time.monotonic() - CLOCK > 86000

        @pytest.mark.isolated
        def test_budget():
            time.sleep(60)

        @pytest.mark.isolated
        def test_configure_raises(wide, narrow):
            note("never")

        @pytest.mark.isolated
        def test_ready_raises(wide, narrow):
            note("never")

        @pytest.mark.isolated
        def test_ready_skips(narrow):
            note("never")

        def test_plain():
            pass
    """,
    "below/conftest.py": """
        from journal import note

        def pytest_nsisolate_ready(item, pid1):
            note(f"ready below {item.name}")
    """,
    "below/test_below.py": """
        import pytest

        @pytest.mark.isolated
        def test_below():
            pass
    """,
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run of the suite above."""
    return run_suite(write_files(tmp_path_factory.mktemp("hooks"), FILES))


@NEEDS_NAMESPACES
class TestHooks:
    def test_all_that_should_passes(self, result: Result) -> None:
        """What a hook changes counts, for that test alone; the first result wins."""
        assert result.passed() == {
            *("test_order", "test_hostname", "test_first_result_wins", "test_unchanged"),
            *("test_net_is_left_out", "test_user", "test_time", "test_plain", "test_below"),
        }, result.text

    def test_places_and_order(self, result: Result) -> None:
        """configure: in the runner, before wider fixtures; ready: in the child, before its own."""
        begin = result.journal.index("runner configure test_order")
        assert result.journal[begin : begin + 6] == [
            "runner configure test_order",
            "runner wide fixture",
            "child ready test_order",
            "child narrow fixture test_order",
            "child body",
            "child narrow finalizer test_order",
        ]

    def test_stops_at_the_first_result(self, result: Result) -> None:
        """A hook after the one that answered is not asked."""
        assert "runner configure test_first_result_wins" not in result.journal

    def test_a_changed_budget_is_enforced(self, result: Result) -> None:
        """``timeout`` of a changed request is the one that ends the test."""
        assert "timed out after 0.3 s" in result.failure("test_budget")

    @pytest.mark.parametrize(
        ("name", "text", "side"),
        [
            ("test_configure_raises", "configure has failed", "runner"),
            ("test_ready_raises", "ready has failed", "child"),
        ],
    )
    def test_exception_is_an_error_in_set_up(
        self, result: Result, name: str, text: str, side: str
    ) -> None:
        """Like one in a fixture: with its traceback, and neither fixture nor body runs."""
        assert result.phases(name) == ["setup failed", "teardown passed"]
        failure = result.failure(name)
        assert f"RuntimeError: {text}" in failure
        assert "conftest.py" in failure
        assert "refused" not in failure
        assert not [line for line in result.journal if f"narrow fixture {name}" in line]
        assert "child never" not in result.journal
        assert "runner never" not in result.journal

    def test_skip_in_ready_skips_the_test(self, result: Result) -> None:
        """``pytest.skip`` in a hook means what it means in a fixture."""
        assert result.phases("test_ready_skips") == ["setup skipped", "teardown passed"]

    def test_only_isolated_tests_have_them(self, result: Result) -> None:
        """An unmarked test has none of the hooks."""
        assert not [line for line in result.journal if line.endswith("test_plain")]

    def test_conftest_below_hears_of_its_own_tests(self, result: Result) -> None:
        """A conftest's hooks are for the tests at or below its directory."""
        below = [line for line in result.journal if "ready below" in line]
        assert below == ["child ready below test_below"]
        assert "child ready test_below" in result.journal


SPECS = [
    hookspecs.pytest_nsisolate_configure,
    hookspecs.pytest_nsisolate_ready,
    hookspecs.pytest_nsisolate_carry,
    hookspecs.pytest_nsisolate_receive,
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_every_argument_is_documented(spec: Any) -> None:
    """The docstring of each hook names every argument."""
    assert spec.__doc__
    for argument in inspect.signature(spec).parameters:
        assert f":param {argument}:" in spec.__doc__


@NEEDS_NAMESPACES
def test_misspelled_argument_is_refused_by_pluggy(tmp_path: Path) -> None:
    """An implementation with an argument that the hook has not is an error at start."""
    files = {
        "conftest.py": "def pytest_nsisolate_ready(item, pid): ...",
        "test_it.py": "def test_it(): ...",
    }
    result = run_suite(write_files(tmp_path, files))
    assert result.returncode != 0
    assert "pytest_nsisolate_ready" in result.text
    assert "pid" in result.text
