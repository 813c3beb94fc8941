# SPDX-License-Identifier: MIT
"""A process on the host that looks at it while a test is somewhere else.

Started by the runner, it stays where the runner is; an isolated test inherits the pipes to it and
asks the same question on both sides::

    assert not shm_exists(KEY)
    assert outside(f"shm_exists({KEY})")

It runs in the runner's process group, so it is also the first to die of a signal that leaks out.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

IPC_CREAT = 0o1000
IPC_RMID = 0

# Both sides may call these ----------------------------------------------------------------------


@functools.cache
def libc() -> Any:
    """The C library, with errno."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    """The result of a libc call; an OSError of the class for its errno if it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def namespaces() -> dict[str, int]:
    """Kind of namespace, by the marker's names, to its inode."""
    kinds = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup", "time")
    links = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    return {
        "mount" if kind == "mnt" else kind: int(link.partition("[")[2].rstrip("]"))
        for kind, link in links.items()
    }


def status(pid: int | str = "self") -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def processes() -> list[int]:
    """Every process that /proc shows."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def read(path: str) -> str:
    """The text of a file, stripped."""
    return Path(path).read_text().strip()


def mounts() -> list[str]:
    """The lines of mountinfo."""
    return Path("/proc/self/mountinfo").read_text().splitlines()


def mount_tmpfs(where: str) -> None:
    """Mount an empty tmpfs over a directory."""
    arguments = (b"none", where.encode(), b"tmpfs", ctypes.c_ulong(0), None)
    checked(libc().mount(*arguments))


def open_errno(path: str) -> int | None:
    """Why a file cannot be opened for writing; None if it can. Nothing is written."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno
    return None


def shm_create(key: int) -> int:
    """A SysV shared memory segment of one page: its id."""
    flags = ctypes.c_int(IPC_CREAT | 0o600)
    return checked(libc().shmget(ctypes.c_int(key), ctypes.c_size_t(4096), flags))


def shm_exists(key: int) -> bool:
    """Is there a SysV shared memory segment with that key?"""
    try:
        checked(libc().shmget(ctypes.c_int(key), ctypes.c_size_t(0), ctypes.c_int(0)))
    except FileNotFoundError:
        return False
    return True


def shm_remove(key: int) -> None:
    """Remove the segment with that key."""
    segment = checked(libc().shmget(ctypes.c_int(key), ctypes.c_size_t(0), ctypes.c_int(0)))
    checked(libc().shmctl(ctypes.c_int(segment), ctypes.c_int(IPC_RMID), None))


def mq_open(name: str, flags: int = os.O_RDONLY) -> int:
    """A POSIX message queue's descriptor."""
    call = getattr(libc(), "mq_open", None) or ctypes.CDLL("librt.so.1", use_errno=True).mq_open
    return checked(call(name.encode(), ctypes.c_int(flags), ctypes.c_uint(0o600), None))


def mq_exists(name: str) -> bool:
    """Is there a POSIX message queue of that name?"""
    try:
        os.close(mq_open(name))
    except FileNotFoundError:
        return False
    return True


def mq_remove(name: str) -> None:
    """Remove the queue of that name."""
    unlink = getattr(libc(), "mq_unlink", None) or ctypes.CDLL("librt.so.1").mq_unlink
    checked(unlink(name.encode()))


def connect_errno(address: tuple[str, int] | str) -> int:
    """0 if a TCP address (or an abstract Unix one) takes a connection, else the errno."""
    if isinstance(address, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        return client.connect_ex(address)


# The witness ------------------------------------------------------------------------------------


class Outside:
    """Asks a Python on the host: ``outside("os.getpid()")``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._write = self._process.stdin.write
        self._answers = self._process.stdout.fileno()

    @property
    def pid(self) -> int:
        """Its number on the host."""
        return self._process.pid

    def __call__(self, expression: str) -> Any:
        self._write(f"{expression}\n".encode())
        answer = bytearray()
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], 10)
            chunk = os.read(self._answers, 1 << 16) if ready else b""
            assert chunk, f"the witness on the host fell silent after {expression!r}"
            answer += chunk
        worked, value = ast.literal_eval(answer.decode())
        assert worked, f"{expression} on the host: {value}"
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__(None, None, None)


def _serve() -> None:
    for line in sys.stdin:
        try:
            answer = (True, eval(line))
        except Exception as error:
            answer = (False, repr(error))
        sys.stdout.write(f"{answer!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
