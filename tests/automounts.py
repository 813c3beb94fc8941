# SPDX-License-Identifier: MIT
"""An automount whose daemon notes each request and answers none: who asks, waits for ever.

    python tests/automounts.py FOLDER NOTES PID

mounts it on FOLDER (as autofs calls it, a direct one) and returns. The daemon makes the file NOTES
at the first request. It ends, and who waits goes on, when the process PID has ended.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from pathlib import Path


def main(folder: str, notes: str, pid: int) -> None:
    requests, answers = os.pipe()
    watched = os.pidfd_open(pid)
    os.setsid()  # its own group is what the kernel lets in without asking
    options = f"fd={answers},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"nsisolate", folder.encode(), b"autofs", 0, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), folder)
    os.close(answers)
    if os.fork():
        os._exit(0)
    for fd in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    waiter = select.poll()
    waiter.register(requests, select.POLLIN)
    waiter.register(watched, select.POLLIN)
    while watched not in dict(waiter.poll()):
        os.read(requests, 1000)
        Path(notes).touch()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
