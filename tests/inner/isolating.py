# SPDX-License-Identifier: MIT
"""Calls by ``isolate``: from the runner, from PID 1, from a test behind an init."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

import pytest_nsisolate as nsi

expect = pytest.mark.expect

#: In a name, because a failure shows the lines of its test.
NO_FRAME_OF_OURS = ("!tasks.py", "!body.py")


def on_both_sides(function: Callable[..., None]) -> Callable[..., None]:
    """The same test twice: in the runner, and as PID 1."""
    return _again(function, "as_pid1", pytest.mark.isolated)


def everywhere(function: Callable[..., None]) -> Callable[..., None]:
    """And once more behind an init."""
    return on_both_sides(_again(function, "behind_init", pytest.mark.isolated(init=True)))


def _again(
    function: Callable[..., None], suffix: str, mark: pytest.MarkDecorator
) -> Callable[..., None]:
    name = f"{function.__name__}_{suffix}"
    copy = types.FunctionType(function.__code__, globals(), name)
    globals()[name] = mark(expect("passed")(copy))
    if not hasattr(function, "pytestmark"):
        function = expect("passed")(function)
    return function


def identities() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def descendants() -> list[str]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = Path(f"/proc/{entry}/stat").read_text("ascii").rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == str(os.getpid()):
            found.append(entry)
    return found


def crash() -> None:
    ctypes.string_at(0)


# Where a function runs ---------------------------------------------------------------------------


@everywhere
def test_namespaces(isolate: Any) -> None:
    """A bare call has every namespace of its own; a named one is fresh, the others the caller's."""
    before = identities()
    inside = isolate(identities)
    assert {name for name in before if inside[name] == before[name]} <= {
        "time",
        "time_for_children",
    }
    inside = isolate.using(uts=True)(identities)
    assert {name for name in before if inside[name] != before[name]} == {"user", "uts"}
    assert identities() == before


@on_both_sides
def test_keywords(isolate: Any) -> None:
    """hostname, user, init and time mean what they mean in the marker."""
    assert isolate.using(hostname="db1")(socket.gethostname) == "db1"
    assert isolate.using(init=True)(os.getpid) == 2
    assert isolate(os.getpid) == 1
    assert isolate.using(user="same")(os.getuid) == os.getuid()
    ahead = isolate.using(time=10_000)(time.monotonic)
    assert ahead - time.monotonic() > 9_000
    assert isolate.using(net=True).using(pid=True)(lambda: (os.getpid(), os.getppid())) == (1, 0)


@everywhere
def test_three_deep(isolate: Any) -> None:
    """A function that isolates one that isolates one: three worlds, and all values come back."""

    def below(depth: int) -> list[Any]:
        mine: list[Any] = [os.getpid(), os.readlink("/proc/self/ns/net")]
        return [*mine, isolate(below, depth - 1)] if depth else mine

    first, second, third = (found := below(2))[:2], found[2][:2], found[2][2]
    assert second[0] == third[0] == 1
    assert len({first[1], second[1], third[1]}) == 3


@expect("passed")
def test_threads_of_the_caller(isolate: Any) -> None:
    """A caller with threads, and a call from a thread that is not the first."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    found = []
    caller = threading.Thread(target=lambda: found.append(isolate(os.getpid)))
    caller.start()
    caller.join()
    found.append(isolate(threading.active_count))
    stop.set()
    other.join()
    assert found == [1, 1]


def next_number() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def processes_of(action: Callable[[], object]) -> int:
    """How many are born meanwhile: a namespace of one's own gives out numbers in order."""
    before = next_number()
    action()
    return next_number() - before - 1


@pytest.mark.isolated
@expect("passed")
def test_a_call_by_pid1_is_one_process(isolate: Any) -> None:
    """No trial before the first, and no supervisor, but beside a thread."""
    assert processes_of(lambda: isolate(os.getpid)) == 1
    assert processes_of(lambda: isolate.using(uts=True).open().close()) == 1
    assert processes_of(lambda: isolate.start(os.getpid).result()) == 2
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        assert processes_of(lambda: isolate(os.getpid)) == 2
    finally:
        stop.set()
        other.join()


@on_both_sides
def test_a_caller_that_waits_for_any_child(isolate: Any) -> None:
    """It takes no status away: how a function ends is known."""
    for status in (0, 3):
        task = isolate.start(os._exit, status)
        os.wait()
        with pytest.raises(nsi.IsolatedExit, match=f"exit status {status}"):
            task.result()
    task = isolate.start(ctypes.string_at, 0)
    os.wait()
    with pytest.raises(nsi.IsolatedSignal, match="SIGSEGV"):
        task.result()


@pytest.mark.isolated(init=True)
@expect("passed")
def test_a_call_by_another_has_a_supervisor(isolate: Any) -> None:
    """The end of this process ends nothing else."""
    assert processes_of(lambda: isolate(os.getpid)) == 2
    assert processes_of(lambda: isolate.using(uts=True).open().close()) == 2


@on_both_sides
def test_from_many_threads(isolate: Any) -> None:
    """One thread's call begins while that of another ends: each gets its own answer."""
    with isolate.open() as box, ThreadPoolExecutor(4) as pool:
        for call in (isolate, box.run):
            found = pool.map(lambda n, call=call: call(lambda: (n, os.getpid() > 0)), range(60))
            assert list(found) == [(n, True) for n in range(60)]
        deep = pool.map(lambda n: isolate(lambda: isolate(lambda: n)), range(8))
        assert list(deep) == list(range(8))


@pytest.fixture(scope="session")
def made_in_a_session_fixture(isolate: Any) -> Any:
    return isolate(os.getpid)


@pytest.fixture(scope="module")
def service(isolate: Any) -> Any:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        while word := theirs.recv(10):
            theirs.send(word.upper())

    task = isolate.start(serve)
    yield ours
    assert not task.done()
    task.kill()
    ours.close()
    theirs.close()


@expect("passed")
def test_wider_fixtures(made_in_a_session_fixture: int, service: Any) -> None:
    """A session fixture may call, and a task of a module fixture outlives its first test."""
    assert made_in_a_session_fixture == 1
    service.send(b"one")
    assert service.recv(10) == b"ONE"


@pytest.mark.isolated
@expect("passed")
def test_wider_fixtures_again(service: Any) -> None:
    service.send(b"two")
    assert service.recv(10) == b"TWO"


# Exceptions --------------------------------------------------------------------------------------


class OddError(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left
        self.open = sys.stdout


def fail(error: BaseException) -> NoReturn:
    raise error


@everywhere
def test_exceptions(isolate: Any) -> None:
    """By type and plain arguments, the child's traceback a note."""
    with pytest.raises(OddError, match="1 and 2") as caught:
        isolate(fail, OddError(1, 2))
    assert caught.value.left == 1
    notes = "\n".join(caught.value.__notes__)
    assert "in fail\n    raise error" in notes
    assert "stayed there: open" in notes
    assert "calls.py" not in notes
    with pytest.raises(FileNotFoundError) as missing:
        isolate(os.stat, "/nowhere")
    assert (missing.value.errno, missing.value.filename) == (2, "/nowhere")
    with pytest.raises(SystemExit) as left:
        isolate(sys.exit, 3)
    assert left.value.code == 3


@on_both_sides
def test_exceptions_that_do_not_cross(isolate: Any) -> None:
    """A local class, or arguments that are not plain: an IsolatedError says all there is to say."""

    class LocalError(Exception):
        pass

    with pytest.raises(nsi.IsolatedError, match="LocalError: so") as caught:
        isolate(fail, LocalError("so"))
    assert caught.value.type_name.endswith("LocalError")
    assert caught.value.text == "so"
    assert "in fail\n    raise error" in caught.value.traceback
    with pytest.raises(nsi.IsolatedError) as caught:
        isolate(fail, ValueError(object()))
    assert caught.value.type_name == "ValueError"


@expect("setup skipped", "by the child")
@pytest.mark.skipif("False")
def test_skip(isolate: Any, skipping: None) -> None:
    raise AssertionError


@pytest.fixture
def skipping(isolate: Any) -> None:
    isolate(pytest.skip, "by the child")


@expect("call failed", "assert 1 == 2", "In the isolated child", *NO_FRAME_OF_OURS)
def test_a_failing_call_reads_well(isolate: Any) -> None:
    def compare() -> None:
        assert os.getpid() == 2

    isolate(compare)


# Ends without an answer --------------------------------------------------------------------------


@everywhere
def test_crash(isolate: Any) -> None:
    """A signal, with the stack that the fault handler has written."""
    with pytest.raises(nsi.IsolatedSignal, match=r"crash\(\) was killed by SIGSEGV") as caught:
        isolate(crash)
    assert caught.value.signal == signal.SIGSEGV
    notes = "\n".join(caught.value.__notes__)
    assert "in crash" in notes
    assert "tasks.py" not in notes


@on_both_sides
def test_exit(isolate: Any) -> None:
    with pytest.raises(nsi.IsolatedExit, match=r"_exit\(\) ended with exit status 3") as caught:
        isolate(os._exit, 3)
    assert caught.value.status == 3
    with pytest.raises(nsi.IsolatedExit):
        isolate(os.execv, "/bin/true", ["true"])


@on_both_sides
def test_timeout(isolate: Any) -> None:
    with pytest.raises(nsi.IsolatedTimeout, match=r"timed out after 0\.2 s") as caught:
        isolate.using(timeout=0.2)(select.select, [], [], [])
    assert caught.value.seconds == 0.2
    assert "Python stacks" in caught.value.diagnosis
    assert not isinstance(caught.value, TimeoutError)


@on_both_sides
def test_a_child_that_stops_and_blocks_everything_is_ended(isolate: Any) -> None:
    def deaf() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.kill(os.getpid(), signal.SIGSTOP)
        select.select([], [], [])

    with pytest.raises(nsi.IsolatedTimeout):
        isolate.using(timeout=0.1, init=True)(deaf)


@expect("passed")
def test_a_fatal_error_that_it_survives_is_no_success(isolate: Any) -> None:
    """PID 1 goes on after a SIGSEGV of its own sending; the value does not count."""
    with pytest.raises(nsi.IsolatedLoss, match="fatal error"):
        isolate(os.kill, 1, signal.SIGSEGV)


@on_both_sides
def test_refusal(isolate: Any) -> None:
    """Not a line of the function runs, and the refusal names step and remedy."""

    def call() -> None:
        Path("/proc/sys/user/max_uts_namespaces").write_text("0")
        with pytest.raises(nsi.IsolatedRefusal, match="for the uts namespace: ENOSPC") as caught:
            isolate.using(uts=True)(print, "ran")
        assert caught.value.step.step == "unshare(CLONE_NEWUTS)"
        assert "max_uts_namespaces" in caught.value.remedy

    # In a user namespace of its own, whose limits it may set.
    isolate.using(mount=True)(call)


@on_both_sides
def test_bad_keywords(isolate: Any) -> None:
    for keywords, said in (
        ({"pid": True, "mount": False}, r"isolate.using\(mount=False\): pid needs a mount"),
        ({"timeout": 0}, "seconds above 0"),
        ({"net": False, "uts": 1}, "takes True or False"),
    ):
        with pytest.raises(pytest.UsageError, match=said):
            isolate.using(**keywords)


# Hostile functions -------------------------------------------------------------------------------


@on_both_sides
def test_no_value_without_a_completion_record(isolate: Any) -> None:
    """Law 1: what looks like an answer is none if the stream does not end as it must."""

    before = descriptors()

    def forge() -> None:
        for fd in map(int, descriptors() - before):
            try:
                os.write(fd, b"nsi1, but this is no frame" * 10)
            except OSError:
                continue

    with pytest.raises(nsi.IsolatedLoss, match="stream is broken"):
        isolate(forge)


@on_both_sides
def test_a_fork_that_returns_is_nobody(isolate: Any) -> None:
    """A copy of the function that comes back says nothing, and its parent's value counts."""

    def twice() -> str:
        return "parent" if (child := os.fork()) and os.waitpid(child, 0)[1] >> 8 == 98 else "child"

    assert isolate(twice) == "parent"


@on_both_sides
def test_a_fork_may_warn_and_log(isolate: Any) -> None:
    """To nobody, as un-isolated; and without an error."""

    def fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                talk()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(child, 0)[1]

    assert isolate(fork) == 0


@on_both_sides
def test_a_daemon_that_holds_the_pipe_is_not_waited_for(isolate: Any) -> None:
    def leave() -> str:
        subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)
        return "left"

    assert isolate(leave) == "left"
    assert isolate.using(net=True)(leave) == "left"
    assert isolate.using(uts=True)(leave) == "left"


# Output, logs, warnings --------------------------------------------------------------------------


def talk() -> None:
    print("by print")  # noqa: T201
    print("to stderr", file=sys.stderr)  # noqa: T201
    os.system("echo by a command")
    logging.getLogger("inside").warning("number %d", 3, extra={"more": [1]})
    logging.getLogger("inside").debug("too quiet")
    warnings.warn("careful", UserWarning, stacklevel=1)


@expect("call failed", "by print", "by a command", "to stderr", "number 3")
def test_output_is_the_tests(isolate: Any) -> None:
    with pytest.warns(UserWarning, match="careful"):
        isolate(talk)
    raise AssertionError


@pytest.mark.isolated
@expect("call failed", "by print", "by a command", "to stderr", "number 3")
def test_output_is_the_isolated_tests(isolate: Any) -> None:
    with pytest.warns(UserWarning, match="careful"):
        isolate(talk)
    raise AssertionError


@expect("call failed", "last words", "logged before", "in die", *NO_FRAME_OF_OURS)
def test_output_of_a_crash(isolate: Any) -> None:
    def die() -> None:
        print("last words", flush=True)  # noqa: T201
        logging.getLogger().error("logged before")
        crash()

    isolate(die)


@everywhere
def test_capsys_caplog_and_warns(isolate: Any, capsys: Any, caplog: Any) -> None:
    with pytest.warns(UserWarning, match="careful") as caught:
        isolate(talk)
    assert [str(w.message) for w in caught] == ["careful"]
    assert caught[0].filename == __file__
    assert capsys.readouterr() == ("by print\n", "to stderr\n")
    assert caplog.record_tuples == [("inside", logging.WARNING, "number 3")]
    (record,) = caplog.records
    assert (record.args, record.more, record.process) == ((3,), [1], 1)


@on_both_sides
def test_capsys_after_a_crash(isolate: Any, capsys: Any) -> None:
    def die() -> None:
        print("last words")  # noqa: T201
        crash()

    with pytest.raises(nsi.IsolatedSignal):
        isolate(die)
    assert capsys.readouterr().out == "last words\n"


@on_both_sides
def test_capfd(isolate: Any, capfd: Any) -> None:
    isolate(print, "one")
    isolate(os.system, "echo two")
    print("three")  # noqa: T201
    assert capfd.readouterr().out == "one\ntwo\nthree\n"


@on_both_sides
def test_a_filter_makes_it_an_error(isolate: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="careful"):
            isolate(talk)


@on_both_sides
def test_an_exception_of_a_thread_is_a_warning(isolate: Any) -> None:
    def die() -> None:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()

    with pytest.warns(pytest.PytestUnhandledThreadExceptionWarning, match="ZeroDivisionError"):
        isolate(die)


# Tasks -------------------------------------------------------------------------------------------


@everywhere
def test_tasks_talk_over_a_socket(isolate: Any) -> None:
    """Two children at once, on two ends of a socket pair; EOF comes when the child closes it."""
    left, right = socket.socketpair()
    asking = isolate.start(lambda: (left.send(b"ping"), left.recv(10))[1])
    answering = isolate.start(lambda: (right.recv(10), right.send(b"pong"))[0])
    assert (asking.result(), answering.result()) == (b"pong", b"ping")

    def close_and_wait() -> None:
        ours.close()
        theirs.close()
        select.select([], [], [])

    for init in (False, True):
        ours, theirs = socket.socketpair()
        task = isolate.using(init=init).start(close_and_wait)
        theirs.close()
        ours.settimeout(10)
        assert ours.recv(1) == b"", "somebody beside the child holds its end"
        task.kill()
        ours.close()
    left.close()
    right.close()


@everywhere
def test_task(isolate: Any) -> None:
    ready, go = os.pipe(), os.pipe()

    def work() -> int:
        os.write(ready[1], b".")
        os.read(go[0], 1)
        return 42

    task = isolate.start(work)
    os.read(ready[0], 1)
    assert not task.done()
    assert f"process {task.pid}, running" in repr(task)
    os.kill(task.pid, 0)
    with pytest.raises(TimeoutError):
        task.result(timeout=0)
    os.write(go[1], b".")
    assert task.result(timeout=20) == task.result() == 42
    assert task.done()
    for fd in (*ready, *go):
        os.close(fd)
    with pytest.raises(ProcessLookupError):
        os.kill(task.pid, 0)


@on_both_sides
def test_kill(isolate: Any) -> None:
    task = isolate.start(select.select, [], [], [])
    task.kill()
    with pytest.raises(nsi.IsolatedSignal, match="SIGKILL"):
        task.result()


@on_both_sides
def test_a_function_that_never_stops_talking(isolate: Any) -> None:
    """Neither a look at it nor its budget waits for silence."""

    def chatter() -> None:
        while True:
            logging.getLogger("chatter").error("and another thing")

    task = isolate.using(timeout=0.5).start(chatter)
    assert not task.done()
    with pytest.raises(TimeoutError):
        task.result(timeout=0.1)
    with pytest.raises(nsi.IsolatedTimeout):
        task.result()


@on_both_sides
def test_a_value_that_nobody_fetches_for_a_while_counts(isolate: Any) -> None:
    """The budget is the function's; a caller that looks too late finds what was said in time."""
    ended, says = os.pipe()

    def big() -> bytes:
        os.write(says, b".")
        return bytes(1_000_000)

    task = isolate.using(timeout=0.3).start(big)
    os.read(ended, 1)
    nothing = select.poll()
    nothing.poll(500)
    os.close(ended)
    os.close(says)
    assert len(task.result()) == 1_000_000


@on_both_sides
def test_asyncio(isolate: Any) -> None:
    """Tasks are awaited together, and a function may run a loop of its own."""

    async def inner() -> int:
        await asyncio.sleep(0)
        return os.getpid()

    async def outer() -> list[Any]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        tasks = [isolate.start(time.sleep, 0.1), isolate.start(lambda: asyncio.run(inner()))]
        failing = isolate.using(timeout=0.2).start(select.select, [], [], [])
        found = await asyncio.gather(*tasks, failing, return_exceptions=True)
        ticking.cancel()
        assert ticks > 10
        slow = isolate.start(select.select, [], [], [])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow, 0.05)
        assert not slow.done()
        slow.kill()
        return found

    first, second, third = asyncio.run(outer())
    assert (first, second) == (None, 1)
    assert isinstance(third, nsi.IsolatedTimeout)


@on_both_sides
def test_what_was_read_is_not_waited_for(isolate: Any) -> None:
    """More records than one look takes in, of a function that has ended since."""
    taken = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            select.poll().poll(10)
            taken.append(record.getMessage())

    def talk() -> None:
        for n in range(25):
            logger.error("%d", n)
        os._exit(3)

    logger = logging.getLogger("slow")
    logger.addHandler(handler := Slow())
    task = isolate.start(talk)
    ended = select.poll()
    ended.register(task.child.end.forked_pidfd, select.POLLIN)
    ended.poll()
    with pytest.raises(nsi.IsolatedExit, match="3"):
        asyncio.run(_bounded(task))
    logger.removeHandler(handler)
    assert taken == [str(n) for n in range(25)]


async def _bounded(awaitable: Any) -> Any:
    """What would wait for ever fails."""
    return await asyncio.wait_for(awaitable, 60)


@on_both_sides
def test_somebody_else_ends_what_is_awaited(isolate: Any) -> None:
    """kill(), the box's close() and result() wake who waits for the task."""
    ready, go = os.pipe()

    def work() -> bytes:
        return os.read(ready, 1)

    async def outer(task: Any, end: Callable[[], Any]) -> Any:
        waiting = [asyncio.ensure_future(_bounded(task)) for _ in range(2)]
        await asyncio.sleep(0.01)
        end()
        return await asyncio.gather(*waiting)

    task = isolate.start(work)
    with pytest.raises(nsi.IsolatedSignal, match="SIGKILL"):
        asyncio.run(outer(task, task.kill))
    box = isolate.open()
    with pytest.raises(nsi.IsolatedCrash):
        asyncio.run(outer(box.start(work), box.close))
    task = isolate.start(work)
    assert asyncio.run(outer(task, lambda: (os.write(go, b"."), task.result()))) == [b".", b"."]
    os.close(ready)
    os.close(go)


@on_both_sides
def test_ctrl_c_at_the_fork(isolate: Any) -> None:
    """Nothing is left of that call, and others go on, from another thread too."""
    isolate(os.getpid)
    before = descriptors(), descendants()
    pressed = [signal.SIGINT]

    def press() -> None:
        if pressed:
            os.kill(os.getpid(), pressed.pop())

    os.register_at_fork(before=press)
    with pytest.raises(KeyboardInterrupt):
        isolate(select.select, [], [], [])
    assert (descriptors(), descendants()) == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(isolate, os.getpid).result(60) == 1


@on_both_sides
def test_a_copy_of_a_task_is_not_the_task(isolate: Any) -> None:
    task = isolate.start(select.select, [], [], [])
    with pytest.raises(RuntimeError, match="belongs to the process that has started it"):
        isolate(task.result)
    task.kill()


@expect(
    "teardown failed",
    "started by isolate and never awaited: <Task select() in process",
    "!Traceback",
)
def test_nobody_awaits(isolate: Any) -> None:
    isolate.start(select.select, [], [], [])


@pytest.mark.isolated
@expect("teardown failed", "never awaited: <Task select() in process", "<Box of mount")
def test_nobody_awaits_in_a_child(isolate: Any) -> None:
    isolate.start(select.select, [], [], [])
    isolate.using(mount=True).open()


@on_both_sides
def test_nobody_awaits_in_a_call(isolate: Any) -> None:
    def start() -> int:
        isolate.start(select.select, [], [], [])
        return 1

    with pytest.raises(nsi.NotAwaitedError, match="select"):
        isolate(start)


@expect("call failed", "raise AssertionError")
def test_a_failed_test_is_not_blamed_twice(isolate: Any) -> None:
    isolate.start(select.select, [], [], [])
    raise AssertionError


# Boxes -------------------------------------------------------------------------------------------


@everywhere
def test_box(isolate: Any) -> None:
    """Functions and commands share one world, which is another one than the caller's."""
    here = identities()
    with isolate.using(net=True, hostname="boxed").open() as box:
        first, second = box.run(identities), box.run(identities)
        assert first == second
        assert {name for name in here if here[name] != first[name]} >= {"net", "pid", "mnt", "uts"}
        assert os.readlink(box.namespaces["net"]) == first["net"] != here["net"]
        server = box.run(lambda: socket.create_server(("127.0.0.1", 8000)).getsockname())
        assert server == ("127.0.0.1", 8000)
        assert box.command(["hostname"]).stdout == "boxed\n"
        assert box.run(os.getcwd) == os.getcwd()
        assert box.run(os.getpid) > 1
        os.kill(box.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(box.pid, 0)
    with pytest.raises(nsi.IsolatedLoss, match="box is closed"):
        box.run(os.getpid)
    assert identities() == here


@everywhere
def test_box_ends_daemons(isolate: Any, tmp_path: Path) -> None:
    """What has become a daemon in the box ends with it; before that it is there to be seen."""
    reading, writing = os.pipe()
    with isolate.using(net=True).open() as box:
        os.set_inheritable(writing, True)

        def leave() -> None:
            subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)

        box.run(leave)
        os.close(writing)
        assert "sleep" in box.command(["ps", "-e", "-o", "comm"]).stdout
        assert not select.select([reading], [], [], 0)[0]
    assert os.read(reading, 1) == b"", "the daemon is alive and holds the pipe"
    os.close(reading)


@on_both_sides
def test_box_has_no_zombies(isolate: Any) -> None:
    with isolate.using(net=True).open() as box:
        box.command(["sh", "-c", "(sh -c 'sleep 0.01 &') & wait"])
        states = ""
        for _ in range(100):
            states = box.command(["ps", "-e", "-o", "stat=,comm="]).stdout
            if "sleep" not in states:
                break
        assert "Z" not in states
        assert "sleep" not in states


@on_both_sides
def test_command(isolate: Any, monkeypatch: Any) -> None:
    """As subprocess.run."""
    monkeypatch.setenv("HERE", "yes")
    with isolate.open() as box:
        done = box.command(["sh", "-c", "echo $HERE; cat; echo no >&2; exit 3"], input="in")
        assert (done.returncode, done.stdout, done.stderr) == (3, "yes\nin", "no\n")
        assert isinstance(done, subprocess.CompletedProcess)
        done = box.command(["cat"], input=b"\xff", text=False)
        assert done.stdout == b"\xff"
        assert box.command(["env"], env={"A": "b"}).stdout == "A=b\n"
        assert box.command(["pwd"], cwd="/proc").stdout == "/proc\n"
        assert box.command(["sh", "-c", "kill -9 $$"]).returncode == -9
        with pytest.raises(subprocess.CalledProcessError) as failed:
            box.command(["false"], check=True)
        assert failed.value.returncode == 1
        with pytest.raises(subprocess.TimeoutExpired) as late:
            box.command(["sh", "-c", "echo early; sleep 100"], timeout=0.2)
        assert str(late.value.stdout) == "early\n"
        with pytest.raises(FileNotFoundError) as absent:
            box.command(["/nowhere"])
        assert (absent.value.filename, getattr(absent.value, "__notes__", [])) == ("/nowhere", [])
        with pytest.raises(FileNotFoundError) as absent:
            box.command(["true"], cwd=Path("/nowhere"))
        assert absent.value.filename == "/nowhere"
        big = b"x" * (1 << 23)
        assert box.command(["cat"], input=big, text=False).stdout == big
        # A daemon holds its output: nobody waits for that.
        assert box.command(["sh", "-c", "sleep 1000 & echo up"]).stdout == "up\n"


@on_both_sides
def test_box_with_crashes_tasks_and_calls(isolate: Any) -> None:
    with isolate.using(net=True, timeout=5).open() as box:
        with pytest.raises(nsi.IsolatedSignal):
            box.run(crash)
        with pytest.raises(ValueError, match="so"):
            box.run(fail, ValueError("so"))
        ours, theirs = socket.socketpair()
        task = box.start(lambda: theirs.recv(10))
        ours.send(b"word")
        assert task.result() == b"word"
        inner = box.run(lambda: isolate(lambda: (os.getpid(), os.readlink("/proc/self/ns/net"))))
        assert inner[0] == 1
        assert inner[1] != os.readlink(box.namespaces["net"])
        slow = box.start(select.select, [], [], [])
    with pytest.raises(nsi.IsolatedSignal):
        slow.result()
    ours.close()
    theirs.close()


@on_both_sides
def test_what_kills_everything_leaves_the_box(isolate: Any) -> None:
    """``kill -9 -1`` in the box: its PID 1 is not among the victims."""
    with isolate.open() as box:
        task = box.start(select.select, [], [], [])
        with pytest.raises(nsi.IsolatedSignal):
            box.command(["sh", "-c", "kill -9 -1"])  # what waits for it inside is one of them
        with pytest.raises(nsi.IsolatedSignal):
            task.result()
        assert box.run(os.getpid) > 1


@on_both_sides
def test_a_lost_box_says_so(isolate: Any) -> None:
    with isolate.open() as box:
        os.kill(box.pid, signal.SIGKILL)
        box.child.wait(10)
        with pytest.raises(nsi.IsolatedLoss, match="PID 1 has ended"):
            box.run(os.getpid)


@expect("passed")
def test_a_box_takes_no_pid_false(isolate: Any) -> None:
    for keywords in ({"pid": False}, {"init": True}):
        with pytest.raises(pytest.UsageError, match="a box has a PID 1 of its own"):
            isolate.using(**keywords).open()


@pytest.mark.isolated(pid=False, net=True)
@expect("passed")
def test_box_where_the_user_namespace_is_left_out(isolate: Any) -> None:
    """An old ``/proc`` in parts read-only forbids a fresh one in a user namespace of its own."""
    # An ordinary user's test has nothing there to be protected from.
    protected = bool(os.statvfs("/proc/sys").f_flag & os.ST_RDONLY)
    with isolate.using(net=True).open() as box:
        assert (box.run(identities)["user"] == identities()["user"]) == protected
        assert ("user" not in box.namespaces) == protected
        assert box.command(["ls", "/sys/class/net"]).stdout == "lo\n"


@pytest.mark.isolated
@expect("passed")
def test_two_hosts_on_a_cable(isolate: Any) -> None:
    """Boxes without a user namespace of their own share that of the test, and so its powers."""
    host = isolate.using(net=True, user=False)
    with host.open() as left, host.open() as right:
        create = ["ip", "link", "add", "eth0", "netns", str(left.pid)]
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(right.pid)]
        subprocess.run([*create, *peer], check=True)
        for box, address in ((left, "10.0.0.1/24"), (right, "10.0.0.2/24")):
            box.command(["ip", "addr", "add", address, "dev", "eth0"], check=True)
            box.command(["ip", "link", "set", "eth0", "up"], check=True)
        server = right.start(answer)
        assert left.run(ask, ("10.0.0.2", 7000)) == b"hello"
        assert server.result() == "10.0.0.1"
        with pytest.raises(OSError):
            socket.create_connection(("10.0.0.2", 7000), timeout=1)


def answer() -> str:
    with socket.create_server(("10.0.0.2", 7000)) as server:
        connection, (address, _) = server.accept()
        connection.send(b"hello")
        connection.close()
    return str(address)


def ask(where: tuple[str, int]) -> bytes:
    until = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(where, timeout=5) as connection:
                return connection.recv(10)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise


# Nothing left ------------------------------------------------------------------------------------


@everywhere
def test_two_hundred_calls_leave_nothing(isolate: Any) -> None:
    """No descriptor, no child, no zombie, no mount, and no object that grows."""
    ways = [isolate, isolate.using(net=True), isolate.using(uts=True), isolate.using(init=True)]
    for way in ways:
        way(os.getpid)  # what is opened once
    inside = os.readlink("/proc/self") in ("1", "2")
    before = descriptors(), descendants(), Path("/proc/self/mountinfo").read_text("utf-8")
    for number in range(20 if inside else 200):
        way = ways[number % len(ways)]
        if number % 10 == 5:
            with pytest.raises(nsi.IsolatedExit):
                way(os._exit, 1)
        else:
            assert way(lambda n: n + 1, number) == number + 1
    after = descriptors(), descendants(), Path("/proc/self/mountinfo").read_text("utf-8")
    assert after == before
