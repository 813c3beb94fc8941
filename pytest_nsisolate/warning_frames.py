# SPDX-License-Identifier: MIT
"""Warnings of the child, as if they had been issued in the runner.

Fact: pytest records the warnings of a test in a list that lives round the whole protocol, and
hands them to ``pytest_warning_recorded`` at its end. The child's copy of that list dies with it.

Consequence: in the child, what would be appended is sent; in the runner it is appended. Not by a
nested ``catch_warnings``: entering one makes every module forget which warnings it has already
given ("default" once per location), and a warning of a fixture would come twice.

What still fails: the object that a ResourceWarning names (``source``) cannot cross; pytest's hint
about tracemalloc still appears, the allocation traceback does not.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any


def describe(message: warnings.WarningMessage) -> dict[str, object]:
    """The plain values that stand for one warning on the wire."""
    category = message.category
    instance = message.message
    return {
        "module": category.__module__,
        "name": category.__qualname__,
        "text": _text(instance),
        "args": instance.args if isinstance(instance, Warning) else (instance,),
        "filename": message.filename,
        "lineno": message.lineno,
        "line": message.line,
        "source": message.source is not None,
    }


def _text(message: Warning | str) -> str:
    try:
        return str(message)
    except Exception as error:  # a broken __str__ must not lose the warning
        return f"<{type(message).__name__} whose str() raised {type(error).__name__}>"


def divert(send: Callable[[dict[str, object]], None]) -> None:
    """In the child: whatever the filters let through goes to ``send``.

    ``warnings._showwarnmsg_impl`` is what ``catch_warnings(record=True)`` replaces too, so a
    recording context inside the test takes precedence and restores this one.
    """

    def show(message: warnings.WarningMessage) -> None:
        send(describe(message))

    warnings._showwarnmsg_impl = show  # type: ignore[attr-defined]


def replay(data: dict[str, Any]) -> None:
    """In the runner: add one warning to what pytest is recording now, past the filters."""
    category = _category(str(data["module"]), str(data["name"]))
    text = str(data["text"])
    message = warnings.WarningMessage(
        message=_instance(category, text, data["args"]),
        category=category,
        filename=str(data["filename"]),
        lineno=int(data["lineno"]),
        line=None if data["line"] is None else str(data["line"]),
        source="an object in the child" if data["source"] else None,
    )
    warnings._showwarnmsg(message)  # type: ignore[attr-defined]


def _category(module: str, name: str) -> type[Warning]:
    """The category by its name, if the runner has it; else one that looks the same."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(name.rpartition(".")[2], (UserWarning,), {"__module__": module})


def _instance(category: type[Warning], text: str, args: object) -> Warning:
    """An instance that reads like the child's, built without running its ``__init__``."""
    warning = category.__new__(category)
    warning.args = args if isinstance(args, tuple) else (text,)
    try:
        if str(warning) == text:
            return warning
    except Exception:  # a __str__ that needs what __init__ sets
        pass
    looks = {"__module__": category.__module__, "__str__": lambda self: text}
    imitation: type[Warning] = type(category.__name__, (category,), looks)
    warning = imitation.__new__(imitation)
    warning.args = (text,)
    return warning
