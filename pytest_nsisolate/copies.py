# SPDX-License-Identifier: MIT
"""What a fork leaves in a copy of a process, and has to be put right there.

Fact: runner and child may have one process number between them (1, in a container), which some
libraries take for "no fork happened"; others keep what they remember of threads, event loops or
unfinished business without asking.

Consequence: it is put right by name, for the modules that are loaded; nothing is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


def wake_openssl() -> None:
    """In the runner, before the clone: the first random byte of a process takes 250 page faults,
    and :func:`end_twinship` would have each child pay for that again.
    """
    ssl: Any = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_bytes(1)


def end_twinship() -> None:
    """OpenSSL does not reseed, ``tempfile`` repeats its names, and :mod:`multiprocessing` would
    run the runner's finalizers, because by its number this process is the runner.
    """
    ssl: Any = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
    psutil: Any = sys.modules.get("psutil")
    if psutil is not None and hasattr(psutil.process_iter, "cache_clear"):
        # It knows processes by number, and would take PID 1 for the host's, "reused".
        psutil.process_iter.cache_clear()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        # The runner's: by pid they would be taken for this process's own.
        util._finalizer_registry.clear()


def renew_thread_id() -> None:
    """``Thread.native_id`` of the one thread that a fork leaves, which it does not change."""
    renew = getattr(threading.current_thread(), "_set_native_id", None)
    if renew is not None:
        renew()


def leave_event_loop() -> None:
    """A caller that awaits has a running loop, which in this copy does not run."""
    events: Any = sys.modules.get("asyncio.events")
    if events is not None:
        events._set_running_loop(None)
        # A signal here would wake the caller's loop.
        signal.set_wakeup_fd(-1)


def finish_multiprocessing() -> None:
    """What a test has left to :mod:`multiprocessing` to clean up at exit, which never comes."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._run_finalizers()


def cover(descriptor: int) -> None:
    """Put ``/dev/null`` over the frame pipe: what a copy writes to that number reaches nobody."""
    try:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, descriptor, inheritable=False)
        os.close(null)
    except OSError:
        pass  # abandoned before, or closed by the test
