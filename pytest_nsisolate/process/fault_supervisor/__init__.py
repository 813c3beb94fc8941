# SPDX-License-Identifier: MIT
"""The fault supervisor's own process: see :mod:`pytest_nsisolate.process.helpers`.

It answers every system call of one test, and of all that the test starts, from the first fault that
the test asks for (seccomp_unotify(2)). A call that no fault is for goes on at once.

A program, run by path without site-packages: it imports the standard library only, and its own
modules by their places beside each other. What it knows of system calls by name comes with each
request.

Requests come over one socket, one JSON object each, and each has an answer, with the ``number`` of
its request (an exception of a signal handler may have kept the test from hearing the one before):

* ``{"do": "take", "descriptor": N, "exempt": [...]}``: find the listener in the test's process;
* ``{"do": "add", "fault": N, ...}``: a fault, see :class:`.faults.Fault`, by this number;
* ``{"do": "count", "fault": N}`` and ``{"do": "drop", "fault": N}``: what has become of it.

================== ===============================================================
:mod:`.__main__`   where the program begins
:mod:`.supervisor` who answers, and what the test asks of it
:mod:`.faults`     which calls a fault is for, and which of them it hits
:mod:`.callers`    what a call is about: the caller's memory and files
:mod:`.listener`   the kernel's side: how a call comes, and how it is answered
================== ===============================================================
"""

from __future__ import annotations

from typing import Final

#: Descriptors that it is started with: pidfds of the runner and of the test, and where requests
#: come from.
RUNNER: Final = 3
TEST: Final = 4
SOCKET: Final = 5

#: Bytes of the longest request.
LONGEST: Final = 1 << 16

#: Seconds that the test has between its request and its filter.
PATIENCE: Final = 10.0
