# SPDX-License-Identifier: MIT
"""What the runner makes of what its child says, in every order in which it may hear it."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import idmap
from pytest_nsisolate.process.channel import MESSAGE, Output, RunnerEnd, refuse
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.wire.frames import FrameWriter
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@pytest.mark.parametrize("said", [None, Refusal("unshare(CLONE_NEWPID)", "pid", errno.ENOSPC)])
def test_a_map_that_is_asked_for_by_the_dead(
    said: Refusal | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor has ended before the runner reads its wish, and then the kernel refuses it.

    What the supervisor has met itself comes first.
    """

    def deny(*_: object) -> None:
        raise StepError("write uid_map", "user", errno.EROFS)

    monkeypatch.setattr(idmap, "write_maps", deny)
    frames, theirs = os.pipe()
    control, supervisors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisors.send(MESSAGE.pack(b"U", 0))
    supervisors.close()
    if said is not None:
        error = StepError(said.step, said.namespace, said.errno)
        refuse(FrameWriter(theirs, bytes(8)), error)
    os.close(theirs)
    supervisor = os.fork()
    if supervisor == 0:
        os._exit(0)
    os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
    pidfd = os.pidfd_open(supervisor)
    end = RunnerEnd(supervisor, pidfd, False, control.detach(), frames, bytes(8), Output.create())
    maps = idmap.single_maps(inside_uid=0, inside_gid=0, outside_uid=0, outside_gid=0)
    child = ChildProcess(end, maps=maps, budget=None, init=False)
    try:
        child.inbox._read_frames()  # first the frame, then the wish
        assert child.next_frame() is None
        assert child.outcome == (said or Refusal("write uid_map", "user", errno.EROFS))
    finally:
        child.end_and_reap()
