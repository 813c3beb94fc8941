# SPDX-License-Identifier: MIT
"""What a process does at its end and a raw exit leaves out.

Fact: at its end the interpreter waits for the threads that are no daemons, calls what was
registered with :mod:`atexit`, the last one first, and flushes the files that are open. ``os._exit``
does none of this. But a fork has also inherited all that the runner has registered. Only the runner
may do that: a second time it would remove the runner's directories and write its files again.

Consequence: the child does what it has left for its own end, and nothing that it has inherited.

- The first handler that the child registers is :meth:`Ending._reached`. Handlers are called in
  reverse, so when it is called those of the child are done, those of the runner are not, and it
  does not return.
- Some modules register one handler, when they are imported or first used, for everything that
  comes later: :mod:`weakref` (finalizers, and with them ``TemporaryDirectory``), :mod:`logging`,
  :mod:`concurrent.futures`, :mod:`multiprocessing`. Theirs is done by name, for what is new.
- What the child has made itself is not frozen by ``gc.freeze``; its files are found among that.

All of it is bounded: threads get :data:`THREAD_SECONDS`, the rest
:data:`~pytest_nsisolate.process.deadline.EXIT_SECONDS`, by the runner's clock. A test that leaves
nothing pays for six comparisons.

What still fails: a handler that another library has registered in the runner for everything that
comes later (joblib's) does not run for what a test leaves to it. Nor does the ``__del__`` of an
object that is alive at the end, except those of :mod:`tempfile`, :mod:`zipfile` and
:mod:`shelve`. What a test writes into the buffer of a file that the runner has opened is lost
without a ``flush``.
"""

from __future__ import annotations

import _io
import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn

from pytest_nsisolate.child import inherited
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import atexit, of_the_suite, os, threading, traceback

#: Seconds that threads have to end, all of them together.
THREAD_SECONDS: Final = 5.0

#: They tell the threads of all their executors to end.
_EXECUTORS: Final = ("concurrent.futures.thread", "concurrent.futures.process")

_BUFFERED: Final = (_io.TextIOWrapper, _io.BufferedWriter, _io.BufferedRandom, _io.BufferedRWPair)


class Ending:
    """The end of one child. Made in the runner, before the clone; it changes nothing there."""

    def __init__(self) -> None:
        self._handlers: list[Any] = _handlers[:]
        self._finalizers = repr(_numbers)
        self._thread_hooks = len(_thread_hooks)
        self._callbacks = 0
        self._files: int | None = None
        self._waited = False
        self._leave: Callable[[], NoReturn] | None = None

    def begin(self) -> None:
        """In the child, before any code of the test's: what comes now is its own."""
        atexit.register(self._reached)
        self._callbacks = atexit._ncallbacks()
        self._files = _count_descriptors()

    @property
    def has_threads(self) -> bool:
        """Whether there is a thread to wait for."""
        if len(_threads) > 1 and _awaited():
            return True
        return len(_thread_hooks) != self._thread_hooks

    def await_threads(self) -> list[str]:
        """Wait for the threads that are no daemons; once.

        :returns: the names of those that have not ended.
        """
        if self._waited or not self.has_threads:
            return []
        self._waited = True
        until = monotonic() + THREAD_SECONDS
        modules: list[Any] = [sys.modules.get(name) for name in _EXECUTORS]
        hooks = [module._python_exit for module in modules if module is not None]
        hooks += _thread_hooks[self._thread_hooks :]
        # They join their threads without a bound, so a thread of our own calls them.
        helper = threading.Thread(target=_call_all, args=(hooks[::-1],), daemon=True)
        with suppress(RuntimeError):  # a limit of the test's is reached
            helper.start()
            threading.Thread.join(helper, until - monotonic())
        while (left := until - monotonic()) > 0 and (threads := _awaited()):
            threading.Thread.join(threads[0], left)
        return [thread.name for thread in _awaited()]

    @property
    def is_due(self) -> bool:
        """Whether the test has left anything for its end.

        Nearly none has. So this calls no function of Python's: each is a page or two to copy.
        """
        util = sys.modules.get("multiprocessing.util")
        return (
            len(_threads) > 1
            or len(_thread_hooks) != self._thread_hooks
            or atexit._ncallbacks() != self._callbacks
            or repr(_numbers) != self._finalizers
            or len(_handlers) != len(self._handlers)
            or _handlers[-1:] != self._handlers[-1:]
            or (util is not None and bool(util._finalizer_registry))
            or self._files is None
            or _count_descriptors() != self._files
        ) and self._is_really_due()

    def _is_really_due(self) -> bool:
        return (
            self.has_threads
            or atexit._ncallbacks() != self._callbacks
            or self._has_finalizers()
            or bool(self._new_handlers())
            or _has_multiprocessing_finalizers()
            or self._files is None
            or _count_descriptors() != self._files
        )

    def run(self, leave: Callable[[], NoReturn]) -> NoReturn:
        """Do what the child has left, up to the handlers that it has inherited.

        :param leave: does what remains, :meth:`finish` included; called once.
        """
        _restore_excepthooks()
        self.await_threads()
        util: Any = sys.modules.get("multiprocessing.util")
        if util is not None:
            # It waits for the test's processes without a bound: after_fork does it.
            atexit.unregister(util._exit_function)
        self._leave = leave
        atexit._run_exitfuncs()
        leave()  # the test has cleared the list

    def finish(self) -> None:
        """What is not registered anywhere, or by the runner for all that comes later."""
        if self._has_finalizers():
            first = _number(self._finalizers)
            for info in [*_finalizers.values()]:
                info.atexit = info.atexit and info.index >= first
            _guarded(_finalize_all)
        _guarded(logging.shutdown, self._new_handlers())
        _finish_files()

    def forget(self) -> None:
        """In a copy of the child: one that a handler has forked does not call the others.

        What still fails: Python 3.14 goes through a copy of its list, and calls them.
        """
        if self._leave is not None:
            atexit._clear()

    def _reached(self) -> None:
        # A test may call all handlers itself, those of the runner included.
        if self._leave is not None:
            self._leave()

    def _has_finalizers(self) -> bool:
        if repr(_numbers) == self._finalizers:
            return False  # to look at those that are inherited would copy their pages
        first = _number(self._finalizers)
        return any(info.index >= first and info.atexit for info in [*_finalizers.values()])

    def _new_handlers(self) -> list[Any]:
        known = set(map(id, self._handlers))
        return [reference for reference in _handlers if id(reference) not in known]


# What the interpreter keeps ----------------------------------------------------------------------

_threads: Final[dict[int, threading.Thread]] = getattr(threading, "_active", {})

#: What is called before threads are waited for (``threading._register_atexit``).
_thread_hooks: Final[list[Any]] = getattr(threading, "_threading_atexits", [])

#: Weak references, of which a new one comes last.
_handlers: Final[list[Any]] = getattr(logging, "_handlerList", [])

#: Calls those of :mod:`weakref` that are to be called at exit.
_finalize_all: Final[Callable[[], object]] = getattr(weakref.finalize, "_exitfunc", lambda: None)

_finalizers: Final[dict[Any, Any]] = getattr(weakref.finalize, "_registry", {})

#: Counts them; its ``repr`` says the next number without taking it: ``count(7)``.
_numbers: Final[object] = getattr(weakref.finalize, "_index_iter", None)


def _number(counter: str) -> int:
    return int(counter[len("count(") : -1])


def _has_multiprocessing_finalizers() -> bool:
    registry = getattr(sys.modules.get("multiprocessing.util"), "_finalizer_registry", ())
    return any(priority is not None for priority, _ in registry)


def _module_of(hook: Any) -> str:
    return str(getattr(getattr(hook, "func", hook), "__module__", ""))


def _call_all(hooks: list[Any]) -> None:
    for hook in hooks:
        hook()


def _awaited() -> list[threading.Thread]:
    """The threads for which an exit waits."""
    own = threading.current_thread()
    return [
        found
        for found in threading.enumerate()
        if not (found.daemon or found is own or debuggers.is_helper(found))
    ]


def _restore_excepthooks() -> None:
    """pytest's own hooks collect for a report that has been sent."""
    for module, name in ((sys, "unraisablehook"), (of_the_suite("threading"), "excepthook")):
        hook = getattr(module, name)
        if _module_of(hook).startswith("_pytest."):
            setattr(module, name, getattr(module, f"__{name}__"))


# Files -------------------------------------------------------------------------------------------


def _count_descriptors() -> int | None:
    """How many this process has; None if that is not known."""
    try:
        # Since Linux 6.2 (proc_pid_fd(5)); 0 before.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


def _finish_files() -> None:
    """Write what is still in the buffers of files that this process has opened."""
    standard = {id(stream) for stream in _standard_streams()}
    found = [file for file in inherited.own_files() if id(file) not in standard]
    for file in found:
        if type(file).__module__ != "_io" and not issubclass(type(file), _BUFFERED):
            _guarded(_close, file)  # gzip's writes a trailer
    # Those of text first: they write into those of bytes.
    for kind in _BUFFERED:
        for file in found:
            if issubclass(type(file), kind):
                _guarded(_flush, file)


def _close(thing: Any) -> None:
    thing.close()


def _flush(stream: Any) -> None:
    if not stream.closed:
        stream.flush()


def _guarded(call: Callable[..., object], *things: object) -> None:
    try:
        call(*things)
    except Exception:  # as the interpreter says it
        with suppress(Exception):  # of a representation
            where = things[0] if things else call
            sys.stderr.write(f"Exception ignored in: {where!r}\n{traceback.format_exc()}")


def _standard_streams() -> Iterator[object]:
    """With what lies below them; the raw exit flushes these itself."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        yield stream
        yield getattr(stream, "buffer", None)
