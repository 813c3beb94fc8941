# SPDX-License-Identifier: MIT
"""Where a Ctrl-C has hit: pytest names the line under its banner, and that is the child's."""

from __future__ import annotations

from typing import NoReturn, TypeAlias

import pytest

#: A file and a line, from 1.
Place: TypeAlias = tuple[str, int]

_MANY_LINES = 1 << 24


def place(error: BaseException) -> Place | None:
    """In the child: the last line of the traceback that pytest would show."""
    found = getattr(pytest.ExceptionInfo.from_exception(error).getrepr(), "reprcrash", None)
    return None if found is None else (str(found.path), found.lineno)


def raise_at(error: BaseException, where: object) -> NoReturn:
    """Raise it as if that line of that file had done so.

    :param where: what :func:`place` has found; anything else is taken for "nobody knows".
    """
    match where:
        case (str(path), int(line)) if 0 < line < _MANY_LINES and "\0" not in path:
            code = compile("raise error", path, "exec").replace(co_firstlineno=line)
            exec(code, {"error": error})  # noqa: S102 (our own text; only its place is the child's)
    raise error
