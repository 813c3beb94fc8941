# SPDX-License-Identifier: MIT
"""Faults on demand: which calls fail, of whom, when, and what is said about it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nsisolate import Fault, Pid1View
from pytest_nsisolate.child import helper_channel
from pytest_nsisolate.kernel import originals, seccomp, syscall_numbers
from pytest_nsisolate.view.fault_engine import Engine
from pytest_nsisolate.view.faults import FaultyCall
from tests.support import BUSYBOX, NEEDS_BUSYBOX, NEEDS_NAMESPACES, needs, needs_program

pytestmark = [
    NEEDS_NAMESPACES,
    needs(seccomp.refusal() is None, "this kernel or this machine takes no such filter"),
    pytest.mark.isolated,
]

EVERY_WAY: Final = [
    pytest.param(marks=pytest.mark.isolated(), id="default"),
    pytest.param(marks=pytest.mark.isolated(init=True), id="init"),
    pytest.param(marks=pytest.mark.isolated(user="same"), id="same"),
    pytest.param(marks=pytest.mark.isolated(pid=False), id="no-pid"),
    pytest.param(marks=pytest.mark.isolated(pid=False, init=True), id="no-pid-init"),
    pytest.param(marks=pytest.mark.isolated(caps=[]), id="no-caps"),
    pytest.param(marks=pytest.mark.isolated(no_new_privs=True), id="no-new-privs"),
]

#: A program that names the error of what it does to a file.
TOUCH: Final = "import sys; open(sys.argv[1], 'w').close()"


def last_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stderr.strip().rpartition("\n")[2]


# Who is hit --------------------------------------------------------------------------------------


@pytest.mark.parametrize((), EVERY_WAY)
def test_the_test_and_what_it_starts(pid1: Pid1View, tmp_path: Path) -> None:
    """Its own call, that of a fork, and that of a program: by path, whole or not; none after it."""
    target = tmp_path / "file"
    with pid1.fail("openat", errno.ENOSPC, path=f"{tmp_path}/*") as fault:
        with pytest.raises(OSError, match="No space left") as raised:
            target.write_text("text", encoding="ascii")
        assert raised.value.errno == errno.ENOSPC
        assert fault.count == 1
        said = last_line(sys.executable, "-c", TOUCH, str(target))
        assert said.startswith("OSError: [Errno 28] No space left on device")
        os.chdir(tmp_path)
        with pytest.raises(OSError, match="No space left"):
            Path("file").touch()
        assert fault.count == 3
    target.write_text("text", encoding="ascii")
    assert fault.count == 3
    assert fault.calls[0] == FaultyCall("openat", str(target), pid1.pid, fault.calls[0].process)
    assert [call.about for call in fault.calls] == [str(target)] * 3
    assert fault.calls[1].pid != pid1.pid
    assert pid1.leftovers == ()


def test_those_that_were_started_before_are_spared(pid1: Pid1View, tmp_path: Path) -> None:
    """The filter is inherited, never put on another process."""
    shell = subprocess.Popen(
        ["sh", "-c", f"read line; echo text > {tmp_path}/file"], stdin=subprocess.PIPE
    )
    with pid1.fail("openat", "ENOSPC", path=f"{tmp_path}/*", unused="ok") as fault:
        shell.communicate(b"go\n")
    assert shell.returncode == 0
    assert fault.count == 0


def test_a_thread_of_before_is_hit(pid1: Pid1View, tmp_path: Path) -> None:
    """All threads of the test come under the filter at once."""
    go, errors = threading.Event(), []

    def work() -> None:
        go.wait()
        try:
            (tmp_path / "file").touch()
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=work)
    thread.start()
    with pid1.fail("openat", "EROFS", path=f"{tmp_path}/*"):
        go.set()
        thread.join()
    assert errors == [errno.EROFS]


def test_threads_that_are_busy_while_it_begins(pid1: Pid1View) -> None:
    """Each call of a thread waits from the filter's birth, also with the interpreter's lock."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            blocks = [bytearray(1 << 20) for _ in range(4)]  # each is a mmap with the lock held
            del blocks
            os.stat("/")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with pid1.fail("openat", "EMFILE", path="/etc/hostname"), pytest.raises(OSError):
            os.open("/etc/hostname", os.O_RDONLY)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_by_process(pid1: Pid1View, tmp_path: Path) -> None:
    """By the number of one, by an object that has it, by the name of a program."""
    reading = ["sh", "-c", f"read line; echo text > {tmp_path}/file"]
    with pid1.fail("openat", "EIO", path="/nowhere/*", unused="ok"):
        first, second = (subprocess.Popen(reading, stdin=subprocess.PIPE) for _ in range(2))
    only: tuple[Any, ...] = (first, first.pid)
    for which in only:
        with pid1.fail("openat", "EIO", path=f"{tmp_path}/*", process=which, unused="ok"):
            (tmp_path / "file").touch()
    with pid1.fail("openat", "EIO", path=f"{tmp_path}/*", process=first) as fault:
        first.communicate(b"go\n")
        second.communicate(b"go\n")
    assert (bool(first.returncode), second.returncode) == (True, 0)
    assert [(call.pid, call.process) for call in fault.calls] == [(first.pid, "sh")]
    with pid1.fail("openat", "EIO", path=f"{tmp_path}/*", process="tou*"):
        assert subprocess.run(["touch", str(tmp_path / "new")], capture_output=True).returncode
        (tmp_path / "new").touch()


def test_programs_of_their_own(pid1: Pid1View, tmp_path: Path) -> None:
    """After exec, through a shell, in a daemon that the test does not wait for."""
    done = tmp_path / "done"
    script = f"(setsid sh -c 'mkdir {tmp_path}/x 2>{tmp_path}/said; echo over >{done}' &)"
    with pid1.fail(("mkdir", "mkdirat"), "EDQUOT", path=f"{tmp_path}/*") as fault:
        subprocess.run(["sh", "-c", script], check=True)
        until = time.monotonic() + 10
        while not (done.exists() and done.read_text(encoding="ascii")):
            assert time.monotonic() < until
    assert "quota exceeded" in (tmp_path / "said").read_text(encoding="utf-8")
    assert fault.calls[0].process == "mkdir"


@NEEDS_BUSYBOX
def test_a_static_program(pid1: Pid1View, tmp_path: Path) -> None:
    """It has no C library that one could stand in for."""
    with pid1.fail(("open", "openat"), "EIO", path="/etc/hostname"):
        said = last_line(BUSYBOX, "cat", "/etc/hostname")
    assert said == "cat: can't open '/etc/hostname': Input/output error"


@needs_program("age")
def test_a_go_program(pid1: Pid1View, tmp_path: Path) -> None:
    """It makes its system calls itself, and signals its own threads all the time."""
    (tmp_path / "key").write_text("age1xyz\n", encoding="ascii")
    with pid1.fail("read", "EIO", path=f"{tmp_path}/key"):
        said = last_line("age", "--encrypt", "-R", str(tmp_path / "key"), "/etc/hostname")
        assert "age" in said
    with pid1.fail("openat", "EMFILE", path=f"{tmp_path}/key"):
        done = subprocess.run(
            ["age", "--encrypt", "-R", str(tmp_path / "key"), "/etc/hostname"],
            capture_output=True,
            text=True,
        )
        assert "too many open files" in done.stderr


@needs_program("rg")
def test_a_rust_program(pid1: Pid1View, tmp_path: Path) -> None:
    """Likewise."""
    (tmp_path / "file").write_text("needle\n", encoding="ascii")
    with pid1.fail(("read", "mmap"), "EIO", path=f"{tmp_path}/file"):
        done = subprocess.run(
            ["rg", "--no-mmap", "needle", str(tmp_path / "file")], capture_output=True, text=True
        )
    assert "Input/output error" in done.stderr
    assert done.returncode == 2


# Which calls -------------------------------------------------------------------------------------


def test_times_and_after(pid1: Pid1View) -> None:
    """The first go through, then so many fail, then none."""

    def answers() -> list[bool]:
        found = []
        for _ in range(6):
            try:
                os.chdir("/")
                found.append(True)
            except OSError:
                found.append(False)
        return found

    with pid1.fail("chdir", "EIO", after=1, times=2) as fault:
        assert answers() == [True, False, False, True, True, True]
    assert fault.count == 2


def test_probability_follows_its_seed(pid1: Pid1View) -> None:
    """Some fail and some do not, and the same again with the same seed."""

    def failed(seed: int) -> list[int]:
        found = []
        with pid1.fail("chdir", "EIO", probability=0.5, seed=seed) as fault:
            for n in range(40):
                try:
                    os.chdir("/")
                except OSError:
                    found.append(n)
        assert fault.count == len(found)
        return found

    first = failed(7)
    assert 5 < len(first) < 35
    assert failed(7) == first
    assert failed(8) != first


def test_by_descriptor_and_by_the_file_behind_it(pid1: Pid1View, tmp_path: Path) -> None:
    """``write`` has no path, but its descriptor leads to one."""
    with open(tmp_path / "one", "wb", 0) as one, open(tmp_path / "two", "wb", 0) as two:
        with pid1.fail("write", "ENOSPC", path=f"{tmp_path}/one"):
            with pytest.raises(OSError, match="No space left"):
                one.write(b"x")
            two.write(b"x")
        with pid1.fail(("fsync", "fdatasync"), "EIO", fd=two.fileno()):
            os.fsync(one)
            with pytest.raises(OSError, match="Input/output error"):
                os.fdatasync(two)


def test_by_the_values_of_arguments(pid1: Pid1View) -> None:
    """One signal of all that kill sends; a number that the caller has cut to 32 bits is that."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with pid1.fail("kill", "EPERM", args={1: signal.SIGUSR1}):
        os.kill(os.getpid(), 0)
        with pytest.raises(PermissionError):
            os.kill(os.getpid(), signal.SIGUSR1)
    with pid1.fail("kill", "ESRCH", args={0: (1 << 32) - 1}), pytest.raises(ProcessLookupError):
        os.kill(-1, 0)
    with pid1.fail("kill", "ESRCH", args={0: -1}, unused="ok") as fault:
        os.kill(os.getpid(), 0)
    assert fault.count == 0


def test_by_address(pid1: Pid1View, tmp_path: Path) -> None:
    """IPv4, IPv6, a path, an abstract name; another port is let through."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with pid1.fail("connect", "ETIMEDOUT", address="127.0.0.1:9"):
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", 9))
        socket.create_connection(("127.0.0.1", port)).close()
    targets: list[tuple[int, Any, str]] = [
        (socket.AF_INET6, ("::1", 9), "[[]::1]:9"),
        (socket.AF_UNIX, str(tmp_path / "socket"), f"{tmp_path}/*"),
        (socket.AF_UNIX, "\0name", "@name"),
    ]
    for family, address, pattern in targets:
        with pid1.fail("connect", "EACCES", address=pattern) as fault:
            with pytest.raises(PermissionError), socket.socket(family) as client:
                client.connect(address)
            assert len(fault.calls) == 1
    listening.close()


def test_both_paths_of_a_rename(pid1: Pid1View, tmp_path: Path) -> None:
    """The second is as good as the first."""
    (tmp_path / "one").touch()
    names = ("rename", "renameat", "renameat2")
    with pid1.fail(names, "EXDEV", path="*/two"), pytest.raises(OSError, match="cross-device"):
        os.rename(tmp_path / "one", tmp_path / "two")
    os.rename(tmp_path / "one", tmp_path / "two")


def test_two_at_a_time(pid1: Pid1View, tmp_path: Path) -> None:
    """The first of two errors counts, both are counted, and each ends for itself."""
    outer = pid1.fail("mkdir", "EIO", path=f"{tmp_path}/*")
    inner = pid1.fail(("mkdir", "mkdirat"), "EROFS", path="*/x")
    with outer:
        with inner, pytest.raises(OSError, match="Input/output"):
            os.mkdir(tmp_path / "x")
        with pytest.raises(OSError, match="Input/output"):
            os.mkdir(tmp_path / "x")
    assert (outer.count, inner.count) == (2, 1)
    os.mkdir(tmp_path / "x")


def test_the_machinery_is_spared(
    pid1: Pid1View, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    """What goes to the runner and to the supervisor is no call of the test's."""
    os.write(1, b"before\n")
    with pid1.fail(("write", "sendto", "recvfrom"), "EIO", unused="ok") as fault:
        assert fault.count == 0
        with pytest.raises(OSError, match="Input/output"):
            os.write(1, b"no\n")
        assert fault.count == 1
    assert capfd.readouterr().out == "before\n"


# Time --------------------------------------------------------------------------------------------


def test_a_delay_is_waited_for_and_then_the_call_is_made(pid1: Pid1View, tmp_path: Path) -> None:
    """In a thread, which the others of the process do not wait for."""
    ended: list[float] = []

    def work() -> None:
        os.mkdir(tmp_path / "slow")
        ended.append(time.monotonic())

    with pid1.delay(("mkdir", "mkdirat"), 0.5, path="*/slow") as fault:
        began = time.monotonic()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert ended[0] - began >= 0.5
    assert (tmp_path / "slow").is_dir()
    assert fault.count == 1


def test_a_connection_that_takes_long(pid1: Pid1View) -> None:
    """A name of the call, an address, and the time that it takes at least."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pid1.delay("connect", 0.3, address=f"127.0.0.1:{port}") as fault:
            began = time.monotonic()
            socket.create_connection(("127.0.0.1", port)).close()
            assert time.monotonic() - began >= 0.3
    assert fault.count == 1


def test_a_held_call_is_killed_at_once(pid1: Pid1View, tmp_path: Path) -> None:
    """A delay of an hour holds up no other call, and not the end of who waits."""
    with pid1.delay(("mkdir", "mkdirat"), 3600, path=f"{tmp_path}/x") as fault:
        process = subprocess.Popen(["mkdir", str(tmp_path / "x")])
        while not fault.count:
            assert process.poll() is None
        os.mkdir(tmp_path / "fast")
        subprocess.run(["true"], check=True)
        assert process.poll() is None
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    assert not (tmp_path / "x").exists()


def test_a_delayed_call_that_fails_then(pid1: Pid1View, tmp_path: Path) -> None:
    """Held first, refused afterwards."""
    began = time.monotonic()
    with pid1.delay("mkdir", 0.2), pid1.fail("mkdir", "EIO"), pytest.raises(OSError):
        os.mkdir(tmp_path / "x")
    assert time.monotonic() - began >= 0.2


def test_a_signal_does_not_interrupt_a_call_that_goes_on(pid1: Pid1View) -> None:
    """Programs do not expect EINTR of a call that never gives it, and have it restarted."""
    got = []
    signal.signal(signal.SIGALRM, lambda *_: got.append(1))
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with pid1.fail("chdir", "EIO", unused="ok"):
            while len(got) < 50:
                os.stat("/")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# Real failures -----------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "rows.db", isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE numbers (n INTEGER)")
    connection.execute("INSERT INTO numbers VALUES (1)")
    yield connection
    connection.close()


def count_of(rows: sqlite3.Connection) -> int:
    return int(rows.execute("SELECT count(*) FROM numbers").fetchone()[0])


#: What a disk does, and what SQLite calls it.
DISKS: Final = pytest.mark.parametrize(
    ("calls", "error", "said"),
    [
        (("write", "pwrite64"), "ENOSPC", "full"),
        (("write", "pwrite64"), "EIO", "disk I/O error"),
        (("fsync", "fdatasync"), "EIO", "disk I/O error"),
    ],
    ids=["full", "write", "fsync"],
)


@DISKS
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_rolls_back(
    pid1: Pid1View,
    rows: sqlite3.Connection,
    tmp_path: Path,
    journal: str,
    calls: tuple[str, ...],
    error: str,
    said: str,
) -> None:
    """What was committed stays, what the disk has not taken is gone, and the next one succeeds."""
    assert rows.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    rows.execute("UPDATE numbers SET n = 0")  # all files are there
    fault = pid1.fail(calls, error, path=f"{tmp_path}/rows.db*", times=1)
    with fault, pytest.raises(sqlite3.OperationalError, match=said):
        rows.execute("INSERT INTO numbers VALUES (2)")
    assert count_of(rows) == 1
    rows.execute("INSERT INTO numbers VALUES (2)")
    assert count_of(rows) == 2
    assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@needs_program("sqlite3")
@DISKS
def test_the_program_sqlite3_rolls_back(
    pid1: Pid1View,
    rows: sqlite3.Connection,
    tmp_path: Path,
    calls: tuple[str, ...],
    error: str,
    said: str,
) -> None:
    """Its exit status and its message say so, and the test's own connection sees the same rows."""
    with pid1.fail(calls, error, path=f"{tmp_path}/rows.db*", process="sqlite3") as fault:
        command = ["sqlite3", str(tmp_path / "rows.db"), "INSERT INTO numbers VALUES (2)"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode, done
    assert said in done.stderr
    assert {call.process for call in fault.calls} == {"sqlite3"}
    assert count_of(rows) == 1
    assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)


SERVER: Final = """
import errno, select, socket, time
server = socket.create_server(("127.0.0.1", 8080))
refused = 0
while True:
    try:
        client, _ = server.accept()
    except OSError as error:
        assert error.errno == errno.EMFILE
        refused += 1
        time.sleep(0.01)
        continue
    client.sendall(str(refused).encode())
    client.close()
"""


def test_a_server_without_descriptors_serves_later(pid1: Pid1View) -> None:
    """EMFILE on accept: the connection waits until there are some."""
    with pid1.fail(("accept", "accept4"), "EMFILE", times=3, process="python*") as fault:
        server = subprocess.Popen([sys.executable, "-c", SERVER])
        try:
            pid1.assert_listening(8080, within=10)
            with socket.create_connection(("127.0.0.1", 8080), timeout=10) as client:
                assert client.recv(10) == b"3"
        finally:
            server.kill()
            server.wait()
    assert fault.count == 3


def test_eintr(pid1: Pid1View) -> None:
    """Python tries again, as PEP 475 says."""
    reading, writing = os.pipe()
    os.write(writing, b"text")
    with pid1.fail("read", "EINTR", fd=reading, times=5) as fault:
        assert os.read(reading, 10) == b"text"
    assert fault.count == 5


# What is said ------------------------------------------------------------------------------------


def test_a_fault_that_never_happened_fails_the_test(pid1: Pid1View, tmp_path: Path) -> None:
    """With what was seen instead, and what may help."""
    with pytest.raises(AssertionError) as raised, pid1.fail("creat", "ENOSPC"):
        (tmp_path / "file").touch()
    assert str(raised.value) == (
        "<Fault creat with ENOSPC> never happened\n"
        "expected: at least one call that it is for, before its block ended\n"
        "seen: no call of creat\n"
        "hint: a C library may call openat instead; name both in a tuple"
    )
    other = pytest.raises(AssertionError, match=r"seen: \d+ calls of openat, none that was meant")
    with other, pid1.fail("openat", 28, path="/nowhere/*"):
        (tmp_path / "file").read_bytes()
    early = pytest.raises(AssertionError, match="1 of those calls, and none was hit")
    with early, pid1.fail("chdir", "EIO", after=5):
        os.chdir("/")


def test_an_exception_of_the_block_is_not_hidden(pid1: Pid1View) -> None:
    """A fault that did not happen is the lesser news."""
    with pytest.raises(KeyError), pid1.fail("creat", "ENOSPC"):
        raise KeyError


def test_unused_ok(pid1: Pid1View) -> None:
    """Nothing follows."""
    with pid1.fail("creat", "ENOSPC", unused="ok") as fault:
        pass
    assert (fault.count, fault.calls) == (0, ())


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        ("opena", {}, "there is no system call 'opena': did you mean openat"),
        ("pread", {}, "there is no system call 'pread': did you mean pread64?"),
        ("futex", {}, "futex is one of the calls that cannot be made to fail"),
        ("exit_group", {}, "exit_group is one of the calls that cannot be made to fail"),
        ("", {}, "call is the name of a system call"),
        ("fsync", {"error": "ENOSPCE"}, "'ENOSPCE' is not the name of an errno: did you mean ENO"),
        ("fsync", {"error": 0}, "an errno is from 1 to 4095, not 0"),
        ("fsync", {"error": True}, "error is an errno, by number or by name, not True"),
        ("fsync", {"times": 0}, "times is at least 1, not 0"),
        ("fsync", {"after": -1}, "after is at least 0, not -1"),
        ("fsync", {"times": 1.0}, "times is a whole number, not 1.0"),
        ("fsync", {"probability": 0}, "probability is above 0 and at most 1, not 0"),
        ("fsync", {"seed": 3}, "seed is of no use without a probability"),
        ("kill", {"path": "/x"}, "path= is not for kill, which has no argument that is a path"),
        ("kill", {"fd": 3}, "fd= is not for kill, which has no argument that is a descriptor"),
        ("fsync", {"address": "x"}, "address= is not for fsync, which has no argument that is a s"),
        ("fsync", {"path": ""}, "path is a pattern, as text, not ''"),
        ("fsync", {"args": {6: 1}}, "args has positions from 0 to 5, not 6"),
        ("fsync", {"args": {0: 1 << 64}}, "args has whole numbers of 64 bits"),
        ("fsync", {"process": 1.5}, "process is a number, what has one (pid), or a name, not 1.5"),
        ("fsync", {"unused": "maybe"}, 'unused is "fail" or "ok", not \'maybe\''),
    ],
)
def test_usage_errors(pid1: Pid1View, call: str, options: dict[str, Any], message: str) -> None:
    """Where the fault is described, before anything happens to the test."""
    before = pid1.seccomp
    with pytest.raises((TypeError, ValueError)) as raised:
        pid1.fail(call, **{"error": "EIO", **options})
    assert message in str(raised.value)
    assert pid1.seccomp == before


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), 3601, "1", True])
def test_usage_errors_of_a_delay(pid1: Pid1View, seconds: Any) -> None:
    """More than an hour is a mistake."""
    with pytest.raises((TypeError, ValueError), match="seconds is"):
        pid1.delay("connect", seconds)


def test_a_call_of_another_machine(pid1: Pid1View, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tuple it is left out, alone it is an error."""
    here = {k: v for k, v in syscall_numbers.numbers().items() if k not in ("open", "mkdir")}
    monkeypatch.setattr(syscall_numbers, "numbers", lambda: here)
    with pytest.raises(ValueError, match=r"has no system call open: did you mean openat\?"):
        pid1.fail("open", "EIO")
    assert repr(pid1.fail(("open", "openat"), "EIO")) == "<Fault openat with EIO>"


def test_what_it_is_called(pid1: Pid1View) -> None:
    """Everything that was said, with the seed that nobody gave."""
    fault = pid1.fail(("write", "pwrite64"), 28, path="/x*", times=2, after=1, process="sh")
    assert repr(fault) == (
        "<Fault write or pwrite64 with ENOSPC path='/x*' process='sh' times=2 after=1>"
    )
    assert "seed=" in repr(pid1.fail("write", 28, probability=0.5))
    assert repr(pid1.delay("connect", 2)) == "<Fault connect by 2 s>"
    assert isinstance(fault, Fault)


# Its life ----------------------------------------------------------------------------------------


def test_it_is_in_force_once_at_a_time_and_again(pid1: Pid1View, tmp_path: Path) -> None:
    """The same object may be used for another block, which counts anew."""
    fault = pid1.fail("chdir", "EIO")
    for _ in range(2):
        with fault:
            with pytest.raises(OSError):
                os.chdir("/")
            with pytest.raises(RuntimeError, match="is in force already"):
                fault.__enter__()
        assert fault.count == 1


def test_an_exception_in_the_middle_of_a_question(
    pid1: Pid1View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next question does not get its answer, and what it has begun is not in force."""

    class AlarmError(Exception):
        """As a handler of the suite's raises it while the answer is on its way."""

    def interrupted(channel: object) -> None:
        raise AlarmError

    with pid1.fail("chdir", "EIO") as fault:
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "_hear", staticmethod(interrupted))
            with pytest.raises(AlarmError):
                _ = fault.count
            with pytest.raises(AlarmError):
                pid1.fail(("mkdir", "mkdirat"), "EROFS").__enter__()
        with pytest.raises(OSError, match="Input/output"):
            os.chdir("/")
        assert fault.count == 1
        (tmp_path / "new").mkdir()
        with pid1.fail(("mkdir", "mkdirat"), "ENOSPC"), pytest.raises(OSError, match="No space"):
            (tmp_path / "more").mkdir()


@pytest.mark.parametrize(
    ("module", "step"),
    [
        pytest.param(seccomp, "refusal", id="before"),
        pytest.param(helper_channel, "ask", id="asked"),
        pytest.param(seccomp, "handing_over", id="ready"),
        pytest.param(seccomp, "install", id="installed"),
    ],
)
def test_an_exception_in_the_middle_of_the_beginning(
    pid1: Pid1View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, step: str
) -> None:
    """A filter that is there is known to be, and later faults use it."""
    raised = threading.Event()

    class AlarmError(Exception):
        """As the handler of a timeout raises it."""

    def interrupt(*_: object) -> None:
        raised.set()
        raise AlarmError

    def interrupted(*given: Any) -> Any:
        result = as_it_is(*given)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert raised.wait(30)
        return result

    as_it_is = getattr(module, step)
    signal.signal(signal.SIGUSR1, interrupt)
    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(AlarmError):
        pid1.fail(("mkdir", "mkdirat"), "EROFS").__enter__()
    assert raised.is_set()

    with pid1.fail("chdir", "EIO") as fault, pytest.raises(OSError, match="Input/output"):
        os.chdir("/")
    assert fault.count == 1
    (tmp_path / "new").mkdir()
    assert listeners() == []


def listeners() -> list[str]:
    """Descriptors of this process over which its calls could be answered."""
    return [fd for fd in os.listdir("/proc/self/fd") if "seccomp" in target(fd)]


def target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""  # that of listdir()


@pytest.mark.parametrize("name", ["add", "drop", "_tell"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_an_exception_where_a_block_begins_or_ends(
    pid1: Pid1View, monkeypatch: pytest.MonkeyPatch, name: str, before: bool
) -> None:
    """Then it is over, and its fault is not in force."""

    class AlarmError(Exception):
        """As a handler of the suite's raises it, at any time."""

    with pid1.fail("chdir", "EIO", unused="ok"):
        pass  # the beginning has a test of its own
    as_it_is = getattr(Engine, name)
    asked = []

    def interrupted(*given: Any) -> Any:
        asked.append(given)
        if before and len(asked) == 1:
            raise AlarmError
        result = as_it_is(*given)
        if len(asked) == 1:
            raise AlarmError
        return result

    stand_in: Any = staticmethod(interrupted) if name == "_tell" else interrupted
    monkeypatch.setattr(Engine, name, stand_in)
    with pytest.raises(AlarmError), pid1.fail("chdir", "EIO", unused="ok"):
        pass
    os.chdir("/")
    with pid1.fail("chdir", "EIO") as fault, pytest.raises(OSError, match="Input/output"):
        os.chdir("/")
    assert fault.count == 1


def test_no_thread_is_left_of_the_beginning(pid1: Pid1View) -> None:
    """os.fork() warns where there are several."""
    before = os.listdir("/proc/self/task")
    with pid1.fail("chdir", "EIO", unused="ok"):
        assert os.listdir("/proc/self/task") == before


def test_where_no_thread_can_be_started(pid1: Pid1View, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a limit of the test's is reached: it begins without one."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(originals.threading.Thread, "start", refuse)
    with pid1.fail("chdir", "EIO") as fault, pytest.raises(OSError, match="Input/output"):
        os.chdir("/")
    assert fault.count == 1


def test_a_fork_of_the_test_is_hit_but_has_no_say(pid1: Pid1View, tmp_path: Path) -> None:
    """The faults are the test's."""
    with pid1.fail("mkdir", "EROFS", path=f"{tmp_path}/*") as fault:
        child = os.fork()
        if child == 0:
            try:
                os.mkdir(tmp_path / "x")
            except OSError:
                try:
                    with pid1.fail("rmdir", "EIO"):
                        os._exit(4)
                except RuntimeError:
                    os._exit(3)
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert fault.count == 1


def test_elsewhere_there_are_none(tmp_path: Path) -> None:
    """A view that no fixture has made has no runner to ask."""
    with pytest.raises(RuntimeError, match="faults are for an isolated test"):
        Pid1View().fail("chdir", "EIO").__enter__()


def test_nothing_is_left_open(pid1: Pid1View) -> None:
    """No descriptor beside the way to the supervisor, no process inside."""
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pid1.fail("chdir", "EIO", unused="ok"):
            pass
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1
    assert pid1.leftovers == ()


def test_what_the_kernel_says_of_the_test(pid1: Pid1View) -> None:
    """A filter is on from the first fault, and no_new_privs only where there was no other way."""
    before = pid1.no_new_privs
    with pid1.fail("chdir", "EIO", unused="ok"):
        pass
    assert pid1.seccomp == "filter"
    assert pid1.no_new_privs == before
