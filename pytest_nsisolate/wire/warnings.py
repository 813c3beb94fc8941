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

import _warnings
import sys
import warnings
from collections.abc import Callable
from typing import Any

from pytest_nsisolate.wire import type_names


def describe(message: warnings.WarningMessage) -> dict[str, object]:
    """The plain values that stand for one warning on the wire."""
    instance = message.message
    return {
        "lineage": type_names.lineage(message.category),
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a broken __str__ must not lose the warning
        return f"<{type(message).__name__} whose str() raised {type(error).__name__}>"


def divert(send: Callable[[dict[str, object]], None]) -> None:
    """In the child: every warning that the filters let through goes to ``send``.

    ``warnings._showwarnmsg_impl`` is what ``catch_warnings(record=True)`` replaces too, so a
    recording context inside the test takes precedence and restores this one.
    """

    def show(message: warnings.WarningMessage) -> None:
        send(describe(message))

    warnings._showwarnmsg_impl = show  # type: ignore[attr-defined]


def write_from_now_on() -> None:
    """In the child, when pytest has its last report: warnings are written, as at any exit.

    By the filters that were there before pytest's own: ``catch_warnings`` works with copies, and
    the list that the interpreter began with is still where C code finds it.
    """

    def show(found: warnings.WarningMessage) -> None:
        stream: Any = sys.stderr
        stream.write(
            warnings.formatwarning(
                found.message, found.category, found.filename, found.lineno, found.line
            )
        )

    first = [*getattr(_warnings, "filters", ())]  # a copy: with -p no:warnings it is the same list
    warnings.resetwarnings()  # which also has every module ask anew
    in_force: list[Any] = getattr(warnings, "filters")  # noqa: B009 (typeshed has it read-only)
    in_force.extend(first)
    warnings._showwarnmsg_impl = show  # type: ignore[attr-defined]


def replay(data: dict[str, Any]) -> None:
    """In the runner: add one warning to what pytest is recording now, past the filters.

    :raises KeyError, TypeError, ValueError: for what :func:`describe` has not made.
    """
    category = _category(data["lineage"])
    text = str(data["text"])
    lineno = data["lineno"]
    message = warnings.WarningMessage(
        message=_instance(category, text, data["args"]),
        category=category,
        filename=str(data["filename"]),
        lineno=lineno if type(lineno) is int else 0,
        line=None if data["line"] is None else str(data["line"]),
        source="an object in the child" if data["source"] else None,
    )
    warnings._showwarnmsg(message)  # type: ignore[attr-defined]


def _category(lineage: Any) -> type[Warning]:
    """The category, if the runner has it; else one that looks the same, of the nearest kind."""
    module, name = type_names.first(lineage)
    found = type_names.nearest(lineage, Warning) or UserWarning
    if type_names.first(type_names.lineage(found)) == (module, name):
        return found
    return _imitation(found, module, name.rpartition(".")[2])


def _imitation(base: type[Warning], module: str, name: str, **looks: object) -> type[Warning]:
    try:
        return type(name, (base,), {"__module__": module, **looks})
    except Exception:  # a metaclass with a mind of its own
        return type(name, (UserWarning,), {"__module__": module, **looks})


def _instance(category: type[Warning], text: str, args: object) -> Warning:
    """An instance that reads like the child's, built without running its ``__init__``."""
    found = _made(category, args if isinstance(args, tuple) else (text,), text)
    for base in (category, UserWarning):
        if found is None:
            kind = _imitation(
                base, category.__module__, category.__name__, __str__=lambda self: text
            )
            found = _made(kind, (text,), text)
    return found or UserWarning(text)


def _made(kind: type[Warning], args: tuple[object, ...], text: str) -> Warning | None:
    try:
        warning = kind.__new__(kind)
        warning.args = args
        return warning if str(warning) == text else None
    except Exception:  # a __new__ that needs arguments, a __str__ what __init__ sets
        return None
