# SPDX-License-Identifier: MIT
"""Workers of one run that share what takes long to make: turns, mail, and who is believed."""

from __future__ import annotations

import array
import os
import select
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_nsisolate.process.fellows import Fellows
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import NOBODY
from tests.support import eventually

NAMES = ("gw0", "gw1", "gw2")

Make = Callable[[int], list[int]]


def fellows(run: str, own: str) -> Fellows:
    return Fellows(run, own, [name for name in NAMES if name != own])


@pytest.fixture
def run() -> str:
    """What no other run has as its name."""
    return uuid.uuid4().hex


@pytest.fixture
def workers(run: str) -> Iterator[list[Fellows]]:
    with ExitStack() as stack:
        made = [fellows(run, name) for name in NAMES]
        for one in made:
            stack.callback(one.close)
        yield made


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[int], list[int]]:
    """Stands for a tree: so many descriptors of one folder."""
    return lambda count: [os.open(tmp_path, os.O_RDONLY) for _ in range(count)]


def never(count: int) -> list[int]:
    raise AssertionError(f"{count} were to be made")


def leads_to(fd: int, path: Path) -> bool:
    """And is closed."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    finally:
        os.close(fd)


def test_one_makes_it_for_all(workers: list[Fellows], tree: Make, tmp_path: Path) -> None:
    """Each of the others finds its own descriptor in its mailbox."""
    counts: list[int] = []

    def make(count: int) -> list[int]:
        counts.append(count)
        return tree(count)

    first, *others = workers
    assert leads_to(first.share("key", make, 60), tmp_path)
    assert all(leads_to(other.share("key", never, 60), tmp_path) for other in others)
    assert counts == [3]


def test_another_key_is_another_tree(workers: list[Fellows], tree: Make, tmp_path: Path) -> None:
    """What has come for one is not taken for the other, and stays."""
    first, second, _ = workers
    os.close(first.share("one", tree, 60))
    assert leads_to(second.share("other", tree, 60), tmp_path)
    assert leads_to(second.share("one", never, 60), tmp_path)


def test_a_lost_tree_is_made_anew_by_its_worker_alone(workers: list[Fellows], tree: Make) -> None:
    """The others have theirs."""
    first, second, _ = workers
    counts = []

    def make(count: int) -> list[int]:
        counts.append(count)
        return tree(count)

    for one in (first, second, second, first):
        os.close(one.share("key", make, 60))
    assert counts == [3, 1, 1]


class Slow:
    """Makes trees when it is told to."""

    def __init__(self, tree: Make) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self._tree = tree

    def __call__(self, count: int) -> list[int]:
        self.begun.set()
        assert self.go_on.wait(60)
        return self._tree(count)


def in_thread(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def is_waited_for(maker: Fellows) -> bool:
    """Another one has connected to the name that says whose turn it is."""
    poller = select.poll()
    assert maker._lock is not None
    poller.register(maker._lock, select.POLLIN)
    return bool(poller.poll(0))


def test_the_others_wait_for_the_one_whose_turn_it_is(
    workers: list[Fellows], tree: Make, tmp_path: Path
) -> None:
    """And have it as soon as it is there."""
    first, second, _ = workers
    slow = Slow(tree)
    found: list[int] = []
    making = in_thread(lambda: os.close(first.share("key", slow, 60)))
    assert slow.begun.wait(60)
    waiting = in_thread(lambda: found.append(second.share("key", never, 60)))
    assert eventually(lambda: is_waited_for(first), 30)
    assert not found
    slow.go_on.set()
    making.join(60)
    waiting.join(60)
    assert leads_to(found.pop(), tmp_path)


def test_one_that_fails_gives_its_turn_to_the_next(
    workers: list[Fellows], tree: Make, tmp_path: Path
) -> None:
    """The error is its own."""
    first, second, third = workers

    def fail(_: int) -> list[int]:
        raise RuntimeError("no tree")

    slow = Slow(fail)
    found: list[object] = []

    def first_one() -> None:
        with pytest.raises(RuntimeError, match="no tree"):
            first.share("key", slow, 60)
        found.append("failed")

    making = in_thread(first_one)
    assert slow.begun.wait(60)
    waiting = in_thread(lambda: found.append(second.share("key", tree, 60)))
    assert eventually(lambda: is_waited_for(first), 30)
    slow.go_on.set()
    making.join(60)
    waiting.join(60)
    (fd,) = (one for one in found if isinstance(one, int))
    assert leads_to(fd, tmp_path)
    assert "failed" in found
    assert leads_to(third.share("key", never, 60), tmp_path)


def test_a_slow_one_is_not_waited_for_without_end(
    workers: list[Fellows], tree: Make, tmp_path: Path
) -> None:
    """The worker makes its own."""
    first, second, _ = workers
    slow = Slow(tree)
    making = in_thread(lambda: os.close(first.share("key", slow, 60)))
    assert slow.begun.wait(60)
    assert leads_to(second.share("key", tree, 0), tmp_path)
    slow.go_on.set()
    making.join(60)


def test_one_that_has_no_mailbox_any_more_is_passed_over(run: str, tree: Make) -> None:
    """And the descriptors that were for it are closed."""
    before = set(os.listdir("/proc/self/fd"))
    first, second = fellows(run, "gw0"), fellows(run, "gw1")
    second.close()
    os.close(first.share("key", tree, 60))
    first.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_was_not_fetched_is_closed(run: str, tree: Make) -> None:
    """And the names are free again."""
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        first, second = fellows(run, "gw0"), fellows(run, "gw1")
        os.close(first.share("key", tree, 60))
        os.close(first.share("other", tree, 60))
        assert second.share("third", lambda _: [7777], 60) == 7777  # the two are in its hands now
        assert len(second.descriptors()) == 3
        first.close()
        second.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_name_that_is_taken_is_an_error(run: str) -> None:
    """Then the worker does without the others."""
    first = fellows(run, "gw0")
    with pytest.raises(OSError, match="in use"):
        fellows(run, "gw0")
    first.close()


def send(run: str, digest: bytes, rights: list[int], owner: int) -> None:
    """A mail to the first worker, which is that user's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        content = array.array("i", rights).tobytes()
        notes = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, content)] if rights else []
        address = f"\0pytest-nsisolate/trees/{owner}/{run}/gw0".encode()
        stranger.sendmsg([digest], notes, 0, address)


def digest_of(worker: Fellows, run: str, tree: Make) -> bytes:
    """That of the key, as a mail of the worker's has it."""
    address = f"\0pytest-nsisolate/trees/{os.geteuid()}/{run}/gw1".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox:
        mailbox.bind(address)
        mailbox.settimeout(60)
        os.close(worker.share("key", tree, 60))
        digest, rights, _, _ = mailbox.recvmsg(100, socket.CMSG_SPACE(8))
    for fd in array.array("i", rights[0][2]):
        os.close(fd)
    return digest


@pytest.mark.parametrize("count", [0, 2, 1])
def test_mail_without_one_tree_is_not_taken(
    run: str, tree: Make, tmp_path: Path, count: int
) -> None:
    """One of this user with one descriptor is: the control."""
    third = fellows(run, "gw2")
    digest = digest_of(third, run, tree)
    first = fellows(run, "gw0")
    strange = os.open("/", os.O_RDONLY)
    send(run, digest, [strange] * count, os.geteuid())
    os.close(strange)
    assert leads_to(first.share("key", tree, 60), tmp_path) == (count != 1)
    third.close()
    first.close()


@pytest.mark.parametrize(
    "user", [None, pytest.param(NOBODY, marks=NEEDS_ROOT)], ids=["its_child", "another_user"]
)
def test_mail_of_no_fellow_is_not_taken(
    run: str, tree: Make, tmp_path: Path, user: int | None
) -> None:
    """Of a child, as a test is one, or of another user, who can see the name too."""
    third = fellows(run, "gw2")
    digest = digest_of(third, run, tree)
    first = fellows(run, "gw0")
    owner = os.geteuid()
    pid = os.fork()
    if pid == 0:
        try:
            strange = os.open("/", os.O_RDONLY)
            if user is not None:
                os.setresuid(user, user, user)
            send(run, digest, [strange], owner)
            os._exit(0)
        finally:
            os._exit(1)
    assert eventually(lambda: is_over(pid), 60)  # it is not reaped, and still has a parent
    assert leads_to(first.share("key", tree, 60), tmp_path)
    assert os.waitpid(pid, 0)[1] == 0
    third.close()
    first.close()


def is_over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
