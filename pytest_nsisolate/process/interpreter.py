# SPDX-License-Identifier: MIT
"""What a Python program needs of its host, wherever its root is: folders, and files.

Fact: a child of ours is a copy of its runner, so everything that is loaded already works in any
root. What it imports later, and the interpreter that it starts, are looked for by path.
Fact: where Python is a part of the system its prefix is ``/usr``, which belongs to the root too.
What we do: of a prefix that the system shares only Python's own folders count.
Fact: a program finds its libraries by the loader whose path it has, and by names (ld.so(8)).
What we do: the loader of the interpreter, and the libraries that this process has loaded, by the
names that other programs know them by.

What still fails: a library of an extension module that nobody has imported yet. Import it at the
top of the test module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from sysconfig import get_path
from types import ModuleType
from typing import Final

from pytest_nsisolate.kernel.originals import open, os, re

#: Paths that every root has for itself.
_SHARED: Final = re.compile(
    r"/?|(/usr)?(/local)?(/(bin|sbin|lib|lib32|lib64|libx32|libexec|share|include|etc|games|src))?"
    r"|/(boot|dev|proc|run|sys|tmp|var|var/tmp)"
)

_LOADER: Final = re.compile(rb"/[\w./+-]*/ld[\w.+-]*\.so[\w.+-]*(?=\0)")

#: Where every loader looks for libraries (ld.so(8)).
_FOUND_WITHOUT_LIST: Final = re.compile(r"(/usr)?/lib(32|64)?(/[\w-]+-linux-[\w-]+)?")

#: Links on the way to the interpreter; more is a loop.
_MOST_LINKS: Final = 40


def is_shared(path: str) -> bool:
    """It is the system's, and so of every root its own."""
    return _SHARED.fullmatch(path) is not None


def folders() -> Iterator[str]:
    """Where Python's library, and the packages that are loaded, lie; a path may come twice."""
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield get_path(name)
    for name, module in list(sys.modules.items()):
        # By its dict, because a suite's module may answer for any attribute.
        if "." not in name and isinstance(module, ModuleType):
            with suppress(Exception):  # of a path that a suite has put there
                yield from [path for path in vars(module).get("__path__", ()) if type(path) is str]


def programs() -> Iterator[str]:
    """The interpreter, by each name that leads to it."""
    path = sys.executable or ""
    for _ in range(_MOST_LINKS):
        if not os.path.isabs(path):
            return
        yield path
        try:
            to = os.readlink(path)
        except OSError:
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), to))


def loader() -> str | None:
    """What starts the interpreter; None for a static one."""
    try:
        with open(sys.executable, "rb") as program:
            found = _LOADER.search(program.read(4096))
    except OSError:
        return None
    return None if found is None else os.fsdecode(found[0])


def libraries() -> Iterator[str]:
    """Those that this process has loaded, by the names that programs ask for."""
    try:
        with open("/proc/self/maps", "rb") as file:
            maps = file.read()
    except OSError:
        return
    for found in sorted({*re.findall(rb" (/\S*/lib[^/\n]*\.so[^/\n]*)\n", maps)}):
        path = os.fsdecode(found)
        names = {path}
        name = path.rpartition(".")[0]
        while ".so." in name:
            if os.path.islink(name) and os.path.realpath(name) == path:
                names.discard(path)
                names.add(name)
            name = name.rpartition(".")[0]
        yield from names
        if _FOUND_WITHOUT_LIST.fullmatch(os.path.dirname(path)) is None:
            yield "/etc/ld.so.cache"
