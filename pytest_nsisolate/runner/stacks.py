# SPDX-License-Identifier: MIT
"""The stacks of a crash or a timeout: down to the test, and no further.

Fact: the fault handler writes every frame of every thread, from a signal handler: below those of
the test are some thirty of pytest, pluggy and this plugin, the same in each report.

Consequence: the runner folds them into one line, unless ``--full-trace`` asks for them. The stack
ends at the frame of the test, or of one of its fixtures; where none of these is on it (a finalizer,
``setUp``, a doctest, a hook of a conftest), at the outermost frame that does not run tests. Our own
frames tell which stack that is: those of other threads are shown whole.

What still fails: of a stack of more than 100 frames the fault handler leaves out the outer ones, so
there is nothing to fold.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any, Final

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import re

_STACK: Final = re.compile(r'(?:^  File ".*", line .* in .*\n?)+', re.MULTILINE)
_FRAME: Final = re.compile(r'  File "(?P<file>.*)", line (?:\d+|\?+) in (?P<name>.*)')

#: Modules of ours; one of them has called the code that belongs to the test.
_BELOW_THE_TEST: Final = (
    *("pytest_nsisolate.child.main", "pytest_nsisolate.child.strays"),
    "pytest_nsisolate.runner.phases",
)

#: Modules and packages that run tests.
_RUNNERS: Final = (
    *("_pytest", "pytest", "pluggy", "pytest_nsisolate"),
    *("unittest", "doctest", "asyncio", "pytest_asyncio", "anyio"),
)

#: Decorators that are followed at most.
_MOST_WRAPPERS: Final = 20

#: The file and the name of a function.
_Place = tuple[str, str]


def folded(text: str, item: pytest.Item) -> str:
    """A text with dumps of the fault handler in it, without what is below the test.

    :param item: the test; made in the runner, so fixtures that it asks for later are not known.
    """
    if item.config.getoption("fulltrace", False):
        return text
    own = frozenset(_places(internals.own_functions(item)))
    runners, ours = tuple(_paths(_RUNNERS)), tuple(_paths(_BELOW_THE_TEST))
    return _STACK.sub(lambda stack: _fold(stack[0], own, runners, ours), text)


def _fold(
    stack: str, own: frozenset[_Place], runners: tuple[str, ...], ours: tuple[str, ...]
) -> str:
    lines = stack.splitlines(keepends=True)
    frames = [_place(line) for line in lines]
    below = [at for at, (file, _) in enumerate(frames) if file in ours]
    if not below:
        return stack
    outwards = range(below[0])
    known = [at for at in outwards if frames[at] in own]
    others = [at for at in outwards if not frames[at][0].startswith(runners)]
    if not (ends := known or others):
        return stack
    kept = ends[-1] + 1
    end = "\n" if stack.endswith("\n") else ""
    return f"{''.join(lines[:kept])}  … {len(lines) - kept} frames of pytest{end}"


def _paths(modules: Iterable[str]) -> Iterator[str]:
    """The paths of those that are loaded; a file whose path begins with one belongs to it."""
    for name in modules:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is not None:
            yield _as_dumped(str(path).removesuffix("__init__.py"))


def _place(line: str) -> _Place:
    found = _FRAME.match(line)
    return ("", "") if found is None else (found["file"], found["name"])


def _places(functions: Iterable[object]) -> Iterator[_Place]:
    for function in functions:
        code = getattr(_innermost(function), "__code__", None)
        if type(code) is CodeType:
            yield _as_dumped(code.co_filename), _as_dumped(code.co_name)


def _innermost(function: Any) -> object:
    """What decorators and partials have wrapped."""
    for _ in range(_MOST_WRAPPERS):
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        if inner is None:
            break
        function = inner
    return function


def _as_dumped(name: str) -> str:
    """As ``_Py_DumpASCII`` writes it (Python/traceback.c)."""
    return name.encode("ascii", "backslashreplace").decode("ascii")
