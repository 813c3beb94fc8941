# SPDX-License-Identifier: MIT
"""On a host: the function that starts a program, passes signals on, and tells of its end.

Fact: a program that ends may leave others in its process group, and those that got the same signal
die a moment after it.
What we do: the end of the program and that of its group are two messages. The function goes on
until the group is empty, or its other end is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open, os, select, signal, socket, subprocess

#: To the test: ``P``: it runs, with this number. ``E``: it could not be started, with this errno.
#: ``L``: it has ended, with this status, as ``Popen.returncode``, and others of its group run.
#: ``X``: it has ended, and its group is empty.
#: To the function: ``S``: this signal for the group. ``W``: say so when it is empty.
MESSAGE: Final = Struct("=ci")

#: Milliseconds between two looks at a group that is awaited.
_PAUSE: Final = 2


def serve(
    words: list[str],
    log: int,
    theirs: socket.socket,
    ours: socket.socket,
    env: Mapping[str, str] | None,
    cwd: str | None,
) -> int | None:
    """Start a program in a session of its own, and stay until it and its group have ended.

    :param log: a descriptor of the file for its output.
    :param theirs: the test's end, which is not this process's to hold.
    :returns: its status; None if it could not be started.
    """
    theirs.close()
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        _tell(ours, b"E", error.errno or 0)
        return None
    _tell(ours, b"P", child.pid)
    pidfd = os.pidfd_open(child.pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(ours, select.POLLIN)
    status: int | None = None
    wanted = False
    while True:
        ready = {fd for fd, _ in poller.poll(_PAUSE if wanted and status is not None else None)}
        if ours.fileno() in ready:
            data = _hear(ours)
            letter, number = MESSAGE.unpack(data) if data else (b"S", signal.SIGKILL)
            if letter == b"W":
                wanted = True
            elif status is None or not _is_empty(child.pid):
                _signal(child.pid, number)
            if not data:
                poller.unregister(ours)
                wanted = True  # no one waits, but it ends then
        if pidfd in ready:
            poller.unregister(pidfd)
            os.close(pidfd)
            status = child.wait()
            if not _is_empty(child.pid):
                _tell(ours, b"L", status)
                continue
        elif status is None or not (wanted and _is_empty(child.pid)):
            continue
        _tell(ours, b"X", status)
        return status


def _hear(ours: socket.socket) -> bytes:
    try:
        return ours.recv(MESSAGE.size)
    except ConnectionResetError:
        return b""  # the other end was closed before it had read everything


def _tell(ours: socket.socket, letter: bytes, number: int) -> None:
    try:
        ours.send(MESSAGE.pack(letter, number))
    except OSError:
        pass  # the other end is closed


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _is_empty(group: int) -> bool:
    """Whether nothing is left of a group whose leader has been waited for.

    PID 1 waits for its zombies at once, so they are still there. Another's may stay for as long as
    their parent likes, and do nothing any more.
    """
    for pid in proc.pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                found = proc.stat(file.read())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if found.pgid == group and (found.state not in "ZX" or found.ppid == 1):
            # The kernel gives the number to a new process only when the group is gone.
            return pid == group
    return True
