# SPDX-License-Identifier: MIT
"""Tests that never end, each of which must be ended by its budget, with a diagnosis."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import pytest_nsisolate as nsi

pytestmark = pytest.mark.isolated(timeout=0.4)

expect = pytest.mark.expect

HEAD = "timed out after 0.4 s in call"
STACKS = "Python stacks at the timeout:"
PROCESSES = "Processes inside at the timeout:\n    PID    PPID S  COMMAND\n      1       0 "
QUIET = "no listening sockets; network: lo only (up, 127.0.0.1/8"


def hang_here() -> None:
    while True:
        signal.pause()


def block_everything() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def ignore_everything() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)


@expect("call failed", HEAD, STACKS, "in hang_here", "in test_sleeping", PROCESSES)
def test_sleeping() -> None:
    hang_here()


@expect("call failed", HEAD, STACKS, "in test_busy", PROCESSES)
def test_busy() -> None:
    while True:
        pass


@expect("call failed", HEAD, STACKS, "in test_swallowing", PROCESSES)
def test_swallowing() -> None:
    while True:
        try:
            signal.pause()
        except BaseException:
            continue


@expect("call failed", HEAD, STACKS, "in hang_here", PROCESSES, QUIET)
def test_blocking_all_signals() -> None:
    block_everything()
    hang_here()


@expect(
    *("call failed", HEAD, "No Python stacks", "state S", "system call ", "SigIgn=", PROCESSES),
    "!Python stacks at the timeout",
)
def test_ignoring_all_signals() -> None:
    ignore_everything()
    hang_here()


@expect("call failed", HEAD, PROCESSES)
def test_ignoring_and_blocking_all_signals() -> None:
    ignore_everything()
    block_everything()
    hang_here()


@expect("call failed", HEAD, STACKS, "in test_stopped", "Processes inside", "in call")
@pytest.mark.isolated(init=True)
def test_stopped() -> None:
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


@expect("call failed", HEAD, STACKS, "in test_stopped_and_blocking", "Processes inside")
@pytest.mark.isolated(init=True)
def test_stopped_and_blocking() -> None:
    block_everything()
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


@expect("call failed", HEAD, STACKS, "in hang_here", "Processes inside")
@pytest.mark.isolated(init=True)
def test_under_init() -> None:
    hang_here()


@expect("call failed", HEAD, STACKS, "in hang_here", "Processes inside")
@pytest.mark.isolated(init=True)
def test_blocking_under_init() -> None:
    block_everything()
    hang_here()


@expect("call failed", HEAD, STACKS, "in hang_here", "Processes inside")
@pytest.mark.isolated(pid=False)
def test_without_pid_namespace() -> None:
    hang_here()


@expect("call failed", HEAD, STACKS, "in test_gil_held_in_c", PROCESSES)
def test_gil_held_in_c() -> None:
    ctypes.PyDLL(None).pause()


@expect("call failed", HEAD, STACKS, "in test_gil_held_by_a_regex", PROCESSES)
def test_gil_held_by_a_regex() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


@expect("call failed", HEAD, STACKS, "in test_gil_held_and_blocked", PROCESSES, QUIET)
def test_gil_held_and_blocked() -> None:
    block_everything()
    ctypes.PyDLL(None).pause()


@expect("call failed", HEAD, STACKS, "in second_thread", "in test_two_threads", PROCESSES)
def test_two_threads() -> None:
    def second_thread() -> None:
        threading.Event().wait()

    thread = threading.Thread(target=second_thread)
    thread.start()
    thread.join()


@expect("call failed", "in test_children", PROCESSES, "S  sleep 4321", "Z  ")
@pytest.mark.isolated(timeout=1.5)
def test_children() -> None:
    # Referred to, or the next Popen would reap it.
    zombie = subprocess.Popen(["true"])
    subprocess.Popen(["sleep", "4321"]).wait()
    zombie.wait()


@expect("call failed", "... and 6 more", "timed out after 2.5 s", PROCESSES)
@pytest.mark.isolated(timeout=2.5)
def test_many_children() -> None:
    for _ in range(45):
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "4321"])
    hang_here()


@expect(
    *("call failed", "2 listening sockets:\n  PROTO  STATE   LOCAL              PEER  HELD BY\n"),
    *(
        "  tcp    listen  203.0.113.7:80     -     1 (",
        "  unix   listen  @the abstract one  -     ",
    ),
    *("2 interfaces:\n  NAME  SET   ADDRESSES\n  lo    up    127.0.0.1/8", "\n  br0   down"),
    *("\n  ?     -     203.0.113.7\n", "1 route:\n  DESTINATION      KIND     VIA  DEV"),
    "\n  198.51.100.0/24  unicast  -    lo   -    -       main",
)
@pytest.mark.isolated(timeout=1.5)
def test_network() -> None:
    subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", "203.0.113.7/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "route", "add", "198.51.100.0/24", "dev", "lo"], check=True)
    server = socket.create_server(("203.0.113.7", 80))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0the abstract one")
    abstract.listen()
    hang_here()
    server.close()


@expect("call failed", HEAD, STACKS, PROCESSES, "\n\n1 listening socket:", "!network: ")
@pytest.mark.isolated(net=False)
def test_network_of_the_host() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    hang_here()
    server.close()


@expect("call failed", "hang_with_a_server() timed out after 0.3 s", "127.0.0.1:80", "127.0.0.1/8")
@pytest.mark.isolated(timeout=None)
def test_a_call(isolate: nsi.Isolate) -> None:
    isolate.using(timeout=0.3)(hang_with_a_server)


def hang_with_a_server() -> None:
    server = socket.create_server(("127.0.0.1", 80))
    hang_here()
    server.close()


@expect("call failed", HEAD, STACKS, "in hang_here", "--- Captured stdout call", "before it hangs")
def test_output() -> None:
    sys.stdout.write("before it hangs")
    hang_here()


def talk(place: str) -> None:
    sys.stdout.write(f"out of {place};")
    sys.stderr.write(f"err of {place};")
    logging.getLogger().warning("log of %s;", place)


def wait_in_c() -> None:
    """Ended by any signal, the one that asks for the stacks included."""
    ctypes.CDLL(None).pause()


BOTH = tuple(f"--- Captured {kind} call" for kind in ("stdout", "stderr", "log"))
SAID = ("out of before;", "err of before;", "log of before;")
NOT_SAID = ("!out of after;", "!err of after;", "!log of after;")


@expect("call failed", HEAD, STACKS, "in wait_in_c", PROCESSES, *BOTH, *SAID, *NOT_SAID)
def test_waiting_in_c() -> None:
    talk("before")
    wait_in_c()
    talk("after")


@expect("call failed", HEAD, *BOTH, *SAID, *NOT_SAID)
@pytest.mark.isolated(init=True)
def test_waiting_in_c_under_init() -> None:
    talk("before")
    wait_in_c()
    talk("after")


@expect("setup failed", "timed out after 0.4 s in setup", *SAID, *NOT_SAID)
def test_waiting_in_c_in_setup(waits_in_c: None) -> None:
    talk("after")


@pytest.fixture
def waits_in_c() -> None:
    talk("before")
    wait_in_c()


@expect("teardown failed", "timed out after 0.4 s in teardown", "out of before;", "out of last;")
def test_waiting_in_c_in_teardown(waits_in_c_at_last: None) -> None:
    talk("before")


@pytest.fixture
def waits_in_c_at_last() -> Iterator[None]:
    yield
    talk("last")
    wait_in_c()


@expect("call failed", HEAD, *BOTH, *SAID)
def test_hook_hangs() -> None:
    """Behind the phase, whose output pytest has taken out of its files by then."""
    talk("before")


@pytest.fixture
def hanging_setup() -> None:
    hang_here()


@expect("setup failed", "timed out after 0.4 s in setup", STACKS, "in hanging_setup")
def test_hanging_in_setup(hanging_setup: None) -> None:
    pass


@pytest.fixture
def hanging_teardown() -> Iterator[None]:
    yield
    hang_here()


@expect("teardown failed", "timed out after 0.4 s in teardown", STACKS, "in hanging_teardown")
def test_hanging_in_teardown(hanging_teardown: None) -> None:
    pass


@expect("call failed, teardown failed", "assert 1 == 2", "timed out after 0.4 s in teardown")
def test_failing_and_hanging_in_teardown(hanging_teardown: None) -> None:
    assert os.getpid() == 2


@expect("passed")
@pytest.mark.isolated(timeout=None)
def test_lifted() -> None:
    threading.Event().wait(0.6)


@pytest.fixture(scope="module")
def slow_module() -> None:
    threading.Event().wait(0.6)


@expect("passed")
def test_higher_scopes_have_no_budget(slow_module: None) -> None:
    assert os.getpid() == 1
