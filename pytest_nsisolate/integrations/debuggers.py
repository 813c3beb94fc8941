# SPDX-License-Identifier: MIT
"""pydevd, the debugger of VS Code (debugpy) and of PyCharm, in an isolated test.

Fact: it traces, and speaks with the editor over TCP, by threads of its own. A fork inherits the
tracing and not the threads, and at a breakpoint it waits for ever. pydevd's own ``os.fork`` makes a
new connection in the copy, but an isolated test is in another network, where the editor is not.

Consequence: the runner makes the connection just before the clone, and the child inherits it; a
connected socket belongs to the network in which it was made. The editor takes it for one more
process of the same program. Every other process of ours stops tracing at once (:func:`mute`), and
is made by ``posix.fork``.

Fact: debugpy knows its processes by their numbers, and finds the session to which a new one belongs
by the number of its parent. An isolated test is number 1, and the number of its parent is 0.

Consequence: the child names itself by a number that no process has, and the runner as its parent.

What still fails: programs and forks that an isolated test starts run without the debugger. Where
the editor does not take the child on, because it does not know of forks, it goes on after
:data:`PATIENCE`, and no other test of the run waits.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any, Final

from pytest_nsisolate.kernel.originals import os, threading

#: Seconds that an editor has for taking on a test.
PATIENCE: Final = 10.0

#: What starts processes, and what pydevd has called what was there before its own.
_PATCHED: Final = ("os", "subprocess", "_posixsubprocess")
_ORIGINAL: Final = "original_"

#: In pydevd, or in JetBrains' version of it: new locks for those that may have been held,
#: ``sys.settrace`` as it was, ``sys.monitoring`` off.
_QUIETING: Final = (
    ("_pydevd_bundle.pydevd_constants", "after_fork"),
    ("pydevd_tracing", "restore_sys_set_trace_func"),
    ("_pydevd_sys_monitoring.pydevd_sys_monitoring", "stop_monitoring"),
    ("_pydevd_bundle.pydevd_pep_669_tracing_wrapper", "disable_pep669_monitoring"),
)

#: Above all numbers of processes, and so far apart that one can be added (proc_sys_kernel(5)).
_numbers: Final = count(2**22, 2**22)

#: Why there are no more connections in this run.
_given_up: Final[list[str]] = []


def is_active() -> bool:
    """Whether pydevd debugs this process."""
    constants: Any = sys.modules.get("_pydevd_bundle.pydevd_constants")
    return constants is not None and constants.GlobalDebuggerHolder.global_dbg is not None


def is_helper(thread: threading.Thread) -> bool:
    """Whether it is one of pydevd's own threads, which need not be daemons."""
    return bool(getattr(thread, "is_pydev_daemon_thread", False))


def mute() -> None:
    """In a fork: no tracing, and no debugger for which code could wait."""
    if not is_active():
        return
    constants: Any = sys.modules["_pydevd_bundle.pydevd_constants"]
    constants.GlobalDebuggerHolder.global_dbg = None
    _stop_following()
    for module, function in _QUIETING:
        call: Any = getattr(sys.modules.get(module), function, None)
        if call is not None:
            with suppress(Exception):  # of a version that is made in another way
                call()
    sys.settrace(None)
    threading.settrace(None)


class Connection:
    """The editor's end of one child. Made by :func:`connect`.

    :raises OSError: if the editor does not listen.
    """

    def __init__(self) -> None:
        pydevd: Any = sys.modules["pydevd"]
        self._address = pydevd.dispatch()
        self._socket = pydevd.start_client(*self._address)
        self._runner = os.getpid()
        self._number = next(_numbers)
        self._left_alone = threading.Event()

    def close(self) -> None:
        """The runner's copy."""
        self._socket.close()

    def attach(self) -> str:
        """In the child: debug it, as pydevd debugs a fork.

        :returns: why it is not; empty if it is.
        """
        waiter = threading.Timer(PATIENCE, self._go_on)
        waiter.daemon = True
        waiter.start()
        try:
            self._attach()
        except Exception as error:  # of a version that is made in another way
            mute()
            return f"{type(error).__name__}: {error}"
        finally:
            waiter.cancel()
            _stop_following()
            give_up("what an isolated test starts does not reach the editor")
        return f"no editor took it on within {PATIENCE:g} s" if self._left_alone.is_set() else ""

    def _attach(self) -> None:
        pydevd: Any = sys.modules["pydevd"]
        before = pydevd.start_client, pydevd.dispatch
        pydevd.start_client = lambda *_: self._socket
        pydevd.dispatch = lambda: self._address
        api: Any = sys.modules.get("_pydevd_bundle.pydevd_api")
        if api is not None:
            api.PyDevdAPI.get_ppid = lambda _: self._runner
        commands: Any = sys.modules.get("_pydevd_bundle.pydevd_process_net_command_json")
        if commands is not None:
            commands.os = SimpleNamespace(**vars(os))
            commands.os.getpid = lambda: self._number + os.getpid()
        try:
            setattr(threading.current_thread(), "__pydevd_main_thread", True)  # as in its os.fork
            pydevd.settrace_forked()
        finally:
            pydevd.start_client, pydevd.dispatch = before

    def _go_on(self) -> None:
        constants: Any = sys.modules["_pydevd_bundle.pydevd_constants"]
        debugger = constants.GlobalDebuggerHolder.global_dbg
        if debugger is not None:
            self._left_alone.set()
            debugger.ready_to_run = True


def connect() -> Connection | None:
    """In the runner, just before a clone: a way to the editor; None if there is none."""
    if _given_up:
        return None
    try:
        return Connection()
    except Exception as error:  # the editor is gone, or a version that is made in another way
        give_up(f"{type(error).__name__}: {error}")
        return None


def give_up(reason: str) -> None:
    """No other child of this run is to be debugged."""
    _given_up.append(reason)


def why() -> str:
    """The reason for that; empty if there is none."""
    return _given_up[0] if _given_up else ""


def _stop_following() -> None:
    """What is started here could not reach the editor: undo pydevd's patches."""
    for name in _PATCHED:
        module: Any = sys.modules.get(name)
        for found, function in list(vars(module).items()) if module else ():
            if found.startswith(_ORIGINAL) and callable(function):
                setattr(module, found.removeprefix(_ORIGINAL), function)
