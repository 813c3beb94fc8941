# SPDX-License-Identifier: MIT
"""The folders are layers: a module imports from its own and from those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest_nsisolate

PACKAGE: Final = Path(pytest_nsisolate.__file__).parent

#: From the bottom to the top.
LAYERS: Final = (
    {"kernel", "errors"},
    {"integrations"},
    {"wire"},
    {"host"},
    {"request"},
    {"process"},
    {"child"},
    {"view"},
    {"runner"},
    {"isolate"},
    {"testbed"},
    {"cli"},
    {"plugin", "__init__", "__main__"},
)
HEIGHT: Final = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}

#: Imports that run upward all the same: where, from which layer, and why.
UPWARD: Final = {
    ("integrations/plugins/vscode.py", "runner"): "it is a plugin, with hooks of its own",
    ("integrations/plugins/xdist.py", "runner"): "it is a plugin, with hooks of its own",
    ("integrations/plugins/xdist.py", "wire"): "likewise",
    ("process/diagnosis.py", "view"): "only the report of a timeout needs it",
    ("runner/summary.py", "cli"): "only --nsisolate-doctor needs it",
}


def imports(path: Path) -> Iterator[str]:
    """The names that a module imports, but for its annotations alone.

    Relative imports stay in their room: they are of a program that stands alone.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{path}: an import from above"
            if node.level:
                continue  # a program's, from the modules beside it
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def upward() -> set[tuple[str, str]]:
    """Each import that runs upward: in which module, and from which room."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        own = HEIGHT[place.parts[0].removesuffix(".py")]
        for name in imports(path):
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == PACKAGE.name and HEIGHT.get(room, 0) > own:
                found.add((str(place), room))
    return found


def test_no_import_runs_upward() -> None:
    """With the exceptions that are listed above, each of which is still one."""
    assert upward() == UPWARD.keys()


def test_every_room_has_a_height() -> None:
    """A new folder, or a module beside them, needs a place among the layers."""
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert rooms - {"__pycache__", "py.typed"} == HEIGHT.keys()
