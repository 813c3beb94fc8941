# SPDX-License-Identifier: MIT
"""A package, executed anew out of a suite's reach.

Fact: a suite replaces functions of psutil as well (``mock.patch("psutil.pids", return_value=[])``),
and what psutil calls: ``builtins.open``, ``os.listdir``. Were the view to ask the psutil of the
suite, ``pid1.assert_no_process("nginx")`` would hold beside a running nginx. In :mod:`json` the
modules below are the ones that work.

Consequence: its modules are executed a second time, from the same files. What they import of the
standard library is given to them, and so is ``open``. They are in no ``sys.modules``. For psutil it
takes seven milliseconds, once, and for json half of one.

What still fails: functions of C modules that the suite has replaced before; and the classes are not
those of the suite, so what the twin raises has to be caught by the twin's own names.
"""

from __future__ import annotations

import builtins
import sys
from collections import ChainMap
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import resolve_name
from types import ModuleType
from typing import Any, Final

_made: Final[dict[str, Any]] = {}


def twin(package: str, instead: Mapping[str, Any]) -> Any:
    """The twin of a package, made when it is asked for first.

    :param instead: modules by name that it gets in place of those that it imports; ``open``, and
        ``PLATFORM`` for ``sys.platform``.
    :raises ImportError: if it is not installed.
    """
    return _made.get(package) or _Package(package, instead).module(package)


class _Package:
    def __init__(self, name: str, instead: Mapping[str, Any]) -> None:
        self._name = name
        self._instead = instead
        self._builtins = {**vars(builtins), "__import__": self._import, "open": instead["open"]}
        self._sys = ModuleType("sys")
        own = {"platform": instead["PLATFORM"], "modules": ChainMap(_made, sys.modules)}
        vars(self._sys).update(vars(sys), **own)

    def module(self, name: str) -> Any:
        if name in _made:
            return _made[name]
        above, _, own = name.rpartition(".")
        found = PathFinder.find_spec(name, self.module(above).__path__ if above else None)
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        made: Any = ModuleType(name)
        if isinstance(found.loader, SourceFileLoader):
            made.__package__, made.__file__ = found.parent, found.origin
            made.__builtins__ = self._builtins
            if found.submodule_search_locations is not None:
                made.__path__ = list(found.submodule_search_locations)
            _made[name] = made
            try:
                exec(found.loader.get_code(name), vars(made))  # type: ignore[arg-type]  # noqa: S102
            except BaseException:
                del _made[name]
                raise
        else:  # a C module, of which there may be one only
            vars(made).update(vars(import_module(name)))
            _made[name] = made
        if above:
            setattr(_made[above], own, made)
        return made

    def _import(
        self,
        name: str,
        namespace: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        wanted: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level:
            name = resolve_name("." * level + name, (namespace or {})["__package__"])
        if name.partition(".")[0] != self._name:
            if name == "sys":
                return self._sys
            if isinstance(self._instead.get(name), ModuleType):
                return self._instead[name]
            return __import__(name, namespace, local, wanted or ())
        module = self.module(name)
        for own in wanted or ():
            if not hasattr(module, own):
                self.module(f"{name}.{own}")
        return module if wanted else self.module(self._name)
