# SPDX-License-Identifier: MIT
"""What the garbage collector tells about the objects that a child has inherited.

Fact: ``gc.freeze()`` in the child keeps a collection from writing to every object of the runner,
which would copy each page of it. But ``gc.get_objects`` and ``gc.get_referrers`` do not see frozen
objects either: Hypothesis then warns of a random generator that "could be garbage collected
immediately", and a test that counts its objects finds none.

Consequence: in the child the first call of one of the two ends the freezing, and is answered like
any other. A test that asks is rare, and pays with the pages of its next full collection.

What still fails: a function that somebody has taken out of :mod:`gc` before the clone
(``from gc import get_objects``) sees what the child has made, and nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pytest_nsisolate.kernel.originals import gc, of_the_suite

_TELLING = {"get_objects": gc.get_objects, "get_referrers": gc.get_referrers}


def stay_visible() -> None:
    """In the child: both functions of :mod:`gc` tell about inherited objects too."""
    for name, function in _INSTEAD.items():
        setattr(of_the_suite("gc"), name, function)


def _thaw() -> None:
    gc.unfreeze()
    seen = of_the_suite("gc")
    for name, function in _TELLING.items():
        if getattr(seen, name) is _INSTEAD[name]:
            setattr(seen, name, function)


def _get_objects(*arguments: Any, **named: Any) -> list[Any]:
    _thaw()
    return _TELLING["get_objects"](*arguments, **named)


def _get_referrers(*objects: Any) -> list[Any]:
    _thaw()
    # Not this call, which refers to them as well.
    return [found for found in _TELLING["get_referrers"](*objects) if found is not objects]


#: Called by C, as gc's own functions are: while a coroutine calls Python code, its frame shows its
#: variables, and would itself be a referrer.
_INSTEAD = {"get_objects": partial(_get_objects), "get_referrers": partial(_get_referrers)}
