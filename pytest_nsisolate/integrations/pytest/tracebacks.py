# SPDX-License-Identifier: MIT
"""Tracebacks without our own frames, as the same failure has them un-isolated.

Fact: pytest drops its own frames and pluggy's from what it shows, but only by default:
``--full-trace``, ``--tb=native`` and an error that no line of the test takes part in show all.

Consequence: our frames go, and with each of them pluggy's that are there because of it. A wrapper
costs two entries, ``_multicall`` throwing into it and the wrapper itself; a hook of ours that calls
a hook of pytest's once more costs the whole of pluggy's outer call.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pluggy

from pytest_nsisolate.kernel.originals import os

#: Code of this package may stand between pytest and a test; what users call is no machinery.
_PACKAGE = str(Path(__file__).parents[2])
_FOR_USERS = str(Path(_PACKAGE, "view")) + os.sep
_NOT_FOR_USERS = str(Path(_PACKAGE, "view", "postmortem")) + os.sep
#: Has hooks, and fixtures, which are the users'.
_PLUGIN = str(Path(_PACKAGE, "plugin.py"))

_PLUGGY = str(Path(pluggy.__file__).parent)


def hide_machinery(error: BaseException) -> None:
    """Take our frames out of the tracebacks of an exception and of all that it is linked to.

    An error that comes from one of our frames keeps them all.
    """
    for found in _family(error):
        _prune(found.__traceback__)


def without_pytest(first: TracebackType | None) -> TracebackType | None:
    """From the first entry on that is not pytest's, pluggy's or ours; all, if there is none."""
    entry = first
    while entry is not None and (_is_ours(entry) or _is_pluggy(entry) or _is_pytest(entry)):
        entry = entry.tb_next
    return entry or first


def _family(error: BaseException) -> Iterator[BaseException]:
    """The exception, its causes and contexts, and the members of groups; each once."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        todo += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            todo += found.exceptions


def _prune(first: TracebackType | None) -> None:
    """In place; the first entry stays, because the code that caught the exception holds it."""
    entries = []
    entry = first
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    if not entries or _is_ours(entries[-1]):
        return
    kept: list[TracebackType] = []
    before_ours = False
    for entry in entries:
        if _is_ours(entry) and kept:
            before_ours = True
            continue
        if before_ours and _is_pluggy(entry):
            _drop_pluggy(kept, whole=entry.tb_frame.f_code.co_name == "__call__")
        before_ours = False
        kept.append(entry)
    for at, entry in enumerate(kept[:-1]):
        if entry.tb_next is not kept[at + 1]:
            entry.tb_next = kept[at + 1]


def _drop_pluggy(kept: list[TracebackType], *, whole: bool) -> None:
    """Pluggy's entries that led to ours: the last one, or its whole call."""
    while len(kept) > 1 and _is_pluggy(kept[-1]):
        kept.pop()
        if not whole:
            return


def _is_ours(entry: TracebackType) -> bool:
    code = entry.tb_frame.f_code
    filename = code.co_filename
    if filename.startswith(_NOT_FOR_USERS):
        return True
    if filename == _PLUGIN:
        return code.co_name.startswith("pytest_")
    return filename.startswith(_PACKAGE) and not filename.startswith(_FOR_USERS)


def _is_pluggy(entry: TracebackType) -> bool:
    return entry.tb_frame.f_code.co_filename.startswith(_PLUGGY)


def _is_pytest(entry: TracebackType) -> bool:
    name = entry.tb_frame.f_globals.get("__name__")
    return isinstance(name, str) and name.startswith("_pytest.")
