# SPDX-License-Identifier: MIT
"""Warnings of the child are recorded as if they had been issued in the runner."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate.wire import warnings as wire_warnings
from tests.support import (
    NEEDS_NAMESPACES,
    PYTEST_9_1,
    differences,
    run_parity,
    run_suite,
    terminal,
    write_files,
)

SUITE = {
    "library.py": """
        import warnings
        def call(text="from the library"): warnings.warn(text, stacklevel=1)
        def caller(): warnings.warn("of the caller", UserWarning, stacklevel=2)
        def old(): warnings.warn("old", DeprecationWarning, stacklevel=2)
    """,
    "conftest.py": """
        import pytest, library, warnings
        @pytest.fixture(scope="session")
        def session(): library.call()
        @pytest.fixture(scope="module")
        def module(session):
            library.call()
            yield
            library.call("module's end")
        @pytest.fixture
        def function(module):
            library.call()
            yield
            library.call("function's end")
    """,
    "test_it.py": """
        import gc, os, sys, threading, warnings
        import pytest, library
        class Own(UserWarning): pass
        def test_simplefilter():
            warnings.simplefilter("ignore")
            library.call()
        class Demanding(UserWarning):
            def __init__(self, one, *, two):
                super().__init__(f"{one} and {two}")
                self.one = one
        class Unreadable(UserWarning):
            def __str__(self): return f"sum {len(self.args)}"
        def test_library(function):
            library.call()
            library.caller()
        def test_library_again(function): library.call()
        def test_many_times():
            for _ in range(5):
                library.call()
                library.caller()
        def test_old(): library.old()
        def test_pending(): warnings.warn("later", PendingDeprecationWarning)
        def test_own(): warnings.warn(Own("mine"))
        def test_demanding(): warnings.warn(Demanding(1, two=2))
        def test_sum(): warnings.warn(Unreadable(1, 2, 3))
        def test_local():
            class Local(Warning): pass
            warnings.warn("of a local class", Local)
        def test_explicit(): warnings.warn_explicit("there", UserWarning, "other.py", 17)
        def test_unicode(): warnings.warn("\\u00fc \\x1b[31m \\udc80")
        def test_resource():
            open(os.devnull)
            gc.collect()
        def test_unraisable():
            class Dying:
                def __del__(self): raise ValueError("in del")
            Dying()
        def test_thread():
            thread = threading.Thread(target=lambda: 1 / 0, name="one")
            thread.start()
            thread.join()
        def test_caught():
            with pytest.warns(UserWarning, match="library"):
                library.call()
        def test_recwarn(recwarn):
            library.call()
            assert len(recwarn) == 1
        def test_recorded():
            with warnings.catch_warnings(record=True) as seen:
                library.call()
            assert [str(w.message) for w in seen] == ["from the library"]
            library.call("after")
        @pytest.mark.filterwarnings("ignore:from the library")
        def test_ignored():
            library.call()
            library.caller()
        @pytest.mark.filterwarnings("error")
        def test_error(): library.call()
        @pytest.mark.filterwarnings("once")
        def test_once():
            for _ in range(3): warnings.warn("once only")
        def test_last(): library.call()
    """,
}


#: As errors, these have a text that shows pytest's own frames, down to the caller of the hook.
INTERNAL = ("-k", "not resource and not unraisable and not thread")


@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-W", "error", *INTERNAL),
        ("-W", "always"),
        ("-W", "default"),
        ("-W", "once"),
        ("-W", "module"),
        ("-W", "ignore"),
        ("-W", "error::DeprecationWarning", "-W", "ignore:of the caller"),
    ],
    ids=lambda arguments: " ".join(arguments) or "none",
)
def test_warnings_are_those_of_a_plain_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """As often, with the same place, in the same order, under every filter."""
    write_files(tmp_path, SUITE)
    plain, isolated = run_parity(tmp_path, *arguments)
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)
    assert isolated.returncode == plain.returncode
    if not arguments:
        assert len(plain.warnings) > 20, plain.text


@NEEDS_NAMESPACES
def test_max_warnings_counts_those_of_children(tmp_path: Path) -> None:
    """--max-warnings (pytest 9.1) fails a run that has more."""
    if not PYTEST_9_1:
        pytest.skip("pytest 9.1 has brought --max-warnings")
    two = "warnings.warn('a'); warnings.warn('b')"
    write_files(tmp_path, {"test_it.py": f"import warnings\ndef test_it(): {two}\n"})
    for limit, passes in ((2, True), (1, False)):
        plain, isolated = run_parity(tmp_path, f"--max-warnings={limit}")
        assert differences(plain, isolated) == []
        assert isolated.returncode == plain.returncode
        assert (isolated.returncode == 0) == passes


@NEEDS_NAMESPACES
def test_a_warning_survives_a_crash(tmp_path: Path) -> None:
    """What was issued before the child died has been recorded."""
    write_files(
        tmp_path,
        {
            "test_it.py": """
                import os, pytest, warnings
                @pytest.mark.isolated
                def test_it():
                    warnings.warn("last words")
                    os._exit(1)
            """
        },
    )
    result = run_suite(tmp_path)
    ((warning,),) = [result.warnings]
    assert (warning["text"], warning["lineno"]) == ("last words", 5)
    assert warning["nodeid"] == "test_it.py::test_it"
    assert warning["filename"] == str(tmp_path / "test_it.py")


@NEEDS_NAMESPACES
def test_a_copy_of_the_test_may_warn(tmp_path: Path) -> None:
    """A process that the test has forked warns nobody, and meets no error by that."""
    write_files(
        tmp_path,
        {
            "test_it.py": """
                import os, pytest, warnings
                @pytest.mark.isolated
                def test_it():
                    pid = os.fork()
                    if not pid:
                        try:
                            warnings.warn("from a copy")
                        except BaseException:
                            os._exit(1)
                        os._exit(0)
                    assert os.waitpid(pid, 0)[1] == 0
                    warnings.warn("from the test")
            """
        },
    )
    result = run_suite(tmp_path)
    assert result.passed() == {"test_it"}, result.text
    assert [warning["text"] for warning in result.warnings] == ["from the test"]


# One warning, there and back ---------------------------------------------------------------------


class Own(UserWarning):
    """Found by its name."""


class Demanding(UserWarning):
    """Cannot be built from its text."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unreadable(UserWarning):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Stateful(UserWarning):
    """Its text needs what its __init__ sets."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text.upper()


def there_and_back(warning: Warning | str) -> warnings.WarningMessage:
    """What the runner makes of one warning that a child has sent."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        warnings.warn(warning, stacklevel=1)
    data: dict[str, Any] = wire_warnings.describe(issued[0])
    with warnings.catch_warnings(record=True) as arrived:
        warnings.simplefilter("error")  # filters have had their say in the child
        wire_warnings.replay(data)
    (message,) = arrived
    assert (message.filename, message.lineno) == (issued[0].filename, issued[0].lineno)
    return message


@pytest.mark.parametrize(
    ("warning", "text"),
    [
        ("plain", "plain"),
        (DeprecationWarning("old"), "old"),
        (Own("mine"), "mine"),
        (Own(1, "two"), "(1, 'two')"),
        (Demanding(1, two=2), "1 and 2"),
        (Stateful("quiet"), "QUIET"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_warning_arrives_with_its_category_and_text(warning: Warning | str, text: str) -> None:
    """No __init__ of a category runs in the runner."""
    message = there_and_back(warning)
    expected = UserWarning if isinstance(warning, str) else type(warning)
    assert message.category is expected
    assert isinstance(message.message, expected)
    assert str(message.message) == text


def test_a_warning_without_a_text_gets_one() -> None:
    """A str() that raises is told, and loses nothing else."""
    issued = warnings.WarningMessage(Unreadable(), Unreadable, "file.py", 3)
    with warnings.catch_warnings(record=True) as arrived:
        wire_warnings.replay(wire_warnings.describe(issued))
    assert str(arrived[0].message) == "<Unreadable whose str() raised RuntimeError>"
    assert arrived[0].category is Unreadable


def test_a_category_that_the_runner_does_not_know_looks_the_same() -> None:
    """A local class arrives as one of the same name; nothing is imported for it."""

    class Local(UserWarning):
        pass

    before = set(sys.modules)
    message = there_and_back(Local("x"))
    assert message.category.__name__ == "Local"
    assert message.category is not Local
    assert str(message.message) == "x"
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["path", "system", "nothing.at.all", ""])
def test_a_name_that_is_no_warning_s_becomes_a_warning(name: str) -> None:
    """A hostile child cannot make the runner call something by its name."""
    data = wire_warnings.describe(
        warnings.WarningMessage(UserWarning("x"), UserWarning, "file.py", 3)
    )
    with warnings.catch_warnings(record=True) as arrived:
        wire_warnings.replay({**data, "lineage": [("os", name)]})
    assert issubclass(arrived[0].category, Warning)


@pytest.mark.parametrize("key", ["lineage", "text", "filename", "lineno"])
def test_a_frame_without_a_field_is_refused(key: str) -> None:
    """Nothing is recorded of a warning that is none."""
    data = wire_warnings.describe(
        warnings.WarningMessage(UserWarning("x"), UserWarning, "file.py", 3)
    )
    del data[key]
    with warnings.catch_warnings(record=True) as arrived, pytest.raises(KeyError):
        wire_warnings.replay(data)
    assert arrived == []
