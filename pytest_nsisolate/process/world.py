# SPDX-License-Identifier: MIT
"""The runner and the keeper of a world that tests share: orders, and the tests below the keeper.

Fact: a test of a world is a fork of its keeper, which has the world's fixtures, and so it is no
child of the runner's.

Consequence: the runner makes the channel of each test as ever and hands the child's ends over with
an order (unix(7), SCM_RIGHTS). From there on runner and test speak to each other directly, and the
keeper stands where the supervisor of another test does: it says which process the test is, waits
until the runner has a pidfd of it, and tells its exact wait status. What the keeper's end is for
its tests, the end of a supervisor is for another one.

Numbers are those of the world. The runner finds the process of a number among the keeper's
children, by ``NSpid`` (proc_pid_status(5)); none of them is reaped before it has looked.
"""

from __future__ import annotations

import _socket  # pytest-socket forbids the sockets of the module above
import struct
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.process import outcome
from pytest_nsisolate.process.channel import MESSAGE, Letter, Output, RunnerEnd
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.process.launch import open_channel
from pytest_nsisolate.wire.frames import NONCE_SIZE, FrameWriter

#: ``R``: run a test. ``E``: tear down what is not in the first so many nodes above a test; with
#: none the world ends.
What: TypeAlias = Literal[b"R", b"E"]

_ORDER: Final = struct.Struct(f"=ciii{NONCE_SIZE}s")
_NO_NONCE: Final = bytes(NONCE_SIZE)
_DESCRIPTORS: Final = 6


@dataclass(frozen=True, slots=True)
class Order:
    """What the runner wants of the keeper.

    :param item: the place of a test in the session's list.
    :param following: that of the one after it, -1 for none.
    :param depth: how many nodes above the test stay.
    """

    what: What
    item: int
    following: int = -1
    depth: int = 0


@dataclass(frozen=True, slots=True)
class TestEnd:
    """The keeper's descriptors for one test, which are the test's own after the fork."""

    writer: FrameWriter
    control: int
    files: Output

    def tell(self, letter: Letter, number: int) -> None:
        """One message to the runner."""
        with suppress(BrokenPipeError, ConnectionResetError):
            os.write(self.control, MESSAGE.pack(letter, number))

    def await_word(self) -> None:
        """Wait until the runner has answered, or is gone.

        It is read, or the end of this side would keep what was told last from being read
        (ECONNRESET, unix(7)).
        """
        with suppress(ConnectionResetError):
            os.read(self.control, MESSAGE.size)

    def close(self) -> None:
        """In the keeper, when the test has ended."""
        files = self.files
        for fd in (self.writer.descriptor, self.control, files.stdout, files.stderr):
            os.close(fd)
        for fd in (files.log, files.fault):
            os.close(fd)


def give(orders: int, order: Order, nonce: bytes = _NO_NONCE, passed: Sequence[int] = ()) -> None:
    """In the runner. That the keeper is gone is seen by its pidfd, not here.

    :param passed: descriptors that go with it.
    :raises StepError: when it cannot be sent.
    """
    data = _ORDER.pack(order.what, order.item, order.following, order.depth, nonce)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", passed))] if passed else []
    with failing("send an order", None):
        end = _socket.socket(fileno=orders)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                end.sendmsg([data], rights)
        finally:
            end.detach()


def receive(orders: _socket.socket) -> tuple[Order, TestEnd | None] | None:
    """In the keeper: the next order; None when the runner has gone."""
    passed: array[int] = array("i")
    room = _socket.CMSG_SPACE(_DESCRIPTORS * passed.itemsize)
    data, rights, _, _ = orders.recvmsg(_ORDER.size, room, _socket.MSG_CMSG_CLOEXEC)
    if len(data) != _ORDER.size:
        return None
    for _, _, content in rights:
        passed.frombytes(content)
    what, item, following, depth, nonce = _ORDER.unpack(data)
    order = Order(what, item, following, depth)
    if not passed:
        return order, None
    frames, control, *files = passed
    return order, TestEnd(FrameWriter(frames, nonce), control, Output(*files))


class WorldTest(ChildProcess):
    """A test below a keeper, as the runner sees it.

    Before its fork its process is the keeper, which sets up the world's fixtures for it: there a
    signal goes, and a test that is ended then takes the world along.

    :param how_world_ended: asked if the test was lost because the keeper has ended.
    """

    def __init__(
        self,
        end: RunnerEnd,
        how_world_ended: Callable[[], str],
        *,
        budget: float | None,
        measured: bool,
    ) -> None:
        super().__init__(end, maps=None, budget=budget, init=False, measured=measured)
        self._how_world_ended = how_world_ended
        self.inbox.forked_reaped = True  # by others, in its time: it is the world's PID 1

    def _conclude(self) -> None:
        super()._conclude()
        lost = self.inbox.lost_sight and self.inbox.pid1_status is None
        if lost and isinstance(self.outcome, outcome.Broken) and not self.inbox.deaf:
            self.outcome = outcome.Broken(self._how_world_ended())


def begin(
    orders: int,
    order: Order,
    files: Output,
    make: Callable[[int, int, bytes], WorldTest],
) -> WorldTest:
    """In the runner: have the keeper begin a test.

    :param files: the child's from its birth on; the caller's if this raises.
    :param make: takes the runner's ends (frames, control) and the nonce.
    :raises StepError: when no descriptor is left.
    """
    with failing("getrandom", None):
        nonce = os.urandom(NONCE_SIZE)
    frames, frames_write, control, child_control = open_channel()
    try:
        child = make(frames, control, nonce)
    except BaseException:
        for fd in (frames, control, frames_write, child_control):
            os.close(fd)
        raise
    try:
        passed = (frames_write, child_control, files.stdout, files.stderr, files.log, files.fault)
        give(orders, order, nonce, passed)
    finally:
        os.close(frames_write)
        os.close(child_control)
    return child
