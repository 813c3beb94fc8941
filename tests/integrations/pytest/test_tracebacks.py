# SPDX-License-Identifier: MIT
"""A failure's frames are those that the same failure has un-isolated."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy
import pytest

import pytest_nsisolate
from pytest_nsisolate.integrations.pytest import tracebacks
from tests.support import NEEDS_NAMESPACES, run_parity, terminal, write_files

PACKAGE = Path(pytest_nsisolate.__file__).parent
OURS = str(PACKAGE / "runner" / "phases.py")
THEIRS = os.path.join(os.sep, "elsewhere", "phases.py")
PLUGGY = str(Path(pluggy.__file__).with_name("_anything.py"))


def frame(filename: str, name: str, inner: Callable[[], object]) -> Callable[[], object]:
    """A function that calls another one, from a file and under a name of our choice."""
    scope: dict[str, Any] = {"inner": inner}
    exec(compile(f"def {name}():\n    inner()\n", filename, "exec"), scope)
    found: Callable[[], object] = scope[name]
    return found


def names_after_hiding(*frames: tuple[str, str]) -> list[str]:
    """Outermost first; what is left of them, without this function and the failing one."""
    call: Callable[[], object] = fail
    for filename, name in reversed(frames):
        call = frame(filename, name, call)
    try:
        call()
    except ZeroDivisionError as error:
        tracebacks.hide_machinery(error)
        return [found.name for found in traceback.extract_tb(error.__traceback__)][1:-1]
    raise AssertionError("it did not raise")


def fail() -> None:
    raise ZeroDivisionError


def test_frames_of_the_package_go_and_others_stay() -> None:
    """Only what lies in this package is machinery, and what users call in it is none."""
    view = str(PACKAGE / "view" / "readings.py")
    assert names_after_hiding((THEIRS, "a"), (OURS, "b"), (THEIRS, "c")) == ["a", "c"]
    assert names_after_hiding((THEIRS, "a"), (view, "assert_alone")) == ["a", "assert_alone"]
    plugin = str(PACKAGE / "plugin.py")
    assert names_after_hiding((THEIRS, "a"), (plugin, "pid1"), (THEIRS, "b")) == ["a", "pid1", "b"]
    hook = (plugin, "pytest_assertrepr_compare")
    assert names_after_hiding((THEIRS, "a"), hook, (THEIRS, "b")) == ["a", "b"]


def test_a_wrapper_takes_the_entry_along_that_throws_into_it() -> None:
    """Of pluggy's entries before a wrapper of ours, the last is there because of it."""
    frames = [(PLUGGY, "_hookexec"), (PLUGGY, "_multicall"), (PLUGGY, "thrown")]
    frames += [(OURS, "wrapper"), (PLUGGY, "_multicall2"), (THEIRS, "hook")]
    assert names_after_hiding(*frames) == ["_hookexec", "_multicall", "_multicall2", "hook"]


def test_a_hook_called_once_more_takes_the_outer_call_along() -> None:
    """What pluggy did to reach us is not there, where we call the hook itself."""
    frames = [(THEIRS, "runner"), (PLUGGY, "__call__"), (PLUGGY, "_multicall"), (OURS, "ours")]
    frames += [(PLUGGY, "__call__"), (PLUGGY, "_multicall"), (THEIRS, "hook")]
    assert names_after_hiding(*frames) == ["runner", "__call__", "_multicall", "hook"]


def test_an_error_of_our_own_keeps_every_frame() -> None:
    """Where the machinery itself is broken its frames are what one needs."""
    scope: dict[str, Any] = {}
    exec(compile("def broken():\n    1 / 0\n", OURS, "exec"), scope)
    with pytest.raises(ZeroDivisionError) as caught:
        frame(OURS, "wrapper", scope["broken"])()
    tracebacks.hide_machinery(caught.value)
    found = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert found[1:] == ["wrapper", "broken"]


def test_causes_contexts_and_members_of_groups_are_cleaned_too() -> None:
    """Wherever a traceback is shown from; a cycle of causes ends."""

    def caught(call: Callable[[], object]) -> ZeroDivisionError:
        with pytest.raises(ZeroDivisionError) as info:
            call()
        return info.value

    chain = [caught(frame(OURS, "ours", frame(THEIRS, "theirs", fail))) for _ in range(3)]
    group = ExceptionGroup("all", [chain[0]])
    group.__cause__, chain[1].__context__ = chain[1], chain[2]
    chain[2].__cause__ = group
    tracebacks.hide_machinery(group)
    for error in chain:
        names = [entry.name for entry in traceback.extract_tb(error.__traceback__)]
        assert names[1:] == ["theirs", "fail"]


SUITE = {
    "conftest.py": """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_setup(item):
            return (yield)

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_call(item):
            try:
                return (yield)
            except RuntimeError as error:
                raise OSError("from a hook") from error
    """,
    "test_frames.py": """
        import threading
        import warnings

        import pytest

        class Bad:
            def __del__(self):
                raise ValueError("in a finalizer")

        @pytest.fixture
        def narrow():
            raise KeyError("set-up")

        @pytest.fixture(scope="module")
        def wide():
            raise KeyError("wider set-up")

        @pytest.fixture
        def ending():
            yield
            raise KeyError("tear-down")

        @pytest.fixture(scope="module")
        def wide_ending():
            yield
            raise KeyError("wider tear-down")

        def test_call(): assert [1, 2] == [1, 3]
        def test_chain():
            try:
                int("x")
            except ValueError as error:
                raise RuntimeError("chained") from error
        def test_narrow(narrow): pass
        def test_wide(wide): pass
        def test_ending(ending): pass
        def test_thread():
            thread = threading.Thread(target=lambda: 1 / 0, name="worker")
            thread.start()
            thread.join()
        def test_unraisable(): Bad()
        def test_group(): raise ExceptionGroup("both", [ValueError(1), KeyError(2)])
        def test_warning(): warnings.warn("careful")
        def test_unknown_fixture(nothing): pass
        def test_both(wide_ending, ending): pass
        class TestClass:
            @pytest.fixture(scope="class")
            def of_class(self): raise ValueError("class")
            def test_class(self, of_class): pass
    """,
}


#: Arguments of pluggy's functions: the list of hooks has one entry more, ours.
_ARGUMENTS = re.compile(r"^(hook_impls?|method|methods|caller_kwargs|self) .*$")


@NEEDS_NAMESPACES
@pytest.mark.parametrize("options", [("--full-trace", "-W", "error"), ("--tb=native",)])
def test_every_frame_is_shown_as_un_isolated(tmp_path: Path, options: tuple[str, ...]) -> None:
    """``--full-trace`` and ``--tb=native`` show pytest's frames, and only them."""
    plain, isolated = run_parity(write_files(tmp_path, SUITE), *options)
    shown = [[_ARGUMENTS.sub("", line) for line in terminal(run)] for run in (plain, isolated)]
    assert shown[0] == shown[1]
    assert "_hookexec" in plain.stdout  # there was something to get wrong
