# SPDX-License-Identifier: MIT
"""Tests that do the worst that a test may do to its process, its machine and its runner.

Each says how it must be reported. ``tests/hostile/run.py`` makes a suite of many of them, in random
order, and looks at the host afterwards. Nothing here may harm a machine where it does escape: a
fork bomb has a limit, a sysctl gets the value that it has, a signal to all is 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

PASSED: Final = "passed"
FAILED: Final = "call failed"

_Function = TypeVar("_Function", bound=Callable[[], None])


@dataclass(frozen=True)
class Thing:
    """Something nasty.

    :param verdict: what becomes of the test (``tests.inner_runs.verdict``).
    :param says: what its report says.
    :param marker: keywords of the mark ``isolated``.
    :param weight: how often it is chosen, beside the others; what takes long is rare.
    """

    act: Callable[[], None]
    verdict: str = PASSED
    says: str = ""
    marker: dict[str, Any] = field(default_factory=dict)
    weight: int = 4


THINGS: dict[str, Thing] = {}


def nasty(
    verdict: str = PASSED, says: str = "", *, weight: int = 4, **marker: Any
) -> Callable[[_Function], _Function]:
    """Add a function to :data:`THINGS`."""

    def add(function: _Function) -> _Function:
        THINGS[function.__name__] = Thing(function, verdict, says, marker, weight)
        return function

    return add


def chosen(count: int, seed: int) -> list[str]:
    """Names of things, each at least once if there are enough places."""
    chance = random.Random(seed)
    names = list(THINGS)
    weights = [thing.weight for thing in THINGS.values()]
    more = chance.choices(names, weights, k=max(count - len(names), 0))
    found = [*names, *more][:count] if count >= len(names) else chance.sample(names, count)
    chance.shuffle(found)
    return found


def ignore_everything() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)


def descriptors() -> list[int]:
    return [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2]


def _targets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


#: What was open when the tests were collected: the output of the whole run among it.
OF_ALL_RUNNERS: Final = _targets()


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """What an OSError of one of these numbers is the right answer to."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers


# Ends --------------------------------------------------------------------------------------------


@nasty(FAILED, "exit status 0 before it was finished")
def leaves_without_a_word() -> None:
    os._exit(0)


@nasty(FAILED, "exit status 0 before it was finished")
def becomes_another_program() -> None:
    os.execv("/bin/true", ["true"])


@nasty(FAILED, "killed by SIGSEGV (abort() as PID 1")
def aborts() -> None:
    os.abort()


@nasty(FAILED, "killed by SIGABRT", init=True)
def aborts_under_init() -> None:
    os.abort()


@nasty(FAILED, "killed by SIGKILL", init=True)
def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@nasty()
def kills_itself_as_pid1() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@nasty(FAILED, "killed by SIGSEGV")
def reads_a_null_pointer() -> None:
    ctypes.string_at(0)


@nasty(FAILED, "killed by SIGSEGV", pid=False)
def reads_a_null_pointer_among_the_hosts_processes() -> None:
    ctypes.string_at(0)


@nasty(FAILED, "in the call")
def raises_what_nobody_expects() -> None:
    raise BaseExceptionGroup("in the call", [SystemExit(0)])


# Processes ---------------------------------------------------------------------------------------


@nasty()
def leaves_a_deaf_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        ignore_everything()
        while True:
            signal.pause()


@nasty(pid=False)
def leaves_a_deaf_daemon_on_the_host() -> None:
    leaves_a_deaf_daemon()


@nasty(init=True)
def leaves_a_family() -> None:
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            os.fork()
            ignore_everything()
            while True:
                signal.pause()


@nasty()
def returns_twice() -> None:
    os.fork()


@nasty()
def its_fork_fills_every_descriptor() -> None:
    pid = os.fork()
    if pid == 0:
        for fd in descriptors():
            with contextlib.suppress(OSError):
                # Not those that eight runners share: until this test has ended, none could write.
                if os.readlink(f"/proc/self/fd/{fd}") not in OF_ALL_RUNNERS:
                    os.set_blocking(fd, False)
        os._exit(0)
    os.waitpid(pid, 0)


@nasty(weight=1)
def forks_until_nothing_goes() -> None:
    try:
        Path("/proc/sys/kernel/pid_max").write_text("301")
    except OSError:
        return  # not a limit of this namespace's (Linux < 6.14), or not writable here
    children: list[int] = []
    with refused(errno.EAGAIN):
        while len(children) < 2000:
            pid = os.fork()
            if pid == 0:
                while True:
                    signal.pause()
            children.append(pid)
    assert 200 < len(children) < 301


@nasty()
def starts_threads_and_goes() -> None:
    for _ in range(20):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


@nasty()
def signals_everybody() -> None:
    for target in (0, os.getppid(), -1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGTERM)


@nasty(FAILED, "timed out after 0.3 s", timeout=0.3, weight=1)
def hangs_deaf() -> None:
    ignore_everything()
    while True:
        signal.pause()


@nasty(FAILED, "timed out after 0.3 s", timeout=0.3, init=True, weight=1)
def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@nasty(FAILED, "timed out after 0.3 s", timeout=0.3, weight=1)
def holds_the_gil() -> None:
    ctypes.PyDLL(None).pause()


@nasty()
def loses_its_ids() -> None:
    if os.geteuid() == 0 and len(Path("/proc/self/uid_map").read_text().splitlines()) == 1:
        with contextlib.suppress(OSError):
            os.setresgid(4321, 4321, 4321)
            os.setresuid(4321, 4321, 4321)
    leaves_a_deaf_daemon()


# Descriptors and memory --------------------------------------------------------------------------


@nasty(FAILED, "isolated test")
def closes_everything() -> None:
    os.closerange(3, 4096)


@nasty(FAILED, "its stream is broken")
def writes_rubbish_to_every_pipe() -> None:
    for fd in descriptors():
        with contextlib.suppress(OSError):
            # Not to where the runner's terminal is: that would be seen, and do no harm.
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:") and fd > 10:
                os.write(fd, b"rubbish" * 10)


@nasty()
def opens_all_that_it_can() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    with refused(errno.EMFILE):
        while True:
            os.open("/dev/null", os.O_RDONLY)


@nasty()
def takes_all_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    with pytest.raises(MemoryError):
        bytearray(4 << 30)


@nasty(FAILED, "on purpose", weight=1)
def says_much() -> None:
    sys.stdout.write("x" * (256 << 10))
    raise AssertionError("on purpose")


@nasty()
def recurses() -> None:
    def deeper() -> None:
        deeper()

    with pytest.raises(RecursionError):
        deeper()


# The machine -------------------------------------------------------------------------------------


def _libc(name: str, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc[name](*arguments))


@nasty()
def mounts_over_etc() -> None:
    assert _libc("mount", b"none", b"/etc", b"tmpfs", 0, None) == 0
    assert os.listdir("/etc") == []


@nasty()
def unmounts_what_it_can() -> None:
    for point in (b"/proc", b"/dev/shm", b"/sys"):
        _libc("umount2", point, 2)


@nasty()
def leaves_shared_memory() -> None:
    assert _libc("shmget", ctypes.c_int(0x4E5349), ctypes.c_size_t(4096), 0o1600) >= 0


@nasty()
def leaves_a_file_in_shared_memory() -> None:
    Path("/dev/shm/nsisolate-nasty").write_text("left")


@nasty()
def renames_the_host() -> None:
    assert _libc("sethostname", b"nasty", 5) == 0


@nasty()
def writes_a_sysctl_of_the_host() -> None:
    path = Path("/proc/sys/kernel/panic")
    with refused(errno.EROFS, errno.EACCES):
        path.write_text(path.read_text())


@nasty()
def writes_a_sysctl_of_its_own() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@nasty(weight=2)
def leaves_a_named_network() -> None:
    if Path("/run/netns").is_dir():
        subprocess.run(["ip", "netns", "add", "nasty"], check=True)


@nasty(weight=2)
def leaves_links_with_a_name_that_all_use() -> None:
    command = "ip link add nasty0 type veth peer name nasty1"
    subprocess.run(command.split(), check=True)


@nasty()
def changes_what_processes_inherit() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.umask(0o777)
    os.chdir("/")
    os.environ.clear()
    sys.path.clear()
    with contextlib.suppress(OSError):
        os.nice(19)


# The suite ---------------------------------------------------------------------------------------

_NAMES: Final = chosen(
    int(os.environ.get("NASTY_COUNT", "0")), int(os.environ.get("NASTY_SEED", "0"))
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=f"{number}-{name}", marks=pytest.mark.isolated(**THINGS[name].marker))
        for number, name in enumerate(_NAMES)
    ],
)
def test_nasty(name: str) -> None:
    THINGS[name].act()
