# SPDX-License-Identifier: MIT
"""What a user may rely on (docs/policy.md), name by name: a change of it is seen in a diff.

``python -m tests.test_public_api`` writes ``public_api.txt`` anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import pytest_nsisolate
from pytest_nsisolate import plugin
from pytest_nsisolate.__main__ import make_parser
from pytest_nsisolate.cli.completion import commands_of
from pytest_nsisolate.request.options import add_options
from pytest_nsisolate.runner import hookspecs

LIST: Final = Path(__file__).with_name("public_api.txt")


def signature_of(function: Any) -> str:
    """As it is written, with the annotations as text."""
    signature = inspect.signature(function)
    # Where it is evaluated, an annotation's text differs between releases of Python.
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


def members_of(kind: type) -> Iterator[str]:
    """The public ones, those of our own bases included, each with what it is called with."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("pytest_nsisolate"):
            found |= vars(base)
            found |= dict.fromkeys(vars(base).get("__annotations__", {}))
    for name in sorted(name for name in found if name == "__call__" or not name.startswith("_")):
        member = inspect.getattr_static(kind, name, None)
        member = getattr(member, "__func__", member)
        called = inspect.isfunction(member) and not isinstance(member, property)
        yield f"    {name}{signature_of(member) if called else ''}"


def lines() -> Iterator[str]:
    """The whole list."""
    for name in sorted(pytest_nsisolate.__all__):
        kind = getattr(pytest_nsisolate, name)
        bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
        made = signature_of(kind) if dataclasses.is_dataclass(kind) else ""
        yield f"class {name}{made}{f' of {bases}' if bases else ''}"
        if getattr(kind, "__total__", None) is False:
            yield from (f"    {key}=" for key in sorted(kind.__annotations__))
        else:
            yield from members_of(kind)
    for name, hook in sorted(vars(hookspecs).items()):
        if name.startswith("pytest_"):
            yield f"hook {name}{signature_of(hook)}"
    for name in fixtures():
        yield f"fixture {name}"
    for name in options():
        yield f"option {name}"
    for command in commands_of(make_parser()):
        options_of_it = sorted({option.name for option in command.options} - {"-h", "--help"})
        yield f"command {command.name} {' '.join(options_of_it)}".rstrip()


def fixtures() -> list[str]:
    """Names of the plugin's fixtures."""
    kinds = {name: type(value).__name__ for name, value in vars(plugin).items()}
    return sorted(name for name, kind in kinds.items() if kind == "FixtureFunctionDefinition")


class Options:
    """Stands in for pytest's parser, and for a group of it: it takes down what is registered."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def getgroup(self, *_: str) -> Options:
        return self

    def addoption(self, *names: str, **_: Any) -> None:
        self.names += names

    def addini(self, name: str, *_: Any, **__: Any) -> None:
        self.names.append(f"{name} (ini)")


def options() -> list[str]:
    """pytest's options and ini keys that are ours."""
    registered = Options()
    add_options(registered)  # type: ignore[arg-type]
    return sorted(registered.names)


def test_the_public_names_and_signatures_are_those_of_the_list() -> None:
    """Meant: ``python -m tests.test_public_api`` writes the list, and the changelog says it."""
    assert list(lines()) == LIST.read_text("utf-8").splitlines()


def test_the_list_says_something() -> None:
    """The search finds classes with members, hooks, fixtures, options and commands."""
    found = list(lines())

    assert {"fixture pid1", "option --nsisolate", "option nsisolate (ini)"} <= set(found)
    for start in ("class IsolatedCrash", "hook pytest_nsisolate_ready", "command run --"):
        assert any(line.startswith(start) for line in found), start
    assert sum(line.startswith("    ") for line in found) > 150


@pytest.mark.parametrize("name", sorted(pytest_nsisolate.__all__))
def test_each_name_is_imported_from_the_package_and_explained(name: str) -> None:
    """Also by ``import *``; what is documented elsewhere is no promise."""
    assert (getattr(pytest_nsisolate, name).__doc__ or "").strip()


def test_policy_and_reference_name_all_of_them() -> None:
    """The reference has each class; the policy says that the list is what is promised."""
    docs = LIST.parents[1] / "docs"
    text = "".join(page.read_text("utf-8") for page in docs.rglob("*.md"))
    names = pytest_nsisolate.__all__

    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
    assert LIST.name in (docs / "policy.md").read_text("utf-8")


if __name__ == "__main__":
    LIST.write_text("\n".join(lines()) + "\n", encoding="utf-8")
