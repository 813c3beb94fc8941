# SPDX-License-Identifier: MIT
"""The standard library as it was when the plugin was loaded, out of a suite's reach.

Fact: a suite replaces what it calls, for a whole module or for good: ``mock.patch("os.fork",
return_value=0)`` tests a daemon, ``gevent.monkey.patch_all()`` makes every wait cooperative. Were
the plugin to look these names up in :mod:`os`, the runner would take itself for a child, signal a
process that is not its own, or wait for ever.

Consequence: a module of this package imports from here what it calls, and nothing of it from the
standard library; a test enforces that. Each name here is a private twin of a module:

* :mod:`os`, with ``os.path``, and :mod:`traceback`, with :mod:`linecache`, are executed anew,
  because their functions call one another by name;
* of C modules that gevent and eventlet rewrite there is a second instance, in case they were first;
* :mod:`json` is executed anew with the modules below it (:mod:`.package_twin`), and psutil, when it
  is asked for;
* of the others there is a copy of the namespace, with gevent's originals where it was first; the
  methods of ``subprocess.Popen``, and ``socket.socketpair``, work with that copy.

Twins are in no ``sys.modules``, so that what walks through that (freezegun, pyfakefs) passes by.
``os.environ`` is shared with the suite.

What still fails: a stand-in that was there before the plugin was loaded and has kept no original
(``-p`` of a plugin that patches, a ``sitecustomize``), and one that changes an object in place.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pytest_nsisolate.kernel import package_twin

if TYPE_CHECKING:
    import atexit
    import ctypes
    import faulthandler
    import fcntl
    import gc
    import io
    import json
    import mmap
    import os
    import pickle
    import platform
    import posix
    import pwd
    import random
    import re
    import resource
    import select
    import shutil
    import signal
    import socket
    import subprocess
    import termios
    import threading
    import time
    import traceback
    from io import open  # noqa: UP029

#: ``sys.platform``: suites pretend to run elsewhere.
PLATFORM: Final = sys.platform


def of_the_suite(name: str) -> Any:
    """A module as the suite has it, to be looked at or changed in its stead."""
    return sys.modules[name]


def _present(name: str) -> types.ModuleType | None:
    """A module of the standard library; None where this platform has none."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _empty(name: str) -> Any:
    return types.ModuleType(f"{__name__}.{name}")


def _executed_anew(module: Any) -> Any:
    twin = _empty(module.__name__)
    exec(module.__spec__.loader.get_code(module.__name__), vars(twin))  # noqa: S102
    return twin


def _with_copies(twin: Any, **twins: Any) -> Any:
    """What it calls of other modules, it calls of these twins, and of copies.

    :mod:`sys` stays, because what is in it changes.
    """
    for name, value in [*vars(twin).items()]:
        if isinstance(value, types.ModuleType) and value is not sys:
            setattr(twin, name, twins.get(name) or _copy(value.__name__))
    return twin


def _os() -> Any:
    real = importlib.import_module("os")
    if PLATFORM != "linux":
        return real  # nothing is isolated there, and it is made of other modules
    names = sys.modules["os.path"]  # executing os sets it
    twin, path, generic = (
        _with_copies(_executed_anew(module))
        for module in (real, real.path, importlib.import_module("genericpath"))
    )
    sys.modules["os.path"] = names
    generic.os = path.os = twin
    path.genericpath = generic
    for name in generic.__all__:
        if getattr(path, name) is getattr(sys.modules["genericpath"], name):
            setattr(path, name, getattr(generic, name))
    twin.path = path
    twin.environ, twin.PathLike = real.environ, real.PathLike
    if hasattr(real, "environb"):
        twin.environb = real.environb
    return twin


def _instance(name: str) -> Any:
    """A second instance of a C module (PEP 489)."""
    module = _present(name)
    if module is None or module.__spec__ is None or module.__spec__.loader is None:
        return module
    twin = importlib.util.module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(twin)
    return twin


def _copy(name: str, below: str = "") -> Any:
    """A copy of a module's namespace.

    :param below: the C module that it wraps, whose functions are taken as they are.
    """
    module = _present(name)
    if module is None:
        return None
    twin = _empty(name)
    vars(twin).update(vars(module))
    if below and (base := _present(below)) is not None:
        shared = {key: value for key, value in vars(base).items() if not key.startswith("__")}
        vars(twin).update(shared)
    vars(twin).update(_gevent_originals(name))
    return twin


def _subprocess(**twins: Any) -> Any:
    """A copy whose ``Popen`` is a subclass of the suite's, with methods that work with the copy.

    :param twins: what they call.
    """
    twin = _with_copies(_copy("subprocess"), **twins)
    suites: Any = twin.Popen
    own: dict[str, Any] = {"__module__": suites.__module__, "__doc__": suites.__doc__}
    for name, method in vars(suites).items():
        if getattr(method, "__globals__", None) is suites.__init__.__globals__:
            own[name] = _working_with(twin, method)
    twin.Popen = type("Popen", (suites,), own)
    return twin


def _traceback(os: Any) -> Any:
    """Reads lines by a ``linecache`` of its own; what a suite has put in there, it has, too."""
    suites = importlib.import_module("linecache")
    lines = _with_copies(_executed_anew(suites), os=os)
    for name in ("cache", "_interactive_cache"):
        if hasattr(suites, name):
            setattr(lines, name, getattr(suites, name))
    return _with_copies(_executed_anew(importlib.import_module("traceback")), linecache=lines)


def _socket() -> Any:
    """``socketpair`` is written in Python, and makes its sockets by the name of their class."""
    twin = _copy("socket")
    pair: Any = vars(twin).get("socketpair")  # not on every platform
    if getattr(pair, "__globals__", None) is twin.socket.__init__.__globals__:
        twin.socketpair = _working_with(twin, pair)
    return twin


def _working_with(twin: types.ModuleType, function: Any) -> types.FunctionType:
    """The same function, which looks its names up in a twin of its module."""
    found = types.FunctionType(
        function.__code__,
        vars(twin),
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def _current_thread(threading: Any) -> Callable[[], Any]:
    """``current_thread``, without the ``get_ident`` that its own module has at the moment."""
    active, get_ident, original = threading._active, threading.get_ident, threading.current_thread

    def current_thread() -> Any:
        found = active.get(get_ident())
        return original() if found is None else found

    return current_thread


def _gevent_originals(name: str) -> dict[str, Any]:
    monkey: Any = sys.modules.get("gevent.monkey")
    saved: dict[str, dict[str, Any]] = getattr(monkey, "saved", {})
    return saved.get(name, {})


if not TYPE_CHECKING:
    os = _os()
    posix = _copy("posix")
    select = _instance("select")
    time = _instance("time")
    # Not the wrappers, which turn each number into an enum: some 300 calls for one signal mask.
    signal = _copy("signal", below="_signal")
    atexit = _copy("atexit")
    ctypes = _copy("ctypes")
    faulthandler = _copy("faulthandler")
    fcntl = _copy("fcntl")
    gc = _copy("gc")
    io = _copy("io")
    mmap = _copy("mmap")
    pickle = _copy("pickle")
    platform = _copy("platform")
    pwd = _copy("pwd")
    random = _copy("random")
    re = _copy("re")
    resource = _copy("resource")
    shutil = _copy("shutil")
    socket = _socket()
    termios = _copy("termios")
    threading = _copy("threading")
    threading.current_thread = _current_thread(threading)
    subprocess = _subprocess(io=io, os=os, signal=signal, threading=threading)
    traceback = _traceback(os)
    open = io.open
    json = package_twin.twin("json", globals())


def package(name: str) -> Any:
    """A package of others, as it was; made when it is asked for first.

    :raises ImportError: if it is not installed.
    """
    return package_twin.twin(name, globals())


__all__ = [
    "PLATFORM",
    "atexit",
    "ctypes",
    "faulthandler",
    "fcntl",
    "gc",
    "io",
    "json",
    "mmap",
    "of_the_suite",
    "open",
    "os",
    "package",
    "pickle",
    "platform",
    "posix",
    "pwd",
    "random",
    "re",
    "resource",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "termios",
    "threading",
    "time",
    "traceback",
]
