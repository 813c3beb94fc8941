# SPDX-License-Identifier: MIT
"""What the garbage collector tells about the objects that a child has inherited.

Fact: ``gc.freeze()`` in the child keeps a collection from writing to every object of the runner,
which would copy each page of it. But ``gc.get_objects`` and ``gc.get_referrers`` do not see frozen
objects either: Hypothesis then warns of a random generator that "could be garbage collected
immediately", and a test that counts its objects finds none.

Consequence: in the child the first call of one of the two ends the freezing, and is answered like
any other. A test that asks is rare, and pays with the pages of its next full collection.

What still fails: a function that the suite has taken out of :mod:`gc` before the clone
(``from gc import get_objects``) sees what the child has made, and nothing else.
"""

from __future__ import annotations

import _io
import sys
from functools import partial
from typing import Any, Final

from pytest_nsisolate.kernel.originals import gc, of_the_suite

_TELLING = {"get_objects": gc.get_objects, "get_referrers": gc.get_referrers}


#: Classes beside those of :mod:`io` that finish their work when they are closed, or in ``__del__``.
_FINISHERS: Final = (
    ("tempfile", "_TemporaryFileWrapper"),
    ("zipfile", "ZipFile"),
    ("shelve", "Shelf"),
)

#: The runner's files, once they are not frozen; kept, so that no other object gets their ids.
_files: list[Any] = []
_thawed = [False]


def own_files() -> list[Any]:
    """Files and their like that this process has made; none, after ``gc.unfreeze()`` in a test."""
    if not (_thawed[0] or gc.get_freeze_count()):
        return []
    of_runner = set(map(id, _files))
    return [found for found in _known_files() if id(found) not in of_runner]


def _known_files() -> list[Any]:
    modules = ((sys.modules.get(module), name) for module, name in _FINISHERS)
    kinds = (_io._IOBase, *(getattr(module, name) for module, name in modules if module))
    # By their types and not by isinstance(), which asks an object for its __class__.
    return [found for found in _TELLING["get_objects"]() if issubclass(type(found), kinds)]


def stay_visible() -> None:
    """In the child: both functions of :mod:`gc` tell about inherited objects too."""
    for name, function in _INSTEAD.items():
        setattr(of_the_suite("gc"), name, function)


def _thaw() -> None:
    if gc.get_freeze_count():
        own = _known_files()
        gc.unfreeze()
        own_ids = set(map(id, own))
        _files[:] = [found for found in _known_files() if id(found) not in own_ids]
        _thawed[0] = True
    seen = of_the_suite("gc")
    for name, function in _TELLING.items():
        if getattr(seen, name) is _INSTEAD[name]:
            setattr(seen, name, function)


def _get_objects(*arguments: Any, **named: Any) -> list[Any]:
    _thaw()
    return _TELLING["get_objects"](*arguments, **named)


def _get_referrers(*objects: Any) -> list[Any]:
    _thaw()
    # Without this call, which refers to them as well.
    return [found for found in _TELLING["get_referrers"](*objects) if found is not objects]


#: Called by C, as gc's own functions are: while a coroutine calls Python code, its frame shows its
#: variables, and would itself be a referrer.
_INSTEAD = {"get_objects": partial(_get_objects), "get_referrers": partial(_get_referrers)}
