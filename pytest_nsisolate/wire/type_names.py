# SPDX-License-Identifier: MIT
"""Classes of exceptions and warnings by their names, from the child to the runner.

Fact: a class that a test has defined for itself does not exist in the runner, but what it derives
from often does, and hooks ask ``isinstance``.

Consequence: the names of all its ancestors cross, and the runner takes the nearest that it knows.
They are read through the slots of ``type``, because a metaclass may replace what has these names.
"""

from __future__ import annotations

import sys
from typing import Any, Final

_mro: Final = type.__dict__["__mro__"].__get__
_qualname: Final = type.__dict__["__qualname__"].__get__
_module: Final = type.__dict__["__module__"].__get__


def lineage(kind: type) -> list[tuple[str, str]]:
    """(module, qualified name) of a class and of everything that it derives from."""
    return [(_module_of(found), _exact(_qualname(found))) for found in _mro(kind)[:-1]]


def first(names: object) -> tuple[str, str]:
    """(module, qualified name) of the class itself.

    :param names: what :func:`lineage` made, or anything else.
    """
    entries = _entries(names)
    return entries[0] if entries else ("", "")


def nearest(names: object, root: type) -> type | None:
    """The first of these that has been imported here, if it derives from ``root``."""
    for module, name in _entries(names):
        found = find(module, name)
        if found is not None and issubclass(found, root):
            return found
    return None


def _entries(names: object) -> list[tuple[str, str]]:
    return [
        entry
        for entry in (names if isinstance(names, list) else ())
        if isinstance(entry, tuple) and [type(part) for part in entry] == [str, str]
    ]


def find(module: str, name: str) -> type | None:
    """The class of that name, if its module has been imported here."""
    found: Any = sys.modules.get(module)
    try:
        for part in name.split("."):
            found = vars(found).get(part)  # not getattr(): what a module makes on demand is code
    except Exception:  # a lazy module, a metaclass
        return None
    return found if isinstance(found, type) else None


def _module_of(kind: type) -> str:
    try:
        return _exact(_module(kind))
    except AttributeError:  # a class made where there is no __name__ to take
        return "builtins"


def _exact(text: object) -> str:
    return str.__str__(text) if isinstance(text, str) else ""
