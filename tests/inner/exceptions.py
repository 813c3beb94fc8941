# SPDX-License-Identifier: MIT
"""Exceptions of every shape, raised in every place of a test."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class NeedsArguments(Exception):
    def __init__(self, a: int, *, b: int) -> None:
        super().__init__("needs")
        self.a = a


class RaisesStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("str")


class ExitsStr(Exception):
    def __str__(self) -> str:
        raise SystemExit(2)


class StrIsNoText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]  # noqa: PLE0307


class Slotted(Exception):
    __slots__ = ("x",)


class RaisesRepr(Exception):
    def __repr__(self) -> str:
        raise KeyError("r")


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"frozen {name}")


class Picky(Exception):
    def __new__(cls, *args: object) -> Picky:
        if args != ("ok",):
            raise TypeError("new")
        return super().__new__(cls, *args)


class Base(BaseException):
    pass


class Several(ValueError, KeyError):
    pass


class OwnGroup(ExceptionGroup):
    def __new__(cls, number: int) -> OwnGroup:
        return super().__new__(cls, f"own {number}", [ValueError(number)])


class RaisesArgs(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("args")


class RaisesClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("class")


class Meta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("instancecheck")


class OfMeta(Exception, metaclass=Meta):
    pass


def local() -> Exception:
    class Local(AssertionError):
        pass

    return Local("local")


def noted(*notes: object) -> Exception:
    error = ValueError("noted")
    error.__notes__ = list(notes)  # type: ignore[arg-type]
    return error


def caused_by_itself() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def in_its_own_context() -> Exception:
    first, second, third = ValueError("1"), KeyError("2"), OSError("3")
    first.__context__, second.__context__, third.__context__ = second, third, first
    return first


def long_chain() -> Exception:
    error = ValueError(0)
    for number in range(50):
        above = ValueError(number)
        above.__cause__ = error
        error = above
    return error


def endless(depth: int = 0) -> Exception:
    try:
        endless(depth + 1)
    except RecursionError as error:
        return error
    return AssertionError("unreachable")


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "needs-arguments": lambda: NeedsArguments(1, b=2),
    "raises-str": RaisesStr,
    "exits-str": ExitsStr,
    "no-text": StrIsNoText,
    "slotted": Slotted,
    "raises-repr": RaisesRepr,
    "frozen": Frozen,
    "picky": lambda: Picky("ok"),
    "several": lambda: Several("s"),
    "own-group": lambda: OwnGroup(3),
    "local": local,
    "noted": lambda: noted("one", "two\nlines"),
    "odd-notes": lambda: noted(3, None, b"x"),
    "surrogate-note": lambda: noted("\ud800"),
    "cause": caused_by_itself,
    "context": in_its_own_context,
    "chain": long_chain,
    "endless": endless,
    "group": lambda: ExceptionGroup(
        "outer", [ValueError(1), ExceptionGroup("inner", [TypeError("t"), RaisesStr()])]
    ),
    "silent": AssertionError,
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "os": lambda: OSError(2, "No such", "file"),
    "syntax": lambda: SyntaxError("bad", ("\0f.py", -1, 2, None)),
    "import": lambda: ImportError("x", name="y"),
    "memory": MemoryError,
    "timeout": lambda: TimeoutError("t"),
    "large": lambda: ValueError("x" * 100_000),
    "lines": lambda: ValueError("xyz\n" * 3_000),
    "codes": lambda: ValueError("a\0b\x1b[31m\r\n\x85\u2028\x1e"),
    "surrogates": lambda: ValueError("\udcff\ud83d\ude00"),
    "warning": lambda: DeprecationWarning("d"),
}

#: Out of a fixture these leave pytest's fixture unusable for the next test, un-isolated.
BASES: dict[str, Callable[[], BaseException]] = {
    "base": Base,
    "exit": lambda: SystemExit("bye"),
    "generator": GeneratorExit,
    "stop": lambda: StopIteration(3),
    "async-stop": StopAsyncIteration,
    "cancelled": asyncio.CancelledError,
    "base-group": lambda: BaseExceptionGroup("base", [KeyboardInterrupt(), SystemExit(3)]),
    "skips": lambda: BaseExceptionGroup("skips", [pytest.skip.Exception("a")] * 2),
    "skip-and-more": lambda: BaseExceptionGroup("m", [pytest.skip.Exception("a"), KeyError(1)]),
}

KILLERS: dict[str, Callable[[], BaseException]] = {
    "raises-args": RaisesArgs,
    "raises-class": RaisesClass,
    "of-meta": OfMeta,
}

FIXTURES = KILLERS | BASES if os.environ.get("VALUES") == "killers" else EXCEPTIONS
ALL = FIXTURES if FIXTURES is not EXCEPTIONS else EXCEPTIONS | BASES


def _made(name: str) -> BaseException:
    return ALL[name]()


each = pytest.mark.parametrize("name", list(ALL))
each_of_fixtures = pytest.mark.parametrize("name", list(FIXTURES))


@pytest.fixture
def broken(name: str) -> None:
    raise _made(name)


@pytest.fixture
def breaking(name: str) -> Iterator[None]:
    yield
    raise _made(name)


@each
def test_call(name: str) -> None:
    raise _made(name)


@each_of_fixtures
def test_setup(name: str, broken: None) -> None:
    pass


@each_of_fixtures
def test_teardown(name: str, breaking: None) -> None:
    logging.getLogger("values").warning("in call")


@each
def test_chained(name: str) -> None:
    try:
        raise _made(name)
    except BaseException as error:
        logging.getLogger("values").exception("logged")
        raise BaseExceptionGroup("after", [error, ValueError(1)]) from error


@each
@pytest.mark.xfail(raises=ValueError, strict=True)
def test_xfail(name: str) -> None:
    raise _made(name)


@each
def test_elsewhere(name: str) -> None:
    """In a thread, in a ``__del__`` and in the text of a warning."""
    error = _made(name)

    class Dying:
        def __del__(self) -> None:
            raise error

    class Saying(UserWarning):
        def __str__(self) -> str:
            if os.environ.get("VALUES") == "killers":
                raise error
            return "said"

    def fails() -> None:
        raise error

    thread = threading.Thread(target=fails, name="thread")
    thread.start()
    thread.join()
    Dying()
    warnings.warn(Saying("x"), stacklevel=1)
