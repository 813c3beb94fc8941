# SPDX-License-Identifier: MIT
"""Refusals of what a process beside the runner does for a test: faults on demand (seccomp(2)),
``reach=`` (ip(7)), ``tty=``; and of its start (pidfd_getfd(2)).
"""

from __future__ import annotations

from errno import EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EBUSY, EINVAL, ENOSYS, EPERM, ESRCH
from typing import Final

from pytest_nsisolate.host.remedies.table import REPORT, UNCONFINE, Row, always

_FILTER: Final = "answer system calls"

FAULTS: Final = (
    Row(
        _FILTER,
        (EBUSY,),
        always,
        "a filter whose calls somebody answers is on this process already, and there can be one",
        "begin no fault in a run that is under such a filter itself, of a container or a test",
    ),
    Row(
        _FILTER,
        (ESRCH,),
        always,
        "a thread of the test has a seccomp filter that the others do not have",
        "begin the first fault before that thread",
    ),
    Row(
        _FILTER,
        (EINVAL,),
        always,
        "the kernel ({kernel}) is older than Linux 5.19, and would wake calls that wait for an"
        " answer at each signal",
        "run these tests on a newer kernel",
    ),
    Row(
        _FILTER,
        (ENOSYS,),
        always,
        "the kernel has no seccomp filters, or the numbers of this machine's calls are not known",
        "run these tests on Linux 5.19 or newer, on x86-64 or aarch64",
    ),
    Row(
        f"{_FILTER}|pidfd_getfd",
        (EPERM,),
        always,
        "a filter around the runner refuses it, or the runner may not look into the test"
        " (ptrace(2))",
        UNCONFINE + " and CAP_SYS_PTRACE",
    ),
    Row(
        "ask (the fault supervisor|the forwarder|the terminal reader)",
        (),
        always,
        "the process beside the runner that works for this test has ended, or says nothing",
        "look for what ends processes of the runner (the out-of-memory killer tells dmesg)",
    ),
    Row(
        "open (tcp|udp):",
        (EACCES,),
        always,
        "a port below 1024 is opened with CAP_NET_BIND_SERVICE only, which the test does not have",
        'keep it (caps=["net_bind_service"]), or let the server outside listen on a higher port',
    ),
    Row(
        "open (tcp|udp):",
        (EADDRNOTAVAIL, EAFNOSUPPORT),
        always,
        "the test's own loopback has no such address: this kernel is without IPv6",
        "let the server outside listen on 127.0.0.1 too, and name that in reach=",
    ),
    Row("find the test", (ESRCH,), always, "its process was not to be seen", "this is " + REPORT),
)
